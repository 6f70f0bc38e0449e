"""How well search finds what people called relevant: a test collection, plain and sealed.

nDCG at 10, by words, by vectors and by both. Plain ranks exact float32 products beside the same
full-text index; sealed is a base whose objects lie here. Collections have BEIR's form.
"""

from __future__ import annotations

import asyncio
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from kwaai.config import Config
from kwaai.errors import UserError
from kwaai.limits import (
    BASE_TEXT_RANKED_MAX,
    BENCH_COLLECTION_LINE_CHARS_MAX,
    BENCH_COLLECTION_TEXTS_MAX,
    GIB,
)
from kwaai.node.bench import Say, scratch_directory
from kwaai.node.embedders import embedder_settings, open_embedder
from kwaai.sqlite import Database, Schema, create_database, open_database
from kwaai.store.home import Home
from kwaai.vpk.base import Base
from kwaai.vpk.codes import exact
from kwaai.vpk.fulltext import FULLTEXT_SCHEMA, index_texts, search_texts
from kwaai.vpk.fusion import Ranked, fuse
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.host_store import HostStore
from kwaai.vpk.keys import RootKey
from kwaai.vpk.local_host import LocalHost
from kwaai.vpk.members import Member
from kwaai.vpk.query import Query
from kwaai.vpk.types import EmbedderSpec

_AT: Final = 10
_BATCH: Final = 2048
_CAPACITY_BYTES: Final = 64 * GIB
_PLAIN: Final = Schema(
    "plain index", 0x6B776270, (FULLTEXT_SCHEMA,), "run the benchmark again", 1.0, 8 << 20
)


@dataclass(frozen=True, slots=True)
class Collection:
    """Texts, queries, and which texts answer which."""

    texts: tuple[str, ...]
    queries: tuple[str, ...]
    relevant: tuple[Mapping[int, float], ...]
    """Of each query: grades by text; never empty."""


@dataclass(frozen=True, slots=True)
class _Embedded:
    collection: Collection
    texts: NDArray[np.float32]
    queries: NDArray[np.float32]
    spec: EmbedderSpec


async def run_collection_bench(
    config: Config, home: Home, folder: Path, candidates: int | None, say: Say
) -> dict[str, Any]:
    """Return the report: nDCG at 10 of every way. Raises UserError (the files), KwaaiError."""
    collection = load_collection(folder)
    embedder = await open_embedder(embedder_settings(config), home.models)
    try:
        started = time.perf_counter()
        texts = await _embed(embedder.embed, collection.texts, "passage", say)
        embedded_s = time.perf_counter() - started
        queries = await _embed(embedder.embed, collection.queries, "query", say)
        spec = embedder.spec
    finally:
        await embedder.close()
    embedded = _Embedded(collection, texts, queries, spec)
    with scratch_directory(home) as directory:
        say("plain search")
        plain = await asyncio.to_thread(_plain, directory / "plain.db", embedded, candidates or 100)
        say("sealed search")
        sealed = await _sealed(directory, embedded, candidates or 100)
    return {
        "collection": folder.name,
        "texts": len(collection.texts),
        "queries": len(collection.queries),
        "embedder": spec.model,
        "texts_s": len(collection.texts) / embedded_s,
        "ndcg_at_10": [
            {"search": name, "plain": plain[name], "sealed": sealed[name]} for name in plain
        ],
    }


async def _embed(
    embed: Callable[..., Any], texts: Sequence[str], kind: str, say: Say
) -> NDArray[np.float32]:
    parts = []
    for start in range(0, len(texts), _BATCH):
        say(f"embedding {kind} {start} of {len(texts)}")
        parts.append(await embed(texts[start : start + _BATCH], kind))
    return np.concatenate(parts)


def load_collection(folder: Path) -> Collection:
    """Read corpus.jsonl, queries.jsonl and qrels.tsv. Queries without an answer are left out.
    Raises UserError.
    """
    corpus = {
        row["_id"]: f"{row.get('title', '')} {row.get('text', '')}".strip()
        for row in _rows(folder / "corpus.jsonl")
    }
    asked = {row["_id"]: str(row.get("text", "")) for row in _rows(folder / "queries.jsonl")}
    numbers = {name: number for number, name in enumerate(corpus)}
    relevant: dict[str, dict[int, float]] = {}
    for line in _lines(folder / "qrels.tsv"):
        words = line.split("\t")
        grade = _grade(words)
        if grade > 0 and words[0] in asked and words[1] in numbers:
            relevant.setdefault(words[0], {})[numbers[words[1]]] = grade
    if not relevant:
        raise UserError(f"{folder}: its qrels.tsv names no query and text that are there")
    return Collection(
        tuple(corpus.values()),
        tuple(asked[name] for name in relevant),
        tuple(relevant.values()),
    )


