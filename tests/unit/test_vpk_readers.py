"""Reading a base by its owner's leave: what the right reader gets, and what nobody else gets,
against a host that checks as on the network.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai import limits
from kwaai.config import Config
from kwaai.errors import (
    BaseExists,
    BaseMissing,
    FileCorrupt,
    KwaaiError,
    PeerRefused,
    PeerUnreachable,
    StorageRefused,
    TooFewHosts,
    UserError,
)
from kwaai.intent.match import PeerFacts
from kwaai.node.knowledge_control import IngestOptions
from kwaai.node.knowledge_desk import KnowledgeDesk
from kwaai.node.knowledge_hosts import BaseHost
from kwaai.node.knowledge_readers import TOKEN_FILE, Readers, free_name, make_token
from kwaai.node.knowledge_service import KnowledgeService
from kwaai.node.storage_client import RemoteHost
from kwaai.node.storage_home import StorageRules
from kwaai.node.storage_service import StorageService
from kwaai.store.home import Home
from kwaai.trust.score import Standing
from kwaai.trust.tiers import Floors, Tier
from kwaai.vpk.base import Base
from kwaai.vpk.delegation import Delegation, encode_share
from kwaai.vpk.host_set import HostSet, Member
from kwaai.vpk.host_store import HostStore
from kwaai.vpk.ingest import NewDocument
from kwaai.vpk.keys import RootKey
from kwaai.vpk.local_host import HERE
from kwaai.vpk.members import HostOutcome
from kwaai.vpk.query import Query
from kwaai.vpk.types import Passage
from kwaai.wire.storage_messages import NAME

ROOT, OTHER_ROOT = RootKey(bytes(range(32))), RootKey(b"o" * 32)
BOB, ANNA, MALLORY, EVE, EVA = (SecretKey(bytes((n,)) * 32) for n in range(1, 6))
PBOB, PANNA, PEVE, PEVA = (peer_id(key.public) for key in (BOB, ANNA, EVE, EVA))
DAY_S = 86_400.0
CAPACITY = 64 * limits.MIB
AT_EVE = (BaseHost(PEVE, PEVE),)


class Known:
    """Everybody is known."""

    floors = Floors()

    def standing(self, peer: str) -> Standing:
        return Standing(peer, 0.5, 0.0, Tier.VERIFIED, None, integrity=1.0)

    def facts(self, peer: str) -> PeerFacts:
        return PeerFacts(peer)

    async def prepare(self, peers: Sequence[str], *, current: bool) -> None:
        pass


@dataclass
class World:
    """Eve's host, and calls to it. `now_s` is the clock of all."""

    service: StorageService
    now_s: list[float] = field(default_factory=lambda: [time.time()])
    outcomes: list[tuple[str, HostOutcome]] = field(default_factory=list)
    asked: int = 0
    others: dict[PeerId, StorageService] = field(default_factory=dict)

    def clock(self) -> float:
        return self.now_s[0]

    def calls(self, caller: SecretKey) -> Calls:
        return Calls(self, peer_id(caller.public))

    def readers(self, secret: SecretKey = ANNA) -> Readers:
        return Readers(secret, self.calls(secret), self._note, None, self.clock)

    def _note(self, peer: str, outcome: HostOutcome, detail: str) -> None:
        self.outcomes.append((peer, outcome))

    def objects(self) -> int:
        return self.service.store.usage(ROOT.tenant().public.raw).objects

    def token(self, base: Base, reader: SecretKey = ANNA, days: float = 7.0) -> str:
        return make_token(
            ROOT, base, reader.public, AT_EVE, owner=PBOB, days=days, now_s=self.clock()
        )


@dataclass
class Calls:
    """One node's calls to eve."""

    world: World
    peer: PeerId

    async def call(
        self,
        peer: PeerId,
        name: str,
        body: bytes | Callable[[bytes], bytes],
        timeout_s: float,
        lane: int = 0,
    ) -> bytes:
        service = {PEVE: self.world.service, **self.world.others}.get(peer)
        if service is None:
            raise PeerUnreachable(f"{peer} is not there", peer=peer)
        assert name == NAME
        self.world.asked += 1
        nonce = bytes((lane,)) * 32
        data = body if isinstance(body, bytes) else body(nonce)
        return await service.handle(self.peer, nonce, data)

    def rtt_s(self, peer: PeerId) -> float | None:
        return 0.001 if peer == PEVE else None


