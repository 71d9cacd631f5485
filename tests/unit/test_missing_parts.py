"""A test that cannot run because something is missing is skipped on a laptop and fails in CI."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

_REPOSITORY = Path(__file__).resolve().parents[2]

_TESTS = {
    "test_part.py": "def test_it(require):\n    require(None, 'the shared data')\n",
    "test_data.py": "def test_it(shared_data):\n    pass\n",
    "test_module.py": "import pytest\npytest.importorskip('no_such_module')\n",
    "test_mark.py": "import pytest\n@pytest.mark.skip(reason='later')\ndef test_it():\n    pass\n",
    "test_elsewhere.py": "import pytest\ndef test_it():\n    pytest.skip('not applicable: needs macOS')\n",
    "test_present.py": "def test_it(require):\n    require('there', 'unused')\n",
}


def test_only_ci_turns_the_skip_of_a_missing_part_into_a_failure(tmp_path: Path) -> None:
    (tmp_path / "tests").mkdir()
    shutil.copy(_REPOSITORY / "tests" / "conftest.py", tmp_path / "tests")
    for name, text in _TESTS.items():
        (tmp_path / "tests" / name).write_text(text)
    environ = {
        name: value for name, value in os.environ.items() if name not in ("CI", "LEDGERLAKE_SHARED_DATA")
    }
    environ["PYTHONPATH"] = str(_REPOSITORY / "src")

    def broken(**more: str) -> set[str]:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-rfE",
            "--continue-on-collection-errors",
            "-p",
            "no:cacheprovider",
            "tests",
        ]
        done = subprocess.run(command, cwd=tmp_path, env=environ | more, capture_output=True, text=True)
        return {
            name for name in _TESTS if re.search(rf"^(FAILED|ERROR) tests/{name}", done.stdout, re.MULTILINE)
        }

    assert broken() == set()
    assert broken(CI="true") == set(_TESTS) - {"test_elsewhere.py", "test_present.py"}
