"""Routes that many ask for at once: described like all others, without what FastAPI does for a call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final, TypeAlias, cast

from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import Response

from ledgerlake.web.access import Allowed, Principal

_NOT_SHOWN: Final = frozenset({"title", "default", "description"})
_Endpoint: TypeAlias = Callable[[Request, Principal], Awaitable[Response]]


class Lean(APIRoute):
    """A route whose endpoint takes the request and the principal, and reads all else from the request itself.

    To fill the parameters of an endpoint takes FastAPI longer than carrying out a command takes us.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """What serves a request."""
        endpoint = cast(_Endpoint, self.endpoint)
        [allowed] = [cast(Allowed, each.call) for each in self.dependant.dependencies]

        async def handle(request: Request) -> Response:
            return await endpoint(request, await allowed(request))

        return handle


def parameters_of(model: type[BaseModel]) -> dict[str, Any]:
    """The fields of a model as the parameters of a query, for `openapi_extra`."""
    found = model.model_json_schema()
    required = found.get("required", ())
    parameters = []
    for name, field in found["properties"].items():
        schema = {key: value for key, value in field.items() if key not in _NOT_SHOWN}
        choices = [each for each in schema.pop("anyOf", ()) if each != {"type": "null"}]
        for choice in choices:
            schema.update(choice)
        parameters.append(
            {
                "name": name,
                "in": "query",
                "required": name in required,
                "description": field.get("description", ""),
                "schema": schema,
            }
        )
    return {"parameters": parameters}
