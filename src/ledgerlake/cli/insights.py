"""Commands that look deeper: failures, refund-latency, retry-recovery, organization."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated

import typer

from ledgerlake.cli.queries import End, Organization, Start, day_of, freshness, nothing
from ledgerlake.cli.render import AsJson, print_json, print_table

_DAY = 24


def register(app: typer.Typer) -> None:
    """Add these commands to the tool."""
    app.command("failures")(failures)
    app.command("refund-latency")(refund_latency)
    app.command("retry-recovery")(retry_recovery)
    app.command("organization")(organization)


def failures(
    organization: Organization = None,
    start: Start = None,
    end: End = None,
    currency: Annotated[str | None, typer.Option("--currency", "-c", help="Only this currency.")] = None,
    json: AsJson = False,
) -> None:
    """Why attempts fail: count, total and share of each reason, per organization and currency."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.queries import GetFailureReasons

    with LedgerLake.open() as ledger:
        result = ledger.queries.ask(GetFailureReasons(organization, day_of(start), day_of(end), currency))
    if json:
        print_json(result)
        return
    print_table(
        "Failed attempts by reason",
        ("organization", "currency", "reason", "count", "total", "share"),
        [(r.organization_id, r.currency, r.reason, r.count, r.total, _percent(r.share)) for r in result.rows],
        note=freshness(result.as_of),
    )
    nothing(result.rows, organization, "failed attempt")


def refund_latency(
    organization: Organization = None, start: Start = None, end: End = None, json: AsJson = False
) -> None:
    """Time from completion to the first refund, of payments completed on these days that were refunded."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.queries import GetRefundLatency

    with LedgerLake.open() as ledger:
        result = ledger.queries.ask(GetRefundLatency(organization, day_of(start), day_of(end)))
    if json:
        print_json(result)
        return
    print_table(
        "Time to the first refund",
        ("organization", "currency", "refunded", "in a day", "in 7 days", "in 30 days", "half in", "9/10 in"),
        [
            (
                r.organization_id,
                r.currency,
                r.payments,
                r.within(_DAY),
                r.within(7 * _DAY),
                r.within(30 * _DAY),
                _hours(r.median_hours),
                _hours(r.p90_hours),
            )
            for r in result.rows
        ],
        note=freshness(result.as_of),
    )
    nothing(result.rows, organization, "refunded payment")


def retry_recovery(
    organization: Organization = None, start: Start = None, end: End = None, json: AsJson = False
) -> None:
    """Payments that failed first on these days, by how often they failed, and how many a retry recovered."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.queries import GetRetryRecovery

    with LedgerLake.open() as ledger:
        result = ledger.queries.ask(GetRetryRecovery(organization, day_of(start), day_of(end)))
    if json:
        print_json(result)
        return
    print_table(
        "Payments that failed at first",
        (
            "organization",
            "currency",
            "failures",
            "payments",
            "recovered",
            "rate",
            "amount",
            "recovered amount",
        ),
        [
            (
                r.organization_id,
                r.currency,
                r.failures,
                r.payments,
                r.recovered,
                _percent(r.rate),
                r.amount,
                r.recovered_amount,
            )
            for r in result.rows
        ],
        note=freshness(result.as_of),
    )
    nothing(result.rows, organization, "payment that failed")


def organization(
    organization_id: Annotated[str, typer.Argument(help="The organization's id.")], json: AsJson = False
) -> None:
    """One organization: first and last payment, volumes per currency, success and refund rates."""
    from ledgerlake.application import LedgerLake
    from ledgerlake.queries import GetOrganization

    with LedgerLake.open() as ledger:
        found = ledger.queries.ask(GetOrganization(organization_id))
    if json:
        print_json(found)
        return
    print_table(
        f"Organization {organization_id}",
        ("first payment", "last payment"),
        [(found.first_payment_at, found.last_payment_at)],
        note=freshness(found.as_of),
    )
    nothing(found.volumes, organization_id)
    if found.volumes:
        print_table(
            "Volumes",
            ("currency", "gross", "refunded", "net", "payments", "credit notes", "success by attempt",
             "success by payment", "refund rate"),
            [
                (
                    v.currency,
                    v.gross,
                    v.refunded,
                    v.net,
                    v.payments,
                    v.credit_notes,
                    _percent(v.success_rate_by_attempt),
                    _percent(v.success_rate_by_payment),
                    _percent(v.refund_rate),
                )
                for v in found.volumes
            ],
        )  # fmt: skip


def _percent(share: Decimal | None) -> str | None:
    return None if share is None else f"{share * 100:.2f} %"


def _hours(hours: int) -> str:
    return f"{hours} h" if hours <= 2 * _DAY else f"{-(-hours // _DAY)} d"
