"""Templates as responses, and how figures, times and other people's texts are shown in them."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from typing import Any, Final
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse

from ledgerlake.reports.formats.html import visible
from ledgerlake.reports.formats.totals import units
from ledgerlake.settings import TOKEN_PREFIX
from ledgerlake.web.pages import static
from ledgerlake.web.sessions import COOKIE

PROTECTED: Final = "(protected)"
"""Shown for what is personal, to those whose role does not open it."""
# Characters that turn the direction of what follows: with them a name can look like another one.
_TURNING: Final = dict.fromkeys(
    [0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)], 0xFFFD
)


def render(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """A page; the templates know the principal (None: nobody signed in) and the form's token beside it."""
    cookie = request.cookies.get(COOKIE)
    principal = getattr(request.state, "principal", None)
    text = _environment().get_template(template).render(
        principal=principal,
        sign_out_token=request.app.state.service.sessions.form_token(cookie) if cookie and principal else "",
        **context,
    )  # fmt: skip
    return HTMLResponse(text, status, headers={"Cache-Control": "no-store"})


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("ledgerlake.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "amount": amount,
        "month": month,
        "plural": plural,
        "seen": seen,
        "size": size,
        "time": time,
        "units": units,
        "words": words,
    }
    environment.globals |= {"query": query, "static": static.url, "styles_of_maps": static.styles_of_maps}
    return environment


def seen(text: object) -> Markup:
    """Other people's text: apart from its surroundings in direction, no invisible character, not too long."""
    if isinstance(text, str) and text.startswith(TOKEN_PREFIX):
        shown = PROTECTED
    else:
        shown = visible(str(text)).translate(_TURNING)
    return Markup("<bdi>{}</bdi>").format(shown)


def amount(value: Decimal | str | None) -> str:
    """An exact amount with its thousands apart; what is none as it was given."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, Decimal) else visible(value)


def time(at: datetime | str | None, zone: str = "UTC") -> Markup:
    """An instant to the second, and for programs exactly."""
    if not isinstance(at, datetime):
        return seen("–" if at is None else at)
    shown = f"{at.astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M:%S}"
    exactly = at.astimezone(UTC).isoformat(timespec="milliseconds")
    return Markup('<time datetime="{}">{}</time>').format(exactly, shown)


def month(period: str) -> str:
    """2011-11 as November 2011."""
    try:
        return f"{datetime.strptime(period, '%Y-%m'):%B %Y}"  # noqa: DTZ007 - a month has no zone
    except ValueError:
        return period


def size(count: int | None) -> str:
    """Bytes, short."""
    if count is None:
        return "–"
    shown = float(count)
    for unit in ("bytes", "kB", "MB"):
        if shown < 1_000:
            return f"{shown:.0f} {unit}" if unit == "bytes" else f"{shown:.1f} {unit}"
        shown /= 1_000
    return f"{shown:.1f} GB"


def plural(count: int, noun: str) -> str:
    """How many of them."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def words(name: str) -> str:
    """A name of programs for people: partially_refunded, PaymentRefunded."""
    text = "".join(f" {each.lower()}" if each.isupper() else each for each in name).replace("_", " ").strip()
    return text[:1].upper() + text[1:]


def query(**parameters: object) -> str:
    """?a=1&b=2 of the parameters that are given."""
    given: Iterable[tuple[str, object]] = ((name, value) for name, value in parameters.items() if value)
    text = urlencode(list(given), errors="surrogatepass")
    return f"?{text}" if text else ""
