"""Pages in a real browser that has no network: charts are drawn, and nothing is asked for or refused."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import timedelta
from html import escape
from pathlib import Path
from typing import Any

import pytest

from ledgerlake.application import LedgerLake
from ledgerlake.notebook import refresh_page
from ledgerlake.reports.formats import export
from ledgerlake.settings import Settings
from tests.builders import START, event, insert_events
from tests.reports import movement, write_report

TRENDS = Path(__file__).resolve().parents[2] / "notebooks" / "payment_trends.ipynb"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)

pytestmark = pytest.mark.slow


def browse(page: Path, profile: Path, *what: str) -> subprocess.CompletedProcess[str]:
    assert CHROMIUM is not None
    return subprocess.run(
        [
            CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-background-networking", "--no-first-run", f"--user-data-dir={profile}",
            "--disable-extensions", "--disable-component-update", "--disable-sync", "--in-process-gpu",
            "--proxy-server=127.0.0.1:9", "--proxy-bypass-list=<-loopback>",  # nobody listens there
            "--enable-logging=stderr", "--hide-scrollbars", "--window-size=1280,6000",
            "--virtual-time-budget=15000", *what, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip


def test_the_page_draws_every_chart_without_a_network(
    database: Any, settings: Settings, tmp_path: Path, require: Callable[[object, str], None]
) -> None:
    require(CHROMIUM, "a Chromium browser (apt-get install chromium)")
    # Ten payments a day in two currencies, and on one day most attempts fail: the chart has to name it.
    history: list[dict[str, Any]] = []
    for day in range(30):
        for number in range(10):
            kind = "PaymentFailed" if day == 20 and number < 8 else "PaymentProcessed"
            for currency in ("EUR", "BHD"):
                at = START + timedelta(days=day, minutes=number)
                position = len(history) + 1
                history.append(event(position, f"p{position}", kind, 5_000, currency=currency, at=at))
    insert_events(database, history)
    with LedgerLake.open(settings) as ledger:
        ledger.refresh()
    page = tmp_path / "page.html"
    refresh_page(TRENDS, page, settings, len(history))

    picture = tmp_path / "page.png"
    done = browse(page, tmp_path / "profile", "--dump-dom", f"--screenshot={picture}")

    drawn = done.stdout
    titles = re.findall(r'class="gtitle"[^>]*>([^<]+)<', drawn)
    assert [title.split(",")[0] for title in titles] == [
        "Gross",
        "Success rate of payment attempts per day (UTC)",
        "Top 10 organizations by gross",
        "Refund rate per week (UTC): amount refunded of gross",
    ]
    assert drawn.count('class="main-svg"') >= 4
    assert len(re.findall(r'<g class="point"', drawn)) > 100  # the bars
    assert drawn.count("Thu 19 Feb 2026: 20.00 %, 2 of 10 attempts") >= 2
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []

    assert picture.stat().st_size > 100_000  # a blank page of that size has about 20,000


def test_a_report_is_drawn_without_a_network_and_runs_nothing(
    tmp_path: Path, require: Callable[[object, str], None]
) -> None:
    require(CHROMIUM, "a Chromium browser (apt-get install chromium)")
    hostile = "</td><script>document.title = 'run'</script><img src=https://example.org/x.png>"
    given = [
        movement(kind, 1_000 + number, currency, reason=hostile)
        for number in range(20)
        for kind in ("charge", "refund")
        for currency in ("EUR", "BHD")
    ]
    folder = write_report(tmp_path / "report", given, organization=hostile)
    export(folder, ["html"])
    page = folder / "report.html"

    done = browse(page, tmp_path / "profile", "--dump-dom")

    title = f"Billing report: {hostile}, 2011-11"
    assert f"<title>{escape(title, quote=False)}</title>" in done.stdout
    assert done.stdout.count("<svg") == 4
    assert done.stdout.count('<rect class="in"') == 8  # eighty hours are four days, in two currencies
    assert "<script" not in done.stdout
    assert [line for line in done.stderr.splitlines() if "CONSOLE" in line] == []

    # What would run and load if a text were taken for more than a text is refused by the page itself.
    page.write_text(page.read_text("utf-8").replace("</main>", f"{hostile}</main>"), "utf-8")
    done = browse(page, tmp_path / "profile", "--dump-dom")
    assert f"<title>{escape(title, quote=False)}</title>" in done.stdout
    refused = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert len(refused) >= 2
    assert all("Content Security Policy" in line for line in refused)
