"""Signing in with a token, and out."""

from __future__ import annotations

from typing import Annotated, Final

from fastapi import APIRouter, Form
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from ledgerlake.web.access import signed_in
from ledgerlake.web.pages.rendering import render
from ledgerlake.web.problems import Problem
from ledgerlake.web.service import Service
from ledgerlake.web.sessions import COOKIE, SECONDS, VISITOR, visitor

router = APIRouter()

_HOME: Final = "/"


@router.get("/sign-in")
async def form(request: Request, next: str = _HOME) -> Response:
    """The form."""
    if request.headers.get("sec-fetch-site") == "cross-site":
        # A link elsewhere led here, and with a link from elsewhere a browser sends no strict cookie: whoever
        # is signed in is recognized once the page asks by itself.
        return render(request, "again.html", next=_local(next))
    return _form(request, next)


@router.post("/sign-in")
async def sign_in(
    request: Request,
    token: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = _HOME,
    form_token: Annotated[str, Form()] = "",
) -> Response:
    """Take a token for a session's cookie, and go where somebody wanted to go."""
    service: Service = request.app.state.service
    cookie = request.cookies.get(VISITOR)
    if _elsewhere(request) or not service.sessions.is_form_token(form_token, cookie):
        return _form(request, next, _forged().message, 403)
    principal = await signed_in(request, token.strip())
    if principal is None:
        service.limits.unknown(request)
        return _form(request, next, "That token is unknown, has expired, or was revoked.", 401)
    response = RedirectResponse(_local(next), 303, {"Cache-Control": "no-store"})
    _set(request, response, COOKIE, service.sessions.issue(principal.token_id), SECONDS)
    response.delete_cookie(VISITOR, httponly=True, samesite="strict")
    return response


@router.post("/sign-out")
async def sign_out(request: Request, form_token: Annotated[str, Form()] = "") -> Response:
    """Forget the session."""
    service: Service = request.app.state.service
    if _elsewhere(request) or not service.sessions.is_form_token(form_token, request.cookies.get(COOKIE)):
        raise _forged()
    response = RedirectResponse("/sign-in", 303, {"Cache-Control": "no-store"})
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response


def _forged() -> Problem:
    return Problem(
        403,
        "forged_form",
        "This form is too old, or was sent from another site.",
        "Open the page again, and send it from there.",
    )


def _form(request: Request, next: str, wrong: str | None = None, status: int = 200) -> Response:
    service: Service = request.app.state.service
    known = request.cookies.get(VISITOR)
    cookie = known or visitor()
    response = render(
        request,
        "sign_in.html",
        status,
        next=_local(next),
        wrong=wrong,
        form_token=service.sessions.form_token(cookie),
    )
    if known is None:
        _set(request, response, VISITOR, cookie, None)
    return response


def _local(next: str) -> str:
    """A path of this site: what a browser could take for another one is not."""
    plain = next.isascii() and next.isprintable() and "\\" not in next
    return next if plain and next.startswith("/") and not next.startswith("//") else _HOME


def _elsewhere(request: Request) -> bool:
    """Whether the browser says that another site sent the form."""
    return request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none")


def _set(request: Request, response: Response, name: str, value: str, seconds: int | None) -> None:
    secure = request.url.scheme == "https"
    response.set_cookie(
        name, value, max_age=seconds, secure=secure, httponly=True, samesite="strict"
    )  # fmt: skip
