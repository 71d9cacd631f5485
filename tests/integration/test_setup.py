"""Set-up refuses what cannot work, never takes half an installation for a whole one, and is quick when done.

It runs for real, offline, on a project of one small wheel with a build backend of its own.
"""

from __future__ import annotations

import base64
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from ledgerlake.mongo.embedded import ensure_running, status, stop
from ledgerlake.mongo.process import identify
from ledgerlake.settings import Settings

_REPOSITORY = Path(__file__).resolve().parents[2]
_PYTHON = str(Path(getattr(sys, "_base_executable", sys.executable)).resolve())
# Python as it is, but that it copies a new venv from one made before: that spares pip's own installation.
_QUICK_PYTHON = """\
if [ "$1 $2" = "-m venv" ] && [ ! -e "$3" ]; then exec cp -a '{template}' "$3"; fi
exec '{python}' "$@"
"""

_PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
"""
_BACKEND = """
import zipfile
def get_requires_for_build_editable(config_settings=None):
    return []
def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    name, info = "itself-1.0-py3-none-any.whl", "itself-1.0.dist-info"
    kind = "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
    with zipfile.ZipFile(f"{wheel_directory}/{name}", "w") as wheel:
        wheel.writestr("itself.py", "")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\\nName: itself\\nVersion: 1.0\\n")
        wheel.writestr(f"{info}/WHEEL", kind)
        wheel.writestr(f"{info}/RECORD", "")
    return name
"""


def _add_wheel(project: Path, version: str) -> None:
    """Puts a wheel of `pinned` beside the project and pins it with its hash."""
    wheel = project / "wheels" / f"pinned-{version}-py3-none-any.whl"
    wheel.parent.mkdir(exist_ok=True)
    files = {
        "pinned.py": f"version = {version!r}\n",
        f"pinned-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: pinned\nVersion: {version}\n",
        f"pinned-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b'=').decode()},\n"
        for name, text in files.items()
    )
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
        archive.writestr(f"pinned-{version}.dist-info/RECORD", record)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (project / "constraints.txt").write_text(f"pinned=={version} \\\n    --hash=sha256:{digest}\n")


def _new_project(folder: Path) -> Path:
    shutil.copytree(_REPOSITORY / "scripts", folder / "scripts")
    shutil.copy(_REPOSITORY / "Makefile", folder)
    (folder / "pyproject.toml").write_text(_PYPROJECT)
    (folder / "backend.py").write_text(_BACKEND)
    _add_wheel(folder, "1.0")
    return folder


@pytest.fixture(scope="module")
def quick_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("python")
    subprocess.run([_PYTHON, "-m", "venv", folder / "template"], check=True)
    _fake(folder, "quick-python", _QUICK_PYTHON.format(template=folder / "template", python=_PYTHON))
    return str(folder / "quick-python")


@pytest.fixture
def project(tmp_path: Path, quick_python: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PYTHON", quick_python)
    return _new_project(tmp_path / "a project")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project on which set-up has been run, with a venv that it made itself."""
    folder = _new_project(tmp_path_factory.mktemp("setup") / "a project")
    first = _setup(folder)
    assert first.returncode == 0, first.stdout + first.stderr
    assert "[1/3]" in first.stdout
    assert "ready: .venv" in first.stdout
    return folder


