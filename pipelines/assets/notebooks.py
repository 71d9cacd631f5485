"""The notebooks as pages: an asset each, executed two at once."""

# No `from __future__ import annotations`: Dagster reads the type of `context` as an object, not as text.

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg

from pipelines.assets.lake import lake_tables
from pipelines.assets.publications import billing_reports
from pipelines.jobs import REFRESH_TAG
from pipelines.materialization import OWNERS, advanced, at_work
from pipelines.positions import LAKE_PAGES, REPORT_PAGES, page_asset
from pipelines.resources import Ledger

FOLDER = Path(__file__).resolve().parents[2] / "notebooks"


def _pages(step: str, about: Mapping[str, str], made_of: list[Any]) -> dg.AssetsDefinition:
    """One step for pages, by the names of their notebooks with what each shows; any of them can be chosen."""

    @dg.multi_asset(
        name=step,
        specs=[
            dg.AssetSpec(
                page_asset(name),
                deps=made_of,
                group_name="publications",
                kinds={"jupyter", "plotly"},
                owners=OWNERS,
                description=f"The notebook {name}, executed into one HTML page that opens without a network: "
                f"{shows}. Made anew when there is more to show and the page is older than "
                "LEDGERLAKE_NOTEBOOK_MINUTES, or at once when it alone is materialized.",
                skippable=True,
            )
            for name, shows in about.items()
        ],
        can_subset=True,
        pool="notebook_pages",
    )
    def pages(
        context: dg.AssetExecutionContext, ledger: dg.ResourceParam[Ledger]
    ) -> Iterator[dg.MaterializeResult[None]]:
        from ledgerlake.eventstore.columnar import head
        from ledgerlake.notebook import NotebookError, at_rest, page_of, refresh_pages
        from pipelines.positions import positions

        settings = ledger.settings
        chosen = {asset.to_user_string() for asset in context.selected_asset_keys}
        names = [name for name in about if page_asset(name) in chosen]
        if REFRESH_TAG in context.run.tags:  # nobody asked for this very page
            resting = [name for name in names if at_rest(page_of(settings, name), settings)]
            names = [name for name in names if name not in resting]
            if resting:
                context.log.info(f"Left as they are (LEDGERLAKE_NOTEBOOK_MINUTES): {', '.join(resting)}.")
        failed: list[NotebookError] = []
        with at_work(context), ledger.open() as opened:
            before = positions(opened).assets
            closes = str(len(opened.periods.books().entries))
            sources = [FOLDER / f"{name}.ipynb" for name in names]
            for name, done in refresh_pages(sources, settings, before["lake_trends"], also=closes):
                if isinstance(done, NotebookError):
                    failed.append(done)
                    continue
                metadata = advanced(
                    context,
                    name=page_asset(name),
                    position_from=min(before[page_asset(name)], done.position),
                    position_to=done.position,
                    head=head(opened.db),
                    seconds=done.seconds,
                    executed=done.executed,
                    page=dg.MetadataValue.path(done.path),
                    bytes=done.path.stat().st_size,
                )
                yield dg.MaterializeResult(asset_key=page_asset(name), metadata=metadata)
            if failed:
                raise NotebookError(" ".join(error.message for error in failed), failed[0].remedy)

    return pages


lake_pages = _pages("notebook_pages", LAKE_PAGES, [lake_tables])
report_pages = _pages("notebook_pages_of_reports", REPORT_PAGES, [lake_tables, billing_reports])
