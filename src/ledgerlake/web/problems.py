"""What went wrong, as RFC 9457 has it: problem details, each with a code and, if there is one, a remedy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field
from pydantic_core import to_json
from starlette.responses import Response

from ledgerlake.errors import LedgerLakeError

MEDIA_TYPE: Final = "application/problem+json"
_TYPE: Final = "urn:ledgerlake:problem:"


class FieldProblem(BaseModel):
    """One field that is wrong."""

    field: str = Field(description="Where it is: body.amount, query.limit, header.Idempotency-Key")
    message: str


class ProblemDetails(BaseModel):
    """Problem details (RFC 9457)."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "type": f"{_TYPE}payment_not_found",
                    "title": "Not Found",
                    "status": 404,
                    "detail": "There is no payment 'P-1' for you to see.",
                    "code": "payment_not_found",
                    "remedy": "Check the id.",
                    "request_id": "4f1c2d3e5a6b7c8d",
                }
            ]
        }
    )

    type: str = Field(description="A URN that ends with the code")
    title: str
    status: int
    detail: str
    code: str = Field(description="What programs go by")
    remedy: str | None = None
    errors: list[FieldProblem] | None = None
    request_id: str | None = None


class Problem(LedgerLakeError):
    """An answer that is no: an HTTP status, a code for programs, a message and a remedy for people."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        remedy: str | None = None,
        *,
        errors: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message, remedy)
        self.status = status
        self.code = code
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


def unavailable(message: str = "The ledger's database does not answer.") -> Problem:
    """503: nothing can be said now, and soon it may."""
    remedy = "Try again in a moment; a command with the same Idempotency-Key, which happens once at most."
    return Problem(503, "unavailable", message, remedy, headers={"Retry-After": "1"})


def invalid(errors: Sequence[tuple[str, str]]) -> Problem:
    """422: fields that are wrong, each with what is wrong with it, and without its value."""
    places = ", ".join(dict.fromkeys(field for field, _ in errors))
    message = f"The request is not as it should be: {places}."
    return Problem(422, "invalid_request", message, "Mend it.", errors=errors)


def busy(code: str, message: str, seconds: int = 1) -> Problem:
    """429: too much at once."""
    return Problem(429, code, message, "Wait for Retry-After seconds.", headers={"Retry-After": str(seconds)})


TITLES: Final = {
    400: "Bad Request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    405: "Method Not Allowed",
    408: "Request Timeout",
    409: "Conflict",
    413: "Content Too Large",
    415: "Unsupported Media Type",
    416: "Range Not Satisfiable",
    422: "Unprocessable Content",
    429: "Too Many Requests",
    500: "Internal Server Error",
    503: "Service Unavailable",
}


def content_of(problem: Problem, request_id: str | None = None) -> bytes:
    """The problem as JSON."""
    content: dict[str, Any] = {
        "type": _TYPE + problem.code,
        "title": TITLES.get(problem.status, "Error"),
        "status": problem.status,
        "detail": problem.message,
        "code": problem.code,
    }
    if problem.remedy is not None:
        content["remedy"] = problem.remedy
    if problem.errors:
        content["errors"] = [{"field": field, "message": message} for field, message in problem.errors]
    if request_id is not None:
        content["request_id"] = request_id
    return to_json(content)


def response_of(problem: Problem, request_id: str | None = None) -> Response:
    """The problem as a response."""
    return Response(
        content_of(problem, request_id), problem.status, {**problem.headers}, media_type=MEDIA_TYPE
    )
