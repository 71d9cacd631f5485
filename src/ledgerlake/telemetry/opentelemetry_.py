"""The port on OpenTelemetry: spans command -> append -> commit, and projections joined to them.

All spans of one correlation are one trace, whichever process made them: the trace id is derived from the
correlation id. A batch serves many correlations. Its own span links to what it served, and each of these
traces gets a span that links to the batch.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import chain
from typing import Any, Final

from opentelemetry import context as contexts
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.metrics import MeterProvider
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Link, Span, Status, StatusCode

from ledgerlake.telemetry.identity import trace_id
from ledgerlake.telemetry.port import Written

_NO_SPAN: Final = Context()
_wanted: ContextVar[int | None] = ContextVar("ledgerlake_trace_id", default=None)


class CorrelationIds(RandomIdGenerator):
    """Trace ids as asked for by the span that is being started; else, and for span ids, random ones."""

    def generate_trace_id(self) -> int:
        """128 bits."""
        wanted = _wanted.get()
        return super().generate_trace_id() if wanted is None else wanted


@dataclass(frozen=True, slots=True)
class _Here:
    """When a writer handed something over (nanoseconds since the epoch), and its span."""

    at: int
    context: Context


class _Outcome:
    def __init__(self, span: Span) -> None:
        self.span = span
        self.outcome = "done"
        self.counted: Mapping[str, str | int] = {}

    def came_to(self, outcome: str, **attributes: str | int) -> None:
        self.outcome = outcome
        self.span.set_attributes(_named({"outcome": outcome, **attributes}))
        if "reason_code" in attributes:
            self.counted = {"reason_code": attributes["reason_code"]}

    def failed(self, error: str) -> None:
        self.outcome = "failed"
        _failed(self.span, error)


class _Batch:
    def __init__(self, telemetry: OpenTelemetry, batch: Sequence[Written]) -> None:
        self._telemetry = telemetry
        self._batch = batch
        self._spans = [telemetry.append_spans(written) for written in batch]
        appends = [span for spans in self._spans for span in spans]
        traces = {span.get_span_context().trace_id for span in appends}
        self._span = telemetry.tracer.start_span(
            "commit",
            # Within the trace where there is but one; a batch of several is a trace of its own.
            context=trace.set_span_in_context(appends[0]) if len(traces) == 1 else _NO_SPAN,
            links=[Link(span.get_span_context()) for span in appends],
            attributes=_named(
                {
                    "writers": len(batch),
                    "appends": sum(written.appends for written in batch),
                    "events": sum(written.events for written in batch),
                }
            ),
        )

    def settled(self, outcomes: Sequence[Sequence[str]], last_position: int | None) -> None:
        if last_position is not None:
            self._span.set_attribute("ledgerlake.position", last_position)
        for written, spans, words in zip(self._batch, self._spans, outcomes, strict=True):
            counts = {word: words.count(word) for word in words}
            for span in spans:
                span.set_attribute("ledgerlake.outcome", ", ".join(sorted(counts)))
            self._telemetry.appended(written, counts)

    def failed(self, error: str) -> None:
        for span in (self._span, *chain.from_iterable(self._spans)):
            _failed(span, error)
        for written in self._batch:
            self._telemetry.appended(written, {"failed": written.appends})

    def end(self) -> None:
        self._span.end()
        for span in chain.from_iterable(self._spans):
            span.add_link(self._span.get_span_context())
            span.end()


class OpenTelemetry:
    """Spans and metrics through the given providers; the tracer provider takes CorrelationIds."""

    def __init__(self, tracers: TracerProvider, meters: MeterProvider) -> None:
        self._providers: tuple[Any, ...] = (tracers, meters)
        self.tracer = tracers.get_tracer("ledgerlake")
        meter = meters.get_meter("ledgerlake")
        self._latency = meter.create_histogram(
            "ledgerlake.append.duration", "ms", "from handing an append over to its commit"
        )
        self._batch_size = meter.create_histogram(
            "ledgerlake.append.batch_size", "{append}", "appends that one transaction took"
        )
        self._appends = meter.create_counter(
            "ledgerlake.appends", "{append}", "by outcome: stored, duplicate, conflict, refused, failed"
        )
        self._commands = meter.create_counter(
            "ledgerlake.commands", "{command}", "by outcome and, where rejected, by reason code"
        )
        self._lag = meter.create_gauge(
            "ledgerlake.lag", "{event}", "events of the log that a part has not taken yet"
        )

    @contextmanager
    def command(self, name: str, command_id: str, correlation_id: str) -> Iterator[_Outcome]:
        # A caller with a trace of its own (a web request) is linked to, so that both can be followed.
        caller = trace.get_current_span().get_span_context()
        with self._in_trace(correlation_id):
            span = self.tracer.start_span(
                f"command {name}",
                context=_NO_SPAN,
                links=[Link(caller)] if caller.is_valid else (),
                attributes=_named({"command_id": command_id, "correlation_id": correlation_id}),
            )
        outcome = _Outcome(span)
        try:
            # The text of an error may hold anything: it is not recorded.
            with trace.use_span(span, True, record_exception=False, set_status_on_exception=False):
                yield outcome
        finally:
            self._commands.add(1, {"command": name, "outcome": outcome.outcome, **outcome.counted})

    def here(self) -> _Here:
        return _Here(time.time_ns(), contexts.get_current())

    @contextmanager
    def committing(self, batch: Sequence[Written]) -> Iterator[_Batch]:
        observed = _Batch(self, batch)
        self._batch_size.record(sum(written.appends for written in batch))
        try:
            yield observed
        finally:
            observed.end()

    @contextmanager
    def projecting(
        self, name: str, after: int, up_to: int, correlation_ids: Sequence[str]
    ) -> Iterator[_Outcome]:
        where: dict[str, str | int] = {
            "projection": name,
            "from_position": after + 1,
            "to_position": up_to,
        }
        span = self.tracer.start_span(f"advance {name}", context=_NO_SPAN, attributes=_named(where))
        started, outcome = time.time_ns(), _Outcome(span)
        try:
            yield outcome
        finally:
            span.end()
            for correlation_id in correlation_ids if outcome.outcome == "done" else ():
                self._projected(name, correlation_id, span, started)

    def lag(self, name: str, events: int) -> None:
        self._lag.set(events, {"part": name})

    def close(self) -> None:
        for provider in self._providers:
            provider.shutdown()

    def append_spans(self, written: Written) -> list[Span]:
        """The spans of one writer's appends, from when it handed them over.

        One, within the writer's; of commands that threads share a batch of, one in the trace of each.
        """
        here = written.here if isinstance(written.here, _Here) else self.here()
        writer = trace.get_current_span(here.context).get_span_context()
        correlations: Sequence[str | None] = written.correlation_ids
        if len(correlations) != 1 and not (correlations and writer.is_valid):
            correlations = [None]
        spans = []
        for correlation_id in correlations:
            attributes: dict[str, str | int] = {}
            if len(correlations) == 1:  # of a shared batch the commit says how many
                attributes |= {"appends": written.appends, "events": written.events}
            if correlation_id is not None:
                attributes["correlation_id"] = correlation_id
            elsewhere = len(correlations) > 1 and trace_id(correlation_id or "") != writer.trace_id
            with self._in_trace(correlation_id if elsewhere or not writer.is_valid else None):
                spans.append(
                    self.tracer.start_span(
                        "append",
                        context=_NO_SPAN if elsewhere else here.context,
                        start_time=here.at,
                        attributes=_named(attributes),
                    )
                )
        return spans

    def appended(self, written: Written, counts: Mapping[str, int]) -> None:
        """Count what became of one writer's appends, and how long it took."""
        if isinstance(written.here, _Here):
            self._latency.record((time.time_ns() - written.here.at) / 1e6)
        for outcome, count in counts.items():
            self._appends.add(count, {"outcome": outcome})

    def _projected(self, name: str, correlation_id: str, batch: Span, started: int) -> None:
        with self._in_trace(correlation_id):
            span = self.tracer.start_span(
                f"project {name}",
                context=_NO_SPAN,
                links=[Link(batch.get_span_context())],
                start_time=started,
                attributes=_named({"projection": name, "correlation_id": correlation_id}),
            )
        span.end()

    @contextmanager
    def _in_trace(self, correlation_id: str | None) -> Iterator[None]:
        token = _wanted.set(None if correlation_id is None else trace_id(correlation_id))
        try:
            yield
        finally:
            _wanted.reset(token)


def _named(attributes: Mapping[str, str | int]) -> dict[str, str | int]:
    return {f"ledgerlake.{name}": value for name, value in attributes.items()}


def _failed(span: Span, error: str) -> None:
    span.set_status(Status(StatusCode.ERROR, error))
    span.set_attribute("error.type", error)
