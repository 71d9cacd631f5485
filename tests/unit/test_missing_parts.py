"""A test that cannot run because something is missing is skipped on a laptop and fails in CI."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_REPOSITORY = Path(__file__).resolve().parents[2]

_TESTS = {
    "test_part.py": "def test_it(require):\n    require(None, 'the shared data')\n",
    "test_data.py": "def test_it(shared_data):\n    pass\n",
    "test_module.py": "import pytest\npytest.importorskip('no_such_module')\n",
    "test_mark.py": "import pytest\n@pytest.mark.skip(reason='later')\ndef test_it():\n    pass\n",
    "test_elsewhere.py": "import pytest\ndef test_it():\n    pytest.skip('not applicable: needs macOS')\n",
    "test_present.py": "def test_it(require):\n    require('there', 'unused')\n",
}


@pytest.mark.parametrize("name", sorted(_TESTS))
def test_only_ci_turns_the_skip_of_a_missing_part_into_a_failure(tmp_path: Path, name: str) -> None:
    (tmp_path / "tests").mkdir()
    shutil.copy(_REPOSITORY / "tests" / "conftest.py", tmp_path / "tests")
    (tmp_path / "tests" / name).write_text(_TESTS[name])
    environ = {
        name: value for name, value in os.environ.items() if name not in ("CI", "LEDGERLAKE_SHARED_DATA")
    }
    environ["PYTHONPATH"] = str(_REPOSITORY / "src")

    def passes(**more: str) -> bool:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"tests/{name}"]
        done = subprocess.run(command, cwd=tmp_path, env=environ | more, capture_output=True, text=True)
        return " failed" not in done.stdout and " error" not in done.stdout

    assert passes()
    assert passes(CI="true") == (name in ("test_elsewhere.py", "test_present.py"))
