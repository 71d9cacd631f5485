"""What an operator may see of a running ledger: spans, metrics and structured logs.

`port` is what the layers tell; `opentelemetry_` tells it on. With LEDGERLAKE_TELEMETRY=off, the default,
nothing observes: no layer is wrapped, and OpenTelemetry is not even imported. Neither spans nor logs carry
secrets or personal data: they name commands, streams, correlations and positions, and nothing else.
"""

from __future__ import annotations

from ledgerlake.settings import Settings
from ledgerlake.telemetry.port import Telemetry

__all__ = ["Telemetry", "telemetry_of"]


def telemetry_of(settings: Settings) -> Telemetry | None:
    """What the settings ask for; None: nothing, at no cost. The caller closes it.

    Raises:
        TelemetryMissing: the packages that it takes are not installed.
    """
    if settings.telemetry == "off":
        return None
    from ledgerlake.telemetry.exporting import open_telemetry

    return open_telemetry(settings.telemetry)
