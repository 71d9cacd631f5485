"""The import rules of pyproject.toml hold, would notice a breach, and keep the command line quick."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parents[2]
_LINT = "import sys; from importlinter.cli import lint_imports_command as run; sys.exit(run())"


def _lint(folder: Path) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join([str(folder / "src"), str(folder)])}
    return subprocess.run(
        [sys.executable, "-c", _LINT, "--no-cache"], cwd=folder, env=environ, capture_output=True, text=True
    )


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    for folder in ("src", "pipelines"):
        shutil.copytree(_REPOSITORY / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(_REPOSITORY / "pyproject.toml", tmp_path)
    return tmp_path


def test_arrows_between_the_layers_point_one_way() -> None:
    done = _lint(_REPOSITORY)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("module", "line", "broken"),
    [
        ("domain/money.py", "import ledgerlake.eventstore.store", "Arrows point one way"),
        ("projections/__init__.py", "import ledgerlake.queries", "Arrows point one way"),
        ("lake/__init__.py", "import ledgerlake.reports", "Arrows point one way"),
        ("lake/__init__.py", "import ledgerlake.application", "Arrows point one way"),
        ("commands/__init__.py", "import ledgerlake.lake", "The write side knows no reader"),
        ("queries/__init__.py", "import ledgerlake.lake", "The read side knows the log only"),
        ("reports/__init__.py", "import ledgerlake.projections", "The lake knows the log only"),
        (
            "lake/__init__.py",
            "import ledgerlake.privacy",
            "Nothing that writes files or read models can open a token",
        ),
        ("domain/money.py", "import pymongo", "The rules do no I/O"),
        ("queries/__init__.py", "import ledgerlake.testing.memory", "Nothing that runs sees the testing kit"),
        ("queries/__init__.py", "import dagster", "Everything is true without Dagster"),
        ("queries/__init__.py", "import pipelines", "Everything is true without Dagster"),
    ],
)
def test_a_breach_is_noticed(copied: Path, module: str, line: str, broken: str) -> None:
    file = copied / "src" / "ledgerlake" / module
    file.write_text(f"{file.read_text()}\n\n{line}\n")
    done = _lint(copied)
    assert done.returncode != 0
    assert f"{broken} BROKEN" in " ".join(done.stdout.split())


def test_a_package_that_no_layer_names_is_noticed(copied: Path) -> None:
    (copied / "src" / "ledgerlake" / "nowhere.py").write_text("")
    assert _lint(copied).returncode != 0


@pytest.mark.parametrize("module", ["ledgerlake", "ledgerlake.cli", "ledgerlake.mongo.cli"])
def test_the_command_line_starts_without_the_heavy_libraries(module: str) -> None:
    heavy = {"cryptography", "dagster", "duckdb", "opentelemetry", "pandas", "plotly", "polars", "pyarrow"}
    heavy |= {"pymongo"}
    code = f"import sys, {module}; print(*sorted({heavy!r} & set(sys.modules)))"
    environ = {**os.environ, "PYTHONPATH": str(_REPOSITORY / "src")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == []


def test_every_dependency_is_pinned_with_hashes_and_no_index_or_path_of_some_machine() -> None:
    # The second one has what Spark needs beyond the first.
    pins = "".join((_REPOSITORY / f"constraints{part}.txt").read_text() for part in ("", "-spark"))
    names = {line.split("==")[0].lower() for line in pins.splitlines() if line[:1].isalnum()}
    project = tomllib.loads((_REPOSITORY / "pyproject.toml").read_text())["project"]
    wanted = [
        *project["dependencies"],
        *(name for extra in project["optional-dependencies"].values() for name in extra),
    ]
    missing = [wish for wish in wanted if re.split("[>=[]", wish)[0].lower() not in names]
    assert missing == []
    assert "://" not in pins
    assert not [line for line in pins.splitlines() if line.startswith("-")]
    entries = [entry for entry in pins.split("\n") if entry[:1].isalnum()]
    assert all(entry.rstrip().endswith("\\") for entry in entries), "each pin goes on with its hashes"
