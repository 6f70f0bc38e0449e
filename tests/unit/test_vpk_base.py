"""A knowledge base against one local host: in, out, again after closing."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from kwaai.errors import (
    BaseExists,
    BaseMissing,
    DocumentMissing,
    EmbedderMismatch,
    FileCorrupt,
    Locked,
    StorageFull,
    TooFewHosts,
    UserError,
)
from kwaai.limits import BASE_PIR_ROWS_READ, BASE_SEGMENT_ROWS_MAX
from kwaai.testing.vpk_hosts import local_hosts
from kwaai.vpk.base import Base
from kwaai.vpk.host_set import HostSet
from kwaai.vpk.ingest import FileState, NewDocument
from kwaai.vpk.keys import RootKey
from kwaai.vpk.query import Query
from kwaai.vpk.restore import find_bases
from kwaai.vpk.types import EmbedderSpec, Passage

ROOT = RootKey(bytes(range(32)))
SPEC = EmbedderSpec("test", "ab" * 32, 32, True)


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[HostSet]:
    with local_hosts(tmp_path / "host" / "host.db", ROOT) as host:
        yield host


def unit_vectors(count: int, dimension: int = 32, seed: int = 1) -> np.ndarray:
    vectors = np.random.default_rng(seed).standard_normal((count, dimension)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def document(name: str) -> NewDocument:
    return NewDocument(name, f"/d/{name}", "00" * 32, 10, 1, "text/plain", name, "/d")


def passages(*texts: str) -> list[Passage]:
    return [Passage(text, ("Chapter",), n + 1, 0, len(text)) for n, text in enumerate(texts)]


async def test_document_is_found_cited_and_there_again(tmp_path: Path, hosts: HostSet) -> None:
    base = await Base.create(tmp_path / "b", ROOT, "notes", hosts=hosts, embedder=SPEC)
    vectors = unit_vectors(3)
    await base.add_document(
        document("a.txt"), passages("foxes run", "owls fly", "eels swim"), vectors
    )
    answer = await base.search(Query("running fox", vectors[0], k=2))
    assert not answer.degraded
    hit = answer.hits[0]
    assert (hit.document, hit.text, hit.page, hit.heading) == (
        "a.txt",
        "foxes run",
        1,
        ("Chapter",),
    )
    assert (hit.vector_rank, hit.text_rank) == (1, 1)
    base.close()
    again = await Base.open(tmp_path / "b", ROOT, hosts)
    answer = await again.search(Query(vector=vectors[2], k=1))
    assert answer.hits[0].text == "eels swim"
    again.close()


async def test_published_base_is_restored_elsewhere(tmp_path: Path, hosts: HostSet) -> None:
    base = await Base.create(tmp_path / "b", ROOT, "notes", hosts=hosts, embedder=SPEC)
    vectors = unit_vectors(4)
    await base.add_document(document("a.txt"), passages("foxes run", "owls fly"), vectors[:2])
    await base.add_document(document("b.txt"), passages("eels swim", "ants dig"), vectors[2:])
    await base.remove_document("/d/b.txt")
    done = await base.publish()
    assert (done.sequence, done.changed, done.segments) == (1, True, 1)
    assert not (await base.publish()).changed
    other = await Base.restore(tmp_path / "c", ROOT, base.id, hosts)
    assert [each.name for each in other.documents()] == ["a.txt"]
    assert list(other.files()) == ["/d/a.txt"]
    answer = await other.search(Query("owl eels", vectors[1], k=5))
    assert [hit.text for hit in answer.hits] == ["owls fly", "foxes run"]
    assert not answer.degraded
    base.close()
    other.close()


async def test_two_devices_publish_and_lose_nothing(tmp_path: Path, hosts: HostSet) -> None:
    one = await Base.create(tmp_path / "b", ROOT, "notes", hosts=hosts, embedder=SPEC)
    vectors = unit_vectors(8)
    await one.add_document(document("0.txt"), passages("zero"), vectors[:1])
    await one.publish()
    two = await Base.restore(tmp_path / "c", ROOT, one.id, hosts)
    for number in range(1, 7):
        device = (one, two)[number % 2]
        await device.add_document(
            document(f"{number}.txt"), passages(f"number {number}"), vectors[number : number + 1]
        )
    await one.remove_document("/d/0.txt")
    await asyncio.gather(one.publish(), two.publish())
    await one.refresh()
    await two.refresh()
    for device in (one, two):
        assert [d.name for d in device.documents()] == [f"{n}.txt" for n in range(1, 7)]
        for number in range(1, 7):
            answer = await device.search(Query(f"{number}", vectors[number], k=1))
            assert answer.hits[0].text == f"number {number}"
            assert not answer.degraded
        answer = await device.search(Query("zero", vectors[0], k=8))
        assert "zero" not in [hit.text for hit in answer.hits]
    await one.compact()
    await two.publish()
    await two.refresh()
    for device in (one, two):
        answer = await device.search(Query("number", vectors[3], k=8))
        assert not answer.degraded
        assert sorted(hit.text for hit in answer.hits) == [f"number {n}" for n in range(1, 7)]
    third = await Base.restore(tmp_path / "d", ROOT, one.id, hosts)
    assert len((await third.search(Query("number", k=8))).hits) == 6
    for device in (one, two, third):
        device.close()


async def test_another_key_or_a_damaged_file_is_refused(tmp_path: Path, hosts: HostSet) -> None:
    base = await Base.create(tmp_path / "b", ROOT, "notes", hosts=hosts)
    with pytest.raises(Locked):
        await Base.open(tmp_path / "b", ROOT, hosts)
    with pytest.raises(BaseExists):
        await Base.create(tmp_path / "b", ROOT, "again", hosts=hosts)
    base.close()
    with pytest.raises(FileCorrupt):
        await Base.open(tmp_path / "b", RootKey(bytes(32)), hosts)
    file = next((tmp_path / "b").glob("*.db"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    data[5000:5064] = bytes(64)
    file.write_bytes(data)
    with pytest.raises(FileCorrupt):
        await open_and_check(tmp_path / "b", hosts)
    with pytest.raises(BaseMissing):
        await Base.open(tmp_path / "nothing", ROOT, hosts)
    with pytest.raises(BaseMissing):
        await Base.restore(tmp_path / "r", ROOT, bytes(16), hosts)


async def open_and_check(directory: Path, hosts: HostSet) -> None:
    opened = await Base.open(directory, ROOT, hosts)
    try:
        opened.check()
    finally:
        opened.close()


async def test_readers_follow_the_writer(tmp_path: Path, hosts: HostSet) -> None:
    base = await Base.create(tmp_path / "b", ROOT, "notes", hosts=hosts, embedder=SPEC)
    reader = await Base.open(tmp_path / "b", ROOT, hosts, writable=False)
    vectors = unit_vectors(40)
    for number in range(40):  # more than are left unjoined
        name = f"{number}.txt"
        await base.add_document(document(name), passages(f"number {number}"), vectors[number, None])
        answer = await reader.search(Query(vector=vectors[number], k=1))
        assert answer.hits[0].text == f"number {number}"
    await base.remove_document("/d/7.txt")
    answer = await reader.search(Query(vector=vectors[7], k=1))
    assert answer.hits[0].text != "number 7"
    with pytest.raises(Locked):
        await reader.publish()
    with pytest.raises(Locked):
        await reader.add_document(document("x"), passages("x"), vectors[:1])
    reader.close()
    base.close()


async def test_vectors_of_another_model_are_refused(tmp_path: Path, hosts: HostSet) -> None:
    base = await Base.create(tmp_path / "b", ROOT, "notes", hosts=hosts, embedder=SPEC)
    base.check_embedder(SPEC)
    with pytest.raises(EmbedderMismatch):
        base.check_embedder(EmbedderSpec("other", "cd" * 32, 32, True))
    with pytest.raises(EmbedderMismatch):
        await base.add_document(document("a"), passages("a"), unit_vectors(1, 33))
    with pytest.raises(UserError):
        await base.add_document(document("a"), passages("a"), np.full((1, 32), np.inf, np.float32))
    with pytest.raises(UserError):
        await base.add_document(document("a"), passages("a", "b"), unit_vectors(1))
    with pytest.raises(UserError):
        await base.add_document(document("a"), [], None)
    with pytest.raises(UserError):
        await Base.create(tmp_path / "c", ROOT, "a/b", hosts=hosts)
    assert base.stats().passages == 0
    base.close()


async def test_full_host_adds_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    with local_hosts(tmp_path / "host" / "host.db", ROOT, room_bytes=60_000) as hosts:
        base = await Base.create(tmp_path / "b", ROOT, "notes", hosts=hosts, embedder=SPEC)
        await base.add_document(document("a.txt"), passages("small"), unit_vectors(1))
        vectors = unit_vectors(5000)
        with pytest.raises(StorageFull):
            await base.add_vectors(vectors, [f"text {n}" for n in range(5000)])
        assert base.stats().passages == 1
        published = await base.publish()
        assert (published.swept, published.owed) == (5000, False)
        host = hosts.members[0].host
        assert set(base.holdings().small_ids()) <= set(await host.list_ids(base.id, b"", 8000))
        assert len(await host.list_ids(base.id, b"", 8000)) < 10
        answer = await base.search(Query(vector=unit_vectors(1)[0], k=2))
        assert [hit.text for hit in answer.hits] == ["small"]
        base.close()


async def test_what_is_replaced_is_deleted_at_the_hosts(tmp_path: Path, hosts: HostSet) -> None:
    base = await Base.create(tmp_path / "b", ROOT, "notes", hosts=hosts, embedder=SPEC)
    host = hosts.members[0].host
    sizes = []
    for edition in range(4):
        texts = [f"edition {edition} passage {n}" for n in range(50)]
        await base.add_document(document("a.txt"), passages(*texts), unit_vectors(50, seed=edition))
        await base.publish()
        await base.compact()
        sizes.append(len(await host.list_ids(base.id, b"", 8000)))
    assert sizes == [sizes[0]] * 4
    assert base.stats().segments == 1
    assert base.stats().passages == 50
    answer = await base.search(Query("passage 3", k=5))
    assert all(hit.text.startswith("edition 3") for hit in answer.hits)
    await base.delete_document("a.txt")
    await base.compact()
    assert await host.list_ids(base.id, b"", 8000) == []
    assert base.files() == {}
    with pytest.raises(DocumentMissing):
        await base.delete_document("a.txt")
    base.close()


async def test_files_are_remembered(tmp_path: Path, hosts: HostSet) -> None:
    base = await Base.create(tmp_path / "b", ROOT, "notes", hosts=hosts)
    await base.add_document(document("a.txt"), passages("one"), None)
    base.note_file(FileState("/d/a.txt", 1, 2, "", "failed", "r" * 9999, root="/d"))
    base.note_file(FileState("/d/b.txt", 1, 2, "", "failed", "no text", root="/d"))
    found = base.files()
    assert (found["/d/a.txt"].state, found["/d/a.txt"].document) == ("failed", "a.txt")
    assert (found["/d/b.txt"].reason, found["/d/b.txt"].document) == ("no text", "")
    await base.remove_document("/d/b.txt")
    await base.remove_document("/d/a.txt")
    await base.remove_document("/d/never.txt")
    assert base.files() == {}
    assert base.documents() == []
    base.close()


async def test_export_and_destruction(tmp_path: Path, hosts: HostSet) -> None:
    base = await Base.create(tmp_path / "b", ROOT, "notes", hosts=hosts)
    await base.add_document(document("a.txt"), passages("one", "two", "three"), None)
    await base.publish()
    batches = [batch async for batch in base.passages(2)]
    assert [each["text"] for batch in batches for each in batch] == ["one", "two", "three"]
    assert batches[0][0]["path"] == "/d/a.txt"
    assert [each.name for each in await find_bases(ROOT, hosts)] == ["notes"]
    assert await base.destroy() == ()
    assert await find_bases(ROOT, hosts) == []
    assert not (tmp_path / "b").exists()


async def test_long_document_and_large_base(tmp_path: Path, hosts: HostSet) -> None:
    base = await Base.create(tmp_path / "b", ROOT, "notes", hosts=hosts, embedder=SPEC)
    count = BASE_SEGMENT_ROWS_MAX + 100
    vectors = unit_vectors(count)
    await base.add_document(document("a.txt"), passages(*(f"p {n}" for n in range(count))), vectors)
    await base.publish()
    assert base.stats().segments == 2
    other = await Base.restore(tmp_path / "c", ROOT, base.id, hosts)
    for each in (base, other):
        assert each.documents()[0].passages == count
        answer = await each.search(Query(vector=vectors[count - 1], k=1))
        assert answer.hits[0].text == f"p {count - 1}"
        await each.delete_document("a.txt")
        assert each.stats().passages == 0
        assert (await each.search(Query("p", vectors[5]))).hits == ()
        each.close()


async def test_killed_restore_goes_on(tmp_path: Path, hosts: HostSet) -> None:
    base = await Base.create(tmp_path / "b", ROOT, "notes", hosts=hosts, embedder=SPEC)
    for number in range(3):
        await base.add_document(
            document(f"{number}"), passages(f"t {number}"), unit_vectors(1, seed=number)
        )
        await base.publish()

    class Killed(Exception):
        pass

    def progress(done: int, total: int) -> None:
        raise Killed

    with pytest.raises(Killed):
        await Base.restore(tmp_path / "c", ROOT, base.id, hosts, progress)
    other = await Base.restore(tmp_path / "c", ROOT, base.id, hosts)
    assert len(other.documents()) == 3
    assert len((await other.search(Query("t", k=9))).hits) == 3
    base.close()
    other.close()


async def test_oblivious_base(tmp_path: Path) -> None:
    with (
        local_hosts(tmp_path / "h1" / "host.db", ROOT) as one,
        local_hosts(tmp_path / "h2" / "host.db", ROOT) as two,
    ):
        with pytest.raises(TooFewHosts):
            await Base.create(tmp_path / "x", ROOT, "x", hosts=one, mode="oblivious")
        members = [replace(one.members[0], owner="a"), replace(two.members[0], owner="b")]
        members[1] = replace(members[1], host=Named(members[1].host, "there"))
        both = HostSet(members, replicas=2)
        base = await Base.create(
            tmp_path / "b", ROOT, "x", hosts=both, mode="oblivious", embedder=SPEC
        )
        vectors = unit_vectors(30)
        for number in range(10):
            await base.add_document(
                document(f"{number}"),
                passages(*(f"number {number} {n}" for n in range(3))),
                vectors[3 * number : 3 * number + 3],
            )
        await base.publish()
        other = await Base.restore(tmp_path / "c", ROOT, base.id, both)
        await base.add_document(document("late"), passages("late"), unit_vectors(1, seed=9))
        for each in (base, other):  # the other one does not know what `late` is, and finds the rest
            answer = await each.search(Query("number 4", vectors[13], k=2))
            assert answer.hits[0].text == "number 4 1"
            assert not answer.degraded
        await base.remove_document("/d/4")
        await base.compact()
        answer = await base.search(Query(vector=vectors[16], k=30))
        assert answer.hits[0].text == "number 5 1"
        assert len(answer.hits) == BASE_PIR_ROWS_READ
        assert answer.degraded
        base.close()
        other.close()


class Named:
    """A host under another name."""

    def __init__(self, host: object, name: str) -> None:
        self._host, self.id = host, name

    def __getattr__(self, name: str) -> object:
        return getattr(self._host, name)


async def test_publication_compacts_where_the_manifest_would_get_long(
    tmp_path: Path, hosts: HostSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kwaai.vpk.publish.BASE_LISTED_REMOVED_MAX", 3)
    base = await Base.create(tmp_path / "b", ROOT, "notes", hosts=hosts, embedder=SPEC)
    vectors = unit_vectors(20)
    for number in range(20):
        name = f"{number}.txt"
        await base.add_document(document(name), passages(f"t {number}"), vectors[number, None])
    await base.publish()
    for number in range(0, 20, 2):
        await base.remove_document(f"/d/{number}.txt")
    await base.add_document(document("new.txt"), passages("new"), vectors[:1])
    await base.publish()
    assert (base.stats().unpublished, base.stats().passages) == (0, 11)
    other = await Base.restore(tmp_path / "c", ROOT, base.id, hosts)
    assert len(other.documents()) == 11
    assert len((await other.search(Query("t", k=20))).hits) == 10
    base.close()
    other.close()


async def test_cells_for_thin_clients(tmp_path: Path, hosts: HostSet) -> None:
    base = await Base.create(tmp_path / "b", ROOT, "notes", hosts=hosts, embedder=SPEC)
    vectors = unit_vectors(300)
    await base.add_vectors(vectors, [f"text {n}" for n in range(300)])
    host = hosts.members[0].host
    sizes = []
    for _ in range(3):
        assert await base.make_cells() > 0
        sizes.append(len(await host.list_ids(base.id, b"", 8000)))
    assert sizes == [sizes[0]] * 3
    await base.add_document(document("later"), passages("later"), unit_vectors(1, seed=5))
    await base.publish()
    ids = base.holdings().small_ids()
    assert set(ids) <= set(await host.list_ids(base.id, b"", 8000))
    base.close()
