"""`make demo` as a newcomer runs it: its own MongoDB, an empty environment, nothing but what it prints."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ledgerlake.cli import app
from ledgerlake.domain.money import Money
from ledgerlake.notebook import page_position
from ledgerlake.settings import Settings
from ledgerlake.simulation import simulate, write_commands
from tests.replay import replay

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
COMMANDS = 3_000
DEMO = [sys.executable, "-m", "pipelines.demo"]
WITHOUT_PAGES = {"LEDGERLAKE_NOTEBOOK_MINUTES": "off"}  # executing five notebooks is worth it once


@dataclass(frozen=True)
class Place:
    """A folder to run demos in, which holds ./var afterwards."""

    folder: Path

    @property
    def settings(self) -> Settings:
        return Settings(home=self.folder / "var")

    def run(self, *words: str, **environ: str) -> subprocess.CompletedProcess[str]:
        code = os.pathsep.join([str(REPOSITORY / "src"), str(REPOSITORY)])
        bare = {"PATH": os.defpath, "PYTHONPATH": code, **environ}
        return subprocess.run(words, cwd=self.folder, env=bare, capture_output=True, text=True, timeout=600)

    def tool(self, *words: str) -> Result:
        """`ledgerlake` as typed in the folder, in this process: the demo itself runs in one of its own."""
        with contextlib.chdir(self.folder):
            return CliRunner().invoke(app, words, env={"LEDGERLAKE_HOME": None})

    def head(self) -> int:
        head = json.loads(self.tool("status", "--json").stdout)["head"]
        assert isinstance(head, int)
        return head


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    from ledgerlake.mongo.embedded import stop

    place = Place(tmp_path_factory.mktemp("demo"))
    try:
        yield place
    finally:
        stop(place.settings)


@pytest.fixture(scope="module")
def first(place: Place) -> subprocess.CompletedProcess[str]:
    return place.run(*DEMO, "--commands", str(COMMANDS))


def rows(output: str) -> dict[str, list[str]]:
    """The cells of the tables' rows in the output by the first one."""
    found = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines()]
    return {cells[0]: cells[1:] for cells in found if len(cells) > 1}


def figures(output: str) -> str:
    """The part of the output that tells what is in the ledger."""
    return output[output.index("The ledger as of") : output.index("Where things lie")]


def test_the_demo_ends_well_and_keeps_the_noise_to_its_log(
    place: Place, first: subprocess.CompletedProcess[str]
) -> None:
    assert (first.returncode, first.stderr) == (0, ""), first.stdout + first.stderr
    assert "dagster - " not in first.stdout
    assert "RUN_SUCCESS" in (place.folder / "var/demo/dagster.log").read_text()


def test_the_table_shows_what_the_rules_alone_make_of_the_commands(
    first: subprocess.CompletedProcess[str],
) -> None:
    expected = replay(simulate(commands=COMMANDS))
    shown = rows(first.stdout)
    for currency in ("BHD", "EUR", "GBP", "JPY", "USD"):
        completed, refunded, failed = (
            (expected.counts[currency, status], expected.sums[currency, status])
            for status in ("completed", "refunded", "failed")
        )
        assert shown[currency][:-1] == [
            f"{completed[0]:,}",
            f"{Money(completed[1], currency).amount:,f}",
            f"{Money(refunded[1], currency).amount:,f}",
            f"{Money(completed[1] - refunded[1], currency).amount:,f}",
            f"{failed[0]:,}",
        ]
    credit_notes = sum(state.unreferenced for state in expected.states.values())
    assert (
        f"{expected.events:,} events, {len(expected.states) - credit_notes:,} payments, "
        f"{credit_notes} credit notes that name no payment, 16 organizations"
    ) in first.stdout
    refused = {code: int(shown[code][0]) for code in expected.refused}
    assert refused == expected.refused


