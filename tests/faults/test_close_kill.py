"""Reports that are killed while they are written: no part of one is ever seen, and the next run ends it."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb  # noqa: F401 - here, once, and not in every fork
import polars  # noqa: F401
import pytest
from pymongo.database import Database

from ledgerlake.lake.event_lake import EventLake
from ledgerlake.reports import refresh_billing, revisions
from ledgerlake.reports.books import Books, read_books
from ledgerlake.reports.close import Periods
from ledgerlake.reports.interval import Interval
from ledgerlake.reports.spec import ReportSpec
from ledgerlake.reports.verify import verify_reports
from ledgerlake.reports.writer import write_reports
from ledgerlake.settings import Settings
from tests.builders import event, insert_events
from tests.faults.forks import AFTER, BEFORE, Forks, Moment, forks

Db = Database[dict[str, Any]]
HERE = "tests.faults.test_close_kill"
MONTH = "2026-01"
_CHANGES = ("os.rename", "os.mkdir", "os.chmod", "os.remove", "os.rmdir", "os.link")


class LetsPass:
    """A gate, which is not what is tested here."""

    def everything(self, position: int, coming: Sequence[ReportSpec] = ()) -> None:
        pass

    def __call__(
        self, specs: Sequence[ReportSpec], position: int, rows: Sequence[Sequence[Mapping[str, Any]]]
    ) -> None:
        pass


def killed_before_change(number: int, root: Path) -> None:
    """Kill this process right before the n-th change to a file or folder below `root`; 0: count them."""
    made = 0

    def look(what: str, arguments: tuple[Any, ...]) -> None:
        nonlocal made
        change = what in _CHANGES or (what == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if not change or not str(arguments[0]).startswith(str(root)):
            return
        made += 1
        if made == number:
            os.kill(os.getpid(), signal.SIGKILL)
        if number == 0:
            (root.parent / "changes").write_text(str(made))

    sys.addaudithook(look)


def periods(db: Db, lake: EventLake, out: Path) -> Periods:
    return Periods(db, lake, out, "UTC", LetsPass())


def close(db: Db, number: int, in_place: bool) -> None:
    """Work for a fork: close the month. `in_place`: without the hidden folder, as it is not done."""
    settings = Settings.from_env()
    lake = EventLake(settings.lake_dir, settings.segment_size)
    if in_place:
        revisions._HIDDEN = "{}"  # type: ignore[misc]
    killed_before_change(number, settings.reports_dir)
    periods(db, lake, settings.reports_dir).close(MONTH, lake.position(), by="ann")


def refresh(db: Db, number: int) -> None:
    """Work for a fork: bring the drafts up to date."""
    settings = Settings.from_env()
    lake = EventLake(settings.lake_dir, settings.segment_size)
    killed_before_change(number, settings.reports_dir)
    refresh_billing(lake, settings.reports_dir, read_books(db))


def write(db: Db, number: int) -> None:
    """Work for a fork: reports into a folder of one's own."""
    settings = Settings.from_env()
    lake = EventLake(settings.lake_dir, settings.segment_size)
    killed_before_change(number, settings.reports_dir)
    write_mine(lake, settings.reports_dir)


def write_mine(lake: EventLake, out: Path) -> None:
    pinned = lake.pin()
    with pinned.duckdb() as connection:
        write_reports(pinned, connection, ReportSpec(Interval.parse("2026-01")), out, ("parquet", "csv"))


def charges(first: int, last: int) -> list[dict[str, Any]]:
    """One charge at each position, of two organizations in turn, in January and February."""
    return [
        event(
            position,
            f"payment {position}",
            "PaymentProcessed",
            100 * position,
            organization=("acme", "globex")[position % 2],
            at=datetime(2026, 1 + position // 6, 3, tzinfo=UTC),
        )
        for position in range(first, last + 1)
    ]


@pytest.fixture
def forking(database: Db, environ: Mapping[str, str]) -> Iterator[Forks]:
    with forks(database, environ) as running:
        yield running


@pytest.fixture
def lake(database: Db, settings: Settings) -> EventLake:
    insert_events(database, charges(1, 6))
    lake = EventLake(settings.lake_dir, settings.segment_size)
    lake.refresh(database)
    return lake


def contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not path.name.startswith(".")
    }


def changes(settings: Settings) -> int:
    return int((settings.home / "changes").read_text())


def spread(total: int, kills: int) -> list[int]:
    """So many moments from the first change to the last, half of them in the last ten."""
    early, late = kills - kills // 2, kills // 2
    found = {1 + at * total // early for at in range(early)} | {total - at * 10 // late for at in range(late)}
    return sorted(number for number in found if 1 <= number <= total)


def test_a_close_killed_at_any_moment_is_whole_or_not_there_and_the_next_ends_it(
    database: Db, settings: Settings, lake: EventLake, forking: Forks
) -> None:
    out = settings.reports_dir
    revision = out / MONTH / "revision-1"
    one = periods(database, lake, out)

    refresh_billing(lake, out, one.books())
    shutil.copytree(out, settings.home / "drafts")

    def undo() -> None:
        database["billing_periods"].delete_many({})
        shutil.rmtree(out)
        shutil.copytree(settings.home / "drafts", out)

    commands = forking.run(f"{HERE}:close", 0, False).commands
    reference = contents(revision)
    assert len(reference) >= 7
    total = changes(settings)
    moments: list[tuple[int, Moment | None]] = [(number, None) for number in spread(total, 16)]
    moments += [(-1, Moment(commands, side)) for side in (BEFORE, AFTER)]
    states = set()
    for number, moment in moments:
        undo()
        outcome = forking.run(f"{HERE}:close", number, False, moment=moment)
        assert outcome.killed, (number, moment)
        closed = bool(one.books().closed())
        states.add((closed, revision.is_dir()))
        if revision.is_dir():
            assert closed, "a folder that nobody wrote down"
            assert contents(revision) == reference, number
        # Whoever comes next: the same again, or anything that completes what is written down.
        if number % 2 or not closed:
            one.close(MONTH, lake.position(), by="bob")
        else:
            one.complete()
        assert contents(revision) == reference, number
        assert not list(out.rglob(".*.writing"))
        assert [path.name for path in (out / MONTH).iterdir()] == ["revision-1"]
        assert len(one.books().entries) == 1
    assert states == {(False, False), (True, False), (True, True)}
    assert verify_reports(out / MONTH, lake, one.books()).ok


def test_negative_control_a_revision_written_in_place_is_seen_in_part(
    database: Db, settings: Settings, lake: EventLake, forking: Forks
) -> None:
    revision = settings.reports_dir / MONTH / "revision-1"
    forking.run(f"{HERE}:close", 0, True)
    reference = contents(revision)
    for number in spread(changes(settings), 12):
        database["billing_periods"].delete_many({})
        shutil.rmtree(revision)
        forking.run(f"{HERE}:close", number, True)
        if revision.is_dir() and contents(revision) != reference:
            return
        revision.mkdir(exist_ok=True, parents=True)
    pytest.fail("Whenever it was killed, nothing or all of it was there.")


@pytest.mark.parametrize("work", ["refresh", "write"])
def test_files_of_a_report_killed_at_any_moment_are_old_or_new_and_the_next_run_ends_it(
    database: Db, settings: Settings, lake: EventLake, forking: Forks, tmp_path: Path, work: str
) -> None:
    out, before = settings.reports_dir, tmp_path / "before"

    def again(folder: Path) -> None:
        if work == "refresh":
            refresh_billing(lake, folder, Books("UTC"))
        else:
            write_mine(lake, folder)

    again(before)
    old = contents(before)
    insert_events(database, charges(7, 8))
    insert_events(
        database, [event(9, "payment 9", "PaymentProcessed", 7, at=datetime(2026, 1, 9, tzinfo=UTC))]
    )
    lake.refresh(database)
    shutil.copytree(before, tmp_path / "after")
    again(tmp_path / "after")
    new = contents(tmp_path / "after")
    shutil.copytree(before, out)
    forking.run(f"{HERE}:{work}", 0)
    assert contents(out) == new != old
    for number in spread(changes(settings), 6):
        shutil.rmtree(out)
        shutil.copytree(before, out)
        assert forking.run(f"{HERE}:{work}", number).killed, number
        for name, digest in contents(out).items():
            assert digest in (old.get(name), new.get(name)), (number, name)
        again(out)
        assert contents(out) == new, number
        assert not list(out.rglob(".*.tmp"))
    assert verify_reports(out, lake).ok
