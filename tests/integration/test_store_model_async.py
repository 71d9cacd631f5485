"""The asynchronous store, beside a synchronous one on the same log, does what the store in memory does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from ledgerlake.eventstore import transaction
from ledgerlake.eventstore.async_store import AsyncEventStore
from ledgerlake.eventstore.store import EventStore
from ledgerlake.mongo.connection import open_async_database
from ledgerlake.testing.cases.blocking import Blocking, Loop
from ledgerlake.testing.cases.sample import Store
from tests.shared_log import shared_log
from tests.store_machine import OUTCOMES, model_seed, take_steps

# Half of the 20,000: the other half is in test_store_model.
STEPS = 10_000


@pytest.mark.slow
def test_an_async_and_a_sync_store_on_one_log_do_what_the_store_in_memory_does(
    mongo_uri: str,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    record_property: Callable[[str, object], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Programs are short: caution has to end soon, for what is assumed instead of read to be met often.
    monkeypatch.setattr(transaction, "BATCHES_OF_CAUTION", 1)
    first_seed = model_seed(pytestconfig.getoption("hypothesis_seed"), in_ci=20271123)
    record_property("seed", first_seed)
    with shared_log(mongo_uri, tmp_path) as log, Loop() as loop:
        database = loop.run(open_async_database(log.settings))

        def opens(stack: ExitStack) -> tuple[Store, Store]:
            log.empty()
            first = stack.enter_context(Blocking(loop, lambda: AsyncEventStore(database)))
            return first, stack.enter_context(EventStore(log.database))

        try:
            taken = take_steps(opens, at_least=STEPS, first_seed=first_seed)
        finally:
            loop.run(database.client.close())
    assert taken.steps >= STEPS
    assert min(taken.met[kind] for kind in OUTCOMES) >= 20, taken.met
