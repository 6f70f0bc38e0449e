"""Searching: rankings merged, any text a query, hosts that fail or lie."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import apsw
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kwaai.errors import EmbedderMismatch, PeerUnreachable, UserError
from kwaai.limits import BASE_QUERY_POSTINGS_MAX, BASE_QUERY_TERMS_MAX
from kwaai.testing.vpk_hosts import local_hosts
from kwaai.vpk.base import Base
from kwaai.vpk.fulltext import (
    FULLTEXT_SCHEMA,
    forget_texts,
    index_texts,
    query_words,
    search_texts,
)
from kwaai.vpk.fusion import Ranked, fuse
from kwaai.vpk.host_set import HostSet, Member
from kwaai.vpk.keys import RootKey
from kwaai.vpk.query import Query
from kwaai.vpk.types import EmbedderSpec, Object

ROOT = RootKey(bytes(range(32)))
SPEC = EmbedderSpec("test", "ab" * 32, 16, True)


@pytest.fixture(scope="module")
def index() -> apsw.Connection:
    connection = apsw.Connection(":memory:")
    connection.execute(FULLTEXT_SCHEMA)
    texts = [("foxes run in the forest", "animals"), ("owls fly over the forest", "birds")]
    index_texts(connection, 1, texts)
    return connection


def test_words_are_stemmed_and_ranked(index: apsw.Connection) -> None:
    assert [each.row for each in search_texts(index, "running foxes", 10)] == [1]
    assert [each.row for each in search_texts(index, "bird", 10)] == [2]
    assert {each.row for each in search_texts(index, "forests", 10)} == {1, 2}
    assert search_texts(index, "zebra", 10) == []


@pytest.mark.parametrize(
    "text",
    ['fox" OR owl', "fox*", "NEAR(fox owl)", "body:fox", "-fox", "fox AND", '"', "(", "^fox",
     "\0fox", "fox\ud800", "a" * 100_000, ""],
)  # fmt: skip
def test_any_text_is_a_query(index: apsw.Connection, text: str) -> None:
    search_texts(index, text, 10)


@settings(max_examples=200)
@given(text=st.text())
def test_no_text_breaks_the_query(index: apsw.Connection, text: str) -> None:
    assert len(search_texts(index, text, 1)) <= 1


def test_common_words_are_left_out_of_long_queries() -> None:
    connection = apsw.Connection(":memory:")
    connection.execute(FULLTEXT_SCHEMA)
    count = BASE_QUERY_POSTINGS_MAX
    index_texts(connection, 1, ((f"common w{n % 50}", "") for n in range(count)))
    assert query_words(connection, "common w7") == ["w7"]
    assert query_words(connection, "common") == ["common"]
    many = " ".join(f"w{n}" for n in range(50))
    assert len(query_words(connection, many)) == BASE_QUERY_TERMS_MAX
    forget_texts(connection, range(1, count + 1))
    assert search_texts(connection, "common", 10) == []


def test_fusion_is_reciprocal_rank() -> None:
    fused = fuse([Ranked(1, 0.9), Ranked(2, 0.8)], [Ranked(2, 5.0), Ranked(3, 4.0)], count=3)
    assert [each.row for each in fused] == [2, 1, 3]
    assert fused[0].score == pytest.approx(1 / 62 + 1 / 61)
    assert (fused[0].vector_rank, fused[0].text_rank, fused[1].text_rank) == (2, 1, None)
    assert [each.row for each in fuse([Ranked(1, 1.0)], [Ranked(2, 1.0)], text_weight=0.1)] == [
        1,
        2,
    ]


# With hosts that fail.
class Flawed:
    """A host that does not answer, forgets, or alters, when told to."""

    def __init__(self, host: object) -> None:
        self.host = host
        self.flaw = ""

    def __getattr__(self, name: str) -> object:
        return getattr(self.host, name)

    async def get(self, base: bytes, ids: Sequence[bytes]) -> list[bytes | None]:
        if self.flaw == "away":
            raise PeerUnreachable("nobody answers")
        found = await self.host.get(base, ids)  # type: ignore[attr-defined]
        if self.flaw == "omits":
            return [None for _ in found]
        if self.flaw == "alters":
            return [blob and bytes([blob[0] ^ 1]) + blob[1:] for blob in found]
        if self.flaw == "moves":
            return [*found[1:], *found[:1]]
        return found

    async def put(self, base: bytes, objects: Sequence[Object]) -> None:
        await self.host.put(base, objects)  # type: ignore[attr-defined]


@pytest.fixture
def flawed(tmp_path: Path) -> Iterator[tuple[HostSet, Flawed]]:
    with local_hosts(tmp_path / "host" / "host.db", ROOT) as hosts:
        host = Flawed(hosts.members[0].host)
        yield HostSet([Member(host, "me", 3, trusted=True)], replicas=1), host  # type: ignore[arg-type]


def vectors(count: int) -> np.ndarray:
    found = np.random.default_rng(3).standard_normal((count, 16)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("flaw", ["away", "omits", "alters", "moves"])
async def test_bad_hosts_make_answers_poorer_and_never_wrong(
    tmp_path: Path, flawed: tuple[HostSet, Flawed], flaw: str
) -> None:
    hosts, host = flawed
    base = await Base.create(tmp_path / "b", ROOT, "x", hosts=hosts, embedder=SPEC)
    given_vectors = vectors(20)
    await base.add_vectors(given_vectors, [f"number {n}" for n in range(20)])
    host.flaw = flaw
    answer = await base.search(Query("number", given_vectors[4], k=3))
    assert answer.hits == ()
    assert answer.degraded
    host.flaw = ""
    hosts = HostSet(hosts.members, replicas=1)
    base.attach(hosts)
    answer = await base.search(Query("number", given_vectors[4], k=3))
    assert answer.hits[0].text == "number 4"
    assert not answer.degraded
    base.close()


async def test_text_alone(tmp_path: Path, flawed: tuple[HostSet, Flawed]) -> None:
    base = await Base.create(tmp_path / "b", ROOT, "x", hosts=flawed[0])
    with pytest.raises(EmbedderMismatch):
        await base.add_vectors(vectors(1), ["one"])
    with pytest.raises(EmbedderMismatch):
        await base.search(Query("one", vectors(1)[0]))
    assert (await base.search(Query("one"))).hits == ()
    base.close()


async def test_queries_that_cannot_be(tmp_path: Path, flawed: tuple[HostSet, Flawed]) -> None:
    base = await Base.create(tmp_path / "b", ROOT, "x", hosts=flawed[0], embedder=SPEC)
    wrong = [
        Query(k=0),
        Query(k=10**6),
        Query(candidates=0),
        Query(candidates=10**9),
        Query(vector=np.full(16, np.nan, np.float32)),
        Query(vector=np.zeros(17, np.float32)),
    ]
    for query in wrong:
        with pytest.raises(UserError):
            await base.search(query)
    assert (await base.search(Query("x", vectors(1)[0]))).hits == ()
    base.close()
