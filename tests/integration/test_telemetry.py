"""Telemetry: one trace from command to projection, metrics, logs; nothing personal, no cost when off."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from pymongo.database import Database

from ledgerlake.application import LedgerLake
from ledgerlake.commands.bus import CommandBus
from ledgerlake.commands.middleware import logging_middleware
from ledgerlake.domain.commands import FailPayment, ProcessPayment, RefundPayment
from ledgerlake.domain.money import Money
from ledgerlake.domain.payment import CommandRejected
from ledgerlake.eventstore.expected import exact
from ledgerlake.eventstore.model import Append, ConcurrencyError, NewEvent
from ledgerlake.eventstore.observed import ObservedAsyncEventStore
from ledgerlake.eventstore.store import EventStore
from ledgerlake.eventstore.transaction import AppendTransaction
from ledgerlake.mongo.connection import open_async_database
from ledgerlake.projections import PROJECTIONS, advance
from ledgerlake.settings import Settings, SettingsError
from ledgerlake.telemetry.exporting import TelemetryMissing, open_telemetry
from ledgerlake.telemetry.identity import trace_id
from ledgerlake.telemetry.logs import set_up
from ledgerlake.telemetry.opentelemetry_ import CorrelationIds, OpenTelemetry
from ledgerlake.telemetry.port import Written

Db = Database[dict[str, Any]]
NOON = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
# What must be in no span, metric or log line.
WHO, WHY, NOTE = "alice.larsson@example.org", "lost her job in May", "met at the fair"
PERSONAL = (WHO, WHY, NOTE, "larsson", "lost her job")


class Observed:
    """Telemetry that keeps what it was told."""

    def __init__(self) -> None:
        self._spans = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        tracers = TracerProvider(id_generator=CorrelationIds(), shutdown_on_exit=False)
        tracers.add_span_processor(SimpleSpanProcessor(self._spans))
        self.telemetry = OpenTelemetry(tracers, MeterProvider([self._reader], shutdown_on_exit=False))

    def spans(self, name: str = "") -> list[ReadableSpan]:
        return [span for span in self._spans.get_finished_spans() if span.name.startswith(name)]

    def one(self, name: str) -> ReadableSpan:
        [span] = self.spans(name)
        return span

    def metric(self, name: str) -> dict[str, Any]:
        """The points of a metric: by the values of their attributes, the sum, count or last value."""
        found: dict[str, Any] = {}
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points if metric.name == name else ():
                        key = "/".join(str(value) for _, value in sorted((point.attributes or {}).items()))
                        found[key] = point.value if hasattr(point, "value") else point.count
        return found

    def everything(self) -> str:
        data = self._reader.get_metrics_data()
        return "\n".join([*(span.to_json() for span in self.spans()), data.to_json() if data else ""])


@pytest.fixture
def observed() -> Observed:
    return Observed()


@pytest.fixture
def ledger(settings: Settings, database: Db, observed: Observed) -> Iterator[LedgerLake]:
    with LedgerLake.open(settings) as opened:
        opened.telemetry = observed.telemetry
        yield opened


def command(kind: type[Any], command_id: str, amount: str = "10.00", **fields: Any) -> Any:
    given: dict[str, Any] = {
        "payment_id": "p",
        "organization_id": "acme",
        "occurred_at": NOON,
        "user_id": WHO,
        "reason": WHY,
        "metadata": {"note": NOTE},
        **fields,
    }
    return kind(command_id=command_id, amount=Money.parse(amount, "EUR"), **given)


def trace_of(span: ReadableSpan) -> int:
    assert span.context is not None
    return span.context.trace_id


def test_one_command_is_one_trace_from_the_bus_over_the_append_to_the_commit_and_the_projections(
    ledger: LedgerLake, observed: Observed
) -> None:
    done = ledger.commands.dispatch(command(ProcessPayment, "c1", correlation_id="order-7"))
    for projection in PROJECTIONS.values():
        advance(ledger.db, projection, telemetry=ledger.telemetry)
    root, append, commit = (observed.one(name) for name in ("command", "append", "commit"))
    assert (root.name, root.parent) == ("command ProcessPayment", None)
    assert append.parent == root.context
    assert commit.parent == append.context
    assert {trace_of(span) for span in (root, append, commit)} == {trace_id("order-7")}
    assert dict(root.attributes or {}) == {
        "ledgerlake.command_id": "c1",
        "ledgerlake.correlation_id": "order-7",
        "ledgerlake.outcome": "done",
        "ledgerlake.stream_id": "p",
        "ledgerlake.version": 1,
        "ledgerlake.position": done.position,
    }
    assert (commit.attributes or {})["ledgerlake.position"] == 1
    assert [link.context for link in append.links] == [commit.context]
    # Of another process as a rule: joined by the trace id alone, which follows from the correlation id.
    for name in PROJECTIONS:
        batch, joined = observed.one(f"advance {name}"), observed.one(f"project {name}")
        assert trace_of(joined) == trace_id("order-7") != trace_of(batch)
        assert [link.context for link in joined.links] == [batch.context]
        assert (batch.attributes or {})["ledgerlake.to_position"] == 1


def test_commands_that_share_a_batch_have_each_an_append_in_their_own_trace(
    ledger: LedgerLake, observed: Observed
) -> None:
    """They are appended by one of their threads, within the span of its own command."""
    bus = ledger.commands
    ask, begun = bus._grouped._ask, threading.Event()

    def held(commands: Any) -> Any:
        begun.set()
        while len(commands) == 1 and len(bus._grouped._gathering) < 2:
            time.sleep(0.01)
        return ask(commands)

    bus._grouped._ask = held
    threads = []
    for name in ("c0", "c1", "c2"):
        given = command(ProcessPayment, name, payment_id=name)
        threads.append(threading.Thread(target=bus.dispatch, args=(given,)))
        threads[-1].start()
        assert begun.wait(180)
    for thread in threads:
        thread.join()
    roots = {trace_of(span): span for span in observed.spans("command")}
    appends = {trace_of(span): span for span in observed.spans("append")}
    assert set(roots) == set(appends) == {trace_id(name) for name in ("c0", "c1", "c2")}
    within = [
        name for name in ("c1", "c2") if appends[trace_id(name)].parent == roots[trace_id(name)].context
    ]
    assert len(within) == 1, "one of them did it for both"
    together = observed.spans("commit")[-1]
    assert {link.context.trace_id for link in together.links} == {trace_id("c1"), trace_id("c2")}
    assert observed.metric("ledgerlake.appends") == {"stored": 3}


def test_commands_of_one_correlation_share_a_trace_whatever_process_does_them(
    ledger: LedgerLake, observed: Observed, settings: Settings
) -> None:
    ledger.commands.dispatch(command(ProcessPayment, "c1", correlation_id="order-7"))
    other = Observed()
    with LedgerLake.open(settings) as another:
        another.telemetry = other.telemetry
        another.commands.dispatch(command(RefundPayment, "c2", "1.00", correlation_id="order-7"))
        another.commands.dispatch(command(RefundPayment, "c3", "1.00"))
    assert trace_of(observed.one("command")) == trace_id("order-7")
    assert [trace_of(span) for span in other.spans("command")] == [trace_id("order-7"), trace_id("c3")]


def test_a_batch_of_many_correlations_links_to_each_of_them(ledger: LedgerLake, observed: Observed) -> None:
    telemetry = observed.telemetry
    batch = [Written(telemetry.here(), (name,), appends=1, events=2) for name in ("a", "b", "c")]
    with telemetry.committing(batch) as committing:
        committing.settled([["stored"], ["duplicate"], ["conflict"]], 6)
    commit, appends = observed.one("commit"), observed.spans("append")
    assert commit.parent is None
    assert [link.context for link in commit.links] == [span.context for span in appends]
    assert [trace_of(span) for span in appends] == [trace_id(name) for name in ("a", "b", "c")]
    assert (commit.attributes or {})["ledgerlake.appends"] == 3
    assert observed.metric("ledgerlake.appends") == {"stored": 1, "duplicate": 1, "conflict": 1}
    assert observed.metric("ledgerlake.append.duration") == {"": 3}
    assert observed.metric("ledgerlake.append.batch_size") == {"": 1}


def test_the_asynchronous_store_tells_the_same(settings: Settings, database: Db, observed: Observed) -> None:
    async def append(name: str) -> None:
        new = NewEvent("PaymentFailed", {}, NOON, name, name, {})
        opened = await open_async_database(settings)
        async with ObservedAsyncEventStore(opened, observed.telemetry) as store:
            with observed.telemetry.command("FailPayment", name, name):
                await store.append(Append(name, "Payment", (new,)))
        await opened.client.close()

    asyncio.run(append("a"))
    root, sent, commit = (observed.one(name) for name in ("command", "append", "commit"))
    assert (sent.parent, commit.parent) == (root.context, sent.context)
    assert {trace_of(span) for span in (root, sent, commit)} == {trace_id("a")}
    assert observed.metric("ledgerlake.appends") == {"stored": 1}


def test_every_outcome_is_counted_and_the_lag_is_told(ledger: LedgerLake, observed: Observed) -> None:
    dispatch = ledger.commands.dispatch
    dispatch(command(ProcessPayment, "c1"))
    dispatch(command(ProcessPayment, "c1"))
    with pytest.raises(CommandRejected):
        dispatch(command(ProcessPayment, "c2"))
    new = NewEvent("PaymentFailed", {}, NOON, "x", "x", {})
    with pytest.raises(ConcurrencyError):
        ledger.store.append(Append("p", "Payment", (new,), exact(9)))
    assert observed.metric("ledgerlake.commands") == {
        "ProcessPayment/done": 1,
        "ProcessPayment/duplicate": 1,
        "ProcessPayment/rejected/already_completed": 1,
    }
    assert observed.metric("ledgerlake.appends") == {"stored": 1, "conflict": 1}
    ledger.status()
    assert observed.metric("ledgerlake.lag")["payment_trends"] == 1
    advance(ledger.db, PROJECTIONS["payment_trends"], telemetry=ledger.telemetry)
    assert observed.metric("ledgerlake.lag")["payment_trends"] == 0
    assert observed.metric("ledgerlake.lag")["payment_statistics"] == 1


def test_a_failure_is_told_by_its_type_and_not_by_its_text(ledger: LedgerLake, observed: Observed) -> None:
    with pytest.raises(Exception, match="larsson"):
        failing_bus(ledger).dispatch(command(ProcessPayment, "c1"))
    span = observed.one("command")
    assert span.status.description == "ValueError"
    assert span.events == ()
    assert observed.metric("ledgerlake.commands") == {"ProcessPayment/failed": 1}


def failing_bus(ledger: LedgerLake) -> CommandBus:
    """A bus whose handler fails with an error that says all that it was given."""
    from ledgerlake.commands.observed import telemetry_middleware

    def fail(batch: Sequence[Any]) -> Any:
        [given] = batch
        raise ValueError(f"can not store {given!r}, {given.user_id}: {given.reason}")

    observing = [] if ledger.telemetry is None else [telemetry_middleware(ledger.telemetry)]
    return CommandBus({ProcessPayment: fail}, [*observing, logging_middleware])


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """Where logs go once `set_up` was called with it; the logger is put right again."""
    logger = logging.getLogger("ledgerlake")
    kept = (logger.handlers[:], logger.level, logger.propagate)
    yield io.StringIO()
    logger.handlers[:], logger.level, logger.propagate = kept


def everything_happens(ledger: LedgerLake) -> None:
    """Commands that are done, done before, refused, and fail; a subscriber that fails."""

    def complain(event: Any) -> None:
        raise RuntimeError(f"can not take {event.metadata} {event.data} mongodb://root:hunter2@db/")

    ledger.store.bus.subscribe(complain)
    ledger.commands.dispatch(command(FailPayment, "c1", correlation_id="order-7"))
    ledger.commands.dispatch(command(FailPayment, "c1", correlation_id="order-7"))
    ledger.commands.dispatch(command(ProcessPayment, "c2", personal={"name": "Alice Larsson"}))
    for refused in (
        command(ProcessPayment, "c3"),
        command(RefundPayment, "c4", "99.00"),
        command(RefundPayment, "c5", "1.00", reason=f"{WHY}\0"),
        command(RefundPayment, "c6", "1.00", user_id=WHO * 40),
    ):
        with pytest.raises(CommandRejected):
            ledger.commands.dispatch(refused)
    with pytest.raises(ValueError, match="larsson"):
        failing_bus(ledger).dispatch(command(ProcessPayment, "c7"))
    logging.getLogger("ledgerlake.test").error(
        "gave up: %s at mongodb://root:hunter2@db:27017/?x=1", ValueError(WHO), exc_info=ValueError(WHY)
    )
    ledger.refresh()
    ledger.store.bus.close()


@pytest.mark.parametrize("style", ["text", "json"])
def test_no_log_span_or_metric_holds_a_secret_or_anything_personal(
    ledger: LedgerLake, observed: Observed, logged: io.StringIO, style: str
) -> None:
    set_up(style, logged)
    everything_happens(ledger)
    written = logged.getvalue()
    for name in (
        "c1",
        "c2",
        "c3",
        "c7",
        "ValueError",
        "RuntimeError",
        "order-7" if style == "json" else "c4",
    ):
        assert name in written
    for text in (written, observed.everything()):
        assert [value for value in (*PERSONAL, "Larsson", "hunter2") if value in text] == []


def test_negative_control_pythons_own_formatter_would_have_told_it(
    ledger: LedgerLake, logged: io.StringIO
) -> None:
    set_up("text", logged)
    logging.getLogger("ledgerlake").handlers[-1].setFormatter(logging.Formatter())
    everything_happens(ledger)
    assert WHO in logged.getvalue()
    assert WHY in logged.getvalue()
    assert "hunter2" in logged.getvalue()


def test_a_json_log_is_one_object_a_line_with_the_ids_to_search_for(
    ledger: LedgerLake, logged: io.StringIO
) -> None:
    set_up("json", logged)
    set_up("json", logged)  # again, as by a second ledger: no line comes twice
    ledger.commands.dispatch(command(ProcessPayment, "c1", correlation_id="order-7"))
    with pytest.raises(CommandRejected):
        ledger.commands.dispatch(command(ProcessPayment, "c2"))
    done, refused = (json.loads(line) for line in logged.getvalue().splitlines())
    assert done["time"].endswith("Z")
    assert (done["level"], done["logger"]) == ("INFO", "ledgerlake.commands")
    assert "c1 done at position 1" in done["message"]
    assert (done["commandId"], done["correlationId"], done["streamId"], done["position"]) == (
        "c1",
        "order-7",
        "p",
        1,
    )
    assert (refused["commandId"], refused["outcome"]) == ("c2", "already_completed")


def test_off_wraps_nothing(settings: Settings, database: Db) -> None:
    assert settings.telemetry == "off"
    with LedgerLake.open(settings) as ledger:
        assert ledger.telemetry is None
        assert type(ledger.store) is EventStore
        assert type(ledger.store._transaction) is AppendTransaction
        layers = []
        chain: Any = ledger.commands._chain
        while chain.__closure__:
            cells = dict(zip(chain.__code__.co_freevars, chain.__closure__, strict=True))
            if "layer" not in cells:
                break
            layers.append(cells["layer"].cell_contents)
            chain = cells["inner"].cell_contents
        assert layers[0] is logging_middleware
        assert [layer.__module__ for layer in layers if "observed" in layer.__module__] == []


def test_off_does_not_even_import_opentelemetry(environ: dict[str, str], database: Db) -> None:
    code = """
