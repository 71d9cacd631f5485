"""DuckDB, Spark on a master and Spark over Spark Connect give the identical table for every definition.

One JVM serves them all: Spark in local mode, with a Spark Connect server as its plugin.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.resources import files
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from bson import encode
from bson.raw_bson import RawBSONDocument
from pymongo.database import Database
from typer.testing import CliRunner

import ledgerlake.lake
import ledgerlake.reports
from ledgerlake.cli import app
from ledgerlake.eventstore.columnar import columns_of_documents
from ledgerlake.lake.definitions import PAYMENTS, STATISTICS, Definition
from ledgerlake.lake.engines import DUCKDB, Connection, Engine, engine_of
from ledgerlake.lake.engines.spark import SparkEngine
from ledgerlake.lake.errors import CorruptFileError, EngineError
from ledgerlake.lake.event_lake import EventLake
from ledgerlake.lake.segments import Segment, write_segment
from ledgerlake.lake.tables import TABLES
from ledgerlake.reports.billing_definition import ITEMISED, SUMMARY
from ledgerlake.reports.bookings import (
    booked,
    earliest,
    intervals_table,
    itemised_parameters,
    summary_parameters,
)
from ledgerlake.reports.books import Books, Entry
from ledgerlake.reports.interval import Interval
from ledgerlake.settings import Settings
from tests.builders import event, insert_events, payment_history

SEGMENT = 64
NEW_YORK, LONDON = ZoneInfo("America/New_York"), ZoneInfo("Europe/London")
HOSTILE = "O'Neill \\' \" -- $organization :organization ; {x} /* "
QUICK = """
spark.plugins org.apache.spark.sql.connect.SparkConnectPlugin
spark.connect.grpc.binding.address 127.0.0.1
spark.connect.grpc.binding.port 0
spark.driver.extraJavaOptions -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:+UnlockDiagnosticVMOptions \
    -XX:-BytecodeVerificationRemote
