"""What the control API's routes share: the node, the shape of a body, dataclasses as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, ValidationError

from kwaai.api.jsonbody import read_json_body
from kwaai.errors import UserError
from kwaai.node.control import NodeControl

NODE: web.AppKey[NodeControl] = web.AppKey("node", NodeControl)


class Body(BaseModel):
    """A body of a request: nothing but the fields that are known."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


_Parsed = TypeVar("_Parsed", bound=Body)


async def parse_body(request: web.Request, shape: type[_Parsed]) -> _Parsed:
    """Return the body of a request as `shape`. Raises UserError that names the field."""
    body = await read_json_body(request)
    try:
        return shape.model_validate(body)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        param = ".".join(str(step) for step in first["loc"])
        raise UserError(f"'{param}': {first['msg'].lower()}", param=param) from None


def to_json(value: Any) -> Any:
    """Turn dataclasses, tuples and mappings into what JSON has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): to_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(item) for item in value]
    return value
