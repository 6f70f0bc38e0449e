"""Which hub, as whom, and where another program may already have put its files: from the HF_*
variables.

Fetches and writes nothing. Source: the variables and the cache layout that Hugging Face's own
tools use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kwaai.errors import UserError
from kwaai.limits import TOKEN_BYTES_MAX
from kwaai.models.http_client import origin

DEFAULT_ENDPOINT = "https://huggingface.co"


@dataclass(frozen=True, slots=True)
class HubSettings:
    endpoint: str
    token: str | None = field(repr=False)
    cache: Path
    """`hub/` below HF_HOME: read, never written."""

    @classmethod
    def from_env(cls, env: Mapping[str, str]) -> HubSettings:
        """Read HF_ENDPOINT, HF_TOKEN (or HUGGING_FACE_HUB_TOKEN, or the token file), HF_HOME.
        Raises UserError.
        """
        endpoint = (env.get("HF_ENDPOINT") or DEFAULT_ENDPOINT).strip().rstrip("/")
        try:
            origin(endpoint)
        except ValueError as error:
            raise UserError(
                f"HF_ENDPOINT is not usable ({error}): set it to an address such as "
                f"{DEFAULT_ENDPOINT}",
                param="HF_ENDPOINT",
            ) from error
        home = _home(env)
        cache = Path(env["HF_HUB_CACHE"]).expanduser() if env.get("HF_HUB_CACHE") else home / "hub"
        return cls(endpoint, _token(env, home), cache)

    def cached(self, owner: str, model: str, commit: str, path: str, size: int) -> Path | None:
        """Return a file that Hugging Face's tools hold complete (by its size) in their cache, if
        there is one.
        """
        file = self.cache / f"models--{owner}--{model}" / "snapshots" / commit / path
        try:
            return file if file.is_file() and file.stat().st_size == size else None
        except OSError:
            return None


def _home(env: Mapping[str, str]) -> Path:
    if env.get("HF_HOME"):
        return Path(env["HF_HOME"]).expanduser()
    caches = env.get("XDG_CACHE_HOME")
    if caches:
        return Path(caches) / "huggingface"
    return Path(env["HOME"] if env.get("HOME") else Path.home()) / ".cache" / "huggingface"


def _token(env: Mapping[str, str], home: Path) -> str | None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if env.get(name, "").strip():
            return _usable(env[name].strip(), name)
    file = Path(env["HF_TOKEN_PATH"]).expanduser() if env.get("HF_TOKEN_PATH") else home / "token"
    try:
        with file.open("rb") as f:
            text = f.read(TOKEN_BYTES_MAX + 1).decode("utf-8", "replace").strip()
    except OSError:
        return None
    return _usable(text, str(file)) if text else None


def _usable(token: str, source: str) -> str:
    if len(token) > TOKEN_BYTES_MAX or not re.fullmatch(r"[\x21-\x7e]+", token):
        raise UserError(
            f"{source} does not hold a token (one word of plain characters): correct or unset it"
        )
    return token
