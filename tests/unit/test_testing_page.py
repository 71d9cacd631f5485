"""The page about the testing kit is true: its Python runs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]
_BLOCKS = re.findall(
    r"^```python\n(.*?)^```$", (_REPOSITORY / "docs/testing.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
)


def test_the_examples_of_the_page_run_one_after_the_other() -> None:
    names: dict[str, object] = {}
    for block in _BLOCKS[:2]:
        exec(compile(block, "docs/testing.md", "exec"), names)


def test_the_test_module_of_the_page_passes(tmp_path: Path) -> None:
    assert len(_BLOCKS) == 3
    (tmp_path / "test_mine.py").write_text(_BLOCKS[2])
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "-p",
            "no:hypothesispytest",
            tmp_path,
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(_REPOSITORY / "src")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 40
