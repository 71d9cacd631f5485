"""The event log and the read models in MongoDB."""

# No `from __future__ import annotations`: Dagster reads the type of `context` as an object, not as text.

import time

import dagster as dg

from pipelines.columns import columns
from pipelines.materialization import OWNERS, TRY_AGAIN, advanced, at_work, progress
from pipelines.resources import Ledger

events = dg.AssetSpec(
    "events",
    group_name="event_store",
    kinds={"mongodb"},
    owners=OWNERS,
    metadata=columns("mongodb/events"),
    description="The event log of payments, append-only, with a gapless position. Written by commands, "
    "not by Dagster: everything else here follows from it.",
)


def _read_model(name: str, description: str, *derived: str) -> dg.AssetsDefinition:
    """The asset of a projection; `derived` are the totals that are kept beside it."""

    @dg.asset(
        name=name,
        deps=[events],
        group_name="read_models",
        kinds={"mongodb", "polars"},
        owners=OWNERS,
        pool=name,
        retry_policy=TRY_AGAIN,
        metadata=columns(*(f"mongodb/{each}" for each in (name, *derived))),
        description=description,
    )
    def read_model(
        context: dg.AssetExecutionContext, ledger: dg.ResourceParam[Ledger]
    ) -> dg.MaterializeResult[None]:
        from ledgerlake.eventstore.columnar import head
        from ledgerlake.projections import model
        from pipelines.totals import of_read_model

        started = time.monotonic()
        with at_work(context), ledger.open() as opened:
            brought = opened.bring_up(name, progress(context))
            moved = brought.moved
            if brought.rebuilt_as is not None:
                context.log.warning(
                    f"{name} was {brought.rebuilt_as}. The old one is kept until it is dropped."
                )
            collection = model(opened.db, name)
            metadata = advanced(
                context,
                name=name,
                position_from=moved.from_position,
                position_to=moved.to_position,
                head=head(opened.db),
                seconds=time.monotonic() - started,
                rows=collection.estimated_document_count(),
                totals=of_read_model(opened.db, name),
                batches=moved.batches,
                version=opened.projection(name).version,
                **{"dagster/table_name": collection.full_name},
                **({} if brought.rebuilt_as is None else {"rebuilt": brought.rebuilt_as}),
            )
        return dg.MaterializeResult(metadata=metadata)

    return read_model


payment_read_models = _read_model(
    "payment_read_models",
    "The present state of every payment: status, amount, what was refunded, attempts. One document each, and "
    "beside them totals by state, of the time to the first refund, and of what retries recovered.",
    "payment_states",
    "refund_latency",
    "retry_recovery",
)
payment_statistics = _read_model(
    "payment_statistics",
    "Per organization, status and currency: count, total, average, least and most of all movements.",
)
payment_trends = _read_model(
    "payment_trends",
    "Per organization, day (UTC), currency and status: count and total of the day's movements.",
)
failure_reasons = _read_model(
    "failure_reasons",
    "Per organization, day (UTC), currency and reason: count and total of failed attempts.",
)
payment_quarters = _read_model(
    "payment_quarters",
    "Per organization, quarter of an hour, currency and status: count and total of movements. The days of "
    "any time zone are made of them.",
)