spark.default.parallelism 1
spark.sql.leafNodeDefaultParallelism 1
spark.sql.shuffle.partitions 1
spark.sql.codegen.wholeStage false
spark.sql.codegen.factoryMode NO_CODEGEN
"""
# Spark compiles each query, which is most of the time of a small one: what is interpreted here, and as it is.
COMPILED = {"spark.sql.codegen.wholeStage": "true", "spark.sql.codegen.factoryMode": "FALLBACK"}


def _definitions() -> dict[str, Definition]:
    """Every definition there is, wherever it was put."""
    found = {}
    for package in (ledgerlake.lake, ledgerlake.reports):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            for value in vars(importlib.import_module(module.name)).values():
                several = list(value.values()) if isinstance(value, dict) else [value]
                found |= {each.name: each for each in several if isinstance(each, Definition)}
    return found


DEFINITIONS = _definitions()


def documents() -> list[dict[str, Any]]:
    """Payments that are hard to add up, then some that are only random."""
    kinds = ("PaymentProcessed", "PaymentFailed", "PaymentRefunded")
    switches = [
        datetime(2026, 3, 8, 2, tzinfo=NEW_YORK),
        datetime(2026, 11, 1, 1, tzinfo=NEW_YORK),
        datetime(2026, 11, 1, 1, fold=1, tzinfo=NEW_YORK),
        datetime(2026, 3, 29, 1, tzinfo=LONDON),
        datetime(2026, 10, 25, 1, fold=1, tzinfo=LONDON),
        *(datetime(2026, month, 1, tzinfo=zone) for month in (3, 4, 11) for zone in (NEW_YORK, LONDON)),
        datetime(1969, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC),
        datetime(1893, 5, 1, 12, 0, 0, 1_000, tzinfo=UTC),
    ]
    made: list[dict[str, Any]] = []

    def add(payment: str, kind: str, minor: int, **change: Any) -> None:
        made.append(event(len(made) + 1, payment, kind, minor, **change))

    for number, switch in enumerate(switches):
        for milliseconds in (-1, 0):
            at = switch.astimezone(UTC) + timedelta(milliseconds=milliseconds)
            currency = ("BHD", "JPY", "EUR")[number % 3]
            add(f"dst-{len(made)}", kinds[len(made) % 2], 10**7 + len(made), at=at, currency=currency)
    noon = datetime(2026, 3, 8, 12, tzinfo=UTC)
    for currency in ("BHD", "JPY"):
        add(f"early-{currency}", "PaymentProcessed", 1_001, at=noon, currency=currency, user=None)
        before = noon - timedelta(days=40)
        add(f"early-{currency}", "PaymentRefunded", 1_000, at=before, currency=currency, version=2)
    for number, minor in enumerate((2**62, 2**62 - 1)):
        add(f"large-{number}", "PaymentProcessed", minor, at=noon, organization="large", user="u")
    for number, reason in enumerate((None, "", "Zürich", "\U0001f9fe", "\ufb00", "a\tb", "card_expired")):
        add(f"why-{number}", "PaymentFailed", 5, at=noon, organization=HOSTILE, reason=reason)
    for organization in ("acme ", " acme", "ACME", "\U0001f9fe", "\ufb00", HOSTILE):
        add(f"of {organization}", "PaymentProcessed", 7, at=noon, organization=organization)
        add(f"credit {organization}", "PaymentRefunded", 9, organization=organization, unreferenced=True)
    return made + payment_history(4, 170 - len(made), after=len(made))


def lake_of(root: Path, made: list[dict[str, Any]]) -> EventLake:
    """A lake of these events, as a refresh would have written it."""
    lake = EventLake(root, SEGMENT)
    lake.events_dir.mkdir(parents=True)
    rows = columns_of_documents([RawBSONDocument(encode(each)) for each in made], 0) if made else None
    for index in range(-(-len(made) // SEGMENT)):
        assert rows is not None
        segment = Segment.number(index, SEGMENT)
        write_segment(lake.events_dir, segment, [rows.slice(index * SEGMENT, SEGMENT)])
    assert lake.position() == len(made)
    return lake


@dataclass(frozen=True)
class Spark:
    """The two ways to the same Spark."""

    local: SparkEngine
    connect: SparkEngine

    def __iter__(self) -> Iterator[SparkEngine]:
        return iter((self.local, self.connect))


@pytest.fixture(scope="module")
def spark(
    require: Callable[[object, str], None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Spark]:
    require(shutil.which("java"), "Java 17 or later, which Spark runs on")
    apart = str(Path(sys.prefix) / "spark")
    folder = tmp_path_factory.mktemp("spark")
    (folder / "spark-defaults.conf").write_text(QUICK)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [*sys.path, apart])  # where `make test` puts it
        require(importlib.util.find_spec("pyspark"), "the extra spark (sh scripts/setup_spark.sh)")
        patch.setenv("SPARK_CONF_DIR", str(folder))
        patch.chdir(folder)
        from pyspark import SparkContext

        local = SparkEngine("local[2]")
        try:
            local.connect(EventLake(folder / "none", SEGMENT).pin()).close()
            services = SparkContext._jvm.org.apache.spark.sql.connect.service
            port = getattr(getattr(services, "SparkConnectService$"), "MODULE$").localPort()
            yield Spark(local, SparkEngine(f"sc://127.0.0.1:{port}"))
        finally:
            if (context := SparkContext._active_spark_context) is not None:
                gateway = SparkContext._gateway
                context.stop()
                gateway.shutdown()
                gateway.proc.stdin.close()
                gateway.proc.wait(60)
                SparkContext._gateway = SparkContext._jvm = None


@pytest.fixture(scope="module")
def nasty(tmp_path_factory: pytest.TempPathFactory) -> EventLake:
    # Spark takes a path for a pattern.
    return lake_of(tmp_path_factory.mktemp("lakes") / "a lake [1] {2}*", documents())


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> EventLake:
    return lake_of(tmp_path_factory.mktemp("lakes") / "empty", [])


@dataclass(frozen=True)
class Opened:
    """Connections on one lake: DuckDB's, and Spark's."""

    duckdb: Connection
    sparks: tuple[Any, ...]

    def __iter__(self) -> Iterator[Connection]:
        return iter((self.duckdb, *self.sparks))


@pytest.fixture(scope="module")
def opened(spark: Spark, nasty: EventLake, empty: EventLake) -> Iterator[dict[str, Opened]]:
    with ExitStack() as stack:

        def on(lake: EventLake, *engines: Engine) -> Opened:
            pinned = lake.pin()
            first, *rest = [stack.enter_context(each.connect(pinned)) for each in (DUCKDB, *engines)]
            return Opened(first, tuple(rest))

        on_nasty = on(nasty, *spark)
        for name, value in COMPILED.items():
            on_nasty.sparks[0]._session.conf.set(name, value)
        yield {"nasty": on_nasty, "empty": on(empty, spark.connect)}


def closed(number: int, month: str, position: int) -> Entry:
    period = Interval.parse(month, "America/New_York")
    return Entry(
        number=number,
        action="close",
        period=month,
        zone=period.zone,
        start=period.start,
        end=period.end,
        revision=1,
        position=position,
        at=period.end,
        by="somebody",
    )


# What comes behind positions 40 and 100 is late where it occurred before.
BOOKS = Books("America/New_York", (closed(1, "2026-01", 40), closed(2, "2026-02", 100)))


MONTHS = [Interval.parse(month, "America/New_York") for month in ("2026-02", "2026-03", "2026-11")]


def asked(definition: Definition) -> dict[str, Any]:
    """The parameters to run a definition with."""
    if definition is ITEMISED:
        return itemised_parameters(BOOKS, MONTHS[1].start, MONTHS[1].end)
    if definition is SUMMARY:
        return summary_parameters(BOOKS, MONTHS[-1].end)
    assert "$" not in definition.sql, f"say with which parameters {definition.name} is to be run"
    return {}


def run(definition: Definition, connection: Connection) -> pa.Table:
    table = definition.run(connection, asked(definition))
    # The one text without an order: others fold its rows.
    return table.sort_by("payment_id") if definition is PAYMENTS else table


@pytest.mark.parametrize("definition", DEFINITIONS.values(), ids=DEFINITIONS)
@pytest.mark.parametrize("lake", ["nasty", "empty"])
def test_every_definition_gives_the_identical_table(
    opened: dict[str, Opened], definition: Definition, lake: str
) -> None:
    connections = opened[lake]
    for each in connections:
        booked(each, BOOKS)
        each.register("intervals", intervals_table(MONTHS))
    wanted = run(definition, connections.duckdb)
    assert (wanted.num_rows > 0) == (lake == "nasty")
    for connection in connections.sparks:
        found = run(definition, connection)
        assert found.schema == wanted.schema == definition.schema
        assert found.to_pylist() == wanted.to_pylist()
        assert found.equals(wanted)


def test_every_text_belongs_to_a_definition_that_was_run() -> None:
    texts = {path.name for path in (files("ledgerlake.lake") / "sql").iterdir()}
    run = {text for each in DEFINITIONS.values() for text in (each.sql_file, *each.replace.values())}
    assert texts <= run


LOCAL_DAYS = """
SELECT
  organization_id,
  CAST(occurred_at AT TIME ZONE $zone AS DATE) AS day,
  CAST(DATE_TRUNC('month', occurred_at AT TIME ZONE $zone) AS DATE) AS month,
  currency,
  exponent,
  COUNT(*) FILTER (WHERE event_type <> 'PaymentFailed') AS movements,
  SUM(CAST(amount_minor AS DECIMAL(38, 0))) AS total_minor,
  MIN(occurred_at AT TIME ZONE $zone) AS first_at
