"""The command line: one tool, `ledgerlake`, with --json on every command that prints figures.

Exit codes: 0 done; 1 the answer is no (a refused command, a verify that fails, an unknown payment);
2 bad input or a part that is missing; 130 interrupted. `status` has codes of its own.
"""

from __future__ import annotations

import os
import sys

import typer

from ledgerlake.cli import (
    history,
    insights,
    privacy,
    projections,
    queries,
    rebuild,
    retention,
    serve,
    status,
    writes,
)
from ledgerlake.cli.lake import lake_app
from ledgerlake.cli.period import period_app
from ledgerlake.cli.report import report_app
from ledgerlake.cli.token import token_app
from ledgerlake.errors import LedgerLakeError
from ledgerlake.mongo.cli import mongo_app
from ledgerlake.settings import redacted
from ledgerlake.simulation_cli import simulate_command

app = typer.Typer(
    name="ledgerlake",
    help="An event-sourced payment ledger on MongoDB, with an incremental analytics lake beside it.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
writes.register(app)
rebuild.register(app)
projections.register(app)
status.register(app)
queries.register(app)
insights.register(app)
history.register(app)
privacy.register(app)
retention.register(app)
serve.register(app)
app.command("simulate")(simulate_command)
app.add_typer(lake_app, name="lake")
app.add_typer(period_app, name="period")
app.add_typer(report_app, name="report")
app.add_typer(token_app, name="token")
app.add_typer(mongo_app, name="mongo")


def main() -> None:
    """Run the command line; errors that someone can mend are one message, without a traceback."""
    try:
        app()
    except LedgerLakeError as error:
        print(f"ledgerlake: {error}", file=sys.stderr)
        sys.exit(2)
    except UnicodeEncodeError:
        if all(argument.isprintable() or argument.isascii() for argument in sys.argv[1:]):
            raise
        print("ledgerlake: An argument is no UTF-8 text. Give it in UTF-8.", file=sys.stderr)
        sys.exit(2)
    except Exception as error:
        # Looked up, not imported: most of the tool starts without the driver.
        errors = sys.modules.get("pymongo.errors")
        if errors is None or not isinstance(error, errors.PyMongoError):
            raise
        print(
            f"ledgerlake: MongoDB could not answer ({type(error).__name__}: {redacted(str(error))}). "
            "See that it runs (`ledgerlake mongo status`), then run this again.",
            file=sys.stderr,
        )
        sys.exit(2)
    except KeyboardInterrupt:
        print("ledgerlake: interrupted; what was committed stays.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (head, less) has seen enough; nothing is left to tell it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
