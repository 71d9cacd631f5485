"""The Parquet lake: the event log, and the tables made of it."""

# No `from __future__ import annotations`: Dagster reads the type of `context` as an object, not as text.

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

from pipelines.assets.read_models import events
from pipelines.columns import columns
from pipelines.materialization import OWNERS, TRY_AGAIN, advanced, at_work, progress
from pipelines.resources import Ledger

if TYPE_CHECKING:
    from ledgerlake.reconciliation.sums import ControlSums


@dg.asset(
    deps=[events],
    group_name="lake",
    kinds={"parquet"},
    owners=OWNERS,
    pool="event_lake",
    retry_policy=TRY_AGAIN,
    metadata=columns("parquet/events"),
    description="The event log as Parquet files of fixed position ranges. Full files never change; the "
    "last one is replaced in one step until it is full.",
)
def event_lake(
    context: dg.AssetExecutionContext, ledger: dg.ResourceParam[Ledger]
) -> dg.MaterializeResult[None]:
    from ledgerlake.eventstore.columnar import head
    from pipelines.totals import of_lake

    started = time.monotonic()
    with at_work(context), ledger.open() as opened:
        lake = opened.lake
        moved = lake.refresh(opened.db, on_progress=progress(context))
        metadata = advanced(
            context,
            name="event_lake",
            position_from=moved.from_position,
            position_to=moved.to_position,
            head=head(opened.db),
            seconds=time.monotonic() - started,
            rows=moved.to_position,
            totals=of_lake(lake),
            segments=len(lake.segments()),
            segments_written=moved.segments_written,
            bytes=sum(segment.path.stat().st_size for segment in lake.segments()),
            folder=dg.MetadataValue.path(lake.events_dir),
        )
    return dg.MaterializeResult(metadata=metadata)


def _table(name: str, description: str, *tables: str) -> dg.AssetSpec:
    return dg.AssetSpec(
        name,
        deps=[event_lake],
        group_name="lake",
        kinds={"parquet", "duckdb"},
        owners=OWNERS,
        metadata=columns(*(f"parquet/{each}" for each in tables)),
        description=description,
    )


def _contents(sums: "ControlSums", root: Path, folder: str) -> dict[str, Any]:
    from ledgerlake.lake.parquet import read_footer
    from pipelines.totals import of_table

    files = sorted((root / folder).glob("*.parquet"))
    return {
        "rows": read_footer(root / _MAIN[folder]).rows,
        "totals": of_table(sums, root, _MAIN[folder]),
        "files": [path.name for path in files],
        "bytes": sum(path.stat().st_size for path in files),
        "folder": dg.MetadataValue.path(root / folder),
    }


# Statistics and daily trends both hold every movement once; states and longer periods repeat them.
_MAIN = {
    "statistics": "statistics/payment_statistics.parquet",
    "trends": "trends/payment_trends_day.parquet",
}


@dg.multi_asset(
    specs=[
        _table(
            "lake_statistics",
            "Statistics of movements, and states of payments, as Parquet.",
            "payment_statistics",
            "payment_states",
        ),
        _table(
            "lake_trends",
            "Movements per organization, day, week and month, as Parquet.",
            "payment_trends",
        ),
    ],
    pool="lake_tables",
    retry_policy=TRY_AGAIN,
)
def lake_tables(
    context: dg.AssetExecutionContext, ledger: dg.ResourceParam[Ledger]
) -> Iterator[dg.MaterializeResult[None]]:
    from ledgerlake.eventstore.columnar import head
    from ledgerlake.lake.tables import refresh_tables
    from ledgerlake.reconciliation.sums import ControlSums
    from pipelines.positions import positions

    started = time.monotonic()
    with at_work(context), ledger.open() as opened:
        before = positions(opened).assets
        done = refresh_tables(opened.lake, opened.engine)
        sums = ControlSums(opened.db)
        seconds = time.monotonic() - started
        for name, part in (("lake_statistics", "statistics"), ("lake_trends", "trends")):
            written = [path.name for path in done.files if path.parent.name == part]
            metadata = advanced(
                context,
                name=name,
                position_from=min(before[name], done.position),
                position_to=done.position,
                head=head(opened.db),
                seconds=seconds,
                **_contents(sums, opened.lake.root, part),
                written=written,
            )
            yield dg.MaterializeResult(asset_key=name, metadata=metadata)
