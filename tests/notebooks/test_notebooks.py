"""The notebooks: kept clean, run anywhere on any ledger, and readable without a network."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

from ledgerlake.analyst import Lake, NothingYet
from ledgerlake.application import LedgerLake
from ledgerlake.notebook import (
    NotebookError,
    at_rest,
    execute,
    page_of,
    page_position,
    refresh_page,
    refresh_pages,
)
from ledgerlake.settings import Settings
from pipelines.positions import LAKE_PAGES, REPORT_PAGES
from tests.builders import event, insert_events, payment_history
from tests.chromium import QUIETLY

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TRENDS = ROOT / "notebooks" / "payment_trends.ipynb"
# The charts that each page draws, and what it imports of ledgerlake besides Lake and charts.
CHARTS = {
    "billing_review": 2,
    "data_access": 1,
    "failures_and_retries": 4,
    "organizations": 6,
    "payment_trends": 6,
}
MORE_IMPORTS = {"data_access"}  # it shows what else there is
TITLES = [
    "Gross",
    "Success rate of payment attempts per day (UTC)",
    "Refund rate per week (UTC): amount refunded of gross",
    "Time from payment to first refund: share of refunded payments",
    "Unusual days (UTC): gross above or below the weekday's usual",
    "Top 10 organizations by gross",
]
WICKED = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def five_currencies(mongo_uri: str, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """A lake and reports in five currencies: failures, refunds, closed months and what came late for them.

    One organization has a name that no page may take for more than a name.
    """
    from ledgerlake.mongo.connection import open_database

    home = tmp_path_factory.mktemp("five")
    settings = Settings(home=home, mongodb_uri=mongo_uri, database="test_notebooks_five")
    db = open_database(settings)
    db.client.drop_database(settings.database)
    db.client.close()
    with LedgerLake.open(settings) as ledger:
        insert_events(ledger.db, payment_history(seed=5, events=500))
        ledger.refresh()
        ledger.close_period("2026-02", by="ann", through=True)
        late = payment_history(seed=6, events=296, after=500)
        names = [
            event(position, f"w{position}", "PaymentProcessed", 10 * position, organization=WICKED)
            for position in range(797, 801)
        ]
        insert_events(ledger.db, [*late, *names])
        ledger.refresh()
    return settings


@pytest.fixture(scope="module")
def pages(five_currencies: Settings) -> dict[str, Path]:
    """The page of every notebook, by its name."""
    made = dict(refresh_pages(NOTEBOOKS, five_currencies, 800))
    failed = [error for error in made.values() if isinstance(error, NotebookError)]
    assert failed == []
    return {name: page_of(five_currencies, name) for name in made}


@pytest.fixture(scope="module")
def page(pages: dict[str, Path]) -> Path:
    return pages["payment_trends"]


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left(mongo_uri: str) -> Iterator[None]:
    yield
    MongoClient[dict[str, Any]](mongo_uri).drop_database("test_notebooks_five")


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
def test_a_notebook_is_kept_without_outputs_in_small_cells_with_parameters_and_prose(path: Path) -> None:
    cells = json.loads(path.read_text("utf-8"))["cells"]
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)
    assert all(len(cell["source"]) <= 10 for cell in code)
    assert [cell for cell in code if "parameters" in cell["metadata"].get("tags", [])] == code[:1]
    assert cells[0]["cell_type"] == "markdown"
    assert cells[0]["source"][0].startswith("# ")
    imports = [line for cell in code for line in cell["source"] if "import" in line and "ledgerlake" in line]
    assert imports[0] == "from ledgerlake import Lake, charts\n"
    assert len(imports) == 1 or path.stem in MORE_IMPORTS
    # Whatever is drawn has been announced: what it is, and what to see in it.
    told = 0
    for cell in cells:
        told = 3 if cell["cell_type"] == "markdown" else told - 1
        assert told > 0, f"nothing is said of the cell {cell['id']}"
    sections = [line for cell in cells for line in cell["source"] if line.startswith("## ")]
    assert len(sections) >= 4


def test_every_notebook_has_a_page() -> None:
    assert {path.stem for path in NOTEBOOKS} == {*LAKE_PAGES, *REPORT_PAGES} == set(CHARTS)


def test_links_between_notebooks_lead_somewhere() -> None:
    links = {
        name for path in NOTEBOOKS for name in re.findall(r"\]\((\w+\.ipynb)\)", path.read_text("utf-8"))
    }
    assert links
    assert links <= {path.name for path in NOTEBOOKS}


@pytest.mark.parametrize("name", CHARTS)
def test_a_page_fetches_nothing_and_holds_plotly_once(pages: dict[str, Path], name: str) -> None:
    text = pages[name].read_text("utf-8")
    fetched = Fetched()
    fetched.feed(text)
    assert fetched.urls == []
    plotly = [script for script in fetched.scripts if "plotly.js v" in script]
    assert len(plotly) == 1
    assert sum("Plotly.newPlot(" in script for script in fetched.scripts[1:]) == CHARTS[name]
    assert len(text) - len(plotly[0]) < 400_000  # characters that the notebook itself takes
    assert "default-src 'none'" in text


@pytest.mark.parametrize("name", CHARTS)
def test_a_page_says_as_of_what_it_is_and_takes_a_name_for_a_name(pages: dict[str, Path], name: str) -> None:
    text = pages[name].read_text("utf-8")
    assert page_position(pages[name]) == 800
    assert "800 events, up to position 800 of the log" in text
    assert WICKED not in text


def test_names_that_could_run_are_in_the_pages_at_all(pages: dict[str, Path]) -> None:
    """Or the test before this one would prove nothing."""
    assert "alert(1)" in pages["payment_trends"].read_text("utf-8")
    assert "alert(1)" in pages["organizations"].read_text("utf-8")


def test_a_page_links_its_sections_and_the_other_pages(page: Path) -> None:
    text = page.read_text("utf-8")
    [sections] = re.findall(r'<nav aria-label="Sections">(.*?)</nav>', text)
    assert re.findall(r'<a href="#(section-\d)">', sections) == re.findall(r'<h2 id="(.*?)">', text)
    assert '<a href="organizations.html"' in text
    assert ".ipynb" not in text


def test_the_page_shows_exact_totals(page: Path, five_currencies: Settings) -> None:
    from ledgerlake import charts

    text = page.read_text("utf-8")
    summary = charts.summary(Lake.open(five_currencies).trends())
    assert summary.height == 5
    for row in summary.iter_rows():
        for value in row[1:]:
            shown = f"{value:,}" if isinstance(value, int) else value
            assert f'<td class="number">{shown}</td>' in text


def test_the_review_shows_the_closed_month_and_what_came_late_for_it(
    pages: dict[str, Path], five_currencies: Settings
) -> None:
    text = pages["billing_review"].read_text("utf-8")
    late = Lake.open(five_currencies).corrections("2026-02")
    assert late.height > 0
    assert "2026-02 is corrected, as of position 500" in text
    assert "All agree." in text


def test_data_access_asks_the_ledger_too_and_shows_its_code(pages: dict[str, Path], page: Path) -> None:
    text = pages["data_access"].read_text("utf-8")
    assert "As of position 800; the lake is at 800." in text
    assert 'id="code" checked>' in text
    assert 'id="code">' in page.read_text("utf-8")


@pytest.mark.slow
def test_a_browser_draws_every_chart_of_every_page_without_a_network(
    pages: dict[str, Path], tmp_path: Path, require: Callable[[object, str], None]
) -> None:
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    require(chromium, "a Chromium browser (apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    greedy = tmp_path / "greedy.html"
    elsewhere = '<script src="https://example.org/x.js"></script><img src="https://example.org/x.png">'
    # Without its charts, which have been drawn by then.
    bare = re.sub(r"<script.*?</script>", "", pages["data_access"].read_text("utf-8"), flags=re.DOTALL)
    greedy.write_text(bare.replace("<main>", f"<main>{elsewhere}"), "utf-8")
    drawn: dict[str, list[str]] = {}
    asked: dict[str, list[str]] = {}
    said: dict[str, list[str]] = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=QUIETLY)
        for name, path in {**pages, "greedy": greedy}.items():
            tab = browser.new_context(offline=True, viewport={"width": 390, "height": 800}).new_page()
            tab.set_default_timeout(300_000)
            asked[name], said[name] = [], []
            tab.on("request", lambda request, name=name: asked[name].append(request.url))
            tab.on("console", lambda message, name=name: said[name].append(message.text))
            tab.on("pageerror", lambda error, name=name: said[name].append(str(error)))
            tab.goto(path.as_uri())
            count = CHARTS.get(name, 0)
            tab.wait_for_function(f"document.querySelectorAll('.js-plotly-plot .gtitle').length >= {count}")
            deadline = time.monotonic() + 300
            while name == "greedy" and len(said[name]) < 2 and time.monotonic() < deadline:
                tab.wait_for_timeout(50)  # what its console says is told while it waits
            drawn[name] = tab.locator(".gtitle").all_text_contents()
            # On a phone it is read from top to bottom: what is wider scrolls within itself.
            assert tab.evaluate("document.documentElement.scrollWidth") <= 390, name
            tab.close()
        browser.close()
    assert {name: len(titles) for name, titles in drawn.items() if name in CHARTS} == CHARTS
    assert [title.split(",")[0] for title in drawn["payment_trends"]] == TITLES
    assert {name: asked[name] for name in pages} == {name: [path.as_uri()] for name, path in pages.items()}
    assert {name: said[name] for name in pages} == {name: [] for name in pages}
    # What would load something is refused by the page itself, not only for want of a network.
    assert len([line for line in said["greedy"] if "Content Security Policy" in line]) == 2


def test_where_there_is_nothing_yet_every_page_says_what_to_do(settings: Settings) -> None:
    for name, made in refresh_pages(NOTEBOOKS, settings, 0):
        assert not isinstance(made, NotebookError)
        text = made.path.read_text("utf-8")
        title = json.loads((ROOT / "notebooks" / f"{name}.ipynb").read_text("utf-8"))["cells"][0]["source"][0]
        assert f"<title>{title.removeprefix('# ').strip()}</title>" in text
        assert f"There are no payments in {settings.lake_dir} yet." in text
        assert "ledgerlake import FILE" in text
        assert len(text) < 20_000
        assert not at_rest(made.path, settings)  # the first events are shown at once


def test_a_page_rests_until_it_is_old_enough(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    hourly, never, always = (Settings(home=tmp_path, notebook_minutes=each) for each in (60, None, 0))
    assert not at_rest(page, hourly)  # there is none yet
    assert at_rest(page, never)
    page.write_text('<meta name="ledgerlake-position" content="7">')
    assert at_rest(page, hourly)
    assert not at_rest(page, always)
    for age, rests in ((3_500, True), (3_700, False), (-3_700, False)):
        os.utime(page, (time.time() - age,) * 2)
        assert at_rest(page, hourly) is rests


def test_a_page_that_is_up_to_date_is_left_alone(page: Path, five_currencies: Settings) -> None:
    before = page.stat()
    again = refresh_page(TRENDS, page, five_currencies, 800)
    assert again.executed is False
    assert page.stat().st_mtime_ns == before.st_mtime_ns


def test_a_page_is_made_anew_when_what_it_also_shows_has_changed(settings: Settings) -> None:
    page = settings.notebooks_dir / "page.html"
    done = [refresh_page(TRENDS, page, settings, 0, also=also).executed for also in ("1", "1", "2")]
    assert done == [True, False, True]


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


def test_a_page_builds_no_parser_that_takes_seconds(settings: Settings, tmp_path: Path) -> None:
    notebook = json.loads(TRENDS.read_text("utf-8"))
    notebook["cells"] = notebook["cells"][:2]
    notebook["cells"][1]["source"] = [
        "import sys, plotly.io._renderers\n",
        "assert 'nbformat' in sys.modules and 'lark' not in sys.modules\n",
    ]
    path = tmp_path / "small.ipynb"
    path.write_text(json.dumps(notebook))
    assert len(execute(path, settings)["cells"]) >= 2


def test_any_machine_will_do(five_currencies: Settings, tmp_path: Path) -> None:
    """No environment, no home to write to, and somebody else's kernel under the name of ours.

    The parameters choose one organization, which has one currency and no failure.
    """
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
        f"one = {{'organization': {WICKED!r}}}\n"
        "print(refresh_page(notebook, page, Settings(home=home), 800, one).executed)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(five_currencies.home), str(TRENDS), str(page)],
        env={
            "PYTHONPATH": str(ROOT / "src"),
            "HOME": "/nonexistent",
            "JUPYTER_PATH": str(tmp_path / "jupyter"),
        },
        cwd="/", capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.strip() == "True"
    assert page_position(page) == 800
    text = page.read_text("utf-8")
    assert "no failed attempt among 4" in text
    chosen = text.partition(">In short</h2>")[2].partition(">Your own question</h2>")[0]
    assert "<td>EUR</td>" in chosen
    assert "GBP" not in chosen


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
