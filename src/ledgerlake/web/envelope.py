"""What goes around every request: its id, the size of its body, headers that keep browsers safe, the log."""

from __future__ import annotations

import asyncio
import itertools
import logging
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ledgerlake.web.errors import answer_of
from ledgerlake.web.limits import BODY_SECONDS, MAX_BODY_BYTES, MAX_UNDER_WAY, SEND_SECONDS
from ledgerlake.web.problems import Problem, busy, response_of

if TYPE_CHECKING:
    from ledgerlake.web.service import Service

log = logging.getLogger("ledgerlake.web")

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9_-]{8,64}")
# The hash of nothing: plotly makes an empty style element, and adds its rules to it by script.
_NO_STYLE: Final = "'sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU='"
# Told apart, not secret: random bytes for each would be a call of the system for each.
_PROCESS: Final = secrets.token_hex(4)
_numbers: Final = itertools.count()
_POLICY: Final = (
    f"default-src 'none'; script-src 'self'; style-src 'self' {_NO_STYLE}; img-src 'self' data:; "
    "connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=()"),
)
# Unless a response says something else.
_DEFAULTS: Final = (
    (b"content-security-policy", _POLICY.encode()),
    (b"cache-control", b"no-store"),
)
# Whoever looks after a server that is busy must not take it for one that is dead.
_ALWAYS: Final = frozenset({"/healthz", "/readyz"})
_METHODS_WITH_BODY: Final = frozenset({"POST", "PUT", "PATCH", "DELETE"})


class Envelope:
    """Middleware, outermost: nothing gets past it without an id, a limit, safe headers and a log line."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(scope)
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = _safe(message.get("headers", ()), request_id)
            # Whoever takes what was asked for more slowly is hung up on, and keeps nobody else out.
            async with asyncio.timeout(SEND_SECONDS):
                await send(message)

        service: Service = scope["app"].state.service
        metrics = service.metrics
        metrics.under_way += 1
        try:
            if metrics.under_way > MAX_UNDER_WAY and scope["path"] not in _ALWAYS:
                raise busy("too_busy", "The server has more requests under way than it takes on.")
            if scope["method"] in _METHODS_WITH_BODY:
                receive = await _whole_body(scope, receive)
            await self._app(scope, receive, answer)
        except Problem as problem:
            if not status:
                await _answer_of(problem, scope)(scope, receive, answer)
        except Exception as error:
            # Its text may quote anything.
            log.error("%s while serving %s (%s)", _kind(error), _route(scope), request_id)
            log.debug("Request %s failed.", request_id, exc_info=error)
            if not status:
                failed = Problem(500, "internal_error", "The server has failed, and has logged it.")
                await _answer_of(failed, scope)(scope, receive, answer)
        finally:
            metrics.under_way -= 1
            principal = scope["state"].get("principal")
            if principal is not None:
                service.limits.end(principal.token_id)
            seconds = time.perf_counter() - started
            route = _route(scope)
            metrics.request(scope["method"], route, status, seconds)
            if log.isEnabledFor(logging.INFO):
                _tell(scope, route, status, seconds, request_id)


def _answer_of(problem: Problem, scope: Scope) -> Response:
    try:
        return answer_of(Request(scope), problem)
    except Exception as error:  # noqa: BLE001 - what failed may be what pages are made with
        log.error("%s while making a page", _kind(error))
        return response_of(problem, scope["state"]["request_id"])


def _request_id(scope: Scope) -> str:
    for name, value in scope["headers"]:
        if name == b"x-request-id":
            given = value.decode("latin-1")
            if _REQUEST_ID.fullmatch(given):
                return str(given)
            break
    return f"{_PROCESS}{next(_numbers):08x}"


def _safe(headers: Any, request_id: str) -> list[tuple[bytes, bytes]]:
    given = list(headers)
    names = {name for name, _ in given}
    given += [header for header in _DEFAULTS if header[0] not in names]
    given += _HEADERS
    given.append((b"x-request-id", request_id.encode()))
    return given


async def _whole_body(scope: Scope, receive: Receive) -> Receive:
    """The request's body, read to its end here, so that no route meets one that is too long or never ends."""
    declared = Request(scope).headers.get("content-length", "0")
    if not declared.isdecimal() or len(declared) > 18 or int(declared) > MAX_BODY_BYTES:
        raise _too_large()
    parts: list[bytes] = []
    size = 0
    more = True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    break
                part = message.get("body", b"")
                size += len(part)
                if size > MAX_BODY_BYTES:
                    raise _too_large()
                parts.append(part)
                more = message.get("more_body", False)
    except TimeoutError:
        raise Problem(
            408,
            "body_too_slow",
            f"The body did not arrive within {BODY_SECONDS:g} s.",
            "Send it again.",
            headers={"Connection": "close"},
        ) from None
    body: Message | None = {"type": "http.request", "body": b"".join(parts), "more_body": False}

    async def replay() -> Message:
        nonlocal body
        if body is None:
            return await receive()
        message, body = body, None
        return message

    return replay


def _too_large() -> Problem:
    return Problem(
        413,
        "body_too_large",
        f"A request's body is at most {MAX_BODY_BYTES:,} bytes.",
        headers={"Connection": "close"},
    )


def _route(scope: Scope) -> str:
    """The path with the names of its parameters: what they hold may be anybody's."""
    path = getattr(scope.get("route"), "path", None)
    return path if isinstance(path, str) else "(none)"


def _kind(error: Exception) -> str:
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    return kind if place is None else f"{kind} at {place.tb_frame.f_code.co_qualname}:{place.tb_lineno}"


def _tell(scope: Scope, route: str, status: int, seconds: float, request_id: str) -> None:
    principal = scope["state"].get("principal")
    milliseconds = round(seconds * 1000, 1)
    log.info(
        "%s %s %d in %.1f ms (request %s, token %s)",
        scope["method"],
        route,
        status,
        milliseconds,
        request_id,
        "-" if principal is None else principal.token_id,
        extra={"outcome": str(status), "milliseconds": milliseconds},
    )
