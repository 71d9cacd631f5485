"""All monthly billing reports, against a hand-written query that writes a file per organization and month."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pyarrow as pa
from bson import encode
from bson.raw_bson import RawBSONDocument

from benchmarks.measure import Figure, Scale, child, events
from ledgerlake.eventstore.columnar import columns_of_documents
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.segments import Segment, write_segment
from ledgerlake.settings import Settings

# Rates: at most 1.2 times the time of the query.
TARGET = 1 / 1.2

REPORTS = """
import shutil, sys, time
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.reports import refresh_billing
from ledgerlake.settings import Settings
settings = Settings.from_env()
shutil.rmtree(settings.reports_dir, ignore_errors=True)
lake = EventLake(settings.lake_dir, settings.segment_size)
started = time.perf_counter()
done = refresh_billing(lake, settings.reports_dir)
result = {
    "rate": done.lines / (time.perf_counter() - started),
    "reports": sum(file.name == "itemised.parquet" for file in done.files),
}
"""

# What somebody would write who wants the same columns, in nothing but SQL.
QUERY = """
COPY (
  WITH charges AS (
    SELECT payment_id, event_id, occurred_at FROM events WHERE event_type = 'PaymentProcessed'
  ),
  movements AS (
    SELECT
      events.*,
      strftime(events.occurred_at, '%Y-%m') AS month,
      CASE
        WHEN event_type = 'PaymentProcessed' THEN 'charge'
        WHEN event_type = 'PaymentFailed' THEN 'failure'
        WHEN unreferenced THEN 'unreferenced_credit'
        ELSE 'refund'
      END AS movement,
      CASE event_type
        WHEN 'PaymentProcessed' THEN amount_minor
        WHEN 'PaymentRefunded' THEN -amount_minor
        ELSE 0
      END AS change,
      CASE exponent WHEN 0 THEN 1 WHEN 2 THEN 0.01 WHEN 3 THEN 0.001 ELSE 0.0001 END::DECIMAL(5, 4) AS unit,
      charges.occurred_at AS original_at,
      charges.event_id AS original_event_id
    FROM events
    LEFT JOIN charges ON event_type = 'PaymentRefunded' AND charges.payment_id = events.payment_id
  )
  SELECT
    row_number() OVER (PARTITION BY organization_id, month ORDER BY occurred_at, position) AS line,
    strftime(occurred_at, '%Y%m') || '-' || position AS line_id,
    organization_id,
    event_id,
    position,
    payment_id,
    attempt,
    movement AS category,
    movement,
    occurred_at,
    occurred_at AT TIME ZONE 'UTC' AS occurred_local,
    CAST(occurred_at AT TIME ZONE 'UTC' AS DATE) AS day,
    occurred_at AS booked_at,
    month AS period,
    month AS occurred_period,
    currency,
    exponent,
    change AS amount_minor,
    CAST(change * unit AS DECIMAL(38, 4)) AS amount,
    CASE WHEN movement = 'failure' THEN amount_minor END AS failed_minor,
    CASE WHEN movement = 'failure' THEN amount END AS failed,
    CAST(SUM(change) OVER account AS BIGINT) AS balance_minor,
    CAST(CAST(SUM(change) OVER account AS BIGINT) * unit AS DECIMAL(38, 4)) AS balance,
    reason,
    original_at,
    original_event_id,
    user_id,
    correlation_id,
    command_id,
    CAST(NULL AS VARCHAR) AS fx_currency,
    CAST(NULL AS DECIMAL(38, 18)) AS fx_rate,
    CAST(NULL AS DATE) AS fx_rate_date,
    CAST(NULL AS VARCHAR) AS fx_source,
    CAST(NULL AS BIGINT) AS fx_amount_minor,
    CAST(NULL AS DECIMAL(38, 4)) AS fx_amount,
    organization_id AS organization,
    month
  FROM movements
  WINDOW account AS (
    PARTITION BY organization_id, currency
    ORDER BY occurred_at, position
    ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW
  )
  ORDER BY organization_id, month, occurred_at, position
) TO '{out}' (FORMAT parquet, COMPRESSION zstd, PARTITION_BY (organization, month))
"""

BY_HAND = """
import shutil, sys, time
from pathlib import Path
import duckdb
from ledgerlake.settings import Settings
settings = Settings.from_env()
out = settings.home / "by-hand"
shutil.rmtree(out, ignore_errors=True)
connection = duckdb.connect(config={"temp_directory": str(settings.home / "spill")})
connection.execute("SET TimeZone = 'UTC'")
connection.execute("SET enable_progress_bar = false")
files = settings.lake_dir / "events" / "*.parquet"
connection.execute(f"CREATE VIEW events AS SELECT * FROM read_parquet('{files}')")
started = time.perf_counter()
[[lines]] = connection.execute(sys.argv[1].format(out=out)).fetchall()
result = {"rate": lines / (time.perf_counter() - started), "reports": len(list(out.glob("*/*")))}
"""


def run(scale: Scale) -> list[Figure]:
    """Itemised and summary, checked and with their manifests, of five times the events, each round anew."""
    scale = replace(scale, events=5 * scale.events)
    settings = Settings(home=scale.folder / "reports", mongodb_uri=scale.uri)
    ratios: list[float] = []
    reports = 0
    try:
        _fill(scale, settings)
        for _ in range(scale.rounds):
            ours, theirs = child(settings, REPORTS), child(settings, BY_HAND, QUERY)
            assert ours["reports"] == theirs["reports"]
            ratios.append(ours["rate"] / theirs["rate"])
            reports = ours["reports"]
            scale.say(f"  reports {ours['rate']:,.0f} lines/s, by hand {theirs['rate']:,.0f}/s")
    finally:
        shutil.rmtree(settings.home, ignore_errors=True)
    note = f"{scale.events:,} events, {reports:,} reports of organizations and months"
    return [Figure("monthly billing reports", "a DuckDB query by hand", ratios, TARGET, note)]


def _fill(scale: Scale, settings: Settings) -> None:
    """A lake of `scale.events` events, past the database: what is read, not what is measured."""
    folder, size = EventLake(settings.lake_dir, settings.segment_size).events_dir, settings.segment_size
    folder.mkdir(parents=True)
    held: list[pa.Table] = []
    after = 0
    for batch in events(scale.events):
        held.append(columns_of_documents([RawBSONDocument(encode(each)) for each in batch], after))
        after += len(batch)
        if after % size == 0 or after == scale.events:
            write_segment(folder, Segment.number((after - 1) // size, size), held)
            held = []
