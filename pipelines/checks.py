"""Checks: what is published agrees with the event log, is whole, and is not late."""

# No `from __future__ import annotations`: Dagster reads the type of `context` as an object, not as text.

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import dagster as dg

from pipelines.materialization import TRY_AGAIN, at_work
from pipelines.resources import Ledger

if TYPE_CHECKING:
    from ledgerlake.application import LedgerStatus
    from ledgerlake.reconciliation import Check, Reconciled, Recorded

NAME = "agrees_with_the_log"
GAPLESS = "gapless_positions"
BALANCES = "no_negative_balances"
SCHEMA = "declared_schema"
FRESH = "fresh"

# Everything is refreshed once an hour at least, and a run may take its time.
FRESHNESS = dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=3), warn_window=timedelta(minutes=90))

_LOG = ("log positions", "log amounts", "log chain", "archived events")
_EVENTS_IN_PARQUET = ("lake segments", "lake events", "columns of events", "event_lake (sums)")

PARTS: dict[str, tuple[str, ...]] = {
    "events": (*_LOG, "dead letters"),
    "event_lake": _EVENTS_IN_PARQUET,
    "payment_read_models": (
        *_LOG,
        "payment read models",
        "payment states",
        "payments one by one",
        "payment state totals",
        "refund latency",
        "retry recovery",
        "payment_read_models (sums)",
    ),
    "payment_statistics": (*_LOG, "payment statistics", "payment_statistics (sums)"),
    "payment_trends": (*_LOG, "payment trends", "payment trends by day", "payment_trends (sums)"),
    "failure_reasons": (*_LOG, "failure reasons", "failure_reasons (sums)"),
    "payment_quarters": (*_LOG, "payment quarters", "payment_quarters (sums)"),
    "lake_statistics": (
        *_LOG,
        *_EVENTS_IN_PARQUET,
        "lake payment_statistics",
        "lake payment_states",
        "lake payment_statistics (sums)",
        "lake payment_states (sums)",
    ),
    "lake_trends": (
        *_LOG,
        *_EVENTS_IN_PARQUET,
        *(
            f"lake payment_trends_{every}{how}"
            for every in ("day", "week", "month")
            for how in ("", " (sums)")
        ),
    ),
}
"""The parts of a verification, full or by sums, that speak for each asset, with those it is made of."""

_READ_MODELS = (
    "payment_read_models",
    "payment_statistics",
    "payment_trends",
    "failure_reasons",
    "payment_quarters",
)

# Asset and check -> the parts of a verification that decide.
_OTHERS: dict[tuple[str, str], tuple[str, ...]] = {
    ("events", GAPLESS): ("log positions",),
    ("payment_read_models", BALANCES): ("payment balances", "payment_read_models (sums)"),
    ("lake_statistics", BALANCES): ("lake payment balances", "lake payment_states (sums)"),
    **{(name, SCHEMA): (f"fields of {name}",) for name in _READ_MODELS},
    ("event_lake", SCHEMA): ("columns of events",),
    ("lake_statistics", SCHEMA): ("columns of statistics",),
    ("lake_trends", SCHEMA): ("columns of trends",),
}

_ABOUT = {
    NAME: "Counts and sums per currency, organization and outcome equal those of the event log, each as of "
    "its own position: by control sums at every run, event by event at least once a day and as soon as a sum "
    "differs. Nothing is published while this fails.",
    GAPLESS: "Positions run from 1 to the head of the log, each once.",
    BALANCES: "No payment was refunded more than was processed of it.",
    SCHEMA: "Stored documents have the fields, and files the columns, of the types that are declared.",
    FRESH: "No event has waited longer than LEDGERLAKE_ALERT_LAG_SECONDS to be taken in.",
}

# A blocking check holds back everything downstream, and the reconciliation as a whole needs everything
# upstream: so it can only block at the end of the chain. That is why the last ones answer for the first.
_BLOCKING = frozenset(PARTS) - {"events", "event_lake"}


def _specs() -> Iterator[dg.AssetCheckSpec]:
    for asset, name in [*((asset, NAME) for asset in PARTS), *_OTHERS]:
        yield dg.AssetCheckSpec(name, asset=asset, blocking=asset in _BLOCKING, description=_ABOUT[name])
    # Late is not wrong: it holds back nothing.
    for asset in (*_READ_MODELS, "event_lake"):
        yield dg.AssetCheckSpec(FRESH, asset=asset, description=_ABOUT[FRESH])


