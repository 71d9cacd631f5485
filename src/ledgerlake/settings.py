"""Where LedgerLake keeps its data, which MongoDB it uses and how large its batches are.

Everything comes from environment variables, each with a default that works on a laptop:

| variable                    | default    | meaning                                                     |
|-----------------------------|------------|-------------------------------------------------------------|
| LEDGERLAKE_HOME             | ./var      | folder of the lake, reports, notebooks, embedded server     |
| LEDGERLAKE_MONGODB_URI      | (none)     | a replica set or sharded cluster; none: the embedded server |
| LEDGERLAKE_MONGODB_READ_URI | (none)     | as whom the web server reads; none: as it appends           |
| LEDGERLAKE_DATABASE         | ledgerlake | name of the database                                        |
| LEDGERLAKE_SEGMENT_SIZE     | 100000     | events in one sealed Parquet segment of the lake            |
| LEDGERLAKE_PROJECTION_BATCH | 10000      | events a projection folds in one transaction                |
| LEDGERLAKE_PROJECTIONS      | (none)     | projections to add, as package.module:NAME, by commas       |
| LEDGERLAKE_ON_POISON        | park       | an event that can not be folded: park, or set_aside         |
| LEDGERLAKE_APPEND_BATCH     | 500        | appends that one group commit takes at most                 |
| LEDGERLAKE_APPEND_LINGER_MS | 1          | how long a group commit waits for company                   |
| LEDGERLAKE_INLINE           | (none)     | projections written in the append's transaction, by commas  |
| LEDGERLAKE_SNAPSHOT_EVERY   | 100        | events after which a payment's state is kept; 0: never      |
| LEDGERLAKE_FRESHNESS_MS     | 50         | how long queries trust the checkpoints that they have read  |
| LEDGERLAKE_CACHE_ENTRIES    | 10000      | answers to queries kept in memory at most; 0: none          |
| LEDGERLAKE_CACHE_MB         | 64         | megabytes of memory for them                                |
| LEDGERLAKE_CACHE_SECONDS    | 300        | how long an answer is kept at most, in Redis too            |
| LEDGERLAKE_REDIS_URL        | (none)     | a Redis that processes share answers in; none: none         |
| LEDGERLAKE_ENGINE           | duckdb     | what computes tables and reports from the lake, or spark    |
| LEDGERLAKE_SPARK_URL        | local[*]   | a Spark master, or sc://HOST:PORT for Spark Connect         |
| LEDGERLAKE_SPARK_LAKE       | (none)     | where Spark finds the lake; none: where it lies here        |
| LEDGERLAKE_BOOKS_ZONE       | UTC        | IANA zone whose months are closed; fixed by the first close |
| LEDGERLAKE_PERSONAL_FIELDS  | (none)     | fields of events kept under a key per person, by commas     |
| LEDGERLAKE_MASTER_KEY       | (none)     | 32 bytes in base64 that these keys are wrapped by           |
| LEDGERLAKE_TELEMETRY        | off        | spans and metrics: off, console (stderr), otlp              |
| LEDGERLAKE_LOG              | (none)     | logs on stderr, as text or json; none: as Python has it     |
| LEDGERLAKE_WEB_RATE         | 500        | requests a second that a token may send to one web server   |
| LEDGERLAKE_DAGSTER_EXECUTOR | in_process | what carries out Dagster's steps, multiprocess or celery    |
| LEDGERLAKE_DAGSTER_POSTGRES | (none)     | a PostgreSQL for Dagster's history; none: SQLite files      |
| LEDGERLAKE_NOTEBOOK_MINUTES | 60         | age at which the page of a notebook is made anew, or off    |
| LEDGERLAKE_VERIFY_HOURS     | 24         | hours after which a Dagster run verifies everything again   |
| LEDGERLAKE_CLOSE_AFTER_DAYS | (none)     | days after its end at which a month is closed; none: by hand |
| LEDGERLAKE_HISTORY_DAYS     | 90         | days for which Dagster's runs are kept                      |
| LEDGERLAKE_ALERT_LAG_SECONDS | 900       | how late anything may be before an alert                    |
| LEDGERLAKE_ALERT_WEBHOOK    | (none)     | where alerts are posted to, besides the log                 |

A variable that is set to the empty string counts as not set.
"""

from __future__ import annotations

import base64
import binascii
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from ledgerlake.domain.zone import iana_zone
from ledgerlake.errors import LedgerLakeError

