"""The months of the books as partitions: their history, and marks for what came too late for one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dagster as dg

from pipelines.materialization import totals_metadata
from pipelines.totals import of_billing

if TYPE_CHECKING:
    from ledgerlake.application import LedgerLake
    from ledgerlake.reports import BillingRefresh
    from ledgerlake.reports.books import Books
    from ledgerlake.reports.months import LateMovements, MonthReports

MONTHS = "billing_months"
"""The asset with a partition a month; `billing_reports` reports on it what it wrote."""

BILLING_MONTHS = dg.DynamicPartitionsDefinition(name="billing_month")
"""Keys are months such as 2011-11. One is added as soon as it has a draft, or is closed."""


@dataclass(frozen=True, slots=True)
class Marked:
    """How many movements came for closed months, and how long the list of closes was."""

    late: int
    closes: int


def mark_months(context: dg.AssetExecutionContext, opened: LedgerLake, done: BillingRefresh) -> Marked:
    """Tell, on the partitions, what became of each month since `billing_reports` was materialized last.

    A month whose reports were written, closed or reopened since, by whomever, gets a materialization; a
    closed one that movements came for gets an observation: they are corrections in the open month, and its
    own files stay. It goes by what Dagster has been told, so nothing is lost if a run dies before.
    """
    from ledgerlake.reports.months import late_movements, month_reports

    out, books = opened.settings.reports_dir, opened.periods.books()
    position, closes = _told(context.instance)
    late = late_movements(opened.lake, books, position, done.to_position)
    drafts, changed = _changed(opened, books, done, position)
    changed |= {entry.period for entry in books.entries[closes:]}
    changed |= add_months(context.instance, {*drafts, *(entry.period for entry in books.closed())})
    for period in sorted(changed):
        report_month(context, month_reports(out, period, books))
    for each in late:
        context.log.warning(
            f"{each.period} is closed: {each.movements:,} movements came for it since position {position:,}."
            f" They are corrections in {', '.join(each.booked_in)}."
        )
        context.log_event(
            dg.AssetObservation(
                MONTHS, partition=each.period, metadata=_late_metadata(each, position, done.to_position)
            )
        )
    return Marked(sum(each.movements for each in late), len(books.entries))


def report_month(context: dg.AssetExecutionContext | dg.OpExecutionContext, month: MonthReports) -> None:
    """Tell what a month's reports are now as a materialization of its partition."""
    context.log_event(dg.AssetMaterialization(MONTHS, partition=month.period, metadata=month_metadata(month)))


def add_months(instance: dg.DagsterInstance, months: Iterable[str]) -> set[str]:
    """Make partitions of the months that are none yet; which these are.

    Dagster keeps keys in the order in which they came, and takes a range of them by that order. A month
    that comes late is put in its place, or a backfill from one month to another would leave it out.
    """
    name = str(BILLING_MONTHS.name)
    before = instance.get_dynamic_partitions(name)
    new = set(months) - set(before)
    if not new:
        return new
    moved = [key for key in before if key > min(new)]
    for key in moved:
        instance.delete_dynamic_partition(name, key)  # its history is kept by its name
    instance.add_dynamic_partitions(name, sorted({*new, *moved}))
    return new


def month_metadata(month: MonthReports) -> dict[str, Any]:
    """What the page of a month's partition shows; numbers plot over time by themselves."""
    corrections = of_billing(month.corrections)
    return {
        "state": month.state if month.organizations else f"{month.state}, nothing is booked in it",
        **({} if month.revision is None else {"revision": month.revision}),
        "position": month.position,
        "dagster/partition_row_count": month.lines,
        "organizations": month.organizations,
        "bytes": month.bytes,
        "folder": dg.MetadataValue.path(month.folder),
        **totals_metadata(of_billing(month.totals)),
        "corrections": sum(each.charges + each.refunds + each.failures for each in month.corrections),
        **({"correction_totals": totals_metadata(corrections)["totals"]} if corrections else {}),
    }


def _late_metadata(late: LateMovements, after: int, up_to: int) -> dict[str, Any]:
    shown = {
        "movements": late.movements,
        "booked_in": ", ".join(late.booked_in),
        "position_from": after,
        "position_to": up_to,
        **totals_metadata(of_billing(late.totals)),
    }
    # The page of a partition shows them among what the month's reports say.
    return {f"late_{name}": value for name, value in shown.items()}


def _told(instance: dg.DagsterInstance) -> tuple[int, int]:
    """Up to which position, and which entry of the list of closes, months have been told of."""
    found = instance.get_latest_materialization_event(dg.AssetKey("billing_reports"))
    told = found.asset_materialization.metadata if found and found.asset_materialization else {}
    position, closes = (told.get(name) for name in ("position_to", "closes"))
    if position is None or closes is None:
        return 0, 0
    return int(str(position.value)), int(str(closes.value))


def _changed(opened: LedgerLake, books: Books, done: BillingRefresh, told: int) -> tuple[set[str], set[str]]:
    """The months that have drafts, and those whose drafts were written since the position that is told."""
    from ledgerlake.reports.months import month_reports
    from ledgerlake.reports.refresh import read_checkpoint

    out = opened.settings.reports_dir
    drafts = set(read_checkpoint(out).months)
    changed = set(done.months)
    if done.from_position > told:  # somebody else brought them up in between
        changed |= {each for each in drafts - changed if month_reports(out, each, books).position > told}
    return drafts, changed
