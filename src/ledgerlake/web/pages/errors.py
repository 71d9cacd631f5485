"""What goes wrong, as a page."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from ledgerlake.web.pages.rendering import render


def page(request: Request, status: int, title: str, detail: str, remedy: str | None) -> Response:
    """A page that says what is wrong and what to do about it; of what failed the request's id, too."""
    # For the log: of what the caller did wrong that says nothing.
    failed = request.state.request_id if status >= 500 else None
    return render(request, "error.html", status, title=title, detail=detail, remedy=remedy, failed=failed)
