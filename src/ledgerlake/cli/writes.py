"""Commands that change the ledger or what is derived from it: import, process, fail, refund, refresh."""

from __future__ import annotations

import uuid
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ledgerlake.cli.engine import EngineName, SparkUrl, with_engine
from ledgerlake.cli.render import AsJson, console, print_json, print_table, progress_bar

if TYPE_CHECKING:
    from ledgerlake.domain.payment import Command

# The open tail of the lake is written anew each time.
LAKE_SECONDS = 10.0

Organization = Annotated[str, typer.Option("--organization", "-o", help="Who is paid.")]
Amount = Annotated[str, typer.Option("--amount", "-a", help="In units of the currency, such as 12.30.")]
Currency = Annotated[str, typer.Option("--currency", "-c", help="ISO 4217 code, such as EUR.")]
User = Annotated[str | None, typer.Option("--user", "-u", help="Who pays, where known.")]
CommandId = Annotated[
    str | None,
    typer.Option(help="Idempotency key: the same id again does nothing. Default: a new one, printed."),
]
At = Annotated[
    str | None, typer.Option("--at", help="When it happened, ISO 8601; without a zone UTC. Default: now.")
]
Reason = Annotated[str | None, typer.Option("--reason", "-r", help="Why.")]
Personal = Annotated[
    list[str] | None,
    typer.Option(help="A detail of who pays, as NAME=VALUE, kept under their key. Needs --user. Repeatable."),
]


def register(app: typer.Typer) -> None:
    """Add these commands to the tool."""
    app.command("import")(import_command)
    app.command("process")(process)
    app.command("fail")(fail)
    app.command("refund")(refund)
    app.command("refresh")(refresh)


def import_command(
    file: Annotated[Path, typer.Argument(help="CSV, CSV.gz, JSONL or Parquet with one command a row.")],
    json: AsJson = False,
) -> None:
    """Import a file of commands. A second run adds nothing; refused rows are kept with a reason."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.ingest.importer import summary_as_dict

    with LedgerLake.open() as ledger, progress_bar(quiet=json) as bar:
        summary = ledger.import_file(file, lambda p: bar("import", p.done, p.total, note=f"{p.rows:,} rows"))
    if json:
        print_json(summary_as_dict(summary))
        return
    rate = f"{summary.rows / summary.seconds:,.0f} rows/s" if summary.seconds else ""
    rows: list[tuple[str, Any]] = [
        ("rows", summary.rows),
        ("accepted (new events)", summary.accepted),
        ("duplicates (done before)", summary.duplicates),
        ("rejected", summary.rejected),
        *((f"  {code}", count) for code, count in summary.rejected_by_code.items()),
    ]
    print_table(f"Imported {file}", ("", "count"), rows, note=f"{summary.seconds:.1f} s  {rate}")
    out = console()
    if summary.ignored_columns:
        out.print(f"Ignored columns: {', '.join(summary.ignored_columns)}", markup=False)
    if summary.rejected:
        out.print(f"Rejected rows: {summary.rejections_file}", markup=False, soft_wrap=True)
    out.print(f"Summary: {summary.summary_file}", markup=False, soft_wrap=True)


def process(
    payment_id: Annotated[str, typer.Argument(help="The payment that went through.")],
    organization: Organization,
    amount: Amount,
    currency: Currency,
    user: User = None,
    personal: Personal = None,
    command_id: CommandId = None,
    at: At = None,
    json: AsJson = False,
) -> None:
    """Record that a payment went through."""
    who = _Payer(user, _details(personal))
    _dispatch("ProcessPayment", payment_id, organization, amount, currency, who, command_id, at, None, json)


def fail(
    payment_id: Annotated[str, typer.Argument(help="The payment whose attempt failed.")],
    organization: Organization,
    amount: Amount,
    currency: Currency,
    reason: Reason = None,
    user: User = None,
    personal: Personal = None,
    command_id: CommandId = None,
    at: At = None,
    json: AsJson = False,
) -> None:
    """Record that an attempt to pay failed."""
    who = _Payer(user, _details(personal))
    _dispatch("FailPayment", payment_id, organization, amount, currency, who, command_id, at, reason, json)


def refund(
    organization: Organization,
    amount: Amount,
    currency: Currency,
    payment_id: Annotated[
        str | None, typer.Argument(help="The payment to refund; leave it out for a credit note.")
    ] = None,
    reason: Reason = None,
    user: User = None,
    personal: Personal = None,
    command_id: CommandId = None,
    at: At = None,
    json: AsJson = False,
) -> None:
    """Record a refund of a payment, or a credit note that names none."""
    who = _Payer(user, _details(personal))
    _dispatch("RefundPayment", payment_id, organization, amount, currency, who, command_id, at, reason, json)


@dataclass(frozen=True, slots=True)
class _Payer:
    user: str | None
    details: dict[str, str]


def _details(given: list[str] | None) -> dict[str, str]:
    details: dict[str, str] = {}
    for each in given or ():
        name, equals, value = each.partition("=")
        if not equals or name in details:
            raise typer.BadParameter("Give each detail once, as NAME=VALUE.", param_hint="--personal")
        details[name] = value
    return details


def _dispatch(
    name: str,
    payment_id: str | None,
    organization: str,
    amount: str,
    currency: str,
    who: _Payer,
    command_id: str | None,
    at: str | None,
    reason: str | None,
    as_json: bool,
) -> None:
    from ledgerlake.application import LedgerLake
    from ledgerlake.commands.rejections import rejection_of_fields
    from ledgerlake.domain.payment import CommandRejected
    from ledgerlake.ingest.parse import parse_command

    known_id = command_id or f"cli-{uuid.uuid4()}"
    fields = {
        "command": name,
        "command_id": known_id,
        "payment_id": payment_id,
        "organization_id": organization,
        "user_id": who.user,
        "amount": amount,
        "currency": currency,
        "occurred_at": at,
        "reason": reason,
    }
    try:
        with LedgerLake.open() as ledger:
            if at is None:
                # Without --at it happens now; sent again under its id, it happened when it first did.
                done_before = ledger.store.find_commands([known_id]).get(known_id)
                now = datetime.now(UTC) if done_before is None else done_before.timestamp
                fields["occurred_at"] = now.isoformat()
            try:
                command: Command = parse_command(fields)
            except CommandRejected as malformed:
                unhashed = ledger.rejections.unhashed
                refused = rejection_of_fields(fields, malformed, known_id, unhashed=unhashed)
                ledger.rejections.record([refused])
                raise
            result = ledger.commands.dispatch(replace(command, personal=who.details))
    except CommandRejected as rejected:
        if as_json:
            print_json({"rejected": rejected.code, "detail": str(rejected), "command_id": known_id})
        else:
            console(stderr=True).print(
                f"rejected ({rejected.code}): {rejected} (command id {known_id})",
                markup=False,
                soft_wrap=True,
            )
        raise typer.Exit(1) from None
    except BaseException:
        # Whether it was stored is open. Under a new id it could happen twice.
        console(stderr=True).print(
            f"To try again, repeat the command with --command-id {known_id}: it happens once at most.",
            markup=False,
            soft_wrap=True,
        )
        raise
    if as_json:
        print_json(result)
        return
    done = "was done before" if result.duplicate else "done"
    console().print(
        f"{name} {done}: payment {result.stream_id}, version {result.version}, position {result.position:,} "
        f"(command id {result.command_id})",
        markup=False,
        soft_wrap=True,
    )


def refresh(
    follow: Annotated[
        bool, typer.Option("--follow", help="Go on until SIGINT or SIGTERM: projections within a second.")
    ] = False,
    lake_every: Annotated[
        float, typer.Option(min=0.1, help="With --follow: seconds between refreshes of lake and reports.")
    ] = LAKE_SECONDS,
    engine: EngineName = None,
    url: SparkUrl = None,
    json: AsJson = False,
) -> None:
    """Bring projections, lake, tables and billing reports up to the head of the log, without Dagster."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.settings import Settings

    settings = with_engine(Settings.from_env(), engine, url)
    if follow and json:
        raise typer.BadParameter("`status --watch --json` tells how far it is.", param_hint="--follow --json")
    if follow:
        from ledgerlake.cli.follow import follow as follow_the_log

        with LedgerLake.open(settings) as ledger:
            follow_the_log(ledger, lake_every)
        return
    with LedgerLake.open(settings) as ledger, progress_bar(quiet=json) as bar:
        done = ledger.refresh(lambda p: bar(p.name, p.done, p.total))
    if json:
        print_json(done)
        return
    print_table(
        "Refreshed" if any(part.events for part in done) else "Nothing new: everything is at the head",
        ("part", "from position", "to position", "events", "note"),
        [(part.name, part.from_position, part.to_position, part.events, part.note or "") for part in done],
    )
