"""Counts of what the server does, in the text format that Prometheus reads."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Final

MEDIA_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
# Others are counted as one: anybody can make up as many as they like.
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_BUCKETS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """What one process has served. Belongs to its event loop."""

    def __init__(self) -> None:
        self.under_way = 0
        self._requests: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self._seconds: dict[str, list[float]] = {}
        self._commands: defaultdict[tuple[str, str], int] = defaultdict(int)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """One request is answered; `route` is the path with the names of its parameters."""
        self._requests[method if method in _METHODS else "other", route, status] += 1
        counts = self._seconds.get(route)
        if counts is None:
            counts = self._seconds[route] = [0.0] * (len(_BUCKETS) + 2)
        counts[bisect_left(_BUCKETS, seconds)] += 1
        counts[-1] += seconds

    def command(self, name: str, outcome: str) -> None:
        """One command came to `outcome`: done, duplicate, rejected or failed."""
        self._commands[name, outcome] += 1

    def text(self, gauges: Mapping[str, tuple[str, Iterable[tuple[Mapping[str, str], float]]]]) -> str:
        """All of it, and these gauges: by name the help and, for each set of labels, the value."""
        lines = [
            "# HELP ledgerlake_http_requests_total Requests answered.",
            "# TYPE ledgerlake_http_requests_total counter",
        ]
        for (method, route, status), count in sorted(self._requests.items()):
            labels = _labels({"method": method, "route": route, "status": str(status)})
            lines.append(f"ledgerlake_http_requests_total{labels} {count}")
        lines += [
            "# HELP ledgerlake_http_request_seconds Time to the last byte of the answer.",
            "# TYPE ledgerlake_http_request_seconds histogram",
        ]
        for route, counts in sorted(self._seconds.items()):
            so_far = 0.0
            for edge, within in zip((*map(str, _BUCKETS), "+Inf"), counts[:-1], strict=True):
                so_far += within
                labels = _labels({"route": route, "le": edge})
                lines.append(f"ledgerlake_http_request_seconds_bucket{labels} {so_far:g}")
            labels = _labels({"route": route})
            lines.append(f"ledgerlake_http_request_seconds_sum{labels} {counts[-1]:.6f}")
            lines.append(f"ledgerlake_http_request_seconds_count{labels} {so_far:g}")
        lines += [
            "# HELP ledgerlake_http_commands_total Commands, by what came of them.",
            "# TYPE ledgerlake_http_commands_total counter",
        ]
        for (name, outcome), count in sorted(self._commands.items()):
            labels = _labels({"command": name, "outcome": outcome})
            lines.append(f"ledgerlake_http_commands_total{labels} {count}")
        for name, (told, values) in gauges.items():
            lines += [f"# HELP {name} {told}", f"# TYPE {name} gauge"]
            lines += [f"{name}{_labels(labels)} {value:g}" for labels, value in values]
        return "\n".join(lines) + "\n"


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
