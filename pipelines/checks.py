"""Reconciliation: what is published agrees with the event log, in counts and sums per currency."""

# No `from __future__ import annotations`: Dagster reads the type of `context` as an object, not as text.

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import dagster as dg

from pipelines.materialization import TRY_AGAIN, at_work
from pipelines.resources import Ledger

if TYPE_CHECKING:
    from ledgerlake.reconciliation import Check

NAME = "agrees_with_the_log"

_LOG = ("log positions", "log amounts")
_EVENTS_IN_PARQUET = ("lake segments", "lake events")

PARTS: dict[str, tuple[str, ...]] = {
    "events": (*_LOG, "dead letters"),
    "event_lake": _EVENTS_IN_PARQUET,
    "payment_read_models": (
        *_LOG,
        "payment read models",
        "payment states",
        "payment state totals",
        "refund latency",
        "retry recovery",
    ),
    "payment_statistics": (*_LOG, "payment statistics"),
    "payment_trends": (*_LOG, "payment trends", "payment trends by day"),
    "failure_reasons": (*_LOG, "failure reasons"),
    "payment_quarters": (*_LOG, "payment quarters"),
    "lake_statistics": (
        *_LOG,
        *_EVENTS_IN_PARQUET,
        "lake payment_statistics",
        "lake payment_states",
    ),
    "lake_trends": (
        *_LOG,
        *_EVENTS_IN_PARQUET,
        "lake payment_trends_day",
        "lake payment_trends_week",
        "lake payment_trends_month",
    ),
}
"""The parts of a verification that speak for each asset, with those it is made of."""

# A blocking check holds back everything downstream, and the reconciliation as a whole needs everything
# upstream: so it can only block at the end of the chain. That is why the last ones answer for the first.
_BLOCKING = frozenset(PARTS) - {"events", "event_lake"}


@dg.multi_asset_check(
    name="reconciliation",
    specs=[
        dg.AssetCheckSpec(
            NAME,
            asset=asset,
            blocking=asset in _BLOCKING,
            description="Counts and sums per currency, organization and outcome equal those of the event "
            "log, each as of its own position. Nothing is published while this fails.",
        )
        for asset in PARTS
    ],
    can_subset=True,
    retry_policy=TRY_AGAIN,
)
def reconciliation(
    context: dg.AssetCheckExecutionContext, ledger: dg.ResourceParam[Ledger]
) -> Iterator[dg.AssetCheckResult]:
    from ledgerlake.reconciliation import verify

    with at_work(context), ledger.open() as opened:
        found = verify(opened.db, opened.lake).checks
    known = {name for parts in PARTS.values() for name in parts}
    for key in sorted(context.selected_asset_check_keys):
        parts = PARTS[key.asset_key.to_user_string()]
        # A part that nobody has assigned to an asset yet counts for all of them, rather than for none.
        yield _result(key, [check for check in found if check.name in parts or check.name not in known])


@dg.asset_check(
    asset="billing_reports",
    name="agrees_with_the_lake",
    description="Every report's lines add up to its summary, and its summary to the events in the lake.",
    retry_policy=TRY_AGAIN,
)
def reports_agree(
    context: dg.AssetCheckExecutionContext, ledger: dg.ResourceParam[Ledger]
) -> dg.AssetCheckResult:
    from ledgerlake.reconciliation.lake_side import LakeViews
    from ledgerlake.reconciliation.log import Log
    from ledgerlake.reconciliation.report_side import check_reports

    with (
        at_work(context),
        ledger.open() as opened,
        opened.db.client.start_session(snapshot=True) as session,
        LakeViews(opened.lake) as views,
    ):
        found = check_reports(Log(opened.db, session), views, ledger.settings.reports_dir)
    [key] = context.selected_asset_check_keys
    return _result(key, [found])


def _result(key: dg.AssetCheckKey, checks: list["Check"]) -> dg.AssetCheckResult:
    wrong = [check for check in checks if not check.ok]
    told = [f"{check.name}: {difference}" for check in wrong for difference in check.differences]
    metadata: dict[str, Any] = {check.name: check.detail for check in checks}
    if told:
        metadata["differences"] = dg.MetadataValue.md("\n".join(f"- {line}" for line in told))
    records = [
        dg.TableRecord(
            {
                "compared": check.name,
                "currency": currency,
                "outcome": outcome,
                "log": _text(figure),
                "here": _text(check.actual.get(currency, {}).get(outcome)),
            }
        )
        for check in checks
        for currency, outcomes in check.expected.items()
        for outcome, figure in outcomes.items()
    ]
    if records:
        columns = [dg.TableColumn(name) for name in ("compared", "currency", "outcome", "log", "here")]
        metadata["totals"] = dg.MetadataValue.table(records, dg.TableSchema(columns))
    return dg.AssetCheckResult(
        passed=not wrong,
        asset_key=key.asset_key,
        check_name=key.name,
        severity=dg.AssetCheckSeverity.ERROR,
        description="; ".join(told[:3]) if wrong else f"{len(checks)} comparisons agree",
        metadata=metadata,
    )


def _text(figure: dict[str, Any] | None) -> str:
    if figure is None:
        return "–"
    return f"{figure['count']:,}" if figure["total"] is None else f"{figure['count']:,}: {figure['total']}"
