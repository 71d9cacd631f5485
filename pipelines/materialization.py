"""What a materialization shows, how it says that it is still alive, and how it fails."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import dagster as dg

from ledgerlake.errors import LedgerLakeError

OWNERS = ["team:payments-platform"]

# A server that restarts or fails over is back within seconds. What LedgerLake itself refuses is not tried
# again in the same run (see `at_work`): the sensor tries the whole run again, less and less often.
TRY_AGAIN = dg.RetryPolicy(max_retries=2, delay=2, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.FULL)

SECONDS_BETWEEN_SIGNS_OF_LIFE = 20.0
"""A run that is silent for long is taken for dead (see `pipelines.runs`), so work never is."""

Totals = Mapping[str, tuple[int, int]]
"""Gross and refunds of a currency in minor units."""


@contextmanager
def at_work(
    context: dg.AssetExecutionContext | dg.AssetCheckExecutionContext | dg.OpExecutionContext,
) -> Iterator[None]:
    """Log signs of life, and show an error that LedgerLake raises on purpose as its own text."""
    ended = threading.Event()

    def tell() -> None:
        started = time.monotonic()
        while not ended.wait(SECONDS_BETWEEN_SIGNS_OF_LIFE):
            context.log.info(f"At work for {time.monotonic() - started:.0f} s.")

    teller = threading.Thread(target=tell, name="signs-of-life", daemon=True)
    teller.start()
    try:
        yield
    except LedgerLakeError as error:
        remedy = {"remedy": error.remedy} if error.remedy else {}
        raise dg.Failure(str(error), metadata=remedy, allow_retries=False) from error
    finally:
        ended.set()
        teller.join()


def progress(context: dg.AssetExecutionContext | dg.OpExecutionContext) -> Callable[[int, int], None]:
    """A callback that logs how much is done, not more often than a reader wants to see it."""
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= SECONDS_BETWEEN_SIGNS_OF_LIFE / 4:
            last = now
            context.log.info(f"{done:,} of {total:,}")

    return report


def advanced(
    context: dg.AssetExecutionContext,
    *,
    name: str,
    position_from: int,
    position_to: int,
    head: int,
    seconds: float,
    rows: int | None = None,
    totals: Totals | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Metadata of an asset that moved from one position to another; numbers plot over time by themselves.

    `rows` is the size of the whole asset. Logs in a sentence what was done, also when that is nothing.
    """
    events = position_to - position_from
    if events:
        context.log.info(f"{name}: {events:,} new events, position {position_from:,} to {position_to:,}.")
    else:
        context.log.info(f"{name}: nothing new, at position {position_to:,} already.")
    shown: dict[str, Any] = {
        "position_from": position_from,
        "position_to": position_to,
        "events": events,
        "lag": max(0, head - position_to),
        "seconds": round(seconds, 3),
        **more,
    }
    if rows is not None:
        shown["dagster/row_count"] = rows
    return {**shown, **({} if totals is None else totals_metadata(totals))}


def totals_metadata(totals: Totals) -> dict[str, Any]:
    """Totals as a table, exact, in units of each currency; and as numbers that plot, in minor units."""
    numbers = {
        f"{name}_minor/{currency}": dg.MetadataValue.int(minor)
        for currency, (gross, refunds) in sorted(totals.items())
        for name, minor in (("gross", gross), ("refunds", refunds), ("net", gross - refunds))
    }
    return {"totals": _totals_table(totals), **numbers}


def _totals_table(totals: Totals) -> dg.TableMetadataValue:
    from ledgerlake.charts.measures import exact  # brings plotly along, which loading definitions can spare

    records = [
        dg.TableRecord(
            {
                "currency": currency,
                "gross": exact(gross, currency),
                "refunds": exact(refunds, currency),
                "net": exact(gross - refunds, currency),
            }
        )
        for currency, (gross, refunds) in sorted(totals.items())
    ]
    columns = [dg.TableColumn(name) for name in ("currency", "gross", "refunds", "net")]
    return dg.MetadataValue.table(records, dg.TableSchema(columns))
