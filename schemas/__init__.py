"""JSON Schemas as package data. Imports nothing of ours and validates nothing itself."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any


@cache
def load_schema(name: str) -> dict[str, Any]:
    """Return the schema `name` (`model-manifest` for model-manifest.schema.json). Do not change it.

    Raises FileNotFoundError when there is none of that name.
    """
    text = files(__package__).joinpath(f"{name}.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema
