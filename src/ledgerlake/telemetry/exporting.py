"""Where spans and metrics go: to stderr as lines, or over OTLP to a collector."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from ledgerlake.errors import LedgerLakeError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

    from ledgerlake.telemetry.opentelemetry_ import OpenTelemetry


_PATIENCE_SECONDS: Final = 2.0


class TelemetryMissing(LedgerLakeError):
    """Telemetry is asked for, but its packages are not installed."""


def open_telemetry(kind: str) -> OpenTelemetry:
    """Telemetry to the `console` (stderr) or to `otlp`, whose address OTEL_EXPORTER_OTLP_ENDPOINT names.

    Raises:
        TelemetryMissing: see there.
    """
    try:
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider

        from ledgerlake.telemetry.opentelemetry_ import CorrelationIds, OpenTelemetry

        processor, metrics = _otlp() if kind == "otlp" else _console()
    except ImportError as error:
        raise TelemetryMissing(
            f"LEDGERLAKE_TELEMETRY={kind} needs packages that are not installed ({error}).",
            "Install them with `pip install 'ledgerlake[telemetry]'`, or leave the variable unset.",
        ) from error
    resource = Resource.create({"service.name": "ledgerlake", "service.version": version("ledgerlake")})
    # Shut down by us, at a known time, and not by the interpreter's exit.
    tracers = TracerProvider(resource=resource, id_generator=CorrelationIds(), shutdown_on_exit=False)
    tracers.add_span_processor(processor)
    reader = PeriodicExportingMetricReader(metrics)
    return OpenTelemetry(tracers, MeterProvider([reader], resource=resource, shutdown_on_exit=False))


def _otlp() -> tuple[Any, Any]:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    # Unless the environment says otherwise: a command must not hang at its end for a collector that is away.
    timeout = None if "OTEL_EXPORTER_OTLP_TIMEOUT" in os.environ else _PATIENCE_SECONDS
    return BatchSpanProcessor(OTLPSpanExporter(timeout=timeout)), OTLPMetricExporter(timeout=timeout)


def _console() -> tuple[Any, Any]:
    from opentelemetry.sdk.metrics.export import ConsoleMetricExporter
    from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

    # To stderr: on stdout stands what was asked for, perhaps as JSON.
    spans = ConsoleSpanExporter(out=sys.stderr, formatter=_line)
    return SimpleSpanProcessor(spans), ConsoleMetricExporter(out=sys.stderr)


def _line(span: ReadableSpan) -> str:
    """A span on one line: trace, duration, name, attributes."""
    found = span.get_span_context()
    traced = f"{found.trace_id:032x}" if found is not None else "-"
    took = ((span.end_time or 0) - (span.start_time or 0)) / 1e6
    attributes = " ".join(f"{name}={value!s}" for name, value in (span.attributes or {}).items())
    return f"span {traced} {took:9.2f} ms  {span.name}  {attributes}\n"
