"""For whoever runs the server: is it up, is it ready, how far is everything, what does it do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Request
from pydantic import BaseModel
from starlette.responses import Response

from ledgerlake.application import LedgerStatus
from ledgerlake.web import metrics
from ledgerlake.web.access import Allowed, Principal
from ledgerlake.web.answers import as_json
from ledgerlake.web.api.described import problems
from ledgerlake.web.problems import unavailable
from ledgerlake.web.service import Service

router = APIRouter(tags=["operations"])

_STATUS_EXAMPLE: Final = {
    "head": 1204,
    "parts": [
        {
            "name": "payment_statistics",
            "position": 1204,
            "lag": 0,
            "status": "live",
            "updated_at": "2026-03-01T12:00:01Z",
            "last_error": None,
            "lag_seconds": 0.0,
            "rate": None,
            "dead_letters": 0,
            "version": 1,
        }
    ],
    "at": "2026-03-01T12:00:02Z",
    "rate": None,
}


class Health(BaseModel):
    """ok, or an answer that is no."""

    status: str


_OK: Final = {"content": {"application/json": {"example": {"status": "ok"}}}}


@router.get("/healthz", response_model=Health, responses={200: _OK})
async def healthz() -> Response:
    """The process serves. Restart it where it does not answer."""
    return Response(b'{"status":"ok"}', media_type="application/json")


@router.get("/readyz", response_model=Health, responses={200: _OK, **problems(503)})
async def readyz(request: Request) -> Response:
    """The process serves, and so does its database. Send it no requests where it says no."""
    service: Service = request.app.state.service
    if not service.available:
        raise unavailable()
    return Response(b'{"status":"ok"}', media_type="application/json")


@router.get(
    "/api/v1/status",
    response_model=LedgerStatus,
    responses={
        200: {"content": {"application/json": {"example": _STATUS_EXAMPLE}}},
        **problems(401, 403, 429, 500, 503),
    },
)
async def status(
    request: Request,
    principal: Annotated[Principal, Depends(Allowed("status"))],  # noqa: ARG001
) -> Response:
    """The head of the log, each part's checkpoint, how far it is behind, and what stopped it."""
    service: Service = request.app.state.service
    return Response(as_json(await service.run(service.reads.status)), media_type="application/json")


@router.get(
    "/metrics",
    response_class=Response,
    responses={
        200: {
            "description": "Text that Prometheus reads",
            "content": {"text/plain": {"schema": {"type": "string"}, "example": "ledgerlake_head 1204\n"}},
        },
        **problems(401, 403, 429, 500),
    },
)
async def metrics_(
    request: Request,
    principal: Annotated[Principal, Depends(Allowed("metrics"))],  # noqa: ARG001
) -> Response:
    """What this process has served, and how far every part of the ledger is."""
    service: Service = request.app.state.service
    found = await service.run(service.reads.status) if service.available else None
    return Response(service.metrics.text(_gauges(service, found)), media_type=metrics.MEDIA_TYPE)


_Values = Iterable[tuple[Mapping[str, str], float]]


def _gauges(service: Service, status: LedgerStatus | None) -> dict[str, tuple[str, _Values]]:
    counts = service.reads.answers.counts
    gauges: dict[str, tuple[str, _Values]] = {
        "ledgerlake_up": ("The database is there.", [({}, float(service.available))]),
        "ledgerlake_http_requests_under_way": ("Requests.", [({}, float(service.metrics.under_way))]),
        "ledgerlake_commands_waiting": ("Commands that no thread has taken.", [({}, service.waiting)]),
        "ledgerlake_answers_kept": ("Answers in memory.", [({}, counts.entries)]),
        "ledgerlake_answers_hits": ("Queries answered from memory.", [({}, counts.hits)]),
        "ledgerlake_answers_computed": ("Queries that were computed.", [({}, counts.computed)]),
        "process_resident_memory_bytes": ("Memory of this process.", [({}, _resident())]),
    }
    if status is not None:
        parts = status.parts
        gauges["ledgerlake_head"] = ("Position of the last event.", [({}, status.head)])
        gauges["ledgerlake_lag_events"] = (
            "Events that a part has not taken.",
            [({"part": part.name}, part.lag) for part in parts],
        )
        gauges["ledgerlake_lag_seconds"] = (
            "How long the oldest of them has been stored.",
            [({"part": part.name}, part.lag_seconds) for part in parts],
        )
        gauges["ledgerlake_part_stopped"] = (
            "1 where a part has stopped.",
            [({"part": part.name}, float(part.status == "stopped")) for part in parts],
        )
    return gauges


def _resident() -> float:
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))
