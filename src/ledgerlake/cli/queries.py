"""Commands that look: payment, payments, statistics, trends, verify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
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
    app.command("payment")(payment)
    app.command("payments")(payments)
    app.command("statistics")(statistics)
    app.command("trends")(trends)
    app.command("verify")(verify)


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
    from ledgerlake.queries import (
        DocumentQuery,
        GetPayment,
        GetPaymentAt,
        LogQuery,
        PaymentNotFound,
        PaymentResult,
    )

    asked: DocumentQuery[PaymentResult] | LogQuery[PaymentResult] = GetPayment(payment_id)
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
    print_table(f"Payment {payment_id}", ("field", "value"), list(fields.items()), note=freshness(as_of))


def payments(
    organization: Annotated[str, typer.Option("--organization", "-o", help="Whose payments.")],
    status: Annotated[str | None, typer.Option(help="Only payments in this status.")] = None,
    currency: Annotated[str | None, typer.Option("--currency", "-c", help="Only this currency.")] = None,
    min_amount: Annotated[
        str | None, typer.Option(help="Only amounts from this on, in units of --currency.")
    ] = None,
    max_amount: Annotated[str | None, typer.Option(help="Only amounts up to this one.")] = None,
    start: Start = None,
    end: End = None,
    sort: Annotated[
        str | None,
        typer.Option(help="opened (in the ledger), amount (of one currency), time (in business)."),
    ] = None,
    ascending: Annotated[bool, typer.Option("--ascending", help="First ones first.")] = False,
    limit: Annotated[int, typer.Option(help="Payments a page.")] = 20,
    cursor: Annotated[str | None, typer.Option(help="Where the page before ended.")] = None,
    json: AsJson = False,
) -> None:
    """An organization's payments, page by page; --from and --to mean when they were opened in business."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.queries import ListPayments

    asked = ListPayments(
        organization,
        status=status,
        currency=currency,
        limit=limit,
        cursor=cursor,
        min_amount=_amount(min_amount, "--min-amount"),
        max_amount=_amount(max_amount, "--max-amount"),
        start=_midnight(start),
        end=_midnight(end),
        sort=sort,
        ascending=ascending,
    )
    with LedgerLake.open() as ledger:
        page = ledger.queries_in_clear.ask(asked)
    if json:
        print_json(page)
        return
    print_table(
        f"Payments of {organization}",
        ("payment", "status", "currency", "amount", "refunded", "attempts", "opened", "last"),
        [
            (
                p.payment_id,
                p.status,
                p.currency,
                p.amount,
                p.refunded,
                p.attempts,
                p.opened_at,
                p.last_at,
            )
            for p in page.payments
        ],
        note=freshness(page.as_of),
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
        result = ledger.queries.ask(GetStatistics(organization, day_of(start), day_of(end)))
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
        note=freshness(result.as_of),
    )
    nothing(result.rows, organization)
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
    zone: Annotated[
        str, typer.Option(help="Whose days these are: an IANA time zone, such as Europe/Berlin.")
    ] = "UTC",
    json: AsJson = False,
) -> None:
    """Count and total of movements over time, per organization, currency and status."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.queries import GetTrends

    with LedgerLake.open() as ledger:
        result = ledger.queries.ask(GetTrends(organization, day_of(start), day_of(end), granularity, zone))
    if json:
        print_json(result)
        return
    print_table(
        f"Movements by {granularity}" + ("" if zone == "UTC" else f" in {zone}"),
        (granularity, "organization", "currency", "status", "count", "total"),
        [
            (_period(r.period, granularity), r.organization_id, r.currency, r.status, r.count, r.total)
            for r in result.rows
        ],
        note=freshness(result.as_of),
    )
    nothing(result.rows, organization)


def nothing(rows: Sequence[Any], organization: str | None, what: str = "movement") -> None:
    """Say so where there are no rows to show."""
    if not rows:
        whom = "" if organization is None else f" of {organization!r}: check the spelling, and days if given"
        console().print(f"No {what}{whom}. If events are new, run `ledgerlake refresh`.", markup=False)


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
        # The head of the chain has a line of its own, to be copied whole.
        details = {check.name: check.detail.partition("; to be noted outside: ") for check in found.checks}
        print_table(
            _agreement(found.ok, list(found.behind.values())),
            ("check", "result", "detail"),
            [(check.name, "ok" if check.ok else "FAILED", details[check.name][0]) for check in found.checks],
        )
        for _, _, noted_head in details.values():
            if noted_head:
                console().print(f"To be noted outside: {noted_head}", markup=False, soft_wrap=True)
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


def _amount(text: str | None, option: str) -> Decimal | None:
    try:
        return None if text is None else Decimal(text)
    except InvalidOperation:
        raise typer.BadParameter(f"{text!r} is not an amount.", param_hint=option) from None


def _midnight(day: datetime | None) -> datetime | None:
    return None if day is None else day.replace(tzinfo=UTC)


def day_of(instant: datetime | None) -> date | None:
    """The day of an option such as --from."""
    return None if instant is None else instant.date()


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text.strip())
        return instant.replace(tzinfo=UTC) if instant.tzinfo is None else instant.astimezone(UTC)
    except (ValueError, OverflowError):
        raise typer.BadParameter(f"{text!r} is not an ISO 8601 date or time.", param_hint="--at") from None


def freshness(as_of: Any) -> str:
    """As of which position an answer is, in words."""
    known = plain(as_of)
    return f"as of position {known['position']:,}" + (f", {known['time']}" if known.get("time") else "")
