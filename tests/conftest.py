"""What every test may ask for: a real MongoDB, a fresh database and home on it, and the shared data."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from ledgerlake.settings import Settings
from tests.databases import Databases

_REPOSITORY = Path(__file__).resolve().parent.parent
_IN_CI = os.environ.get("CI", "").lower() in ("1", "true", "yes")
_NOT_APPLICABLE = "not applicable"

# Taken out of the environment at once: no test, nor a process it starts, may touch anyone's own ledger. Under
# another name they stay, for the workers, which inherit what is left.
for _variable in [name for name in os.environ if name.startswith("LEDGERLAKE_")]:
    os.environ[f"TESTS_{_variable}"] = os.environ.pop(_variable)
_GIVEN_URI = os.environ.get("TESTS_LEDGERLAKE_MONGODB_URI") or None
_GIVEN_SHARED_DATA = os.environ.get("TESTS_LEDGERLAKE_SHARED_DATA") or None

# They come first, the longest one at the head, so that nobody waits for one of them at the end.
_LONGEST = (
    "test_dagster_dev",
    "test_demo",
    "test_real_data",
    "test_reconciliation",
    "test_engines",
    "test_store_model",
    "test_dagster_executors",
    "test_web",
    "test_notebooks",
    "test_store_model_async",
    "test_embedded",
    "test_replica_set",
    "test_dagster_commands",
    "test_dagster_runs",
    "test_projections",
    "test_positions",
    "test_setup",
    "test_rebuild",
    "test_archive",
    "test_kill",
)

hypothesis.settings.register_profile("ledgerlake", deadline=None, derandomize=_IN_CI, print_blob=True)
hypothesis.settings.load_profile("ledgerlake")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Ask for what a run of every day leaves out."""
    parser.addoption(
        "--whole-data", action="store_true", help="import all of the shared payment data, which takes minutes"
    )
    parser.addoption("--soak", action="store_true", help="let dagster dev run, and crash, for ten minutes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The order of files: xdist gives the next one to whoever is free."""
    rank = {name: number for number, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


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


@pytest.fixture(scope="session")
def databases() -> Databases:
    """Those on the session's server that tests have given back."""
    return Databases()


@pytest.fixture
def settings(
    mongo_uri: str, tmp_path: Path, databases: Databases, request: pytest.FixtureRequest
) -> Settings:
    """A fresh home and the name of a database that nobody else uses, on the session's server."""
    name = databases.some() if _may_be_used_again(request) else databases.new()
    return Settings(home=tmp_path / "home", mongodb_uri=mongo_uri, database=name)


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
def database(settings: Settings, databases: Databases, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The database of `settings` with its schema, empty; emptied or dropped after the test."""
    from ledgerlake.mongo.connection import open_database

    db = open_database(settings)
    if not databases.is_sound(db):
        databases.drop(db)
        db.client.close()
        db = open_database(settings)
    try:
        yield db
    finally:
        databases.give_back(db, again=_may_be_used_again(request))
        db.client.close()


def _may_be_used_again(request: pytest.FixtureRequest) -> bool:
    """Not where processes are killed, which may leave others that write, nor where a test wants its own."""
    return (
        "database" in request.fixturenames
        and request.path.parent.name != "faults"
        and request.node.get_closest_marker("own_database") is None
    )


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real payment data: LEDGERLAKE_SHARED_DATA, else ../shared/data beside the repository."""
    folder = Path(_GIVEN_SHARED_DATA) if _GIVEN_SHARED_DATA else _REPOSITORY.parent / "shared" / "data"
    require(folder.is_dir(), f"the shared payment data, expected in {folder} (or LEDGERLAKE_SHARED_DATA)")
    return folder
