"""The fields of requests: what is let in, and what the description of the API says of it."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Final

from fastapi import Query
from pydantic import AfterValidator, Field, TypeAdapter, ValidationError
from starlette.requests import Request

from ledgerlake.commands.middleware import FIRST_YEAR, LAST_YEAR, MAX_ID_LENGTH, MAX_TEXT_LENGTH
from ledgerlake.web.problems import invalid

# An id is an id: no spreadsheet takes it for a formula, no shell, query or file system for anything else.
ID_PATTERN: Final = r"^[A-Za-z0-9_][A-Za-z0-9_ .:/@#+~-]*$"
# What an import may have let in is found all the same.
ANY_ID: Final = r"^[^\x00-\x1f\x7f]+$"
_AMOUNT: Final = r"^[0-9]{1,13}(\.[0-9]{1,4})?$"
_INSTANT: Final = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+-][0-9]{2}:[0-9]{2})$"
)
_NAME: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
# The ledger has these itself in the metadata of an event.
_RESERVED: Final = frozenset({"userId", "organizationId", "personal", "requestHash"})
_MOST_DETAILS: Final = 20


def _no_dots(text: str) -> str:
    if ".." in text or text != text.strip():
        raise ValueError("an id has no two dots in a row and no space at its end")
    return text


def _harmless(text: str) -> str:
    if not text.isprintable():
        raise ValueError("a text has no control characters, and no half of a surrogate pair")
    if text[:1] in tuple("=+-@"):
        raise ValueError("a text does not begin with = + - @: a spreadsheet would take it for a formula")
    if text.startswith("pii:"):
        raise ValueError("a text does not begin with pii:, as only the ledger's own tokens do")
    return text


def _not_zero(text: str) -> str:
    if not text.strip("0."):
        raise ValueError("the amount is more than zero")
    return text


def _named(details: dict[str, str]) -> dict[str, str]:
    for name in details:
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise ValueError("a name is up to 64 of A-Z a-z 0-9 _ -, and none that the ledger uses itself")
    return details


def instant(text: str) -> datetime:
    """An instant in whole milliseconds, UTC.

    Raises:
        ValueError: there is no such day or time, or it is out of range.
    """
    try:
        found = datetime.fromisoformat(text).astimezone(UTC)
    except OverflowError:
        raise ValueError("it is out of range") from None
    if not FIRST_YEAR <= found.year <= LAST_YEAR:
        raise ValueError(f"the years go from {FIRST_YEAR} to {LAST_YEAR}")
    return found.replace(microsecond=found.microsecond // 1000 * 1000)


def _instant(text: str) -> str:
    instant(text)
    return text


Id = Annotated[
    str, Field(min_length=1, max_length=MAX_ID_LENGTH, pattern=ID_PATTERN), AfterValidator(_no_dots)
]
Text = Annotated[str, Field(min_length=1, max_length=MAX_TEXT_LENGTH), AfterValidator(_harmless)]
Amount = Annotated[
    str,
    Field(pattern=_AMOUNT, description="In units of the currency, exact, as text", examples=["12.30"]),
    AfterValidator(_not_zero),
]
Currency = Annotated[str, Field(pattern="^[A-Z]{3}$", description="ISO 4217 code", examples=["EUR"])]
Instant = Annotated[
    str,
    Field(
        pattern=_INSTANT,
        description="RFC 3339, with a time zone; kept in milliseconds",
        examples=["2026-03-01T12:00:00Z"],
        json_schema_extra={"format": "date-time"},
    ),
    AfterValidator(_instant),
]
Details = Annotated[dict[str, Text], Field(max_length=_MOST_DETAILS), AfterValidator(_named)]

OrganizationQuery = Annotated[
    str | None,
    Query(
        max_length=MAX_ID_LENGTH,
        pattern=ANY_ID,
        description="Among those of the token; needed where it is for several",
    ),
]
WaitFor = Annotated[
    int | None,
    Query(
        ge=0, lt=2**63, description="A position: the answer holds every event up to it, such as your last one"
    ),
]

KEY: Final = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": True,
    "description": "The command's id: with the same key and content it happens once, however often sent",
    "schema": {"type": "string", "minLength": 1, "maxLength": MAX_ID_LENGTH, "pattern": ID_PATTERN},
    "example": "order-778-charge-1",
}
"""How the description of the API has the header."""
_key: Final = TypeAdapter(Id)


async def only_known(request: Request) -> None:
    """A dependency: no parameter that the route does not have. A filter with a typing error filters nothing.

    Raises:
        Problem: 422.
    """
    names = frozenset(each.alias for each in request.scope["route"].dependant.query_params)
    query_of(request, names)


def query_of(request: Request, names: frozenset[str]) -> dict[str, str]:
    """The parameters of a request's query by name.

    Raises:
        Problem: 422 one that there is none of, or that stands there twice.
    """
    if not request.scope["query_string"]:
        return {}
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in names or name in found:
            what = "stands there twice" if name in found else "is no parameter"
            raise invalid([(f"query.{name[:50]}", what)])
        found[name] = value
    return found


def key_of(request: Request) -> str:
    """The Idempotency-Key of a request, which may stand in quotes.

    Raises:
        Problem: 422 it is missing, or can not be one.
    """
    given = request.headers.get("idempotency-key")
    if given is None:
        raise invalid([("header.Idempotency-Key", "is missing")])
    if len(given) > 1 and given[0] == given[-1] == '"':
        given = given[1:-1]
    try:
        return _key.validate_python(given)
    except ValidationError as error:
        raise invalid([("header.Idempotency-Key", error.errors()[0]["msg"])]) from None
