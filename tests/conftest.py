"""What every test may ask for: a real MongoDB, a fresh database and home on it, and the shared data."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from pymongo import WriteConcern

from ledgerlake.settings import Settings

_REPOSITORY = Path(__file__).resolve().parent.parent
_IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
_NOT_APPLICABLE = "not applicable"

# Taken out of the environment at once: no test, nor a process it starts, may touch anyone's own ledger.
_GIVEN_URI = os.environ.get("LEDGERLAKE_MONGODB_URI") or None
_GIVEN_SHARED_DATA = os.environ.get("LEDGERLAKE_SHARED_DATA") or None
for _variable in [name for name in os.environ if name.startswith("LEDGERLAKE_")]:
    del os.environ[_variable]

hypothesis.settings.register_profile("ledgerlake", deadline=None, derandomize=_IN_CI, print_blob=True)
hypothesis.settings.load_profile("ledgerlake")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Ask for what a run of every day leaves out."""
    parser.addoption(
        "--whole-data", action="store_true", help="import all of the shared payment data, which takes minutes"
    )
    parser.addoption("--soak", action="store_true", help="let dagster dev run, and crash, for ten minutes")


def require(part: object, reason: str) -> None:
    """Skips the test with `reason` if `part` is missing (falsy); in CI that is a failure."""
    if not part:
        pytest.skip(f"missing: {reason}")


@pytest.fixture(name="require", scope="session")
def _require() -> Callable[[object, str], None]:
    """`require(part, reason)`, for tests, which cannot import a conftest."""
    return require


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI everything a test needs is there: a skip fails, unless its reason says "not applicable"."""
    report = yield
    if (
        _IN_CI
        and report.skipped
        and not hasattr(report, "wasxfail")
        and _NOT_APPLICABLE not in str(report.longrepr)
    ):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be missing: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole module that skips itself."""
    report = yield
    if _IN_CI and report.skipped and _NOT_APPLICABLE not in str(report.longrepr):
        report.outcome = "failed"
        report.longrepr = f"skipped in CI, where nothing may be missing: {report.longrepr}"
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The seed of every test that recorded one, whether it passed or not: a log of CI tells what was run."""
    for report in [report for reports in terminalreporter.stats.values() for report in reports]:
        seed = dict(getattr(report, "user_properties", ())).get("seed")
        if seed is not None and report.when == "call":
            terminalreporter.write_line(f"seed {seed}: {report.nodeid}")


@pytest.fixture(scope="session", autouse=True)
def _home_of_the_session(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A test that forgets to say which home it means gets an empty one, not ./var."""
    os.environ["LEDGERLAKE_HOME"] = str(tmp_path_factory.mktemp("stray-home"))


@pytest.fixture(scope="session")
def mongo_uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A replica set: LEDGERLAKE_MONGODB_URI if set, else an embedded server with fail points."""
    if _GIVEN_URI is not None:
        yield _GIVEN_URI
        return
    from ledgerlake.mongo.embedded import ensure_running, stop

    server = Settings(home=_in_memory() or tmp_path_factory.mktemp("mongo-home"))
    try:
        yield ensure_running(server, extra_args=("--setParameter", "enableTestCommands=1"))
    finally:
        stop(server)
        # pytest keeps folders of past sessions; this is the big one
        shutil.rmtree(server.home, ignore_errors=True)


def _in_memory() -> Path | None:
    """A folder for a server's data that no disk holds up, where there is room: tests pull no plug.

    What a process leaves behind when it is killed is the same there.
    """
    place = Path("/dev/shm")
    try:
        roomy = shutil.disk_usage(place).free > 8 * 2**30
    except OSError:
        return None
    return Path(tempfile.mkdtemp(prefix="ledgerlake-tests-", dir=place)) if roomy else None


@pytest.fixture
def settings(mongo_uri: str, tmp_path: Path) -> Settings:
    """A fresh home and the name of a database that nobody else uses, on the session's server."""
    return Settings(home=tmp_path / "home", mongodb_uri=mongo_uri, database=f"test_{uuid.uuid4().hex[:16]}")


@pytest.fixture
def environ(settings: Settings) -> dict[str, str]:
    """The environment for a process that works with `settings`."""
    assert settings.mongodb_uri is not None
    return {
        **os.environ,
        "LEDGERLAKE_HOME": str(settings.home),
        "LEDGERLAKE_MONGODB_URI": settings.mongodb_uri,
        "LEDGERLAKE_DATABASE": settings.database,
        "LEDGERLAKE_SEGMENT_SIZE": str(settings.segment_size),
        "PYTHONPATH": os.pathsep.join([str(_REPOSITORY / "src"), str(_REPOSITORY)]),
    }


@pytest.fixture
def database(settings: Settings) -> Iterator[Any]:
    """The database of `settings` with its schema, dropped after the test."""
    from ledgerlake.mongo.connection import open_database

    db = open_database(settings)
    try:
        yield db
    finally:
        db.client.get_database(settings.database, write_concern=WriteConcern(1)).command("dropDatabase")
        db.client.close()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real payment data: LEDGERLAKE_SHARED_DATA, else ../shared/data beside the repository."""
    folder = Path(_GIVEN_SHARED_DATA) if _GIVEN_SHARED_DATA else _REPOSITORY.parent / "shared" / "data"
    require(folder.is_dir(), f"the shared payment data, expected in {folder} (or LEDGERLAKE_SHARED_DATA)")
    return folder
