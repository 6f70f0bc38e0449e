"""The control API's routes for circuits: paths that are kept open for reuse.

Bodies are checked here; the node does the work (`kwaai.node.circuit_control.CircuitControl`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from aiohttp import web
from pydantic import Field

from kwaai import limits
from kwaai.api.control_bodies import NODE, Body, parse_body, to_json
from kwaai.api.demand import KwaaiBody, asked_in_body
from kwaai.api.errors import json_response
from kwaai.errors import UserError
from kwaai.node.circuit_control import CircuitRequest

_Name = Annotated[str, Field(max_length=limits.CIRCUIT_NAME_CHARS_MAX)]


class _Create(Body):
    model: Annotated[str, Field(max_length=limits.MODEL_NAME_CHARS_MAX)] = ""
    kwaai: KwaaiBody = KwaaiBody()
    """As in a body of /v1/chat/completions."""
    ttl_s: Annotated[float, Field(gt=0, le=limits.CIRCUIT_TTL_S_MAX)] = limits.CIRCUIT_TTL_S_DEFAULT
    name: _Name = ""
    prefix: Annotated[str, Field(max_length=limits.PROMPT_BYTES_MAX)] = ""
    prefix_kind: Literal["system", "text"] = "system"

    def request(self) -> CircuitRequest:
        """Return it as the node takes it. Raises UserError naming the field."""
        asked = asked_in_body(self.kwaai)
        if asked.circuit is not None:
            raise UserError("a circuit is not made of another one", param="kwaai.circuit")
        return CircuitRequest(
            model=self.model,
            demand=asked.demand,
            route=asked.route,
            privacy=asked.privacy,
            ttl_s=self.ttl_s,
            name=self.name,
            prefix=self.prefix,
            prefix_kind=self.prefix_kind,
        )


class _Circuit(Body):
    circuit: Annotated[str, Field(min_length=1, max_length=limits.CIRCUIT_NAME_CHARS_MAX)]
    """Its id, or its name."""


def add_circuit_routes(router: web.UrlDispatcher) -> None:
    """Add the routes under /control/circuits."""
    router.add_get("/control/circuits", _circuits)
    router.add_post("/control/circuits/create", _create)
    router.add_post("/control/circuits/show", _show)
    router.add_post("/control/circuits/close", _close)


async def _circuits(request: web.Request) -> web.Response:
    return json_response({"circuits": to_json(request.app[NODE].circuits.circuits())})


async def _create(request: web.Request) -> web.Response:
    body = await parse_body(request, _Create)
    return json_response(to_json(await request.app[NODE].circuits.create(body.request())))


async def _show(request: web.Request) -> web.Response:
    body = await parse_body(request, _Circuit)
    return json_response(to_json(request.app[NODE].circuits.show(body.circuit)))


async def _close(request: web.Request) -> web.Response:
    body = await parse_body(request, _Circuit)
    return json_response(to_json(await request.app[NODE].circuits.close(body.circuit)))
