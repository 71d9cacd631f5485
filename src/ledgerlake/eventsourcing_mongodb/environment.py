"""What an application's environment says about where its events are kept.

| variable           | default       | meaning                                                             |
|--------------------|---------------|---------------------------------------------------------------------|
| MONGODB_URI        | (none)        | a replica set or sharded cluster; none: LEDGERLAKE_MONGODB_URI, and |
|                    |               | without that the embedded server                                    |
| MONGODB_DATABASE   | eventsourcing | database; _NAME is added for an application that is named           |
| ORIGINATOR_ID_TYPE | uuid          | uuid or text: the type of the aggregates' ids                       |
| CREATE_TABLE       | yes           | whether collections and indexes are created where missing           |

Each may have the application's name in front (BANK_MONGODB_URI), which then counts for that one only.
BANK_MONGODB_DATABASE is taken as it is: so two applications can be made to share one log.
"""

from __future__ import annotations

import os
import re
from typing import Final, Literal, TypeAlias, cast

from eventsourcing.utils import Environment, strtobool

from ledgerlake.settings import Settings, SettingsError

IdType: TypeAlias = Literal["uuid", "text"]

_URI: Final = "MONGODB_URI"
_DATABASE: Final = "MONGODB_DATABASE"
_ID_TYPE: Final = "ORIGINATOR_ID_TYPE"
_CREATE_TABLE: Final = "CREATE_TABLE"


def settings_of(env: Environment) -> Settings:
    """Where the application's log is: LedgerLake's own settings, with its server and its database.

    Raises OSError for a value that cannot work, as the package's own persistence modules do.
    """
    environ = {**os.environ, **env}
    database = _database(env)
    try:
        ledger = Settings.from_env(environ).database
        environ["LEDGERLAKE_DATABASE"] = database
        if uri := env.get(_URI):
            environ["LEDGERLAKE_MONGODB_URI"] = uri
        settings = Settings.from_env(environ)
    except SettingsError as error:
        keys = " or ".join([*env.create_keys(_URI), *env.create_keys(_DATABASE)])
        raise OSError(f"{error} An application of the eventsourcing package has it from {keys}.") from error
    if database == ledger:
        raise OSError(
            f"Database {database!r} is the payment ledger's, whose projections would stop at foreign events."
            f" Name another one in {' or '.join(env.create_keys(_DATABASE))}."
        )
    return settings


def id_type_of(env: Environment) -> IdType:
    """The type of the aggregates' ids. Raises OSError for any other than uuid and text."""
    value = (env.get(_ID_TYPE) or "uuid").lower()
    if value not in ("uuid", "text"):
        raise OSError(f"{_ID_TYPE}={value!r} is neither 'uuid' nor 'text'. Set it to the type of your ids.")
    return cast("IdType", value)


def creates_tables(env: Environment) -> bool:
    """Whether recorders create their collections and indexes, as all of the package's modules do."""
    return strtobool(env.get(_CREATE_TABLE) or "yes")


def _database(env: Environment) -> str:
    *own, shared = env.create_keys(_DATABASE)
    for key in own:
        # Past Environment.get(), which would not tell the one variable from the other.
        if exact := dict.get(env, key):
            return exact
    base = dict.get(env, shared) or "eventsourcing"
    # Every application counts its notifications from 1, so each has a log, hence a database, of its own.
    # MongoDB tells no two databases apart by case.
    return f"{base}_{re.sub(r'[^a-z0-9_-]', '_', env.name.lower())}" if env.name else base
