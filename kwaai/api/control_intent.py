"""The control API's routes for intents: what would answer this, and what peers would do for it.

Bodies are checked here; the node does the work (`kwaai.node.intent_control.IntentControl`).
"""

from __future__ import annotations

from typing import Annotated

from aiohttp import web
from pydantic import Field

from kwaai import limits
from kwaai.api.control_bodies import NODE, Body, parse_body, to_json
from kwaai.api.demand import KwaaiBody, asked_in_body
from kwaai.api.errors import json_response
from kwaai.errors import UserError
from kwaai.node.intent_control import IntentRequest


class _Intent(Body):
    model: Annotated[str, Field(max_length=limits.MODEL_NAME_CHARS_MAX)] = ""
    kwaai: KwaaiBody = KwaaiBody()
    """As in a body of /v1/chat/completions."""
    prompt_tokens: Annotated[int, Field(ge=1, le=limits.INTENT_PROMPT_TOKENS_MAX)] = 1

    def request(self) -> IntentRequest:
        """Return it as the node takes it. Raises UserError naming the field."""
        asked = asked_in_body(self.kwaai)
        if asked.circuit is not None:
            raise UserError("a circuit has its path already; leave it out", param="kwaai.circuit")
        return IntentRequest(
            self.model, asked.demand, asked.route, asked.privacy, self.prompt_tokens
        )


def add_intent_routes(router: web.UrlDispatcher) -> None:
    """Add the routes under /control/intent."""
    router.add_post("/control/intent/explain", _explain)
    router.add_post("/control/intent/cast", _cast)


async def _explain(request: web.Request) -> web.Response:
    body = await parse_body(request, _Intent)
    return json_response(to_json(await request.app[NODE].intents.explain(body.request())))


async def _cast(request: web.Request) -> web.Response:
    body = await parse_body(request, _Intent)
    return json_response(to_json(await request.app[NODE].intents.cast(body.request())))
