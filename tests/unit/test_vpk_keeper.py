"""Repair and audits: what was lost comes back, what lies is found, nothing else is touched."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from vpk_fake_hosts import (
    BASE,
    FakeHost,
    host_set,
    ids_of,
    objects_of,
    open_all,
    sealed,
)

from kwaai.errors import PeerRefused, SealBroken, TooFewHosts, UserError
from kwaai.limits import VPK_WALK_BATCH
from kwaai.vpk import retrievability
from kwaai.vpk.audit import audit
from kwaai.vpk.host_large import large_ids
from kwaai.vpk.host_set import HostSet, Member
from kwaai.vpk.host_store import HostStore
from kwaai.vpk.keeper import RepairProgress, repair
from kwaai.vpk.keys import BaseKeys, new_root_key
from kwaai.vpk.local_host import LocalHost
from kwaai.vpk.types import Object
from kwaai.vpk.walk import LAST_ID, batches, sort_ids

OBJECTS = objects_of(300)
IDS = [i for i, _ in OBJECTS]
BLOB = random.Random(7).randbytes(400_000)
LARGE = b"L" * 16


class FakeHoldings:
    """What a base should have at its hosts."""

    base = BASE

    def __init__(self, ids: Sequence[bytes] = IDS, keys: BaseKeys | None = None) -> None:
        self.ids = list(ids)
        self.blobs: dict[bytes, tuple[bytes, str]] = {}
        self.keys = keys or new_root_key().base(BASE)

    def small_ids(self) -> list[bytes]:
        return self.ids

    def open_small(self, objects: list[Object]) -> list[bytes]:
        return open_all(objects)

    def large(self) -> list[tuple[bytes, int, str]]:
        return [(i, len(blob), coding) for i, (blob, coding) in self.blobs.items()]

    def open_large(self, object_id: bytes, blob: bytes) -> None:
        if self.blobs[object_id][0] != blob:
            raise SealBroken("it does not open")

    def tag(self, object_id: bytes, data: bytes) -> bytes:
        return retrievability.tag(self.keys, object_id, data)

    def verify_proof(self, object_id: bytes, challenge: bytes, proof: bytes) -> int:
        return retrievability.verify(self.keys, object_id, challenge, proof)


async def with_large(together: HostSet, holdings: FakeHoldings, blob: bytes = BLOB) -> None:
    coding = await together.put_large(BASE, LARGE, blob, tag=holdings.tag)
    holdings.blobs[LARGE] = blob, str(coding)


def copies(hosts: Sequence[FakeHost], object_id: bytes) -> int:
    return sum(object_id in h.held() for h in hosts)


def without(together: HostSet, *names: str) -> HostSet:
    return together.with_members([m for m in together.members if m.id not in names])


async def test_a_lost_host_is_made_up_for() -> None:
    together, hosts = host_set(4)
    await together.put(BASE, OBJECTS)
    left = without(together, "host3")
    seen: list[RepairProgress] = []
    report = await repair(left, FakeHoldings(), on_progress=seen.append)
    assert report.complete
    assert report.checked == len(IDS)
    assert report.copied == len(hosts[3].held())
    assert report.copied_bytes == 40 * report.copied
    assert all(copies(hosts[:3], i) == 2 for i in IDS)
    assert seen[-1].checked == seen[-1].total == len(IDS)
    assert seen[-1].after == LAST_ID
    again = await repair(left, FakeHoldings())
    assert again.copied == 0
    assert again.complete


async def test_a_new_host_gets_its_share_and_what_is_surplus_goes() -> None:
    together, hosts = host_set(3)
    await together.put(BASE, OBJECTS)
    new = FakeHost("new")
    more = together.with_members([*together.members, Member(new, "new", tier=1)])
    report = await repair(more, FakeHoldings())
    assert report.copied == len(new.held()) > 0
    assert not report.trimmed
    report = await repair(more, FakeHoldings(), trim=True)
    assert report.trimmed == len(new.held())
    for object_id, row in zip(IDS, more.holders(IDS).tolist(), strict=True):
        where = [i for i, h in enumerate([*hosts, new]) if object_id in h.held()]
        assert where == sorted(row)


async def test_a_host_that_is_away_is_owed() -> None:
    together, hosts = host_set(3)
    hosts[0].away = True
    put = await together.put(BASE, OBJECTS)
    report = await repair(together, FakeHoldings())
    assert report.owed == len(put.owed["host0"])
    assert report.away == ("host0",)
    assert not report.complete
    hosts[0].away = False
    report = await repair(together, FakeHoldings(), trim=True)
    assert report.complete
    assert report.copied == len(put.owed["host0"])
    # What stood in goes only when a list has shown that the others are there.
    assert report.trimmed == 0
    assert (await repair(together, FakeHoldings(), trim=True)).trimmed == report.copied


async def test_what_nobody_has_is_lost_and_said() -> None:
    together, hosts = host_set(3)
    await together.put(BASE, OBJECTS)
    for host in hosts:
        host.held().pop(IDS[5], None)
    report = await repair(together, FakeHoldings())
    assert report.lost == [IDS[5]]
    assert not report.complete


async def test_a_liar_is_not_copied_from() -> None:
    outcomes: list[tuple[str, str]] = []
    together, hosts = host_set(
        3, replicas=3, on_outcome=lambda host, outcome, _: outcomes.append((host, outcome))
    )
    await together.put(BASE, OBJECTS)
    hosts[0].alter = lambda i, blob: bytes(len(blob))
    hosts[1].objects[BASE] = {}
    report = await repair(together, FakeHoldings())
    assert report.complete
    assert hosts[1].held() == dict(OBJECTS)
    assert ("host0", "wrong") in outcomes
    assert ("host2", "wrong") not in outcomes


async def test_who_lists_what_it_does_not_send() -> None:
    outcomes: list[tuple[str, str]] = []
    together, hosts = host_set(
        3, replicas=3, on_outcome=lambda host, outcome, _: outcomes.append((host, outcome))
    )
    await together.put(BASE, OBJECTS)
    hosts[0].alter = lambda i, blob: None
    hosts[1].objects[BASE] = {}
    assert (await repair(together, FakeHoldings())).complete
    assert ("host0", "omitted") in outcomes


async def test_strays_are_named_and_left_alone() -> None:
    together, hosts = host_set(2)
    holdings = FakeHoldings()
    await together.put(BASE, OBJECTS)
    await with_large(together, holdings)
    strangers = objects_of(3, seed=9)
    await together.put(BASE, strangers)
    report = await repair(together, holdings, trim=True)
    assert report.strays == {h.id: sorted(i for i, _ in strangers) for h in hosts}
    assert all(copies(hosts, i) == 2 for i, _ in strangers)
    assert report.complete


async def test_a_repair_goes_on_where_it_was_ended() -> None:
    together, hosts = host_set(3)
    await together.put(BASE, OBJECTS)
    hosts[0].objects[BASE] = {}
    middle = sorted(IDS)[150]
    report = await repair(together, FakeHoldings(), after=middle)
    assert report.checked == 149
    assert all(i > middle for i in hosts[0].held())
    assert (await repair(together, FakeHoldings())).complete


@pytest.mark.parametrize("page", [[b"b" * 16, b"a" * 16], [b"a" * 16] * 2, [b"short"]])
async def test_lists_that_cannot_be(page: list[bytes]) -> None:
    outcomes: list[tuple[str, str]] = []
    together, hosts = host_set(
        2, on_outcome=lambda host, outcome, _: outcomes.append((host, outcome))
    )
    await together.put(BASE, OBJECTS)

    async def list_ids(base: bytes, after: bytes, count: int) -> list[bytes]:
        return page

    hosts[0].list_ids = list_ids  # type: ignore[method-assign]
    report = await repair(together, FakeHoldings())
    assert report.away == ("host0",)
    assert ("host0", "misbehaved") in outcomes


async def test_a_list_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kwaai.vpk.walk.VPK_WALK_PAGES_MAX", 5)
    together, hosts = host_set(2)
    count = 0

    async def list_ids(base: bytes, after: bytes, wanted: int) -> list[bytes]:
        nonlocal count
        count += 1
        return [count.to_bytes(16, "big")]

    hosts[0].list_ids = list_ids  # type: ignore[method-assign]
    assert (await repair(together, FakeHoldings([]))).away == ("host0",)
    assert count == 6


async def test_nobody_lists() -> None:
    together, hosts = host_set(2)
    for host in hosts:
        host.away = True
    with pytest.raises(TooFewHosts):
        await repair(together, FakeHoldings())


# Large objects.


async def test_lost_fragments_are_made_anew() -> None:
    together, hosts = host_set(10)
    holdings = FakeHoldings([])
    await with_large(together, holdings)
    assert holdings.blobs[LARGE][1] == "4/8"
    gone = [h for h in hosts if LARGE in h.held()][:2]
    left = without(together, *(h.id for h in gone))
    rest = [h for h in hosts if h not in gone]
    report = await repair(left, holdings)
    assert (report.large, report.large_repaired, report.owed) == (1, 1, 0)
    assert copies(rest, LARGE) == 8
    indices = sorted(h.held()[LARGE][6] for h in rest if LARGE in h.held())
    assert indices == list(range(8))
    # Any four of those there are now are enough.
    for host in [h for h in rest if LARGE in h.held()][:4]:
        host.away = True
    assert await left.get_large(BASE, LARGE, lambda blob: blob) == BLOB


async def test_too_few_hosts_are_left_for_the_coding() -> None:
    together, hosts = host_set(8)
    holdings = FakeHoldings([])
    await with_large(together, holdings)
    few = without(together, "host0", "host1")  # six of eight: still half of what may be lost
    report = await repair(few, holdings)
    assert (report.large_repaired, report.owed) == (0, 2)
    fewer = without(together, "host0", "host1", "host2")
    report = await repair(fewer, holdings)
    assert report.recoded == {LARGE: "1/2"}
    assert copies(hosts[3:], LARGE) == 2
    assert await fewer.get_large(BASE, LARGE, lambda blob: blob) == BLOB
    holdings.blobs[LARGE] = BLOB, "1/2"
    report = await repair(fewer, holdings)
    assert report.complete
    assert not report.strays


async def test_whole_copies_are_made_anew_and_the_lost_are_said() -> None:
    together, hosts = host_set(3)
    holdings = FakeHoldings([])
    await with_large(together, holdings, BLOB[:5000])
    holder = next(h for h in hosts if LARGE in h.held())
    holder.objects[BASE] = {}
    assert (await repair(together, holdings)).large_repaired == 1
    assert copies(hosts, LARGE) == 2
    for host in hosts:
        host.objects[BASE] = {}
    report = await repair(together, holdings)
    assert report.lost == [LARGE]
    assert not report.complete


async def test_altered_fragments_are_replaced_when_others_are_missing() -> None:
    together, hosts = host_set(9)
    holdings = FakeHoldings([])
    await with_large(together, holdings)
    having = [h for h in hosts if LARGE in h.held()]
    having[0].held()[LARGE] = b"nonsense"
    having[1].held().pop(LARGE)
    report = await repair(together, holdings)
    assert report.large_repaired == 1
    good = 0
    for host in hosts:
        good += LARGE in host.held() and host.held()[LARGE] != b"nonsense"
    assert good == 8


async def test_deleting_leaves_nothing() -> None:
    together, hosts = host_set(8)
    holdings = FakeHoldings([])
    await with_large(together, holdings)
    await together.delete_large(BASE, LARGE)
    assert not any(h.held() for h in hosts)


# Audits.


async def test_an_audit_of_honest_hosts() -> None:
    together, hosts = host_set(8)
    holdings = FakeHoldings()
    await together.put(BASE, OBJECTS)
    await with_large(together, holdings)
    found = await audit(together, holdings, samples=10, rng=random.Random(1))
    assert found.passed
    assert [(r.host, r.read, r.proof) for r in found.hosts] == [(h.id, 10, "held") for h in hosts]


async def test_an_audit_finds_what_is_wrong() -> None:
    outcomes: list[tuple[str, str]] = []
    together, hosts = host_set(
        8, on_outcome=lambda host, outcome, _: outcomes.append((host, outcome))
    )
    holdings = FakeHoldings()
    await together.put(BASE, OBJECTS)
    await with_large(together, holdings)
    outcomes.clear()
    hosts[0].alter = lambda i, blob: None if len(blob) == 40 else blob
    hosts[1].alter = lambda i, blob: sealed(b"other" * 4) if len(blob) == 40 else blob
    hosts[2].held()[LARGE] = bytes(len(hosts[2].held()[LARGE]))
    hosts[3].held().pop(LARGE)
    hosts[4].away = True
    hosts[5].held().pop(large_ids(LARGE, 1)[1])

    async def refuse(base: bytes, object_id: bytes, challenge: bytes) -> bytes:
        raise PeerRefused("no tags")

    for host in (hosts[3], hosts[5]):
        host.prove = refuse  # type: ignore[method-assign]
    rows = (await audit(together, holdings, rng=random.Random(2))).hosts
    assert (rows[0].missing, rows[0].read) == (20, 0)
    assert not rows[0].passed
    assert (rows[1].wrong, rows[1].read) == (20, 0)
    assert not rows[1].passed
    assert rows[2].proof == "wrong"
    assert not rows[2].passed
    assert rows[3].proof == "missing"
    assert not rows[3].passed
    assert rows[4].failure
    assert not rows[4].passed
    assert rows[5].proof == "read"
    assert rows[5].passed
    assert [r.passed for r in rows[6:]] == [True, True]
    assert ("host0", "omitted") in outcomes
    assert {("host1", "wrong"), ("host2", "wrong")} <= set(outcomes)
    assert ("host4", "unreachable") in outcomes
    assert {("host5", "served"), ("host6", "served")} <= set(outcomes)


async def test_what_is_owed_is_nobodys_fault() -> None:
    outcomes: list[str] = []
    together, hosts = host_set(3, on_outcome=lambda host, outcome, _: outcomes.append(outcome))
    hosts[0].away = True
    put = await together.put(BASE, OBJECTS)
    hosts[0].away = False
    owed = {host: frozenset(ids) for host, ids in put.owed.items()}
    found = await audit(together, FakeHoldings(), owed=owed)
    assert found.passed
    assert found.hosts[0].owed == 20
    assert "omitted" not in outcomes


async def test_an_empty_base_passes() -> None:
    together, _ = host_set(2)
    assert (await audit(together, FakeHoldings([]))).passed
    assert (await repair(together, FakeHoldings([]))).complete


async def test_samples_that_cannot_be() -> None:
    together, _ = host_set(2)
    for samples in (0, 100_000):
        with pytest.raises(UserError):
            await audit(together, FakeHoldings(), samples=samples)


# The walk.


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 3 * VPK_WALK_BATCH), st.integers(0, 100))
def test_batches_cover_all_ids_once(count: int, seed: int) -> None:
    ids = ids_of(count, seed)
    joined = sort_ids(ids + ids[:10])
    after = sorted(ids)[count // 2] if count else b""
    found = list(batches(joined, after))
    assert [i for some, _ in found for i in some] == sorted(i for i in ids if i > after)
    assert found[-1][1] == LAST_ID
    assert all(some[-1] <= last for some, last in found if some)


def test_ids_that_are_none() -> None:
    with pytest.raises(UserError):
        sort_ids([b"short"])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_whatever_single_hosts_lose_comes_back(seed: int) -> None:
    """Two copies on four hosts: whatever one of them loses, and who is away for a while."""
    rng = random.Random(seed)
    together, hosts = host_set(4)

    async def main() -> None:
        await together.put(BASE, OBJECTS)
        victim = hosts[rng.randrange(4)]
        for object_id in list(victim.held()):
            if rng.random() < 0.5:
                del victim.held()[object_id]
        other = hosts[(hosts.index(victim) + 1) % 4]
        other.dies_after = rng.randrange(6)
        with contextlib.suppress(TooFewHosts):
            await repair(together, SyncHoldings())
        other.away, other.dies_after = False, None
        assert (await repair(together, SyncHoldings())).complete
        assert all(copies(hosts, i) >= 2 for i in IDS)

    asyncio.run(main())


class SyncHoldings(FakeHoldings):
    """Without keys: they take time to make."""

    def __init__(self) -> None:
        self.ids, self.blobs = IDS, {}


async def test_over_a_real_store(tmp_path: Path) -> None:
    """What the fakes stand for: put, proof, audit, loss, repair and deletion, on a disk."""
    root = new_root_key()
    tenant = root.tenant().public.raw
    store = HostStore.open(tmp_path / "host.db", 1 << 30)
    store.create_tenant(tenant, 1 << 30)
    real = LocalHost(store, tenant)
    fake = FakeHost("fake")
    together = HostSet([Member(real, "me", trusted=True), Member(fake, "other", tier=1)])
    holdings = FakeHoldings(keys=root.base(BASE))
    try:
        await together.put(BASE, OBJECTS)
        await with_large(together, holdings)
        found = await audit(together, holdings)
        assert found.passed
        assert [row.proof for row in found.hosts] == ["held", "held"]
        store.delete(tenant, BASE, IDS[:50])
        store.delete(tenant, BASE, large_ids(LARGE, 1))
        assert not (await audit(together, holdings, samples=300)).passed
        report = await repair(together, holdings)
        assert (report.copied, report.large_repaired) == (50, 1)
        assert report.complete
        assert not report.strays
        assert (await audit(together, holdings, samples=300)).passed
        await together.delete(BASE, IDS)
        await together.delete_large(BASE, LARGE)
        assert (await together.usage())["here"].objects == 0
    finally:
        await real.close()
        store.close()
