"""The assets that are notebooks' pages: when they are made, and what one that fails does to the others.

On a ledger without events, whose pages need no kernel.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from ledgerlake.notebook import page_of, page_position
from ledgerlake.settings import Settings
from pipelines.assets import notebooks
from pipelines.jobs import REFRESH_TAG
from pipelines.positions import LAKE_PAGES, page_asset
from pipelines.resources import Ledger


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def materialize(
    instance: dg.DagsterInstance, settings: Settings, *, refresh: bool, only: str | None = None
) -> dg.ExecuteInProcessResult:
    return dg.materialize(
        [notebooks.lake_pages],
        resources={"ledger": Ledger(settings)},
        instance=instance,
        tags={REFRESH_TAG: "all"} if refresh else None,
        selection=None if only is None else [page_asset(only)],
        raise_on_error=False,
    )


def made(result: dg.ExecuteInProcessResult) -> set[str]:
    return {
        event.asset_key.to_user_string()
        for event in result.get_asset_materialization_events()
        if event.asset_key
    }


def test_a_refresh_leaves_young_pages_alone_and_makes_the_others(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    young = page_of(settings, "organizations")
    young.parent.mkdir(parents=True)
    young.write_text('<meta name="ledgerlake-position" content="7">')
    result = materialize(instance, settings, refresh=True)
    assert result.success
    assert made(result) == {page_asset(name) for name in LAKE_PAGES if name != "organizations"}
    assert page_position(young) == 7
    assert {page_position(page_of(settings, name)) for name in LAKE_PAGES} == {0, 7}


def test_a_page_that_is_asked_for_is_made_at_once_and_alone(
    instance: dg.DagsterInstance, settings: Settings
) -> None:
    young = page_of(settings, "organizations")
    young.parent.mkdir(parents=True)
    young.write_text('<meta name="ledgerlake-position" content="7">')
    result = materialize(instance, settings, refresh=False, only="organizations")
    assert result.success
    assert made(result) == {"organizations_notebook"}
    assert page_position(young) == 0
    assert not page_of(settings, "payment_trends").exists()


def test_one_that_fails_is_named_and_holds_none_of_the_others_up(
    instance: dg.DagsterInstance, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "some"
    shutil.copytree(notebooks.FOLDER, folder)
    (folder / "failures_and_retries.ipynb").unlink()
    monkeypatch.setattr(notebooks, "FOLDER", folder)
    result = materialize(instance, settings, refresh=True)
    assert not result.success
    assert made(result) == {page_asset(name) for name in LAKE_PAGES if name != "failures_and_retries"}
    [failure] = [event for event in result.all_events if event.is_step_failure]
    assert "failures_and_retries.ipynb" in str(failure.step_failure_data)
