"""Search a base: scan the codes here, fetch what seems nearest, rank it exactly, cite the best.

Hosts that are away or lie make an answer poorer, never wrong: what does not open is not used, and
the answer says what it lacks. docs/vpk.md, "Search".
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kwaai.errors import UserError
from kwaai.limits import (
    BASE_CANDIDATES_DEFAULT,
    BASE_CANDIDATES_MAX,
    BASE_PIR_ROWS_READ,
    BASE_RESULTS_DEFAULT,
    BASE_RESULTS_MAX,
    BASE_TEXT_RANKED_MAX,
    BASE_TEXT_ROUNDS_MAX,
)
from kwaai.vpk import base_documents as docs
from kwaai.vpk import base_rows as rows
from kwaai.vpk.base_core import Core, check_vectors, open_texts
from kwaai.vpk.fulltext import search_texts
from kwaai.vpk.fusion import Fused, Ranked, fuse
from kwaai.vpk.host_reads import Fetched, HostShare
from kwaai.vpk.keys import TEXT, VECTOR
from kwaai.vpk.oblivious import read_texts
from kwaai.vpk.records import TextRecord, decode_vectors
from kwaai.vpk.seal import open_many
from kwaai.vpk.types import Object

_NO_ROWS: Final = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True)
class Query:
    """What is looked for."""

    text: str = ""
    """For full text. Any text."""
    vector: NDArray[np.float32] | None = None
    """(dimension,): of the same text, by the base's embedder; None: full text alone."""
    k: int = BASE_RESULTS_DEFAULT
    """Passages wanted."""
    candidates: int = BASE_CANDIDATES_DEFAULT
    """Vectors fetched and ranked exactly: more find more, and cost more bytes."""
    fulltext: bool = True
    passages: bool = True
    """Fetch the texts of the hits; else they are empty."""
    vector_weight: float = 1.0
    text_weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Hit:
    """A passage that was found."""

    row: tuple[int, int]
    """(writer, number): what the passage is called on every device."""
    document: str
    """The document's name, as it is cited."""
    path: str
    uid: str
    """Of the document, hex digits; empty where it is not known (any more)."""
    heading: tuple[str, ...]
    page: int | None
    start: int
    stop: int
    text: str
    score: float
    """Of the fusion: comparable within one answer only."""
    vector_rank: int | None
    vector_score: float | None
    """The cosine, of int8 vectors."""
    text_rank: int | None
    text_score: float | None
    """BM25."""
    host: str
    """Who sent the text; empty where nobody was asked."""


@dataclass(frozen=True, slots=True)
class Explain:
    """What a search did."""

    candidates: int = 0
    """Rows that the codes chose."""
    fetched: int = 0
    """Vectors of these that came."""
    text_ranked: int = 0
    """Rows that full text found."""
    payload_bytes: int = 0
    hosts: tuple[HostShare, ...] = ()
    stages_ms: dict[str, float] = field(default_factory=dict)
    """By stage: scan, vectors, fulltext, passages. Full text and vectors go on at the same time."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found, best first."""

    hits: tuple[Hit, ...]
    explain: Explain
    degraded: tuple[str, ...] = ()
    """What the answer lacks and why, in sentences; empty: nothing."""


@dataclass(slots=True)
class _Search:
    """One search under way."""

    core: Core
    query: Query
    explain: Explain = field(default_factory=Explain)
    degraded: list[str] = field(default_factory=list)

    def took(self, stage: str, since_s: float) -> None:
        self.explain.stages_ms[stage] = (time.perf_counter() - since_s) * 1000.0

    def note(self, fetched: Fetched[object], what: str) -> None:
        """Take a read into the explanation; say what is missing."""
        self.explain = replace(
            self.explain,
            payload_bytes=self.explain.payload_bytes + fetched.payload_bytes,
            hosts=(*self.explain.hosts, *fetched.shares),
        )
        if fetched.missing:
            failed = [f"{s.host}: {s.failure}" for s in fetched.shares if s.failure]
            said = f" ({'; '.join(failed)})" if failed else ""
            self.degraded.append(
                f"{len(fetched.missing)} of {len(fetched.missing) + len(fetched.values)} {what} "
                f"did not come from any host{said}"
            )