def test_what_the_table_names_is_there(place: Place, first: subprocess.CompletedProcess[str]) -> None:
    where = first.stdout[first.stdout.index("Where things lie") : first.stdout.index("What to type next")]
    paths = re.findall(r"(\bvar/\S+)", where)
    assert len(paths) == 8
    assert [path for path in paths if not (place.folder / path).exists()] == []
    pages = [place.folder / path for path in paths if path.endswith(".html")]
    assert {page.stem for page in pages} == {path.stem for path in (REPOSITORY / "notebooks").glob("*.ipynb")}
    assert {page_position(page) for page in pages} == {place.head()}
    assert "2026-01 to 2026-06" in where


def test_every_command_to_type_next_works(place: Place, first: subprocess.CompletedProcess[str]) -> None:
    lines = [line.split("  ")[1] for line in first.stdout.partition("What to type next")[2].splitlines()[1:7]]
    ours = [line.split()[1:] for line in lines if "ledgerlake" in line and "mongo stop" not in line]
    assert [words[0] for words in ours] == ["payment", "statistics", "trends", "report", "verify"]
    for words in ours:
        done = place.tool(*words)
        assert done.exit_code == 0, (done.output, done.exception)


def test_the_run_is_in_the_history_that_dagster_shows(
    place: Place, first: subprocess.CompletedProcess[str]
) -> None:
    [history] = (place.folder / "var/dagster").rglob("runs.db")
    with sqlite3.connect(f"file:{history}?mode=ro", uri=True) as runs:
        found = runs.execute("select pipeline_name, status from runs order by id").fetchall()
    assert found[0] == ("refresh_all", "SUCCESS")


def test_a_second_demo_adds_nothing_and_says_so(
    place: Place, first: subprocess.CompletedProcess[str]
) -> None:
    head = place.head()
    second = place.run(*DEMO, "--commands", str(COMMANDS))
    assert second.returncode == 0, second.stdout + second.stderr
    assert second.stdout.rstrip().splitlines()[-1].startswith("0 new events")
    assert "new events" not in re.sub(r"\b0 new events", "", second.stdout)
    assert figures(second.stdout) == figures(first.stdout)
    assert place.head() == head


def test_a_file_of_ones_own_goes_the_same_way(place: Place, first: subprocess.CompletedProcess[str]) -> None:
    file = place.folder / "own.jsonl"
    write_commands(simulate(seed=99, commands=200), file)
    head = place.head()
    own = place.run(*DEMO, "--input", str(file), **WITHOUT_PAGES)
    assert own.returncode == 0, own.stdout + own.stderr
    assert place.head() == head + replay(simulate(seed=99, commands=200)).events
    assert f"as of position {place.head():,}" in own.stdout


@pytest.mark.parametrize("name", ["missing.csv", "other.xlsx", "broken.csv"])
def test_a_file_that_cannot_be_read_is_one_sentence_and_exit_code_2(place: Place, name: str) -> None:
    (place.folder / "other.xlsx").touch()
    (place.folder / "broken.csv").write_text("command,amount\n")
    refused = place.run(*DEMO, "--input", name)
    assert refused.returncode == 2
    assert "Traceback" not in refused.stderr
    assert len(refused.stderr.splitlines()) == 1
    assert refused.stderr.startswith("demo: ")
    assert name in refused.stderr


def test_a_run_that_fails_names_step_reason_and_log(tmp_path: Path, environ: dict[str, str]) -> None:
    reports = Path(environ["LEDGERLAKE_HOME"]) / "reports"
    reports.mkdir(parents=True)
    (reports / "2026-06").write_text("in the way of the folder that June's reports go to")
    ours = {name: value for name, value in environ.items() if name.startswith("LEDGERLAKE_")}
    failed = Place(tmp_path).run(*DEMO, "--commands", "100", **ours, **WITHOUT_PAGES)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    assert "Traceback" not in failed.stdout + failed.stderr
    assert "the step billing_reports of run" in failed.stderr
    [log] = re.findall(r"The log of the run: (.*)", failed.stderr)
    assert "RUN_FAILURE" in (tmp_path / log).read_text()