@dg.multi_asset_check(name="reconciliation", specs=list(_specs()), can_subset=True, retry_policy=TRY_AGAIN)
def reconciliation(
    context: dg.AssetCheckExecutionContext, ledger: dg.ResourceParam[Ledger]
) -> Iterator[dg.AssetCheckResult]:
    with at_work(context), ledger.open() as opened:
        found = opened.reconcile()
        status = opened.status()
    checks = found.verification.checks
    known = {name for parts in (*PARTS.values(), *_OTHERS.values()) for name in parts}
    how = _how(found)
    for key in sorted(context.selected_asset_check_keys):
        asset = key.asset_key.to_user_string()
        if key.name == FRESH:
            yield _freshness(key, status, ledger.settings.alert_lag_seconds)
            continue
        parts = PARTS[asset] if key.name == NAME else _OTHERS[asset, key.name]
        # A part that nobody has assigned to an asset yet counts for all of them, rather than for none.
        stray = [check for check in checks if check.name not in known] if key.name == NAME else []
        yield _result(key, [*(check for check in checks if check.name in parts), *stray], how)


@dg.asset_check(
    asset="billing_reports",
    name="agrees_with_the_lake",
    description="Every report's lines add up to its summary, and its summary to the events in the lake: "
    "whenever reports were written, and once a day. No page is made of reports while this fails.",
    blocking=True,
    retry_policy=TRY_AGAIN,
)
def reports_agree(
    context: dg.AssetCheckExecutionContext, ledger: dg.ResourceParam[Ledger]
) -> dg.AssetCheckResult:
    with at_work(context), ledger.open() as opened:
        found, last = opened.check_reports()
    [key] = context.selected_asset_check_keys
    if found is None:
        unchanged = f"Nothing was written since they agreed, as of position {last.position:,}"
        return dg.AssetCheckResult(
            passed=True,
            asset_key=key.asset_key,
            check_name=key.name,
            description=unchanged,
            metadata=_last(last),
        )
    return _result(key, [found], _last(last))


def with_freshness(assets: Iterable[Any]) -> list[Any]:
    """The assets with a freshness policy on each one that every refresh materializes."""

    def policy(spec: dg.AssetSpec) -> dg.AssetSpec:
        # The log is written by commands, not by Dagster; a month's reports may rest for years, and a page
        # as long as LEDGERLAKE_NOTEBOOK_MINUTES says.
        if spec.key.to_user_string() == "events" or spec.partitions_def is not None or spec.skippable:
            return spec
        return spec.replace_attributes(freshness_policy=FRESHNESS)

    return list(dg.map_asset_specs(policy, assets))


def _how(found: "Reconciled") -> Mapping[str, Any]:
    compared = "every event" if found.full else "control sums"
    return {"compared": compared, **_last(found.last)}


def _last(last: "Recorded") -> dict[str, Any]:
    return {
        "last_full_verification": dg.MetadataValue.timestamp(last.at),
        "last_full_position": last.position,
        "last_full_seconds": last.seconds,
    }


def _freshness(key: dg.AssetCheckKey, status: "LedgerStatus", limit: int) -> dg.AssetCheckResult:
    name = key.asset_key.to_user_string()
    [part] = [part for part in status.parts if part.name == name]
    waited = f"The oldest of {part.lag:,} events has waited for {part.lag_seconds:,.0f} s"
    return dg.AssetCheckResult(
        passed=part.lag_seconds <= limit,
        asset_key=key.asset_key,
        check_name=key.name,
        severity=dg.AssetCheckSeverity.WARN,
        description=waited if part.lag else "Nothing waits",
        metadata={"lag": part.lag, "lag_seconds": part.lag_seconds, "limit_seconds": limit},
    )


def _result(key: dg.AssetCheckKey, checks: Sequence["Check"], more: Mapping[str, Any]) -> dg.AssetCheckResult:
    wrong = [check for check in checks if not check.ok]
    told = [f"{check.name}: {difference}" for check in wrong for difference in check.differences]
    metadata: dict[str, Any] = {**more, **{check.name: check.detail for check in checks}}
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