def _setup(project: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    environment = {
        "HOME": str(project),
        "PATH": os.environ["PATH"],
        "PYTHON": os.environ.get("PYTHON", _PYTHON),
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": (project / "wheels").as_uri(),
        **environ,
    }
    command = ["sh", str(project / "scripts" / "setup.sh"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)


def _pinned_version(project: Path) -> str:
    command = [project / ".venv" / "bin" / "python", "-c", "import pinned, itself; print(pinned.version)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_it_installs_once_and_is_then_done_in_no_time(installed: Path) -> None:
    assert _pinned_version(installed) == "1.0"
    begin = resource.getrusage(resource.RUSAGE_CHILDREN)
    again = _setup(installed)
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    # Of the processor's time, of which other tests take their share.
    assert end.ru_utime + end.ru_stime - begin.ru_utime - begin.ru_stime < 2
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")


def test_a_changed_project_is_installed_again_into_the_same_venv(installed: Path) -> None:
    leftover = installed / ".venv" / "leftover"
    leftover.touch()
    with (installed / "pyproject.toml").open("a") as file:
        file.write("[tool.x]\n")
    changed = _setup(installed)
    assert "[2/3]" not in changed.stdout
    assert "[3/3]" in changed.stdout
    assert leftover.exists()


def test_a_venv_that_no_longer_fits_or_works_is_made_anew(project: Path) -> None:
    def is_made_anew() -> bool:
        (project / ".venv" / "leftover").touch()
        done = _setup(project)
        return "ready: .venv" in done.stdout and not (project / ".venv" / "leftover").exists()

    _setup(project)
    for link in (project / ".venv" / "bin").glob("python*"):
        link.unlink()
        link.symlink_to("/nowhere/python")
    assert is_made_anew(), "its interpreter is gone"
    assert _pinned_version(project) == "1.0"

    project = project.rename(project.with_name("moved"))
    assert is_made_anew(), "it was moved, and its scripts name the old place"
    assert _pinned_version(project) == "1.0"

    _add_wheel(project, "2.0")
    assert is_made_anew(), "the pins are others"
    assert _pinned_version(project) == "2.0"


def test_a_failed_installation_is_reported_and_not_taken_for_a_finished_one(project: Path) -> None:
    pins = (project / "constraints.txt").read_text()
    (project / "constraints.txt").write_text(pins[:-5] + "0000\n")
    failed = _setup(project)
    assert failed.returncode != 0
    assert "DO NOT MATCH THE HASHES" in failed.stderr
    assert "make: pip could not install" in failed.stderr
    assert "ready" not in failed.stdout
    (project / "constraints.txt").write_text(pins)
    assert _setup(project).returncode == 0
    assert _pinned_version(project) == "1.0"


def _fake(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def _tools(project: Path) -> Path:
    """A PATH with what set-up uses and no Python at all."""
    folder = project / "tools"
    folder.mkdir()
    for name in (
        "sh",
        "dirname",
        "cksum",
        "sed",
        "cat",
        "grep",
        "tee",
        "awk",
        "rm",
        "mv",
        "tail",
        "uname",
        "flock",
    ):
        found = shutil.which(name)
        if found is not None:
            (folder / name).symlink_to(found)
    return folder


def test_a_python_that_is_too_old_or_too_new_is_refused_with_what_to_do(project: Path) -> None:
    for minor in ("10", "99"):
        _fake(project / "bin", "some-python", f'[ "$1" = -V ] && echo Python 3.{minor}.0 || echo {minor}')
        refused = _setup(project, PYTHON=str(project / "bin" / "some-python"))
        assert refused.returncode != 0
        assert f"is Python 3.{minor}.0, but Python 3.11 to 3.14 is needed" in refused.stderr
        assert "make PYTHON=" in refused.stderr
        assert not (project / ".venv").exists()


def test_without_a_suitable_python_on_path_it_says_so(project: Path) -> None:
    tools = _tools(project)
    _fake(tools, "python3", '[ "$1" = -V ] && echo Python 3.9.2 || echo 9')
    refused = _setup(project, PATH=str(tools), PYTHON="")
    assert refused.returncode != 0
    assert "no Python 3.11 to 3.14 on PATH (python3 is Python 3.9.2)" in refused.stderr


def test_where_python3_is_too_old_another_one_on_path_is_picked(project: Path) -> None:
    tools = _tools(project)
    minor = sys.version_info[1]
    _fake(tools, "python3", '[ "$1" = -V ] && echo Python 3.9.2 || echo 9')
    (tools / f"python3.{minor}").symlink_to(os.environ["PYTHON"])
    (tools / "cp").symlink_to(shutil.which("cp") or "cp")
    done = _setup(project, PATH=str(tools), PYTHON="")
    assert done.returncode == 0, done.stderr
    assert f"(python3.{minor})" in done.stdout
    assert _pinned_version(project) == "1.0"


def test_a_platform_without_a_mongod_is_refused_before_anything_is_installed(project: Path) -> None:
    tools = _tools(project)
    _fake(tools, "python3", f'exec "{_PYTHON}" "$@"')
    (tools / "uname").unlink()
    _fake(tools, "uname", '[ "$1" = -s ] && echo Plan9 || echo mips')
    refused = _setup(project, "--needs-mongodb", PATH=str(tools))
    assert refused.returncode != 0
    assert "no bundled mongod for this platform (Plan9 mips)" in refused.stderr
    assert "set LEDGERLAKE_MONGODB_URI" in refused.stderr
    assert not (project / ".venv").exists()
    # With a server of one's own, or a mongod on PATH, it goes on: to the next question, which Python to use.
    _fake(tools, "python3", '[ "$1" = -V ] && echo Python 3.9.2 || echo 9')
    with_uri = _setup(
        project, "--needs-mongodb", PATH=str(tools), PYTHON="python3", LEDGERLAKE_MONGODB_URI="mongodb://db/"
    )
    _fake(tools, "mongod", "exit 1")
    with_mongod = _setup(project, "--needs-mongodb", PATH=str(tools), PYTHON="python3")
    for done in (with_uri, with_mongod):
        assert "mongod" not in done.stderr
        assert "is Python 3.9.2" in done.stderr


def test_two_at_once_end_with_one_whole_venv(project: Path) -> None:
    command = ["sh", str(project / "scripts" / "setup.sh")]
    environment = {
        "HOME": str(project),
        "PATH": os.environ["PATH"],
        "PYTHON": os.environ["PYTHON"],
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": (project / "wheels").as_uri(),
    }
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    outputs = [process.communicate(timeout=300)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], outputs
    assert sum("[1/3]" in output for output in outputs) == 1, outputs
    assert _pinned_version(project) == "1.0"


def test_help_names_every_target(project: Path) -> None:
    shown = subprocess.run(["make"], cwd=project, capture_output=True, text=True, check=True).stdout
    for target in ("help", "setup", "check", "test", "demo", "bench", "clean", "lock"):
        assert f"make {target}" in shown


def test_the_demos_input_may_have_any_name(installed: Path) -> None:
    project = installed
    (project / "pipelines").mkdir()
    (project / "pipelines" / "demo.py").write_text("import sys; print(sys.argv[1:])")
    environment = {**os.environ, "PYTHON": _PYTHON}
    for name in ("my payments (2).csv", "it's.csv", '"quoted".csv'):
        command = ["make", "--silent", "demo", f"INPUT={name}"]
        done = subprocess.run(
            command, cwd=project, env=environment, capture_output=True, text=True, check=True
        )
        assert done.stdout == f"{['--input', name]!r}\n"
    plain = subprocess.run(
        ["make", "--silent", "demo"], cwd=project, env=environment, capture_output=True, text=True, check=True
    )
    assert plain.stdout == "[]\n"


def test_clean_stops_the_server_of_var_and_says_what_it_deletes(project: Path) -> None:
    shutil.copytree(_REPOSITORY / "src", project / "src", ignore=shutil.ignore_patterns("__pycache__"))
    ours = Settings(home=project / "var")
    ensure_running(ours)
    pid = status(ours).pid
    (project / ".mypy_cache").mkdir()
    try:
        done = subprocess.run(["make", "clean"], cwd=project, capture_output=True, text=True, check=True)
        assert "stopped the embedded MongoDB of ./var" in done.stdout
        assert "deleted ./var" in done.stdout
        assert "deleted ./.mypy_cache" in done.stdout
        assert not ours.home.exists()
        assert pid is not None
        assert identify(pid) is None
        again = subprocess.run(
            ["make", "--silent", "clean"], cwd=project, capture_output=True, text=True, check=True
        )
        assert again.stdout == ""
    finally:
        stop(ours)
