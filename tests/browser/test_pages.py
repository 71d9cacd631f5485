"""The executed notebook in a real browser that has no network: charts are drawn, and nothing is refused."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledgerlake.application import LedgerLake
from ledgerlake.notebook import refresh_page
from ledgerlake.settings import Settings
from tests.builders import event, insert_events, payment_history

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
    history = payment_history(seed=9, events=600)
    day = max(document["timestamp"] for document in history)
    history += [  # an outage that the chart has to name
        event(600 + n, f"outage-{n}", "PaymentFailed", 100, at=day, reason="processor_timeout")
        for n in range(1, 61)
    ]
    insert_events(database, history)
    with LedgerLake.open(settings) as ledger:
        ledger.refresh()
    page = tmp_path / "page.html"
    refresh_page(TRENDS, page, settings, 660)

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
    assert f"{day:%-d %b %Y}: " in drawn
    complaints = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert complaints == []

    picture = tmp_path / "page.png"
    browse(page, tmp_path / "profile", f"--screenshot={picture}")
    assert picture.stat().st_size > 100_000  # a blank page of that size has about 20,000