async def search(core: Core, query: Query) -> Answer:
    """Return the passages that fit a query best. Raises UserError, EmbedderMismatch for a query
    that cannot be; hosts that fail make `degraded`.
    """
    if not 1 <= query.k <= BASE_RESULTS_MAX:
        raise UserError(f"k is 1 to {BASE_RESULTS_MAX}, not {query.k}", param="k")
    if not 1 <= query.candidates <= BASE_CANDIDATES_MAX:
        raise UserError(
            f"candidates are 1 to {BASE_CANDIDATES_MAX}, not {query.candidates}", param="candidates"
        )
    under_way = _Search(core, query)
    vector = query.vector
    if vector is not None:
        vector = check_vectors(core.identity, vector[None], 1)[0]
    began_s = time.perf_counter()
    local, keys = await asyncio.to_thread(_scan, core, vector, query)
    under_way.took("scan", began_s)
    by_text: list[Ranked] = []
    if query.fulltext and query.text:
        by_text, by_vector = await asyncio.gather(
            _rank_texts(under_way), _rank_vectors(under_way, vector, local, keys)
        )
    else:
        by_vector = await _rank_vectors(under_way, vector, local, keys)
    under_way.explain = replace(under_way.explain, text_ranked=len(by_text))
    fused = fuse(
        by_vector,
        by_text,
        count=query.k * (BASE_TEXT_ROUNDS_MAX if query.passages else 1),
        vector_weight=query.vector_weight,
        text_weight=query.text_weight,
    )
    began_s = time.perf_counter()
    hits = await _passages(under_way, fused)
    under_way.took("passages", began_s)
    return Answer(tuple(hits), under_way.explain, tuple(under_way.degraded))


def _scan(
    core: Core, vector: NDArray[np.float32] | None, query: Query
) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    with core.reader.read() as connection:
        core.state.refresh(connection)
    if vector is None:
        return _NO_ROWS, np.empty((0, 2), np.uint64)
    return core.state.scan(vector, query.candidates)


async def _rank_texts(under_way: _Search) -> list[Ranked]:
    """Return the rows that have words of the query, the best first."""
    began_s = time.perf_counter()
    found = await asyncio.to_thread(_find_texts, under_way.core, under_way.query.text)
    under_way.took("fulltext", began_s)
    return found


def _find_texts(core: Core, text: str) -> list[Ranked]:
    with core.reader.read() as connection:
        found = search_texts(connection, text, BASE_TEXT_RANKED_MAX)
    # Rows that are being taken in from another device are indexed already, and not yet part of it.
    _, known = core.state.keys(np.array([each.row for each in found], np.int64))
    return [each for each, here in zip(found, known, strict=True) if here]


async def _rank_vectors(
    under_way: _Search,
    vector: NDArray[np.float32] | None,
    local: NDArray[np.int64],
    keys: NDArray[np.uint64],
) -> list[Ranked]:
    """Return the candidates ranked by their real vectors."""
    if vector is None or not len(local):
        return []
    core = under_way.core
    began_s = time.perf_counter()
    if core.oblivious:
        came, plains = await asyncio.to_thread(_own_vectors, core, local)
    else:
        ids = core.keys.record_ids(VECTOR, keys)
        fetched = await core.hosts.get(core.id, ids, lambda objects: _open(core, VECTOR, objects))
        under_way.note(fetched, "vectors")  # type: ignore[arg-type]
        at = [n for n, object_id in enumerate(ids) if object_id in fetched.values]
        came, plains = local[at], [fetched.values[ids[n]] for n in at]
    under_way.explain = replace(under_way.explain, candidates=len(local), fetched=len(plains))
    if not plains:
        return []
    scores = decode_vectors(plains, len(vector)) @ vector
    order = np.argsort(-scores, kind="stable")
    under_way.took("vectors", began_s)
    return list(map(Ranked, came[order].tolist(), scores[order].tolist()))


