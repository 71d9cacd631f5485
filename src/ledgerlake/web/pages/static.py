"""What the pages load: a style sheet, a picture and two scripts, of which one is plotly's."""

from __future__ import annotations

import gzip
import hashlib
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from ledgerlake.web.limits import FILE_CHUNK
from ledgerlake.web.problems import Problem

router = APIRouter()

_TYPES: Final = {
    "charts.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
    "plotly.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
}
_STYLE_ID: Final = re.compile(r'getElementById\("([0-9a-f]{64})"\)')
_FOR_EVER: Final = "public, max-age=31536000, immutable"


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    digest: str


def url(name: str) -> str:
    """Where a file is found; another one with other content, so that a browser may keep it for ever."""
    return f"/static/{_file(name).digest[:16]}/{name}"


@cache
def styles_of_maps() -> tuple[str, ...]:
    """The ids of the style elements that plotly's script adds for maps, where nothing has these ids.

    No page draws a map, and the policy for pages lets no such element in: it would only be complained of.
    """
    return tuple(sorted(set(_STYLE_ID.findall(_file("plotly.js").content.decode()))))


@router.get("/static/{path:path}")
def static_file(request: Request, path: str) -> Response:
    """A file. It needs no token: it says nothing of anybody."""
    digest, _, name = path.partition("/")
    if name not in _TYPES or digest != _file(name).digest[:16]:
        raise Problem(404, "no_such_page", "There is no such file.")
    found = _file(name)
    headers = {"Cache-Control": _FOR_EVER, "ETag": f'"{found.digest}"', "Vary": "Accept-Encoding"}
    if found.digest in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    content = found.content
    if "gzip" in request.headers.get("accept-encoding", ""):
        content, headers["Content-Encoding"] = _packed(name), "gzip"
    headers["Content-Length"] = str(len(content))
    return StreamingResponse(_pieces(content), headers=headers, media_type=_TYPES[name])


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    # No more of it than one piece waits in memory for each of those who take it slowly.
    for at in range(0, len(content), FILE_CHUNK):
        yield content[at : at + FILE_CHUNK]


@cache
def _file(name: str) -> _File:
    if name == "plotly.js":
        # What the installed plotly draws with: it fits the figures that it makes.
        content = (files("plotly") / "package_data" / "plotly.min.js").read_bytes()
    else:
        content = (files("ledgerlake.web") / "static" / name).read_bytes()
    return _File(content, hashlib.sha256(content).hexdigest())


@cache
def _packed(name: str) -> bytes:
    return gzip.compress(_file(name).content, 6, mtime=0)
