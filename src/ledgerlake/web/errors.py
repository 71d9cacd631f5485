"""From what routes raise to problem details or, for somebody with a browser, to a page."""

from __future__ import annotations

import logging
from typing import Any, Final
from urllib.parse import quote

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError
from pymongo.errors import ConnectionFailure, ExecutionTimeout, OperationFailure, PyMongoError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ledgerlake.domain.payment import CommandRejected
from ledgerlake.errors import LedgerLakeError
from ledgerlake.eventstore.model import ConcurrencyError, EventTooLarge, StoreUnavailable
from ledgerlake.lake.errors import CorruptFileError
from ledgerlake.privacy.keys import KeysUnavailable
from ledgerlake.queries import NotYet, PaymentNotFound, QueryError
from ledgerlake.reports.errors import ReportError
from ledgerlake.web.exports import ExportsBusy, ReportReplaced
from ledgerlake.web.problems import Problem, busy, invalid, response_of, unavailable
from ledgerlake.web.shelf import NoReport

log = logging.getLogger("ledgerlake.web")

_CODES: Final = {404: "not_found", 405: "method_not_allowed", 415: "not_json"}
_NOT_PRIMARY: Final = frozenset({11600, 11602, 10107, 13435, 13436, 189, 91})


def register(app: FastAPI) -> None:
    """Have the application answer with problems."""
    for kind in (LedgerLakeError, PyMongoError, RequestValidationError, ValidationError, HTTPException):
        app.add_exception_handler(kind, _answer)


async def _answer(request: Request, error: Exception) -> Response:
    problem = problem_of(error)
    if problem.status >= 500:
        log.warning("%s: %s", problem.code, type(error).__name__)
    return answer_of(request, problem)


def answer_of(request: Request, problem: Problem) -> Response:
    """The problem as a page for somebody with a browser, as problem details for programs."""
    path = request.url.path
    if not path.startswith("/api/") and "text/html" in request.headers.get("accept", ""):
        return _page(request, problem)
    return response_of(problem, request.state.request_id)


def _page(request: Request, problem: Problem) -> Response:
    if problem.status == 401:
        wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        target = f"/sign-in?next={quote(wanted, safe='')}" if request.method == "GET" else "/sign-in"
        return RedirectResponse(target, 303)
    from ledgerlake.web.pages.errors import page
    from ledgerlake.web.problems import TITLES

    title = TITLES.get(problem.status, "Error")
    found: Response = page(request, problem.status, title, problem.message, problem.remedy)
    found.headers.update(problem.headers)
    return found


def problem_of(error: Exception) -> Problem:
    """The problem that an error is to whoever asked. Raises the error itself where it is the server's."""
    match error:
        case Problem():
            return error
        case RequestValidationError() | ValidationError():
            return _invalid(error)
        case HTTPException():
            return _http(error)
        case CommandRejected():
            return _rejected(error)
        case ConcurrencyError():
            return unavailable("Others changed the same payment at the same time, again and again.")
        case StoreUnavailable() | KeysUnavailable():
            return unavailable("The ledger's database did not confirm in time.")
        case EventTooLarge():
            return Problem(413, "event_too_large", error.message, error.remedy)
        case NotYet():
            return Problem(
                503,
                "not_yet",
                f"The answer stands at position {error.position}, and {error.wanted} was waited for.",
                "Ask again in a moment, or without wait_for.",
                headers={"Retry-After": "1"},
            )
        case PaymentNotFound():
            return payment_not_found()
        case NoReport():
            return Problem(404, "report_not_found", error.message, error.remedy)
        case ReportReplaced():
            return Problem(
                503,
                "report_replaced",
                "The report's file is not what the report says: it is being written anew, or damaged.",
                "Try again in a minute; if it stays so, `ledgerlake report verify` names what is damaged.",
                headers={"Retry-After": "60"},
            )
        case ReportError() | CorruptFileError():
            return Problem(
                500,
                "report_damaged",
                "A report's files are not as they were written.",
                "`ledgerlake report verify` names them; restore them from a backup.",
            )
        case ExportsBusy():
            return busy("exports_busy", error.message, 30)
        case QueryError():
            return Problem(422, "bad_query", error.message, error.remedy)
        case PyMongoError() if _is_away(error):
            return unavailable()
    raise error


def payment_not_found() -> Problem:
    """404, whether there is none or it is another organization's."""
    return Problem(
        404,
        "payment_not_found",
        "There is no such payment for you to see.",
        "Check the id. If it was stored just now, give the position that the command came to: wait_for.",
    )


def _is_away(error: PyMongoError) -> bool:
    if isinstance(error, ConnectionFailure | ExecutionTimeout) or error.timeout:
        return True
    return isinstance(error, OperationFailure) and error.code in _NOT_PRIMARY


def _rejected(error: CommandRejected) -> Problem:
    match error.code:
        case "organization_mismatch":
            # Not whose it is.
            message = "The payment is another organization's."
        case "command_id_reused":
            return Problem(
                422,
                error.code,
                "The Idempotency-Key was used before, for another command.",
                "Give every command a key of its own; repeat one only with the very same command.",
            )
        case _:
            message = str(error)
    malformed = error.code.startswith(("bad_", "missing_")) or error.code in _MALFORMED
    return Problem(422 if malformed else 409, error.code, message, _REMEDIES.get(error.code))


_MALFORMED: Final = frozenset(
    {"unknown_currency", "zero_amount", "negative_amount", "amount_too_large", "personal_without_user"}
)
_REMEDIES: Final = {
    "unknown_payment": "Check payment_id; for a credit note that names no payment leave it out.",
    "already_completed": "Nothing is to be done, or the payment has the id of another one.",
    "unknown_currency": "Give an ISO 4217 code, such as EUR.",
}


def _invalid(error: RequestValidationError | ValidationError) -> Problem:
    found: list[tuple[str, str]] = []
    inside = () if isinstance(error, RequestValidationError) else ("body",)
    for each in error.errors()[:20]:
        if each["type"] == "json_invalid":
            return Problem(400, "not_json", "The body is not JSON.", str(each["msg"])[:300])
        place = ".".join(str(part) for part in (*inside, *each["loc"]))[:200]
        # Without the value: it may be personal, and it may be long.
        found.append((place, str(each["msg"])[:300]))
    return invalid(found)


def _http(error: HTTPException) -> Problem:
    code: Any = _CODES.get(error.status_code, "bad_request")
    message = {
        404: "There is nothing here.",
        405: "This method is not for this address.",
        415: "The body is not JSON.",
    }.get(error.status_code, "The request can not be understood.")
    return Problem(error.status_code, code, message, headers=error.headers)
