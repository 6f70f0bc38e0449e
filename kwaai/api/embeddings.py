"""`POST /v1/embeddings`: vectors of texts, as OpenAI's API gives them, by the node's one embedder.

The first request may open it, which may fetch its model. Texts are embedded as they come, without
the words that a model wants before passages and queries: those are the client's. docs/api.md.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeAlias

import numpy as np
from aiohttp import web
from numpy.typing import NDArray
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import PydanticCustomError

from kwaai import limits
from kwaai.api.errors import did_you_mean, encode_json
from kwaai.api.jsonbody import read_json_body
from kwaai.api.unsupported import EMBEDDING, drop_neutral
from kwaai.api.validation import explain
from kwaai.errors import Busy, ModelNotFound, ResourceError, UserError
from kwaai.vpk.types import EmbedderSpec


class TextEmbedder(Protocol):
    """What the route needs of `kwaai.node.embedders.NodeEmbedder`."""

    @property
    def spec(self) -> EmbedderSpec: ...

    @property
    def tokens_max(self) -> int: ...

    @property
    def cuts(self) -> bool: ...

    async def embed_as_is(self, texts: Sequence[str]) -> NDArray[np.float32]: ...

    def count_tokens(self, text: str) -> int: ...


class SharedEmbedder(Protocol):
    """What the route needs of `kwaai.node.embedders.Embedders`."""

    @property
    def name(self) -> str | None: ...

    async def get(self) -> TextEmbedder: ...


GetEmbedders: TypeAlias = Callable[[], SharedEmbedder]
"""Raises ResourceError while there is none yet."""
_EMBEDDERS: web.AppKey[GetEmbedders] = web.AppKey("embedders")


def _refuse(message: str) -> PydanticCustomError:
    return PydanticCustomError("kwaai", "{message}", {"message": message})


def _parse_input(value: Any) -> Any:
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not texts:
        raise _refuse("must be a string or a list of strings")
    if any(type(item) in (int, list) for item in texts):
        raise _refuse("holds token ids, whose meaning depends on the model: send the text")
    if len(texts) > limits.API_EMBED_TEXTS_MAX:
        raise _refuse(f"holds {len(texts)} texts; at most {limits.API_EMBED_TEXTS_MAX} are taken")
    for index, text in enumerate(texts):
        if not isinstance(text, str) or not text:
            raise _refuse(f"item {index} must be a string that is not empty")
    return texts


class EmbeddingBody(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)

    model: str = Field(min_length=1, max_length=limits.MODEL_NAME_CHARS_MAX)
    input: Annotated[list[str], BeforeValidator(_parse_input)]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = Field(default=None, ge=1, le=limits.EMBEDDING_LENGTH_MAX)


def parse_embedding(body: dict[str, Any]) -> EmbeddingBody:
    """Parse the body. Raises UserError naming the parameter at fault."""
    try:
        return EmbeddingBody.model_validate(drop_neutral(body, EMBEDDING))
    except ValidationError as error:
        raise explain(error, [*EmbeddingBody.model_fields, *EMBEDDING]) from None


def add_embeddings(app: web.Application, embedders: GetEmbedders) -> None:
    """Add the route. `embedders` is asked each time."""
    app[_EMBEDDERS] = embedders
    app.router.add_post("/v1/embeddings", _Route(embedders).answer)


def listed_embedders(app: web.Application) -> list[dict[str, Any]]:
    """Return the embedder as `/v1/models` lists models; none where there is none."""
    if _EMBEDDERS not in app:
        return []
    try:
        name = app[_EMBEDDERS]().name
    except ResourceError:  # it is not open yet
        return []
    if name is None:
        return []
    model = {"id": name, "object": "model", "created": 0, "owned_by": "kwaainet"}
    return [{**model, "capabilities": ["embeddings"]}]


class _Route:
    def __init__(self, embedders: GetEmbedders) -> None:
        self._embedders = embedders
        self._under_way = 0

    async def answer(self, request: web.Request) -> web.Response:
        if self._under_way >= limits.API_EMBED_REQUESTS_MAX:
            raise Busy(
                f"{self._under_way} requests for embeddings are under way, the most this server "
                "takes; try again shortly",
                retry_after_s=1.0,
            )
        self._under_way += 1
        try:
            return await self._answer(parse_embedding(await read_json_body(request)))
        finally:
            self._under_way -= 1

    async def _answer(self, body: EmbeddingBody) -> web.Response:
        shared = self._embedders()
        if body.model != shared.name:
            names = [shared.name] if shared.name is not None else []
            raise ModelNotFound(
                f"there is no embedding model '{body.model[:100]}' here"
                f"{did_you_mean(body.model, names)} (served: {shared.name or 'none'})",
                param="model",
            )
        embedder = await shared.get()
        _check_dimensions(body.dimensions, embedder)
        vectors = await embedder.embed_as_is(body.input)
        data = await asyncio.to_thread(_word, body, embedder, vectors)
        return web.Response(body=data, content_type="application/json")


def _check_dimensions(dimensions: int | None, embedder: TextEmbedder) -> None:
    own = embedder.spec.dimension
    if dimensions is None or dimensions == own:
        return
    if dimensions > own:
        raise UserError(f"'dimensions' must be at most {own}, the model's", param="dimensions")
    if not embedder.cuts:
        raise UserError(
            f"'dimensions' must be {own}, or left out: the first numbers of {embedder.spec.model}'s"
            " vectors mean nothing by themselves",
            param="dimensions",
        )


def _word(body: EmbeddingBody, embedder: TextEmbedder, vectors: NDArray[np.float32]) -> bytes:
    if body.dimensions is not None and body.dimensions < vectors.shape[1]:
        vectors = vectors[:, : body.dimensions]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        vectors = vectors / np.maximum(lengths, np.finfo(np.float32).tiny)
    worded: list[Any] = vectors.tolist()
    if body.encoding_format == "base64":
        rows = vectors.astype("<f4")
        worded = [base64.b64encode(row.tobytes()).decode("ascii") for row in rows]
    counts = (embedder.count_tokens(text[: limits.EMBED_TEXT_CHARS_MAX]) for text in body.input)
    tokens = sum(min(count, embedder.tokens_max) for count in counts)
    return encode_json(
        {
            "object": "list",
            "model": embedder.spec.model,
            "data": [
                {"object": "embedding", "index": index, "embedding": item}
                for index, item in enumerate(worded)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )
