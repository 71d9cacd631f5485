"""README and docs stay true: their commands run, their links lead somewhere, their lists are complete."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

REPOSITORY = Path(__file__).resolve().parents[2]
README = REPOSITORY / "README.md"
PAGES = [README, *sorted((REPOSITORY / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", page.read_text("utf-8"), re.DOTALL | re.MULTILINE)


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}


def codes_in(source: str) -> set[str]:
    return set(re.findall(r'(?:CommandRejected|MoneyError|PersonalDataError)\(\s*"([a-z_]+)"', source))


@pytest.mark.slow
def test_the_tour_runs_as_it_is_written(
    tmp_path: Path, environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ledgerlake.cli import app

    lines = [line for block in blocks(README, "sh") for line in block.splitlines()]
    tour = [shlex.split(line) for line in lines if line.startswith("ledgerlake ")]
    assert {words[1] for words in tour} >= {"simulate", "import", "refresh", "status", "report", "verify"}
    python = blocks(README, "python")
    assert len(python) == 2
    monkeypatch.chdir(tmp_path)
    for words in tour:
        result = CliRunner().invoke(app, words[1:], env=environ)
        assert result.exit_code == 0, f"{words}\n{result.output}{result.exception!r}"
        assert result.stdout, words
    for code in python:
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert done.stdout, command


def test_the_readme_leaves_out_no_command_of_the_tool() -> None:
    from ledgerlake.cli import app

    text = README.read_text("utf-8")
    names = {each.name for each in (*app.registered_commands, *app.registered_groups)}
    assert {name for name in names if f"ledgerlake {name}" not in text} == set()


def test_make_targets_named_in_pages_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", (REPOSITORY / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {name for page in PAGES for name in re.findall(r"[`\n]make ([a-z]+)", page.read_text("utf-8"))}
    assert {"demo", "test"} <= named <= targets


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text("utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path) if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(linked), f"{page.name} links to {target}"


def test_the_pictures_are_light() -> None:
    pictures = list((REPOSITORY / "docs").rglob("*.png"))
    assert len(pictures) == 5
    assert sum(path.stat().st_size for path in pictures) < 300_000


def test_every_test_that_a_guarantee_names_exists() -> None:
    page = (REPOSITORY / "docs/guarantees.md").read_text("utf-8")
    named = re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", page)
    assert len(named) > 30
    for path, test in named:
        source = (REPOSITORY / path).read_text("utf-8")
        assert not test or f"def {test}(" in source, f"{path}::{test}"


def test_every_setting_is_documented_with_its_default() -> None:
    import ledgerlake.settings

    assert ledgerlake.settings.__doc__ is not None
    rows = re.findall(r"^\| (LEDGERLAKE_\w+) +\| (\S+)", ledgerlake.settings.__doc__, re.MULTILINE)
    page = (REPOSITORY / "docs/operations.md").read_text("utf-8")
    assert len(rows) >= 7
    for variable, default in rows:
        [shown] = re.findall(rf"^\| `{variable}` \| (\S+) \|", page, re.MULTILINE)
        assert shown.strip("`") == default.strip("()"), variable


def test_every_field_of_a_structured_log_is_documented() -> None:
    from ledgerlake.telemetry.logs import FIELDS

    page = (REPOSITORY / "docs/operations.md").read_text("utf-8")
    [said] = re.findall(r"`LEDGERLAKE_LOG=json` writes (.*?)\n\n", page, re.DOTALL)
    assert {name for name in FIELDS if f"`{name}`" not in said} == set()


def test_the_limits_of_a_save_are_documented_as_they_are() -> None:
    from ledgerlake.eventsourcing_mongodb.datastore import MAX_APPENDS
    from ledgerlake.eventstore.batching import MAX_REQUEST_BYTES
    from ledgerlake.eventstore.encoding import MAX_EVENT_BYTES

    page = " ".join((REPOSITORY / "docs/eventsourcing.md").read_text("utf-8").split())
    megabytes = (MAX_EVENT_BYTES // 1_000_000, MAX_REQUEST_BYTES // 1_000_000)
    assert f"at most {megabytes[0]} MB, and one save {megabytes[1]} MB" in page
    assert f"{MAX_APPENDS:,} runs" in page


def test_every_reason_code_is_documented() -> None:
    sources = [path.read_text("utf-8") for path in (REPOSITORY / "src/ledgerlake").rglob("*.py")]
    codes = set().union(*map(codes_in, sources)) | {"command_id_reused"}
    page = (REPOSITORY / "docs/data-dictionary.md").read_text("utf-8")
    assert len(codes) > 10
    assert {code for code in codes if f"`{code}`" not in page} == set()


def test_decisions_are_numbered_and_listed() -> None:
    folder = REPOSITORY / "docs/decisions"
    records = sorted(path.name for path in folder.glob("0*.md"))
    assert [int(name[:4]) for name in records] == list(range(1, len(records) + 1))
    index = (folder / "README.md").read_text("utf-8")
    assert [name for name in records if f"({name})" not in index] == []


def test_pages_name_no_machine_of_ours() -> None:
    for page in PAGES:
        assert not re.search(r"/work/|/tmp/|/home/|/root\b", page.read_text("utf-8")), page.name
