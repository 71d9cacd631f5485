"""Backup and restore as docs/operations.md says: its commands are run as they stand, on embedded servers."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ledgerlake.application import LedgerLake
from ledgerlake.errors import LedgerLakeError
from ledgerlake.mongo.embedded import status, stop
from ledgerlake.settings import Settings
from tests.builders import insert_events, payment_history

PAGE = Path(__file__).resolve().parents[2] / "docs" / "operations.md"
MONTH = "2026-01"

pytestmark = pytest.mark.slow


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Settings]:
    settings = Settings(home=tmp_path / "home", segment_size=100)
    yield settings
    stop(settings)


def documented() -> list[list[str]]:
    """The commands of the section's blocks, line by line: of the backup, and of the restore."""
    section = PAGE.read_text("utf-8").split("\n## Backup and restore\n")[1].split("\n## ")[0]
    return [block.split("\n```")[0].splitlines() for block in section.split("```sh\n")[1:]]


def carry_out(lines: list[str], settings: Settings, backup: Path) -> None:
    """Runs the lines as a shell would that has the two variables."""
    from ledgerlake.cli import app

    env = {
        "LEDGERLAKE_HOME": str(settings.home),
        "LEDGERLAKE_SEGMENT_SIZE": str(settings.segment_size),
        "BACKUP": str(backup),
    }
    for line in lines:
        if line.startswith("ledgerlake "):  # in this process, which has imported it already
            home = env["LEDGERLAKE_HOME"]
            words = [word.strip('"').replace("$LEDGERLAKE_HOME", home) for word in line.split()[1:]]
            result = CliRunner().invoke(app, words, env=env)
            assert result.exit_code == 0, f"{line}\n{result.output}{result.exception!r}"
        else:
            subprocess.run(["sh", "-euc", line], env=os.environ | env, check=True)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def append(ledger: LedgerLake, events: int) -> None:
    stored = ledger.status().head
    insert_events(ledger.db, payment_history(seed=stored + 1, events=events, after=stored))


def test_a_restored_ledger_is_that_of_the_backup(home: Settings, tmp_path: Path) -> None:
    save, restore = documented()
    backup = tmp_path / "backup"
    with LedgerLake.open(home) as ledger:
        append(ledger, 350)
        ledger.refresh()
        ledger.close_period(MONTH, by="ann", through=True)
        long_after = datetime(2040, 1, 1, tzinfo=UTC)
        archived = ledger.archive_streams(long_after, refund_window=timedelta(0))
        assert archived.events > 0
        log = list(ledger.store.read_all())
        reports = contents(home.reports_dir)
        chain = ledger.verify().head

    carry_out(save, home, backup)
    assert status(home).pid is None  # nothing has started the server under the copy

    with LedgerLake.open(home) as ledger:
        append(ledger, 80)
        ledger.refresh()
    stop(home)

    # What happens to who puts the database back, and nothing else: the lake notices.
    shutil.copytree(home.mongo_dir / "data", tmp_path / "ahead")
    shutil.rmtree(home.mongo_dir / "data")
    shutil.copytree(backup / "data", home.mongo_dir / "data")
    with LedgerLake.open(home) as ledger:
        append(ledger, 90)
        with pytest.raises(LedgerLakeError, match="of another log"):
            ledger.refresh()
    stop(home)

    carry_out(restore, home, backup)

    with LedgerLake.open(home) as ledger:
        assert list(ledger.store.read_all()) == log
        assert ledger.verify().head == chain
        assert ledger.verify_reports(home.reports_dir).ok
        closed = {name: content for name, content in reports.items() if "/revision-" in f"/{name}"}
        assert closed
        assert closed.items() <= contents(home.reports_dir).items()
        append(ledger, 50)
        ledger.refresh()
        assert ledger.verify().ok


def test_files_copied_from_a_running_server_under_its_lock_are_a_ledger(
    home: Settings, tmp_path: Path
) -> None:
    elsewhere = Settings(home=tmp_path / "another machine", segment_size=100)
    with LedgerLake.open(home) as ledger:
        append(ledger, 120)
        admin = ledger.db.client.admin
        admin.command("fsync", lock=True)
        try:
            shutil.copytree(home.mongo_dir / "data", elsewhere.mongo_dir / "data")
        finally:
            admin.command("fsyncUnlock")
        log = list(ledger.store.read_all())
        append(ledger, 30)
    stop(home)
    try:
        with LedgerLake.open(elsewhere) as ledger:
            assert list(ledger.store.read_all()) == log
            ledger.refresh()
            assert ledger.verify().ok
    finally:
        with suppress(LedgerLakeError):
            stop(elsewhere)