_RESERVED_DATABASES = frozenset({"admin", "local", "config"})
_FORBIDDEN_IN_DATABASE = frozenset('/\\. "$*<>:|?\0')
ENGINES = ("duckdb", "spark")
EXECUTORS = ("in_process", "multiprocess", "celery")
# Of events in a transaction: docs/decisions/0040.
PROJECTION_BATCH = 10_000
# A command's free details about a person: always personal, whatever else is declared.
FREE_DETAILS = "metadata.personal"
# What stands in the place of a personal value begins so, and nothing else may.
TOKEN_PREFIX = "pii:"  # noqa: S105 - no password
_STANDARD_BASE64 = str.maketrans("-_", "+/")
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")
_FIELD = re.compile(r"(eventData|metadata)(\.[A-Za-z0-9_-]+)+")
# Folding, totals and the idempotency of commands read these.
_NEVER_PERSONAL = frozenset(
    {
        "eventData.amount",
        "eventData.amountMinor",
        "eventData.attempt",
        "eventData.currency",
        "eventData.unreferenced",
        "metadata.organizationId",
        "metadata.requestHash",
    }
)


class SettingsError(LedgerLakeError):
    """A setting has a value that cannot work. Names the variable, the value and what to set instead."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One process's settings. Paths are absolute, sizes are counts of events."""

    home: Path
    mongodb_uri: str | None = None
    mongodb_read_uri: str | None = None
    database: str = "ledgerlake"
    segment_size: int = 100_000
    projection_batch: int = PROJECTION_BATCH
    projections: tuple[str, ...] = ()
    on_poison: str = "park"
    append_batch: int = 500
    append_linger_ms: float = 1.0
    inline: tuple[str, ...] = ()
    snapshot_every: int = 100
    freshness_ms: float = 50.0
    cache_entries: int = 10_000
    cache_mb: int = 64
    cache_seconds: int = 300
    redis_url: str | None = field(default=None, repr=False)
    engine: str = "duckdb"
    spark_url: str = field(default="local[*]", repr=False)
    spark_lake: str | None = None
    books_zone: str = "UTC"
    # Free personal details always are; what else is, the variable says.
    personal_fields: tuple[str, ...] = (FREE_DETAILS,)
    master_key: bytes | None = field(default=None, repr=False)
    telemetry: str = "off"
    log: str | None = None
    web_rate: int = 500
    dagster_executor: str = "in_process"
    dagster_postgres: str | None = field(default=None, repr=False)
    notebook_minutes: int | None = 60
    verify_hours: int = 24
    close_after_days: int | None = None
    history_days: int = 90
    alert_lag_seconds: int = 900
    # Whoever knows the address of a webhook may write there: it is as secret as a password.
    alert_webhook: str | None = field(default=None, repr=False)

    @classmethod
    def from_env(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Reads the variables above. Raises SettingsError for the first value that cannot work."""
        return cls(
            home=_home(environ),
            mongodb_uri=_mongodb_uri(environ, "LEDGERLAKE_MONGODB_URI"),
            mongodb_read_uri=_mongodb_uri(environ, "LEDGERLAKE_MONGODB_READ_URI"),
            database=_database(environ),
            segment_size=_count(environ, "LEDGERLAKE_SEGMENT_SIZE", 100_000, 1, 100_000_000),
            projection_batch=_count(environ, "LEDGERLAKE_PROJECTION_BATCH", PROJECTION_BATCH, 1, 1_000_000),
            projections=_projections(environ),
            on_poison=_one_of(environ, "LEDGERLAKE_ON_POISON", ("park", "set_aside")) or "park",
            append_batch=_count(environ, "LEDGERLAKE_APPEND_BATCH", 500, 1, 1_000),
            append_linger_ms=_milliseconds(environ, "LEDGERLAKE_APPEND_LINGER_MS", 1.0, 1_000.0),
            inline=_names(environ, "LEDGERLAKE_INLINE"),
            snapshot_every=_count(environ, "LEDGERLAKE_SNAPSHOT_EVERY", 100, 0, 1_000_000),
            freshness_ms=_milliseconds(environ, "LEDGERLAKE_FRESHNESS_MS", 50.0, 60_000.0),
            cache_entries=_count(environ, "LEDGERLAKE_CACHE_ENTRIES", 10_000, 0, 10_000_000),
            cache_mb=_count(environ, "LEDGERLAKE_CACHE_MB", 64, 1, 100_000),
            cache_seconds=_count(environ, "LEDGERLAKE_CACHE_SECONDS", 300, 1, 86_400),
            redis_url=_redis_url(environ),
            engine=_one_of(environ, "LEDGERLAKE_ENGINE", ENGINES) or "duckdb",
            spark_url=environ.get("LEDGERLAKE_SPARK_URL") or "local[*]",
            spark_lake=environ.get("LEDGERLAKE_SPARK_LAKE") or None,
            books_zone=_zone(environ),
            personal_fields=_personal_fields(environ),
            master_key=_master_key(environ),
            telemetry=_one_of(environ, "LEDGERLAKE_TELEMETRY", ("off", "console", "otlp")) or "off",
            log=_one_of(environ, "LEDGERLAKE_LOG", ("text", "json")),
            web_rate=_count(environ, "LEDGERLAKE_WEB_RATE", 500, 1, 1_000_000),
            dagster_executor=_one_of(environ, "LEDGERLAKE_DAGSTER_EXECUTOR", EXECUTORS) or "in_process",
            dagster_postgres=_postgres_url(environ),
            notebook_minutes=_notebook_minutes(environ),
            verify_hours=_count(environ, "LEDGERLAKE_VERIFY_HOURS", 24, 0, 8_760),
            close_after_days=_close_after(environ),
            history_days=_count(environ, "LEDGERLAKE_HISTORY_DAYS", 90, 1, 36_500),
            alert_lag_seconds=_count(environ, "LEDGERLAKE_ALERT_LAG_SECONDS", 900, 1, 31_536_000),
            alert_webhook=_webhook(environ),
        )

    @property
    def lake_dir(self) -> Path:
        return self.home / "lake"

    @property
    def reports_dir(self) -> Path:
        return self.home / "reports"

    @property
    def notebooks_dir(self) -> Path:
        return self.home / "notebooks"

    @property
    def imports_dir(self) -> Path:
        return self.home / "imports"

    @property
    def mongo_dir(self) -> Path:
        return self.home / "mongo"


def redacted(uri: str) -> str:
    """The URI (or a text with one in it) without its secrets, fit for a message or a log.

    A password that was not escaped may hold any of : / @ ?, so all up to the last @ goes.
    """
    hidden = re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", uri)
    return re.sub(
        r"([?&](?:\w*password|authMechanismProperties))=[^&\s'\"]*", r"\1=***", hidden, flags=re.IGNORECASE
    )


def _home(environ: Mapping[str, str]) -> Path:
    text = environ.get("LEDGERLAKE_HOME") or "var"
    try:
        return Path(os.path.abspath(Path(text).expanduser()))  # noqa: PTH100 - links are kept as given
    except (RuntimeError, ValueError, OSError) as error:
        raise SettingsError(
            f"LEDGERLAKE_HOME={text!r} is no usable folder name: {error}.",
            "Set it to the path of a folder that you may write to.",
        ) from error


def _address(
    environ: Mapping[str, str], variable: str, schemes: tuple[str, ...], what: str, remedy: str
) -> str | None:
    """The variable's address, which starts with one of the schemes; None where it is unset or empty."""
    address = environ.get(variable)
    if not address:
        return None
    if not address.startswith(schemes):
        raise SettingsError(f"{variable}={redacted(address)!r} is not {what}.", remedy)
    return address


def _mongodb_uri(environ: Mapping[str, str], variable: str) -> str | None:
    return _address(
        environ,
        variable,
        ("mongodb://", "mongodb+srv://"),
        "a MongoDB address",
        "It must start with mongodb:// or mongodb+srv://, such as mongodb://host:27017/?replicaSet=rs0; "
        "leave it unset to use the embedded server.",
    )


def _redis_url(environ: Mapping[str, str]) -> str | None:
    return _address(
        environ,
        "LEDGERLAKE_REDIS_URL",
        ("redis://", "rediss://", "unix://"),
        "an address of a Redis",
        "It must start with redis://, rediss:// or unix://, such as redis://host:6379/0; "
        "leave it unset to keep answers in memory only.",
    )


def _postgres_url(environ: Mapping[str, str]) -> str | None:
    return _address(
        environ,
        "LEDGERLAKE_DAGSTER_POSTGRES",
        ("postgresql://",),
        "an address of a PostgreSQL",
        "It must start with postgresql://, such as postgresql://user:password@host:5432/dagster; "
        "leave it unset to keep Dagster's history in files.",
    )


def _webhook(environ: Mapping[str, str]) -> str | None:
    url = environ.get("LEDGERLAKE_ALERT_WEBHOOK")
    if not url:
        return None
    if re.fullmatch(r"https?://[^\s/]+\S*", url) is None:
        # Without its value: its path is often the secret.
        raise SettingsError(
            "LEDGERLAKE_ALERT_WEBHOOK is no address that alerts can be posted to.",
            "It must start with https:// or http:// and name a host; leave it unset to have alerts in the log"
            " only.",
        )
    return url


def _notebook_minutes(environ: Mapping[str, str]) -> int | None:
    if environ.get("LEDGERLAKE_NOTEBOOK_MINUTES") == "off":
        return None
    return _count(environ, "LEDGERLAKE_NOTEBOOK_MINUTES", 60, 0, 525_600)


def _close_after(environ: Mapping[str, str]) -> int | None:
    if not environ.get("LEDGERLAKE_CLOSE_AFTER_DAYS"):
        return None
    return _count(environ, "LEDGERLAKE_CLOSE_AFTER_DAYS", 0, 0, 365)


def _database(environ: Mapping[str, str]) -> str:
    name = environ.get("LEDGERLAKE_DATABASE") or "ledgerlake"
    if name in _RESERVED_DATABASES or len(name.encode()) > 63 or _FORBIDDEN_IN_DATABASE & set(name):
        raise SettingsError(
            f"LEDGERLAKE_DATABASE={name!r} is no name for a database of ours.",
            "Use up to 63 letters, digits, - and _, and none of admin, local, config.",
        )
    return name


def _names(environ: Mapping[str, str], variable: str) -> tuple[str, ...]:
    """What a variable names, separated by commas, each once."""
    given = [name.strip() for name in (environ.get(variable) or "").split(",")]
    return tuple(dict.fromkeys(name for name in given if name))


def _projections(environ: Mapping[str, str]) -> tuple[str, ...]:
    paths = _names(environ, "LEDGERLAKE_PROJECTIONS")
    for path in paths:
        if not _IMPORT_PATH.fullmatch(path):
            raise SettingsError(
                f"LEDGERLAKE_PROJECTIONS names {path!r}, which is no path to a projection.",
                "Name each as package.module:NAME, by commas.",
            )
    return paths


def _zone(environ: Mapping[str, str]) -> str:
    name = environ.get("LEDGERLAKE_BOOKS_ZONE") or "UTC"
    try:
        iana_zone(name)
    except ValueError:
        raise SettingsError(
            f"LEDGERLAKE_BOOKS_ZONE={name!r} is no IANA time zone.", "Set it to a name such as Europe/Berlin."
        ) from None
    return name


def _personal_fields(environ: Mapping[str, str]) -> tuple[str, ...]:
    paths = _names(environ, "LEDGERLAKE_PERSONAL_FIELDS")
    for path in paths:
        if not _FIELD.fullmatch(path) or path in _NEVER_PERSONAL:
            raise SettingsError(
                f"LEDGERLAKE_PERSONAL_FIELDS names {path!r}, which can not be kept under a key.",
                "Name texts in eventData or metadata that no figure depends on, such as "
                "metadata.userId,eventData.reason.",
            )
    return tuple(dict.fromkeys((FREE_DETAILS, *paths)))


def _master_key(environ: Mapping[str, str]) -> bytes | None:
    text = environ.get("LEDGERLAKE_MASTER_KEY")
    if not text:
        return None
    try:
        key = base64.b64decode(text.strip().translate(_STANDARD_BASE64), validate=True)
    except (binascii.Error, ValueError):
        key = b""
    if len(key) != 32:
        # Without its value: it may be nearly right.
        raise SettingsError(
            "LEDGERLAKE_MASTER_KEY is not 32 bytes in base64.", "Make one with `openssl rand -base64 32`."
        )
    return key


def _one_of(environ: Mapping[str, str], variable: str, values: tuple[str, ...]) -> str | None:
    text = environ.get(variable)
    if not text:
        return None
    if text not in values:
        raise SettingsError(
            f"{variable}={text!r} is none of {', '.join(values)}.", "Set it to one of them, or not at all."
        )
    return text


def _count(environ: Mapping[str, str], variable: str, default: int, least: int, most: int) -> int:
    text = environ.get(variable)
    if not text:
        return default
    try:
        value = int(text)
    except ValueError:
        value = least - 1
    if not least <= value <= most:
        raise SettingsError(
            f"{variable}={text!r} is out of range.",
            f"Set it to a whole number from {least} to {most} (default {default}).",
        )
    return value


def _milliseconds(environ: Mapping[str, str], variable: str, default: float, most: float) -> float:
    text = environ.get(variable)
    if not text:
        return default
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 <= value <= most:
        raise SettingsError(
            f"{variable}={text!r} is out of range.",
            f"Set it to a number of milliseconds from 0 to {most:g} (default {default:g}).",
        )
    return value