FROM events
WHERE occurred_at >= $start
  AND occurred_at < $end
  AND ($organization IS NULL OR organization_id = $organization)
GROUP BY ALL
ORDER BY organization_id, day, currency
"""
LOCAL_DAY = Definition(
    "local_days",
    "",
    pa.schema(
        [
            ("organization_id", pa.string()),
            ("day", pa.date32()),
            ("month", pa.date32()),
            ("currency", pa.string()),
            ("movements", pa.int64()),
            ("total_minor", pa.int64()),
            ("total", pa.decimal128(38, 4)),
            ("first_at", pa.timestamp("ms")),
        ]
    ),
)


@pytest.mark.parametrize(
    ("zone", "organization"),
    [("America/New_York", None), ("Europe/London", HOSTILE)],
    ids=["New York", "London"],
)
def test_days_of_a_zone_are_the_same(opened: dict[str, Opened], zone: str, organization: str | None) -> None:
    start, end = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
    given = {"zone": zone, "start": start, "end": end, "organization": organization}
    wanted, *found = [
        LOCAL_DAY.declare(each.sql(LOCAL_DAYS, params=given).to_arrow_table()) for each in opened["nasty"]
    ]
    for each in found:
        assert each.equals(wanted)
    on_the_wall = {
        (each["metadata"]["organizationId"], each["timestamp"].astimezone(ZoneInfo(zone)).date())
        for each in documents()
        if start <= each["timestamp"] < end and organization in (None, each["metadata"]["organizationId"])
    }
    assert on_the_wall
    assert {(row["organization_id"], row["day"]) for row in wanted.to_pylist()} == on_the_wall


def test_the_earliest_lines_of_a_report_are_the_same(opened: dict[str, Opened]) -> None:
    order = [("organization_id", "ascending"), ("currency", "ascending")]
    wanted, *found = [earliest(each, BOOKS, MONTHS[1]).sort_by(order) for each in opened["nasty"]]
    assert wanted.num_rows > 0
    assert [each.to_pylist() for each in found] == [wanted.to_pylist()] * 2


def test_negative_control_a_text_outside_the_subset_is_no_match(opened: dict[str, Opened]) -> None:
    def answers(text: str) -> list[Any]:
        return [each.sql(f"SELECT {text} AS x").to_arrow_table()["x"].to_pylist() for each in opened["empty"]]

    assert answers("7 // 2") == [[3]] * 2
    wanted, *found = answers("CAST(7 AS DECIMAL(9, 2)) / 3")
    assert wanted not in found
    with pytest.raises(EngineError):
        opened["empty"].sparks[0].sql("SELECT EPOCH_MS(occurred_at) FROM events").to_arrow_table()


@pytest.mark.parametrize("position", [50, 150])
def test_as_of_a_position_is_exact_in_sealed_files_and_in_the_tail(
    spark: Spark, nasty: EventLake, position: int
) -> None:
    total = "SUM(CAST(amount_minor AS DECIMAL(38, 0))) AS s"
    text = f"SELECT COUNT(*) AS n, MAX(position) AS last, {total} FROM events"
    pinned = nasty.pin(position)
    with spark.local.connect(pinned) as connection:
        [found] = connection.sql(text).to_arrow_table().to_pylist()
    minors = [int(each["eventData"]["amountMinor"]) for each in documents()[:position]]
    assert found == {"n": position, "last": position, "s": sum(minors)}


def test_the_rows_come_in_batches(opened: dict[str, Opened]) -> None:
    text = "SELECT position FROM events ORDER BY position"
    for connection in opened["nasty"]:
        with connection.sql(text).to_arrow_reader(60) as reader:
            rows = [batch["position"].to_pylist() for batch in reader]
        assert [row for batch in rows for row in batch] == list(range(1, 171))
        assert all(len(batch) <= 60 for batch in rows)


def test_a_name_for_a_view_serves_in_both(opened: dict[str, Opened]) -> None:
    for connection in opened["nasty"]:
        connection.register("few", pa.table({"n": pa.array([1, 2], pa.int64()), "t": ["a", None]}))
        connection.execute("CREATE TEMP VIEW fewer AS SELECT n, t FROM few WHERE t IS NULL")
        assert connection.sql("SELECT * FROM fewer").to_arrow_table().to_pylist() == [{"n": 2, "t": None}]


def _flip_unseen(path: Path, column: str) -> None:
    """Flip a bit that is read back as another value without a word, unless checksums are verified."""
    content = path.read_bytes()
    before = pq.read_table(path, columns=[column])
    group = pq.read_metadata(path).row_group(0)
    chunk = next(
        group.column(i) for i in range(group.num_columns) if group.column(i).path_in_schema == column
    )
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    for place in range(start + chunk.total_compressed_size - 1, start, -1):
        damaged = bytearray(content)
        damaged[place] ^= 1
        path.write_bytes(damaged)
        try:
            if not pq.read_table(path, columns=[column]).equals(before):
                return
        except (pa.ArrowException, OSError):
            continue
    raise AssertionError("every flipped bit is noticed")


def test_a_flipped_bit_in_a_sealed_file_is_found_by_spark_too(
    spark: Spark, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = lake_of(tmp_path / "lake", documents()[:SEGMENT])
    [info] = lake.segments()
    pinned = lake.pin()
    text = "SELECT SUM(CAST(position AS DECIMAL(38, 0))) AS s FROM events"
    _flip_unseen(info.path, "position")
    with (
        spark.local.connect(pinned) as connection,
        pytest.raises(CorruptFileError, match=info.path.name),
        pinned.naming_damage(),
    ):
        connection.sql(text).to_arrow_table()
    # Negative control: without being asked for it, Spark answers with a wrong figure.
    monkeypatch.setattr("ledgerlake.lake.engines.spark._READ", {})
    with spark.local.connect(pinned) as connection:
        [found] = connection.sql(text).to_arrow_table()["s"].to_pylist()
    assert found != sum(range(1, SEGMENT + 1))


def test_spark_reads_the_lake_where_it_is_told_and_notices_another_one(
    spark: Spark, nasty: EventLake, tmp_path: Path
) -> None:
    pinned = nasty.pin()
    copy = tmp_path / "elsewhere"
    shutil.copytree(nasty.events_dir, copy / "events")
    (copy / "events" / nasty.segments()[-1].path.name).unlink()  # the tail is not needed there
    there = SparkEngine(spark.connect.url, f"file://{copy}")
    with there.connect(pinned) as connection, pinned.duckdb() as wanted:
        assert STATISTICS.run(connection).equals(STATISTICS.run(wanted))
    other = lake_of(tmp_path / "other", payment_history(9, 128))
    for file in other.events_dir.glob("*.parquet"):
        shutil.copy(file, copy / "events")
    with pytest.raises(EngineError, match="is not this lake up to position 128"):
        there.connect(nasty.pin(128))
    (copy / "events" / nasty.segments()[0].path.name).unlink()
    with pytest.raises(EngineError, match=r"can not read the lake .*PATH_NOT_FOUND"):
        there.connect(pinned)


def test_the_commands_take_spark_and_write_the_same_bytes(
    spark: Spark,
    database: Database[dict[str, Any]],
    settings: Settings,
    environ: dict[str, str],
    tmp_path: Path,
) -> None:
    insert_events(database, payment_history(5, 60))
    by_spark = ["--engine", "spark", "--url", spark.connect.url]

    def command(*words: str) -> None:
        done = CliRunner().invoke(app, words, env=environ)
        assert done.exit_code == 0, (done.output, done.exception)

    def files(*folders: Path) -> dict[str, bytes]:
        return {
            str(path.relative_to(folder)): path.read_bytes()
            for folder in folders
            for path in sorted(folder.rglob("*"))
            if path.suffix in (".parquet", ".json") and path.name != "checkpoint.json"
        }

    command("refresh", *by_spark)
    with socket.socket() as taken:  # bound, and nobody listens: so it is Spark that closes
        taken.bind(("127.0.0.1", 0))
        nobody = f"sc://127.0.0.1:{taken.getsockname()[1]}"
        refused = CliRunner().invoke(
            app, ["period", "close", "2026-02", "--engine", "spark", "--url", nobody], env=environ
        )
    assert isinstance(refused.exception, EngineError)
    command("period", "close", "2026-02", *by_spark)
    written = files(settings.lake_dir, settings.reports_dir)
    assert set(TABLES) < set(written)
    for folder in ("2026-02/revision-1", "2026-03/draft"):
        assert any(name.startswith(f"{folder}/") for name in written)
    for path in TABLES:
        (settings.lake_dir / path).unlink()
    shutil.rmtree(settings.reports_dir)
    command("refresh")
    assert files(settings.lake_dir, settings.reports_dir) == written

    asked = ("report", "billing", "--period", "2026-02", "--zone", "America/New_York", "--as-of", "50")
    command(*asked, "--no-refresh", "--out", str(tmp_path / "spark"), *by_spark)
    command(*asked, "--no-refresh", "--out", str(tmp_path / "duckdb"))
    assert len(files(tmp_path / "spark")) >= 3
    assert files(tmp_path / "spark") == files(tmp_path / "duckdb")


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "pyspark", None)
    engine = engine_of(Settings(home=tmp_path, engine="spark"))
    with pytest.raises(EngineError, match=r"pip install 'ledgerlake\[spark\]'"):
        engine.connect(EventLake(tmp_path / "lake").pin())


def test_where_nobody_answers_it_says_so_at_once_and_keeps_the_token(spark: Spark, nasty: EventLake) -> None:
    with socket.socket() as taken:  # bound, and nobody listens
        taken.bind(("127.0.0.1", 0))
        url = f"sc://127.0.0.1:{taken.getsockname()[1]}/;token=secret"
        with pytest.raises(
            EngineError, match=r"No Spark Connect server answers at sc://127\.0\.0\.1:\d+ "
        ) as error:
            SparkEngine(url).connect(nasty.pin())
    assert "secret" not in f"{error.value} {SparkEngine(url)}"