@asynccontextmanager
async def hosting(path: Path, host: PeerId = PEVE) -> AsyncIterator[World]:
    now_s = [time.time()]
    service = StorageService(
        lambda: HostStore.open(path / "objects.db", CAPACITY, reserve_bytes=0),
        host,
        StorageRules(CAPACITY, CAPACITY // 2, Tier.KNOWN),
        cast(Any, Known()),
        lambda: None,
        clock=lambda: now_s[0],
    )
    ready = asyncio.Event()
    task = asyncio.create_task(service.run(ready.set))
    await asyncio.wait_for(ready.wait(), 30)
    try:
        yield World(service, now_s)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with hosting(tmp_path / "eve") as world:
        yield world


@pytest.fixture
async def bobs(world: World, tmp_path: Path) -> AsyncIterator[Base]:
    host = RemoteHost(PEVE, world.calls(BOB), ROOT.tenant())
    await host.create_tenant(CAPACITY // 2, "bob")
    base = await Base.create(
        tmp_path / "bob", ROOT, "notes", hosts=HostSet([Member(host, "eve", 3)], replicas=1)
    )
    await add(base, "a.txt", "foxes run", "owls fly")
    await base.publish()
    yield base
    base.close()


async def add(base: Base, name: str, *texts: str) -> None:
    document = NewDocument(name, f"/d/{name}", "00" * 32, 10, 1, "text/plain", name, "/d")
    passages = [Passage(text, (), None, 0, len(text)) for text in texts]
    await base.add_document(document, passages, None)


async def attached(world: World, bobs: Base, path: Path, **said: Any) -> Base:
    readers = world.readers()
    shared = readers.open(world.token(bobs, **said))
    return (await readers.fetch(path, shared, OTHER_ROOT, "bobs notes"))[0]


async def texts(base: Base, question: str) -> list[str]:
    answer = await base.search(Query(question))
    assert not answer.degraded
    return [hit.text for hit in answer.hits]


class TestTheReader:
    async def test_reads(self, world: World, bobs: Base, tmp_path: Path) -> None:
        base = await attached(world, bobs, tmp_path / "anna")
        assert (base.name, base.id) == ("bobs notes", bobs.id)
        assert await texts(base, "owls") == ["owls fly"]
        assert [document.name for document in base.documents()] == ["a.txt"]
        batches = [batch async for batch in base.passages(10)]
        assert {passage["text"] for passage in batches[0]} == {"foxes run", "owls fly"}
        base.close()
        # Its file here is encrypted, with a key that the owner does not have.
        for path in (tmp_path / "anna").rglob("*"):
            assert b"foxes" not in path.read_bytes()
        with pytest.raises(FileCorrupt):
            await Base.open(tmp_path / "anna", ROOT, bobs.hosts)
        readers = world.readers()
        shared = readers.load(tmp_path / "anna")
        assert shared is not None
        again = await readers.open_base(tmp_path / "anna", shared, AT_EVE, OTHER_ROOT)
        assert await texts(again, "owls") == ["owls fly"]
        again.close()

    async def test_sees_what_is_added_removed_and_merged(
        self, world: World, bobs: Base, tmp_path: Path
    ) -> None:
        readers = world.readers()
        shared = readers.open(world.token(bobs))
        base, rows = await readers.fetch(tmp_path / "anna", shared, OTHER_ROOT, "n")
        assert rows == (BaseHost(PEVE, "eve"),)
        assert await readers.refresh(base, shared, rows) == (False, rows)
        for number in range(3):
            await add(bobs, f"b{number}.txt", f"eels swim {number}")
            await bobs.publish()
        await bobs.delete_document("a.txt")
        await bobs.compact()
        assert await readers.refresh(base, shared, rows) == (True, rows)
        assert await texts(base, "owls foxes") == []
        assert len(await texts(base, "eels")) == 3
        assert base.stats().unpublished == 0
        base.close()

    async def test_reads_without_showing_what(self, world: World, tmp_path: Path) -> None:
        """Mode oblivious: two hosts of different owners, and no host is asked for an object."""
        async with hosting(tmp_path / "eva", PEVA) as second:
            world.others[PEVA] = second.service
            hosts = [RemoteHost(peer, world.calls(BOB), ROOT.tenant()) for peer in (PEVE, PEVA)]
            for host in hosts:
                await host.create_tenant(CAPACITY // 2, "bob")
            members = [Member(host, host.id, 3) for host in hosts]
            owners = await Base.create(
                tmp_path / "bob", ROOT, "notes", hosts=HostSet(members), mode="oblivious"
            )
            await add(owners, "a.txt", "foxes run", "owls fly")
            await owners.publish()
            rows = tuple(BaseHost(host.id, host.id) for host in hosts)
            token = make_token(
                ROOT, owners, ANNA.public, rows, owner=PBOB, days=1, now_s=world.clock()
            )
            readers = world.readers()
            shared = readers.open(token)
            base, _ = await readers.fetch(tmp_path / "anna", shared, OTHER_ROOT, "n")
            assert base.mode == "oblivious"
            assert await texts(base, "owls") == ["owls fly"]
            base.close()
            with pytest.raises(UserError, match="two hosts of different owners"):
                make_token(
                    ROOT, owners, ANNA.public, rows[:1], owner=PBOB, days=1, now_s=world.clock()
                )
            owners.close()

    async def test_that_hosts_the_base_itself(self, world: World, tmp_path: Path) -> None:
        """Nobody is asked over the network: the node has no link to itself."""
        async with hosting(tmp_path / "anna", PANNA) as own:
            world.others[PANNA] = own.service
            host = RemoteHost(PANNA, world.calls(BOB), ROOT.tenant())
            await host.create_tenant(CAPACITY // 2, "bob")
            hosts = HostSet([Member(host, "anna", 3)], replicas=1)
            owners = await Base.create(tmp_path / "bob", ROOT, "notes", hosts=hosts)
            await add(owners, "a.txt", "owls fly")
            await owners.publish()
            rows = (BaseHost(PANNA, PANNA),)
            token = make_token(
                ROOT, owners, ANNA.public, rows, owner=PBOB, days=1, now_s=world.clock()
            )
            del world.others[PANNA]
            with pytest.raises(UserError, match="names no host but this node"):
                await world.readers().fetch(
                    tmp_path / "r", world.readers().open(token), OTHER_ROOT, "n"
                )
            calls = world.calls(ANNA)
            readers = Readers(ANNA, calls, world._note, own.service.handle, world.clock)
            base, found = await readers.fetch(tmp_path / "r", readers.open(token), OTHER_ROOT, "n")
            assert found == (BaseHost(PANNA, "anna"),)
            assert await texts(base, "owls") == ["owls fly"]
            base.close()
            owners.close()

    async def test_is_told_where_hosts_are_away(
        self, world: World, bobs: Base, tmp_path: Path
    ) -> None:
        readers = world.readers()
        away = peer_id(MALLORY.public)
        rows = (BaseHost(away, away),)
        token = make_token(ROOT, bobs, ANNA.public, rows, owner=PBOB, days=1, now_s=world.clock())
        with pytest.raises(TooFewHosts, match="none of 1 hosts answers"):
            await readers.fetch(tmp_path / "anna", readers.open(token), OTHER_ROOT, "n")

    async def test_is_told_where_the_base_is_gone(
        self, world: World, bobs: Base, tmp_path: Path
    ) -> None:
        readers = world.readers()
        shared = readers.open(world.token(bobs))
        await bobs.hosts.drop_base(bobs.id)
        with pytest.raises(BaseMissing, match="do not have this base any more"):
            await readers.fetch(tmp_path / "anna", shared, OTHER_ROOT, "n")

    async def test_blames_no_host_for_what_an_owner_may_have_done(
        self, world: World, bobs: Base, tmp_path: Path
    ) -> None:
        base = await attached(world, bobs, tmp_path / "anna")
        store = world.service.store
        tenant = ROOT.tenant().public.raw
        ids = store.list_ids(tenant, bobs.id, b"", 100)
        store.put(tenant, bobs.id, [(object_id, bytes(428)) for object_id in ids])
        answer = await base.search(Query("owls"))
        assert answer.degraded
        assert all(hit.text in ("", "owls fly") for hit in answer.hits)
        assert "wrong" not in {outcome for _, outcome in world.outcomes}
        base.close()


class TestNobodyElse:
    async def test_another_node_with_the_token(self, world: World, bobs: Base) -> None:
        with pytest.raises(StorageRefused, match="made for another node"):
            world.readers(MALLORY).open(world.token(bobs))

    async def test_another_node_with_the_delegation(self, world: World, bobs: Base) -> None:
        signed = world.readers().open(world.token(bobs)).share.signed
        tenant = ROOT.tenant().public.raw
        for caller, signer in ((MALLORY, MALLORY), (ANNA, MALLORY)):
            host = RemoteHost.for_reader(PEVE, world.calls(caller), tenant, signer, signed)
            with pytest.raises(PeerRefused, match="another reader"):
                await host.get_manifest(bobs.id)

    async def test_another_base(self, world: World, bobs: Base, tmp_path: Path) -> None:
        second = await Base.create(tmp_path / "second", ROOT, "diary", hosts=bobs.hosts)
        await add(second, "d.txt", "dear diary")
        await second.publish()
        signed = world.readers().open(world.token(bobs)).share.signed
        host = RemoteHost.for_reader(
            PEVE, world.calls(ANNA), ROOT.tenant().public.raw, ANNA, signed
        )
        assert await host.get_manifest(bobs.id) is not None
        for ask in (
            host.get_manifest(second.id),
            host.get(second.id, [bytes(16)]),
            host.list_ids(second.id, b"", 9),
            host.pir_table(second.id, 428),
        ):
            with pytest.raises(PeerRefused, match="another base"):
                await cast(Awaitable[object], ask)
        second.close()

    async def test_keys_of_another_base_in_a_share(self, world: World, bobs: Base) -> None:
        now_s = world.clock()
        given = Delegation(
            OTHER_ROOT.tenant().public.raw, ANNA.public.raw, bobs.id, now_s, now_s + DAY_S
        )
        keys = OTHER_ROOT.base(bobs.id)
        token = encode_share(given, OTHER_ROOT.tenant(), keys, "notes", (PEVE,), PBOB)
        shared = world.readers().open(token)
        # Another tenant's right for the same id: eve has nothing of that tenant.
        host = RemoteHost.for_reader(
            PEVE, world.calls(ANNA), shared.tenant, ANNA, shared.share.signed
        )
        with pytest.raises(PeerRefused):
            await host.get_manifest(bobs.id)

    async def test_when_it_is_over(self, world: World, bobs: Base, tmp_path: Path) -> None:
        base = await attached(world, bobs, tmp_path / "anna")
        readers = world.readers()
        token = world.token(bobs)
        shared = readers.open(token)
        world.now_s[0] += 8 * DAY_S
        host = RemoteHost.for_reader(
            PEVE, world.calls(ANNA), shared.tenant, ANNA, shared.share.signed
        )
        with pytest.raises(PeerRefused, match="has expired"):
            await host.get_manifest(bobs.id)
        with pytest.raises(TooFewHosts):
            await base.refresh()
        assert (await base.search(Query("owls"))).degraded
        with pytest.raises(StorageRefused, match=r"ended on .* UTC; ask its owner"):
            readers.open(token)
        assert readers.load(tmp_path / "anna") is not None  # still says whose it was
        base.close()

    async def test_before_it_begins(self, world: World, bobs: Base) -> None:
        token = world.token(bobs)
        world.now_s[0] -= 3600
        with pytest.raises(StorageRefused, match="has not begun"):
            world.readers().open(token)


class TestNothingIsChanged:
    async def test_a_host_takes_nothing_from_a_reader(self, world: World, bobs: Base) -> None:
        shared = world.readers().open(world.token(bobs))
        host = RemoteHost.for_reader(
            PEVE, world.calls(ANNA), shared.tenant, ANNA, shared.share.signed
        )
        before = world.objects()
        manifest = await host.get_manifest(bobs.id)
        assert manifest is not None
        ids = await host.list_ids(bobs.id, b"", 1)
        for ask in (
            host.put(bobs.id, [(bytes(16), b"x" * 428)]),
            host.delete(bobs.id, ids),
            host.put_manifest(bobs.id, 9, manifest),
            host.drop_base(bobs.id),
            host.prove(bobs.id, ids[0], bytes(18)),
            host.bases(),
            host.usage(),
            host.create_tenant(1),
            host.delete_tenant(),
        ):
            with pytest.raises(PeerRefused, match="only the tenant itself"):
                await cast(Awaitable[object], ask)
        assert world.objects() == before
        assert await host.get_manifest(bobs.id) == manifest

    async def test_a_base_of_somebody_elses_does_not_even_ask(
        self, world: World, bobs: Base, tmp_path: Path
    ) -> None:
        base = await attached(world, bobs, tmp_path / "anna")
        asked = world.asked
        for change in (
            add(base, "x.txt", "mine"),
            base.publish(),
            base.compact(),
            base.delete_document("a.txt"),
            base.remove_document("/d/a.txt"),
            base.destroy(),
        ):
            with pytest.raises(StorageRefused, match="somebody else's"):
                await cast(Awaitable[object], change)
        assert world.asked == asked
        await base.destroy(everywhere=False)
        assert world.asked == asked
        assert not list((tmp_path / "anna").glob("*.db"))
        assert await texts(bobs, "owls") == ["owls fly"]

    async def test_a_reader_that_is_ahead_of_a_host_brings_it_nothing(
        self, world: World, bobs: Base, tmp_path: Path
    ) -> None:
        """An owner's device gives a host that forgot the newest manifest; a reader may not."""
        base = await attached(world, bobs, tmp_path / "anna")
        manifest = await bobs.hosts.members[0].host.get_manifest(bobs.id)
        await bobs.hosts.drop_base(bobs.id)
        assert manifest is not None
        assert await base.refresh() is False
        assert await bobs.hosts.members[0].host.get_manifest(bobs.id) is None
        base.close()


async def test_what_cannot_be_shared(world: World, bobs: Base) -> None:
    def make(rows: tuple[BaseHost, ...], days: float = 1) -> str:
        return make_token(ROOT, bobs, ANNA.public, rows, owner=PBOB, days=days, now_s=world.clock())

    with pytest.raises(UserError, match="on this disk alone"):
        make((BaseHost(HERE, HERE),))
    for days in (0.0, -1.0, 1000.0, float("nan")):
        with pytest.raises(UserError, match="lasts up to"):
            make(AT_EVE, days)


def test_names() -> None:
    assert free_name("notes", "bob", ()) == "notes"
    assert free_name("notes", "bob", ("notes",)) == "notes-bob"
    assert free_name("notes", "b/ o\nb", ("notes", "notes-bob")) == "notes-bob-2"
    assert free_name("n" * 64, "", ("n" * 64,)) == "n" * 40 + "-shared"


class Found:
    """No hosts but those that are known."""

    async def discover(self) -> list[Any]:
        return []

    def rows(self) -> list[Any]:
        return []


@asynccontextmanager
async def node(world: World, path: Path, secret: SecretKey) -> AsyncIterator[KnowledgeDesk]:
    """One node's knowledge, as its owner speaks to it."""
    service = KnowledgeService(
        Config(knowledge_embedder="none"),
        Home(path),
        cast(Any, Known()),
        cast(Any, world.calls(secret)),
        cast(Any, Found()),
        lambda: None,
        lambda peer: "bob" if peer == PBOB else "",
        secret,
    )
    service.readers = world.readers(secret)
    ready = asyncio.Event()
    task = asyncio.create_task(service.run(ready.set))
    await asyncio.wait_for(ready.wait(), 30)
    try:
        yield KnowledgeDesk(service, None, lambda text: PeerId(text))
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


SYNC = IngestOptions(sync=True)


class TestANode:
    async def test_attaches_asks_refreshes_and_forgets(
        self, world: World, bobs: Base, tmp_path: Path
    ) -> None:
        async with node(world, tmp_path / "n", ANNA) as desk:
            row = await desk.attach(world.token(bobs))
            assert (row.name, row.documents, row.owed) == ("notes", 1, 0)
            assert row.shared is not None
            assert (row.shared.owner, row.shared.name) == (PBOB, "bob")
            assert row.shared.until_s == pytest.approx(world.clock() + 7 * DAY_S, abs=1)
            assert (await desk.search("notes", "owls", 3, explain=True)).hits[0].text == "owls fly"
            await add(bobs, "c.txt", "cats purr")
            await bobs.publish()
            view = await desk.ingest("notes", (), SYNC, lambda _: None)
            assert (view.passages, view.notes) == (1, ("what its owner has published is here",))
            view = await desk.ingest("notes", (), SYNC, lambda _: None)
            assert view.notes == ("its owner has nothing newer",)
            assert await desk.tenants() == ()
            before = world.objects()
            for change in (
                desk.ingest("notes", ("/x",), SYNC, lambda _: None),
                desk.ingest("notes", ("/x",), IngestOptions(), lambda _: None),
                desk.upload_path("notes", "x.txt"),
                desk.delete_document("notes", "a.txt"),
                desk.audit("notes"),
                desk.repair("notes"),
                desk.share("notes", peer_id(MALLORY.public), 1),
            ):
                with pytest.raises(StorageRefused, match="somebody else's"):
                    await cast(Awaitable[object], change)
            await desk.destroy("notes")
            assert desk.bases() == ()
            assert world.objects() == before
        assert await texts(bobs, "owls") == ["owls fly"]

    async def test_is_there_after_a_restart_and_renewed(
        self, world: World, bobs: Base, tmp_path: Path
    ) -> None:
        async with node(world, tmp_path / "n", ANNA) as desk:
            await desk.create("notes", "sealed", fulltext_only=True, say=lambda _: None)
            assert (await desk.attach(world.token(bobs))).name == "notes-bob"
        world.now_s[0] += 8 * DAY_S
        async with node(world, tmp_path / "n", ANNA) as desk:
            own, row = desk.bases()
            assert (own.shared, own.problem) == (None, "")
            assert (row.name, "ended on" in row.problem) == ("notes-bob", True)
            asked = world.asked
            with pytest.raises(StorageRefused, match="ended on"):
                await desk.search("notes-bob", "owls", 3, explain=False)
            with pytest.raises(StorageRefused, match="ended on"):
                await desk.ingest("notes-bob", (), SYNC, lambda _: None)
            assert world.asked == asked
            row = await desk.attach(world.token(bobs, days=1))
            assert (row.name, row.problem) == ("notes-bob", "")
            found = await desk.search("notes-bob", "owls", 3, explain=False)
            assert found.hits[0].text == "owls fly"

    async def test_a_node_with_another_key_says_so(
        self, world: World, bobs: Base, tmp_path: Path
    ) -> None:
        async with node(world, tmp_path / "n", ANNA) as desk:
            await desk.attach(world.token(bobs))
        async with node(world, tmp_path / "n", MALLORY) as desk:
            (row,) = desk.bases()
            assert "gives this node no right any more" in row.problem
            row = await desk.attach(world.token(bobs, MALLORY))
            assert (row.name, row.documents) == ("notes", 1)
            assert len(desk.bases()) == 1

    async def test_what_is_refused(self, world: World, bobs: Base, tmp_path: Path) -> None:
        async with node(world, tmp_path / "n", ANNA) as desk:
            token = world.token(bobs)
            await desk.create("mine", "sealed", fulltext_only=True, say=lambda _: None)
            with pytest.raises(BaseExists, match="'mine' already"):
                await desk.attach(token, "mine")
            with pytest.raises(UserError, match="printable"):
                await desk.attach(token, "a/b")
            await desk.attach(token, "theirs")
            with pytest.raises(BaseExists, match="here already, as theirs"):
                await desk.attach(token, "again")
            with pytest.raises(UserError, match="on this disk alone"):
                await desk.share("mine", PBOB, 1)
            with pytest.raises(UserError, match="that is this node"):
                await desk.share("mine", PANNA, 1)
        # The owner's own device is no reader.
        async with node(world, tmp_path / "b", BOB) as desk:
            desk.service.root = ROOT
            with pytest.raises(BaseExists, match="your own"):
                await desk.attach(world.token(bobs, BOB))

    @pytest.mark.parametrize("damage", [b"", b"\xff\xfe", b"vpkshare1-AAAA", b"x" * 9000])
    async def test_a_damaged_token_stops_no_other_base(
        self, world: World, bobs: Base, tmp_path: Path, damage: bytes
    ) -> None:
        async with node(world, tmp_path / "n", ANNA) as desk:
            await desk.attach(world.token(bobs))
            await desk.create("mine", "sealed", fulltext_only=True, say=lambda _: None)
            place = desk.service.home.base_path(bobs.id)
        (place / TOKEN_FILE).write_bytes(damage)
        async with node(world, tmp_path / "n", ANNA) as desk:
            assert {row.name for row in desk.bases()} == {"mine", "?"}
            assert (await desk.attach(world.token(bobs))).name == "notes"


async def test_errors_are_errors(world: World) -> None:
    for text in ("", "vpkshare1-", "vpkshare1-!!", "vpkshare1-" + "A" * 9000):
        with pytest.raises(KwaaiError):
            world.readers().open(text)