def _grade(words: Sequence[str]) -> float:
    """Return the grade of a line of qrels; 0 for a headline."""
    try:
        grade = float(words[2])
    except (ValueError, IndexError):
        return 0.0
    return grade if math.isfinite(grade) else 0.0


def _rows(path: Path) -> Iterator[Mapping[str, Any]]:
    for number, line in enumerate(_lines(path), 1):
        try:
            row = json.loads(line)
            row["_id"] = str(row["_id"])
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UserError(f"{path}, line {number}: no object with an _id") from error
        yield row


def _lines(path: Path) -> Iterator[str]:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            count = 0
            while line := file.readline(BENCH_COLLECTION_LINE_CHARS_MAX):
                count += 1
                if count > BENCH_COLLECTION_TEXTS_MAX:
                    raise UserError(f"{path} has over {BENCH_COLLECTION_TEXTS_MAX} lines")
                if line.strip():
                    yield line.rstrip("\r\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error


def ndcg(found: Sequence[int], relevant: Mapping[int, float]) -> float:
    """Return the normalised discounted cumulative gain of a ranking, cut at 10: grades over the
    logarithm of the rank, over the most that is possible (Jaervelin and Kekaelaeinen, 2002).
    """
    gains = [relevant.get(text, 0.0) for text in found[:_AT]]
    best = sorted(relevant.values(), reverse=True)[:_AT]
    return _discounted(gains) / _discounted(best)


def _discounted(gains: Sequence[float]) -> float:
    return sum(gain / math.log2(rank + 1) for rank, gain in enumerate(gains, 1))


_WAYS: Final = {"words": (True, False), "vectors": (False, True), "both": (True, True)}


def _mean(scores: Sequence[float]) -> float:
    return sum(scores) / len(scores)


def _plain(path: Path, embedded: _Embedded, candidates: int) -> dict[str, float]:
    create_database(path)
    database = open_database(path, _PLAIN, None)
    try:
        with database.write() as connection:
            index_texts(connection, 0, ((text, "") for text in embedded.collection.texts))
        return {
            name: _mean(
                [
                    ndcg(_plain_search(database, embedded, number, *way, candidates), relevant)
                    for number, relevant in enumerate(embedded.collection.relevant)
                ]
            )
            for name, way in _WAYS.items()
        }
    finally:
        database.close()


def _plain_search(
    database: Database,
    embedded: _Embedded,
    number: int,
    by_words: bool,
    by_vectors: bool,
    candidates: int,
) -> list[int]:
    words: list[Ranked] = []
    vectors: list[Ranked] = []
    if by_words:
        with database.read() as connection:
            text = embedded.collection.queries[number]
            words = search_texts(connection, text, BASE_TEXT_RANKED_MAX)
    if by_vectors:
        rows, scores = exact(embedded.queries[number], embedded.texts, candidates)
        vectors = [Ranked(int(row), float(score)) for row, score in zip(rows, scores, strict=True)]
    return [fused.row for fused in fuse(vectors, words)[:_AT]]


async def _sealed(directory: Path, embedded: _Embedded, candidates: int) -> dict[str, float]:
    root = RootKey(os.urandom(32))
    tenant = root.tenant().public.raw
    store = await asyncio.to_thread(
        HostStore.open, directory / "objects.db", _CAPACITY_BYTES, reserve_bytes=0
    )
    try:
        store.create_tenant(tenant, _CAPACITY_BYTES)
        hosts = HostSet([Member(LocalHost(store, tenant), "own", trusted=True)], replicas=1)
        base = await Base.create(
            directory / "base", root, "bench", hosts=hosts, embedder=embedded.spec
        )
        try:
            texts = embedded.collection.texts
            for start in range(0, len(texts), _BATCH):
                part = slice(start, start + _BATCH)
                await base.add_vectors(embedded.texts[part], texts[part])
            return {
                name: await _sealed_score(base, embedded, *way, candidates)
                for name, way in _WAYS.items()
            }
        finally:
            base.close()
    finally:
        store.close()


async def _sealed_score(
    base: Base, embedded: _Embedded, by_words: bool, by_vectors: bool, candidates: int
) -> float:
    scores = []
    for number, relevant in enumerate(embedded.collection.relevant):
        answer = await base.search(
            Query(
                embedded.collection.queries[number],
                embedded.queries[number] if by_vectors else None,
                k=_AT,
                candidates=candidates,
                fulltext=by_words,
                passages=False,
            )
        )
        scores.append(ndcg([hit.row[1] for hit in answer.hits], relevant))
    return _mean(scores)
