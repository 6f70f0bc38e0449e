"""Vectors from an OpenAI-compatible endpoint: POST <base>/embeddings, texts in, vectors out.

Over https, or plain http to this machine only; no redirect, proxy or cookie. What comes back is
checked for its shape and bounds; that the vectors are good cannot be. Source: OpenAI's API
reference, "Create embeddings".
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
from collections.abc import Sequence
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import numpy as np
from numpy.typing import NDArray

from kwaai import __version__
from kwaai.errors import (
    Busy,
    ConfigError,
    PeerMisbehaved,
    PeerRefused,
    PeerStalled,
    PeerUnreachable,
)
from kwaai.limits import (
    EMBED_ENDPOINT_ANSWER_BYTES_MAX,
    EMBED_ENDPOINT_ATTEMPTS,
    EMBED_ENDPOINT_PAUSE_S_MAX,
    EMBED_ENDPOINT_TEXTS,
    EMBED_ENDPOINT_TIMEOUT_S,
    EMBED_ENDPOINT_TOKENS_GUESS,
    EMBED_ENDPOINT_URL_CHARS_MAX,
    EMBED_TEXT_CHARS_MAX,
    EMBEDDING_LENGTH_MAX,
)

_CHARS_PER_TOKEN = 3
"""A guess for texts whose tokens are not counted: on the high side for English (about 4)."""
_SHOWN_CHARS = 200


class EmbeddingEndpoint:
    """One model of one endpoint. Belongs to one event loop."""

    tokens_max = EMBED_ENDPOINT_TOKENS_GUESS
    """Of a text that most models read; an endpoint does not say."""

    def __init__(self, base_url: str, model: str, api_key: str | None = None) -> None:
        """`base_url`: up to `/v1`. Raises ConfigError unless it is https, or http to loopback."""
        self._url, self.host = check_endpoint(base_url), urlsplit(base_url).netloc
        self._model, self._key = model, api_key
        self._session: aiohttp.ClientSession | None = None
        self.dimension = 0
        """Of the vectors; 0 before `start`."""

    async def start(self) -> None:
        """Ask for one vector: now the dimension is known. Raises as `embed`."""
        self.dimension = (await self._ask(["dimension"])).shape[1]

    async def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (texts, dimension) float32, each row of length 1.

        Raises PeerUnreachable, PeerStalled, PeerRefused, PeerMisbehaved, Busy.
        """
        out = np.empty((len(texts), self.dimension), np.float32)
        for first in range(0, len(texts), EMBED_ENDPOINT_TEXTS):
            part = [text[:EMBED_TEXT_CHARS_MAX] for text in texts[first:][:EMBED_ENDPOINT_TEXTS]]
            vectors = await self._ask(part)
            if vectors.shape[1] != self.dimension:
                raise PeerMisbehaved(
                    f"{self.host} sent vectors of {vectors.shape[1]} numbers, before it was "
                    f"{self.dimension}: another model answers"
                )
            out[first : first + len(part)] = vectors
        return out

    def count_tokens(self, text: str) -> int:
        """Return about how many tokens `text` has, rather too many."""
        return -(-len(text.encode("utf-8", "replace")) // _CHARS_PER_TOKEN)

    async def close(self) -> None:
        """Close the connection. Idempotent."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _ask(self, texts: list[str]) -> NDArray[np.float32]:
        # Empty texts are refused by some endpoints.
        body = {
            "model": self._model,
            "input": [text if text.strip() else "." for text in texts],
            "encoding_format": "float",
        }
        data = json.dumps(body).encode()  # ASCII: lone surrogates stay escaped, and valid JSON
        for attempt in range(EMBED_ENDPOINT_ATTEMPTS):
            try:
                answer = await self._post(data)
            except Busy as error:
                if attempt + 1 == EMBED_ENDPOINT_ATTEMPTS:
                    raise
                await asyncio.sleep(min(error.retry_after_s or 1.0, EMBED_ENDPOINT_PAUSE_S_MAX))
            else:
                return await asyncio.to_thread(parse_answer, answer, len(texts), self.host)
        raise Busy(f"{self.host} is busy")

    async def _post(self, data: bytes) -> bytes:
        headers = {"Content-Type": "application/json", "Accept": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        try:
            async with (
                asyncio.timeout(EMBED_ENDPOINT_TIMEOUT_S),
                self._open().post(
                    self._url, data=data, headers=headers, allow_redirects=False
                ) as answer,
            ):
                body = await _body(answer, self.host)
        except TimeoutError as error:
            raise PeerStalled(
                f"{self.host} gave no answer in {EMBED_ENDPOINT_TIMEOUT_S:g} s"
            ) from error
        except (aiohttp.ClientConnectorError, OSError) as error:
            raise PeerUnreachable(f"{self.host} cannot be reached: {error!s:.200}") from error
        except (aiohttp.ClientError, ValueError) as error:
            raise PeerMisbehaved(
                f"{self.host} sent no well-formed answer: {error!s:.200}"
            ) from error
        if answer.status in (429, 503):
            after = answer.headers.get("Retry-After", "")
            pause_s = float(after) if after.isascii() and after.isdigit() else 1.0
            raise Busy(f"{self.host} is busy ({answer.status})", retry_after_s=pause_s)
        if answer.status != 200:
            raise PeerRefused(
                f"{self.host} answered {answer.status} to {self._model!r:.100}: {_said(body)}"
            )
        return body

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                headers={"User-Agent": f"kwaainet/{__version__}"},
            )
        return self._session


def check_endpoint(base_url: str) -> str:
    """Return the URL to post to. Raises ConfigError for what is neither https nor loopback."""
    if len(base_url) > EMBED_ENDPOINT_URL_CHARS_MAX or not base_url.isprintable():
        raise ConfigError("the endpoint's URL is too long, or not printable")
    try:
        parts = urlsplit(base_url)
        name, _ = parts.hostname or "", parts.port
    except ValueError as error:
        raise ConfigError(f"{base_url!r:.100} is not a URL: {error}") from error
    if parts.scheme not in ("http", "https") or not name or parts.query or parts.fragment:
        raise ConfigError(f"{base_url!r:.100} is not a base URL: https://host/v1")
    if parts.username is not None or parts.password is not None:
        raise ConfigError("a URL with a user name or password in it is refused; use the key file")
    if parts.scheme == "http" and not _is_loopback(name):
        raise ConfigError(
            f"{base_url!r:.100} would send every text in the clear: use https, or an endpoint on "
            "this machine"
        )
    return base_url.rstrip("/") + "/embeddings"


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _body(answer: aiohttp.ClientResponse, host: str) -> bytes:
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > EMBED_ENDPOINT_ANSWER_BYTES_MAX:
            raise PeerMisbehaved(f"{host} sent more than {EMBED_ENDPOINT_ANSWER_BYTES_MAX} bytes")
    return bytes(body)


def parse_answer(body: bytes, count: int, host: str) -> NDArray[np.float32]:
    """Return `count` vectors of length 1 in the order of the texts: float32 (count, dimension).

    Raises PeerMisbehaved for anything else than that.
    """
    try:
        items = json.loads(body)["data"]
        if not isinstance(items, list) or len(items) != count:
            raise ValueError(f"not {count} vectors")
        rows = sorted(items, key=lambda item: int(item["index"]))
        if [item["index"] for item in rows] != list(range(count)):
            raise ValueError("the indexes are not those of the texts")
        vectors = np.array([item["embedding"] for item in rows], np.float64)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise PeerMisbehaved(f"{host} sent no embeddings: {error!s:.{_SHOWN_CHARS}}") from error
    if vectors.ndim != 2 or not 1 <= vectors.shape[1] <= EMBEDDING_LENGTH_MAX:
        raise PeerMisbehaved(f"{host} sent vectors of the shape {vectors.shape}")
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    if not (np.isfinite(lengths).all() and (lengths > 0).all()):
        raise PeerMisbehaved(f"{host} sent a vector without a direction")
    normal: NDArray[np.float32] = (vectors / lengths).astype(np.float32)
    return normal


def _said(body: bytes) -> str:
    """What an endpoint says of an error, as one printable line."""
    text: Any = body[: 16 * _SHOWN_CHARS].decode("utf-8", "replace")
    try:
        error = json.loads(body)["error"]
        text = error["message"] if isinstance(error, dict) else error
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return "".join(c if c.isprintable() else " " for c in str(text))[:_SHOWN_CHARS]
