"""The notebooks: kept clean, run anywhere on any ledger, and readable without a network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from ledgerlake.analyst import Lake, NothingYet
from ledgerlake.application import LedgerLake
from ledgerlake.notebook import NotebookError, execute, page_position, refresh_page
from ledgerlake.settings import Settings
from tests.builders import event, insert_events, payment_history

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TRENDS = ROOT / "notebooks" / "payment_trends.ipynb"


@pytest.fixture(scope="module")
def five_currencies(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A lake with payments in five currencies, failures and refunds among them."""
    from ledgerlake.mongo.connection import open_database

    home = tmp_path_factory.mktemp("five")
    settings = Settings(home=home, mongodb_uri=mongo_uri, database="test_notebooks_five")
    db = open_database(settings)
    db.client.drop_database(settings.database)
    db.client.close()
    with LedgerLake.open(settings) as ledger:
        insert_events(ledger.db, payment_history(seed=5, events=800))
        ledger.refresh()
        ledger.db.client.drop_database(settings.database)  # the lake alone is what analysts need
    return settings


@pytest.fixture(scope="module")
def page(five_currencies: Settings) -> Path:
    page = five_currencies.notebooks_dir / "payment_trends.html"
    refresh_page(TRENDS, page, five_currencies, 800)
    return page


class Fetched(HTMLParser):
    """Whatever a page would have fetched, and the sizes of its scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.urls: list[str] = []
        self.scripts: list[str] = []
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.inside = tag
        if tag == "script":
            self.scripts.append("")
        if tag != "a":
            self.urls += [
                value for name, value in attrs if value and name in ("src", "href", "data", "srcset")
            ]

    def handle_data(self, data: str) -> None:
        if self.inside == "script" and self.scripts:
            self.scripts[-1] += data
        if self.inside == "style":
            assert "@import" not in data
            assert "url(http" not in data

    def handle_endtag(self, tag: str) -> None:  # noqa: ARG002
        self.inside = ""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_kept_without_outputs_in_small_cells_with_parameters(path: Path) -> None:
    cells = json.loads(path.read_text())["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert all(len(cell["source"]) <= 10 for cell in code)
    assert [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])] == code[:1]
    assert cells[0]["cell_type"] == "markdown"
    assert cells[0]["source"][0].startswith("# ")
    imports = [line for cell in code for line in cell["source"] if "import" in line and "ledgerlake" in line]
    assert imports == ["from ledgerlake import Lake, charts\n"]


def test_the_page_fetches_nothing_and_holds_plotly_once(page: Path) -> None:
    fetched = Fetched()
    fetched.feed(page.read_text())
    assert fetched.urls == []
    assert len([script for script in fetched.scripts if "plotly.js v" in script]) == 1
    assert sum("Plotly.newPlot(" in script for script in fetched.scripts[1:]) == 4
    assert "default-src 'none'" in page.read_text()


def test_the_page_says_as_of_what_and_shows_exact_totals(page: Path, five_currencies: Settings) -> None:
    from ledgerlake import charts

    text = page.read_text()
    assert page_position(page) == 800
    assert "800 events, up to position 800 of the log" in text
    summary = charts.summary(Lake.open(five_currencies).trends())
    assert summary.height == 5
    for row in summary.iter_rows():
        for value in row:
            assert f"<td>{value}</td>" in text


def test_a_page_that_is_up_to_date_is_left_alone(page: Path, five_currencies: Settings) -> None:
    before = page.stat()
    again = refresh_page(TRENDS, page, five_currencies, 800)
    assert again.executed is False
    assert page.stat().st_mtime_ns == before.st_mtime_ns


def test_a_failing_cell_is_named_and_the_old_page_stays(five_currencies: Settings, tmp_path: Path) -> None:
    notebook = json.loads(TRENDS.read_text())
    notebook["cells"][2]["source"] = ["1 / 0\n"]
    broken = tmp_path / "broken.ipynb"
    broken.write_text(json.dumps(notebook))
    page = tmp_path / "page.html"
    page.write_text("what was there")
    with pytest.raises(NotebookError, match=r"Cell 2 of broken.ipynb failed: ZeroDivisionError"):
        refresh_page(broken, page, five_currencies, 800)
    assert page.read_text() == "what was there"
    with pytest.raises(NotebookError, match="There is no notebook"):
        execute(tmp_path / "none.ipynb", five_currencies)


def test_one_currency_without_failures_is_shown_as_well_and_parameters_choose(
    database: Any, settings: Settings
) -> None:
    wicked = "<script>alert(1)</script>"
    history = [
        event(position, f"p{position}", "PaymentProcessed", 100 * position, currency="GBP", organization=name)
        for position, name in enumerate([wicked, wicked, wicked, "shop"], start=1)
    ]
    insert_events(database, history)
    with LedgerLake.open(settings) as ledger:
        ledger.refresh()
    page = settings.notebooks_dir / "page.html"
    refresh_page(TRENDS, page, settings, 4, {"organization": wicked})
    text = page.read_text()
    assert "no failed attempt among 3" in text
    assert "4 events, up to position 4" in text
    assert "<script>alert(1)" not in text


def test_any_machine_will_do(five_currencies: Settings, tmp_path: Path) -> None:
    """No environment, no home to write to, and somebody else's kernel under the name of ours."""
    foreign = tmp_path / "jupyter" / "kernels" / "python3"
    foreign.mkdir(parents=True)
    kernel = {"argv": ["/bin/false", "{connection_file}"], "display_name": "Foreign", "language": "python"}
    (foreign / "kernel.json").write_text(json.dumps(kernel))
    page = tmp_path / "page.html"
    code = (
        "import pathlib, sys\n"
        "from jupyter_client.kernelspec import KernelSpecManager\n"
        # Without this being so, the test would prove nothing.
        "assert KernelSpecManager().get_kernel_spec('python3').argv[0] == '/bin/false'\n"
        "from ledgerlake.notebook import refresh_page\n"
        "from ledgerlake.settings import Settings\n"
        "home, notebook, page = map(pathlib.Path, sys.argv[1:])\n"
        "print(refresh_page(notebook, page, Settings(home=home), 800).executed)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(five_currencies.home), str(TRENDS), str(page)],
        env={
            "PYTHONPATH": str(ROOT / "src"),
            "HOME": "/nonexistent",
            "JUPYTER_PATH": str(tmp_path / "jupyter"),
        },
        cwd="/", capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "True"
    assert page_position(page) == 800


@pytest.mark.usefixtures("page")
def test_no_kernel_is_left_behind() -> None:
    listed = subprocess.run(["ps", "-eo", "ppid,args"], capture_output=True, text=True, check=True).stdout
    ours = [line for line in listed.splitlines() if line.split()[0] == str(os.getpid())]
    assert ours  # ps itself
    assert not [line for line in ours if "ipykernel" in line]


def test_an_analyst_finds_the_lake_from_any_folder_of_the_project(
    five_currencies: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(five_currencies.lake_dir, tmp_path / "project" / "var" / "lake")
    deep = tmp_path / "project" / "notebooks" / "mine"
    deep.mkdir(parents=True)
    monkeypatch.delenv("LEDGERLAKE_HOME", raising=False)
    monkeypatch.chdir(deep)
    lake = Lake.open()
    assert lake.root == tmp_path / "project" / "var" / "lake"
    assert lake.position == 800
    assert "800 events" in repr(lake)
    assert "The latest happened on" in repr(lake)


def test_where_there_is_nothing_yet_the_lake_says_what_to_do(settings: Settings) -> None:
    with pytest.raises(
        NothingYet, match=r"no payments in .*lake yet\. Bring some in with `ledgerlake import"
    ):
        Lake.open(settings)


def test_a_lake_is_read_as_it_was_set_up_whatever_the_environment_says(five_currencies: Settings) -> None:
    assert Lake.open(replace(five_currencies, segment_size=17)).position == 800


def test_a_session_sees_one_position_however_often_the_lake_is_refreshed(
    database: Any, settings: Settings
) -> None:
    insert_events(database, payment_history(seed=1, events=300))
    with LedgerLake.open(settings) as ledger:
        ledger.refresh()
        lake = Lake.open(settings)
        before = lake.trends(), lake.payments().collect()
        insert_events(database, payment_history(seed=2, events=200, after=300))
        ledger.refresh()
    assert lake.position == 300
    assert lake.sql("SELECT count(*) AS n FROM events").item() == 300
    assert lake.sql("SELECT sum(count) AS n FROM payment_trends_month").item() == 300
    assert lake.trends().equals(before[0])
    assert lake.payments().collect().equals(before[1])
    assert Lake.open(settings).position == 500


def test_trends_and_events_choose_the_same_days_and_organization(five_currencies: Settings) -> None:
    lake = Lake.open(five_currencies)
    chosen: Any = {"organization": "org 1", "first_day": "2026-02-03", "last_day": "2026-02-20"}
    trends = lake.trends("week", **chosen)
    events = lake.events(**chosen).collect()
    assert 0 < events.height < 800
    assert trends["count"].sum() == events.height
    assert trends["total_minor"].sum() == events["amount_minor"].sum()
    assert set(trends["period"].dt.weekday()) == {1}
