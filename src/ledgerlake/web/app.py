"""The application: the routes of the API and of the pages, on one ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from ledgerlake.settings import Settings
from ledgerlake.web import errors, pages
from ledgerlake.web.api import commands, operations, queries, reports
from ledgerlake.web.api.described import with_problems
from ledgerlake.web.envelope import Envelope
from ledgerlake.web.service import Service


def create_app(settings: Settings | None = None) -> FastAPI:
    """The application for a ledger (default: the one that the environment names).

    It opens the ledger when it starts, and closes it when it ends, once all requests are answered.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        found = Settings.from_env() if settings is None else settings
        app.state.service = await asyncio.to_thread(Service.open, found)
        try:
            yield
        finally:
            await asyncio.to_thread(app.state.service.close)

    app = FastAPI(
        title="LedgerLake",
        version="1",
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
        # It would tell addresses and the texts of errors; see `ledgerlake.telemetry` for what is told.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    app.add_middleware(Envelope)
    errors.register(app)
    for router in (commands.router, queries.figures, queries.router, reports.router, operations.router):
        # Not included: what is in an included router is matched twice. Those that are asked most come first.
        app.router.routes.extend(router.routes)
    app.include_router(pages.router)
    with_problems(app)
    return app