import sys
from ledgerlake.cli import app
try:
    app(["process", "p1", "-o", "acme", "-a", "1.00", "-c", "EUR"])
except SystemExit as done:
    assert not done.code, done.code
app(["refresh"], standalone_mode=False)
assert not [name for name in sys.modules if name.startswith("opentelemetry")]
"""
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_console_gets_spans_on_stderr_and_stdout_stays_what_it_is(
    environ: dict[str, str], database: Db
) -> None:
    done = subprocess.run(
        [
            sys.executable, "-c", "from ledgerlake.cli import main; main()",
            "process", "p1", "-o", "acme", "-a", "1.00", "-c", "EUR", "-u", WHO,
            "--command-id", "c1", "--json",
        ],
        env={**environ, "LEDGERLAKE_TELEMETRY": "console", "LEDGERLAKE_LOG": "json"},
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["position"] == 1
    lines = [line.split() for line in done.stderr.splitlines() if line.startswith("span ")]
    assert [(line[1], line[4]) for line in lines] == [
        (f"{trace_id('c1'):032x}", name) for name in ("commit", "append", "command")
    ]
    assert '"commandId": "c1"' in done.stderr
    assert "ledgerlake.append.duration" in done.stderr
    assert WHO not in done.stderr


class Collector:
    """An OTLP collector that keeps what it was sent."""

    def __init__(self) -> None:
        self.received: list[tuple[str, bytes]] = []
        received = self.received

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                received.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(200)
                self.end_headers()

            def log_message(self, *words: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


def test_a_collector_gets_traces_and_metrics_over_otlp(
    settings: Settings, database: Db, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    collector = Collector()
    address = f"http://127.0.0.1:{collector.server.server_port}"
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", address)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "none")
    try:
        with LedgerLake.open(replace(settings, telemetry="otlp")) as ledger:
            ledger.commands.dispatch(command(ProcessPayment, "c1"))
    finally:
        collector.server.shutdown()
        collector.server.server_close()
    assert {path for path, _ in collector.received} == {"/v1/traces", "/v1/metrics"}
    spans = [
        span
        for path, body in collector.received
        if path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]
    assert {span.trace_id for span in spans} == {trace_id("c1").to_bytes(16, "big")}
    assert {span.name for span in spans} == {"command ProcessPayment", "append", "commit"}
    assert WHO.encode() not in b"".join(body for _, body in collector.received)


def test_a_missing_package_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.metrics", None)
    with pytest.raises(TelemetryMissing, match=r"LEDGERLAKE_TELEMETRY=otlp .*ledgerlake\[telemetry\]"):
        open_telemetry("otlp")


@pytest.mark.parametrize("name", ["LEDGERLAKE_TELEMETRY", "LEDGERLAKE_LOG"])
def test_an_unknown_value_is_refused_by_name(name: str) -> None:
    with pytest.raises(SettingsError, match=f"{name}='loud' is none of"):
        Settings.from_env({name: "loud", "HOME": os.environ.get("HOME", "/")})