def _own_vectors(core: Core, local: NDArray[np.int64]) -> tuple[NDArray[np.int64], list[bytes]]:
    """Return the vectors that this device keeps itself, in mode oblivious."""
    with core.reader.read() as connection:
        return rows.own_vectors(connection, local)


def _open(core: Core, kind: int, objects: list[Object]) -> list[bytes]:
    return open_many(core.keys, core.tenant, kind, objects)


async def _passages(under_way: _Search, fused: Sequence[Fused]) -> list[Hit]:
    """Return the best k as hits; those whose text does not come give way to the next."""
    core, query = under_way.core, under_way.query
    if not query.passages:
        return await asyncio.to_thread(_cite, core, fused[: query.k], {}, {})
    if core.oblivious:
        return await _oblivious_passages(under_way, fused)
    hits: list[Hit] = []
    at = 0
    for _ in range(BASE_TEXT_ROUNDS_MAX):
        wanted = fused[at : at + query.k - len(hits)]
        if not wanted:
            break
        at += len(wanted)
        keys, _ = core.state.keys(np.array([each.row for each in wanted], np.int64))
        ids = core.keys.record_ids(TEXT, keys)
        fetched = await core.hosts.get(core.id, ids, lambda objects: open_texts(core, objects))
        under_way.note(fetched, "passages")  # type: ignore[arg-type]
        found = [
            (each, object_id)
            for each, object_id in zip(wanted, ids, strict=True)
            if object_id in fetched.values
        ]
        texts = {each.row: fetched.values[object_id] for each, object_id in found}
        sources = {each.row: fetched.sources.get(object_id, "") for each, object_id in found}
        cited = await asyncio.to_thread(_cite, core, [each for each, _ in found], texts, sources)
        hits += cited
        if len(hits) == query.k:
            break
    return hits


async def _oblivious_passages(under_way: _Search, fused: Sequence[Fused]) -> list[Hit]:
    """Return the best as hits, with one read that looks the same whatever was found."""
    core, query = under_way.core, under_way.query
    wanted = fused[: min(query.k, BASE_PIR_ROWS_READ)]
    if query.k > len(wanted) == BASE_PIR_ROWS_READ:
        under_way.degraded.append(
            f"in mode oblivious a search reads {BASE_PIR_ROWS_READ} passages, and shows no more"
        )
    keys, _ = core.state.keys(np.array([each.row for each in wanted], np.int64))
    ids = core.keys.record_ids(TEXT, keys)
    read = await read_texts(core, ids)
    size = under_way.explain.payload_bytes + read.payload_bytes
    under_way.explain = replace(under_way.explain, payload_bytes=size)
    if read.problem:
        under_way.degraded.append(read.problem)
    texts = {
        each.row: read.records[object_id]
        for each, object_id in zip(wanted, ids, strict=True)
        if object_id in read.records
    }
    found = [each for each in wanted if each.row in texts]
    return await asyncio.to_thread(_cite, core, found, texts, {})


def _cite(
    core: Core,
    fused: Sequence[Fused],
    texts: dict[int, TextRecord],
    sources: dict[int, str],
) -> list[Hit]:
    keys, _ = core.state.keys(np.array([each.row for each in fused], np.int64))
    hits = []
    with core.reader.read() as connection:
        for each, (writer, number) in zip(fused, keys.tolist(), strict=True):
            meta = docs.document_of_row(connection, each.row)
            record = texts.get(each.row) or TextRecord("", meta.name if meta else "")
            hits.append(
                Hit(
                    row=(writer, number),
                    document=record.document,
                    path=meta.path if meta else "",
                    uid=meta.uid.hex() if meta else "",
                    heading=record.heading,
                    page=record.page,
                    start=record.start,
                    stop=record.stop,
                    text=record.text,
                    score=each.score,
                    vector_rank=each.vector_rank,
                    vector_score=each.vector_score,
                    text_rank=each.text_rank,
                    text_score=each.text_score,
                    host=sources.get(each.row, ""),
                )
            )
    return hits
