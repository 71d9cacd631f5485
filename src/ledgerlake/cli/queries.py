"""Commands that look: status, payment, payments, statistics, trends, verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Annotated, Any

import typer

from ledgerlake.cli.render import AsJson, console, plain, print_json, print_table

Organization = Annotated[str | None, typer.Option("--organization", "-o", help="Only this organization.")]
Start = Annotated[
    datetime | None, typer.Option("--from", formats=["%Y-%m-%d"], help="First day, UTC, inclusive.")
]
End = Annotated[datetime | None, typer.Option("--to", formats=["%Y-%m-%d"], help="Last day, exclusive.")]


def register(app: typer.Typer) -> None:
    """Add these commands to the tool."""
    app.command("status")(status)
    app.command("payment")(payment)
    app.command("payments")(payments)
    app.command("statistics")(statistics)
    app.command("trends")(trends)
    app.command("verify")(verify)


def status(json: AsJson = False) -> None:
    """The head of the log, each checkpoint, and how far it is behind. Exit 1 when a part has stopped."""
    from ledgerlake.application import LedgerLake

    with LedgerLake.open() as ledger:
        found = ledger.status()
    stopped = [part for part in found.parts if part.status == "stopped"]
    if json:
        print_json(found)
    else:
        print_table(
            f"Head of the log: position {found.head:,}",
            ("part", "position", "lag (events)", "status", "updated", "last error"),
            [(p.name, p.position, p.lag, p.status, p.updated_at, p.last_error) for p in found.parts],
        )
    if stopped:
        raise typer.Exit(1)


def payment(
    payment_id: Annotated[str, typer.Argument(help="The payment's id.")],
    version: Annotated[int | None, typer.Option(help="As it was after its event of this version.")] = None,
    position: Annotated[int | None, typer.Option(help="As it was at this position of the log.")] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", help="As the ledger knew it then, ISO 8601; without a zone UTC."),
    ] = None,
    json: AsJson = False,
) -> None:
    """One payment's state: as of the last refresh, or (from the log itself) at a moment of the past."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.queries import GetPayment, GetPaymentAt, LogQuery, PaymentNotFound, PaymentResult, Query

    asked: Query[PaymentResult] | LogQuery[PaymentResult] = GetPayment(payment_id)
    if (version, position, at) != (None, None, None):
        asked = GetPaymentAt(payment_id, version, position, None if at is None else _instant(at))
    with LedgerLake.open() as ledger:
        try:
            result = ledger.queries_in_clear.ask(asked)
        except PaymentNotFound as error:
            console(stderr=True).print(str(error), markup=False)
            raise typer.Exit(1) from None
    if json:
        print_json(result)
        return
    fields = asdict(result)
    as_of = fields.pop("as_of")
    fields = fields.get("payment", fields)
    print_table(f"Payment {payment_id}", ("field", "value"), list(fields.items()), note=_as_of(as_of))


