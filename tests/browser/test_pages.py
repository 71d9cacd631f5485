"""Reports in a real browser that has no network: charts are drawn, and nothing is asked for or refused.

The pages of notebooks are looked at in tests/notebooks, where they are made.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from html import escape
from pathlib import Path

import pytest

from ledgerlake.reports.formats import export
from tests.reports import movement, write_report

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
