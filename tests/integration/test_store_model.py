"""The store on MongoDB does, step for step, what the store in memory does."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from ledgerlake.eventstore import transaction
from ledgerlake.eventstore.store import EventStore
from ledgerlake.testing.cases.sample import Store
from tests.shared_log import shared_log
from tests.store_machine import OUTCOMES, model_seed, take_steps

# Half of the 20,000: the other half is in test_store_model_async, for another worker to take meanwhile.
STEPS = 10_000


@pytest.mark.slow
def test_two_stores_on_one_log_do_what_the_store_in_memory_does(
    mongo_uri: str,
    tmp_path: Path,
    pytestconfig: pytest.Config,
    record_property: Callable[[str, object], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Programs are short: caution has to end soon, for what is assumed instead of read to be met often.
    monkeypatch.setattr(transaction, "BATCHES_OF_CAUTION", 1)
    first_seed = model_seed(pytestconfig.getoption("hypothesis_seed"), in_ci=20261123)
    record_property("seed", first_seed)
    with shared_log(mongo_uri, tmp_path) as log:

        def opens(stack: ExitStack) -> tuple[Store, Store]:
            log.empty()
            first, second = (stack.enter_context(EventStore(log.database)) for _ in range(2))
            return first, second

        taken = take_steps(opens, at_least=STEPS, first_seed=first_seed)
    assert taken.steps >= STEPS
    assert min(taken.met[kind] for kind in OUTCOMES) >= 20, taken.met