def payments(
    organization: Annotated[str, typer.Option("--organization", "-o", help="Whose payments.")],
    status: Annotated[str | None, typer.Option(help="Only payments in this status.")] = None,
    currency: Annotated[str | None, typer.Option("--currency", "-c", help="Only this currency.")] = None,
    limit: Annotated[int, typer.Option(help="Payments a page.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    json: AsJson = False,
) -> None:
    """An organization's payments, page by page."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.queries import ListPayments

    with LedgerLake.open() as ledger:
        page = ledger.queries_in_clear.ask(
            ListPayments(organization, status=status, currency=currency, limit=limit, cursor=cursor)
        )
    if json:
        print_json(page)
        return
    print_table(
        f"Payments of {organization}",
        ("payment", "status", "currency", "amount", "refunded", "attempts", "first", "last"),
        [
            (
                p.payment_id,
                p.status,
                p.currency,
                p.amount,
                p.refunded,
                p.attempts,
                p.first_at,
                p.last_at,
            )
            for p in page.payments
        ],
        note=_as_of(page.as_of),
    )
    if page.next_cursor:
        console().print(f"More: add --cursor {page.next_cursor}", markup=False, soft_wrap=True)


def statistics(
    organization: Organization = None, start: Start = None, end: End = None, json: AsJson = False
) -> None:
    """Count, total, average, min and max of movements, per organization, status and currency."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.queries import GetStatistics

    with LedgerLake.open() as ledger:
        result = ledger.queries.ask(GetStatistics(organization, _day(start), _day(end)))
    if json:
        print_json(result)
        return
    print_table(
        "Movements",
        ("organization", "status", "currency", "count", "total", "average", "min", "max"),
        [
            (r.organization_id, r.status, r.currency, r.count, r.total, r.average, r.min, r.max)
            for r in result.rows
        ],
        note=_as_of(result.as_of),
    )
    _nothing(result.rows, organization)
    if result.payment_states:
        print_table(
            "Payments by their current state",
            ("organization", "status", "names no payment", "currency", "count", "amount", "refunded"),
            [
                (s.organization_id, s.status, s.unreferenced, s.currency, s.count, s.amount, s.refunded)
                for s in result.payment_states
            ],
        )


def trends(
    organization: Organization = None,
    start: Start = None,
    end: End = None,
    granularity: Annotated[str, typer.Option("--by", help="day, week (from Monday) or month.")] = "month",
    json: AsJson = False,
) -> None:
    """Count and total of movements over time, per organization, currency and status."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.queries import GetTrends

    with LedgerLake.open() as ledger:
        result = ledger.queries.ask(GetTrends(organization, _day(start), _day(end), granularity))
    if json:
        print_json(result)
        return
    print_table(
        f"Movements by {granularity}",
        (granularity, "organization", "currency", "status", "count", "total"),
        [
            (_period(r.period, granularity), r.organization_id, r.currency, r.status, r.count, r.total)
            for r in result.rows
        ],
        note=_as_of(result.as_of),
    )
    _nothing(result.rows, organization)


def _nothing(rows: Sequence[Any], organization: str | None) -> None:
    if not rows:
        whom = "" if organization is None else f" of {organization!r}: check the spelling"
        console().print(f"No movement{whom}. If events are new, run `ledgerlake refresh`.", markup=False)


def verify(
    head: Annotated[
        str | None,
        typer.Option(help="POSITION:HASH, as an earlier verify printed it: the log must still come to it."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Check that log, read models, statistics, trends, Parquet and reports agree to the cent; else exit 1."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.reconciliation import NotedHead

    noted = None if head is None else NotedHead.parse(head)
    with LedgerLake.open() as ledger:
        found = ledger.verify(noted)
    if json:
        print_json(found)
    else:
        print_table(
            _agreement(found.ok, list(found.behind.values())),
            ("check", "result", "detail"),
            [(check.name, "ok" if check.ok else "FAILED", check.detail) for check in found.checks],
        )
        for check in found.checks:
            for difference in check.differences:
                console().print(f"{check.name}: {difference}", markup=False, soft_wrap=True)
    if not found.ok:
        raise typer.Exit(1)


def _agreement(agrees: bool, lags: list[int]) -> str:
    if not agrees:
        return "NOT in agreement"
    if not lags:
        return "Everything agrees"
    parts, events = f"{len(lags)} part{'s are' if len(lags) > 1 else ' is'}", max(lags)
    return (
        f"Everything agrees, but {parts} behind the log (up to {events:,} event{'s' if events > 1 else ''})"
    )


def _period(day: date, granularity: str) -> str:
    return f"{day:%Y-%m}" if granularity == "month" else day.isoformat()


def _day(instant: datetime | None) -> date | None:
    return None if instant is None else instant.date()


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text.strip())
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not an ISO 8601 date or time.", param_hint="--at") from None


def _as_of(as_of: Any) -> str:
    known = plain(as_of)
    return f"as of position {known['position']:,}" + (f", {known['time']}" if known.get("time") else "")
