"""One way to a MongoDB that keeps LedgerLake's promises: majority writes, majority reads, transactions."""

from __future__ import annotations

import asyncio
import importlib.util
import logging
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from pymongo import AsyncMongoClient, MongoClient
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.database import Database
from pymongo.errors import ConfigurationError, OperationFailure, PyMongoError, ServerSelectionTimeoutError

from ledgerlake.errors import LedgerLakeError
from ledgerlake.mongo.indexes import ensure_schema
from ledgerlake.settings import Settings, redacted

log = logging.getLogger(__name__)

_WIRE_VERSION_OF_6_0 = 17
_LONGEST_BLOCK_SECONDS = 5
_LOOPBACK = ("localhost", "127.", "[::1]")

# Never taken from the URI: with less, an acknowledged payment can be lost, or be read and then vanish.
_PROMISES: dict[str, Any] = {
    "w": "majority",
    "journal": True,
    "readConcernLevel": "majority",
    "readPreference": "primary",
    "retryWrites": True,
    "retryReads": True,
    "tz_aware": True,
}

# A primary that hangs (rather than dies) is given up after about connectTimeoutMS + heartbeatFrequencyMS, and
# with it the operations that wait for it; with the driver's defaults, half a minute. The URI may differ.
_REMOTE_DEFAULTS: dict[str, Any] = {
    "heartbeatFrequencyMS": 1_000,
    "connectTimeoutMS": 2_000,
    "serverSelectionTimeoutMS": 10_000,
}
# One node on this machine: nobody to fail over to, so a slow answer is never a reason to hang up.
_EMBEDDED_DEFAULTS: dict[str, Any] = {"serverSelectionTimeoutMS": 20_000}


class MongoUnreachable(LedgerLakeError):
    """No server answered, or it refused the credentials or the address."""


class MongoUnsuitable(LedgerLakeError):
    """A server answered that cannot keep the promises: a standalone one, or one before 6.0."""


def connect(settings: Settings, app_name: str = "ledgerlake") -> MongoClient[dict[str, Any]]:
    """A client of the configured MongoDB, checked to be a replica set or sharded cluster of 6.0 or later.

    Without settings.mongodb_uri the embedded server is found, or started first. The caller closes the client.
    Raises MongoUnreachable, MongoUnsuitable, or what ledgerlake.mongo.embedded raises.
    """
    uri, defaults = _address(settings)
    try:
        client: MongoClient[dict[str, Any]] = MongoClient(uri, **_options(uri, defaults, app_name))
    except (ConfigurationError, PyMongoError, ValueError) as error:
        raise MongoUnreachable(
            f"{redacted(uri)!r} is not a usable MongoDB address: {error}.",
            "Mend LEDGERLAKE_MONGODB_URI, or unset it to use the embedded server.",
        ) from error
    try:
        _check(client, uri)
    except BaseException:
        client.close()
        raise
    return client


def open_database(settings: Settings, app_name: str = "ledgerlake") -> Database[dict[str, Any]]:
    """The ledger's database with all its collections and indexes. Its `.client` is the caller's to close."""
    client = connect(settings, app_name)
    try:
        db = client[settings.database]
        ensure_schema(db)
        if settings.mongodb_uri is not None:
            _look_at_transaction_limit(client)
    except OperationFailure as error:
        client.close()
        raise MongoUnsuitable(
            f"The collections of database {settings.database!r} cannot be set up: {error}.",
            "Grant the role readWrite on it, or name another database in LEDGERLAKE_DATABASE.",
        ) from error
    except BaseException:
        client.close()
        raise
    return db


async def open_async_database(
    settings: Settings, app_name: str = "ledgerlake"
) -> AsyncDatabase[dict[str, Any]]:
    """`open_database` for asyncio, with the same checks. `await .client.close()` is the caller's to do."""

    def prepare() -> tuple[str, dict[str, Any]]:
        open_database(settings, app_name).client.close()
        return _address(settings)

    uri, defaults = await asyncio.to_thread(prepare)
    client: AsyncMongoClient[dict[str, Any]] = AsyncMongoClient(uri, **_options(uri, defaults, app_name))
    return client[settings.database]


def _address(settings: Settings) -> tuple[str, dict[str, Any]]:
    """The URI, and what is meant where it does not say; the embedded server is started if it is wanted."""
    if settings.mongodb_uri is not None:
        return settings.mongodb_uri, _REMOTE_DEFAULTS
    from ledgerlake.mongo.embedded import ensure_running  # not needed, nor importable everywhere, with a URI

    return ensure_running(settings), _EMBEDDED_DEFAULTS


def _options(uri: str, defaults: dict[str, Any], app_name: str) -> dict[str, Any]:
    given = {name.lower() for name, _ in parse_qsl(urlsplit(uri).query, keep_blank_values=True)}
    wishes = {**defaults, "appname": app_name}
    compressors = _compressors()
    if compressors and not _is_loopback(uri):  # on loopback compressing costs more than it saves
        wishes["compressors"] = compressors
    return {name: value for name, value in wishes.items() if name.lower() not in given} | _PROMISES


def _is_loopback(uri: str) -> bool:
    hosts = urlsplit(uri).netloc.rpartition("@")[2].split(",")
    return uri.startswith("mongodb://") and all(host.startswith(_LOOPBACK) for host in hosts)


def _compressors() -> str:
    """Those of zstd and snappy that this Python can do; never zlib: it has let clients read server memory."""
    found = []
    if any(_importable(module) for module in ("compression.zstd", "backports.zstd")):
        found.append("zstd")
    if _importable("snappy"):
        found.append("snappy")
    return ",".join(found)


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _check(client: MongoClient[dict[str, Any]], uri: str) -> None:
    try:
        hello = client.admin.command("hello")
    except ServerSelectionTimeoutError as error:
        raise MongoUnreachable(
            f"No MongoDB answers at {redacted(uri)!r}: {_short(error)}.",
            "Start it, or mend LEDGERLAKE_MONGODB_URI (unset, it means the embedded server).",
        ) from error
    except PyMongoError as error:
        raise MongoUnreachable(
            f"The MongoDB at {redacted(uri)!r} refuses us: {_short(error)}.",
            "Check the user, password and authSource in LEDGERLAKE_MONGODB_URI.",
        ) from error
    if hello.get("maxWireVersion", 0) < _WIRE_VERSION_OF_6_0:
        raise MongoUnsuitable(
            f"The MongoDB at {redacted(uri)!r} is older than 6.0.",
            "Point LEDGERLAKE_MONGODB_URI at 6.0 or later.",
        )
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise MongoUnsuitable(
            f"The MongoDB at {redacted(uri)!r} is a standalone server, which has no transactions.",
            "Start it with --replSet and run rs.initiate() once (one member is enough), "
            "or unset LEDGERLAKE_MONGODB_URI to use the embedded server.",
        )


def _look_at_transaction_limit(client: MongoClient[dict[str, Any]]) -> None:
    """Warn where a client that dies inside an append would block all others for long."""
    try:
        answer = client.admin.command("getParameter", 1, transactionLifetimeLimitSeconds=1)
    except OperationFailure:
        return  # this user may not ask, or it is a router, which has none
    seconds = answer["transactionLifetimeLimitSeconds"]
    if seconds > _LONGEST_BLOCK_SECONDS:
        log.warning(
            "This MongoDB lets a transaction whose client died block all appends for %d s. Run "
            "db.adminCommand({setParameter: 1, transactionLifetimeLimitSeconds: 3}) on its members.",
            seconds,
        )


def _short(error: Exception) -> str:
    return str(error).split(", Timeout:")[0].rstrip(".")
