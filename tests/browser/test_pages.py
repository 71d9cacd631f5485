"""The executed notebook in a real browser that has no network: charts are drawn, and nothing is refused."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from ledgerlake.application import LedgerLake
from ledgerlake.notebook import refresh_page
from ledgerlake.settings import Settings
from tests.builders import START, event, insert_events

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
            "--proxy-server=127.0.0.1:9", "--proxy-bypass-list=<-loopback>",  # nobody listens there
            "--enable-logging=stderr", "--hide-scrollbars", "--window-size=1280,6000",
            "--virtual-time-budget=15000", *what, page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
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

    done = browse(page, tmp_path / "profile", "--dump-dom")

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

    picture = tmp_path / "page.png"
    browse(page, tmp_path / "profile", f"--screenshot={picture}")
    assert picture.stat().st_size > 100_000  # a blank page of that size has about 20,000
