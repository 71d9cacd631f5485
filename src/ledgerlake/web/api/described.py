"""What the description of the API says of answers that are no."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI

from ledgerlake.web.problems import MEDIA_TYPE, ProblemDetails

_WHY: Final = {
    400: "The request can not be understood",
    401: "No token, or one that is unknown, expired or revoked",
    403: "The token's role or organizations do not include it",
    404: "There is no such thing for you to see",
    408: "The body did not arrive in time",
    409: "The ledger's rules refuse it; `code` says which",
    413: "The body is too large",
    415: "The body is not JSON",
    416: "The file has no such range",
    422: "The request is not as it should be; `errors` says where",
    429: "Too much at once: wait for Retry-After seconds",
    500: "The server has failed",
    503: "The database is away, or not that far yet: try again after Retry-After seconds",
}
_SCHEMAS: Final = "#/components/schemas/"
_RETRY_AFTER: Final = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds"}}
_CHALLENGE: Final = {"WWW-Authenticate": {"schema": {"type": "string"}}}
_HEADERS: Final = {401: _CHALLENGE, 429: _RETRY_AFTER, 503: _RETRY_AFTER}


def with_problems(app: FastAPI) -> None:
    """Have the description of the application hold the schemas that `problems` refers to."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        described = describe()
        if ProblemDetails.__name__ in described.get("components", {}).get("schemas", {}):
            return described  # as it was made for somebody before
        schema = ProblemDetails.model_json_schema(ref_template=f"{_SCHEMAS}{{model}}")
        schemas = described.setdefault("components", {}).setdefault("schemas", {})
        schemas.update({**schema.pop("$defs"), ProblemDetails.__name__: schema})
        return described

    app.openapi = openapi  # type: ignore[method-assign]


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The responses of a route with these statuses, as FastAPI takes them."""
    return {
        status: {
            "description": _WHY[status],
            "content": {MEDIA_TYPE: {"schema": {"$ref": f"{_SCHEMAS}{ProblemDetails.__name__}"}}},
            **({"headers": _HEADERS[status]} if status in _HEADERS else {}),
        }
        for status in statuses
    }
