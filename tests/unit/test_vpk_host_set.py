"""Hosts as one: what is put is got back, whatever single hosts do."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from typing import Any

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

from kwaai.errors import (
    ManifestConflict,
    SealBroken,
    StorageFull,
    TooFewHosts,
    UserError,
)
from kwaai.limits import VPK_FRAGMENT_BYTES_MAX, VPK_HEDGE_S_MAX, VPK_READ_S_MAX
from kwaai.testing.clock import run_virtual
from kwaai.vpk.fragments import make_fragments, stripe_id
from kwaai.vpk.host_set import Coding, HostSet, Member

OBJECTS = objects_of(300)
IDS = [i for i, _ in OBJECTS]


class Outcomes:
    """What was told of hosts."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, str]] = []

    def __call__(self, host: str, outcome: str, detail: str) -> None:
        self.seen.append((host, outcome, detail))

    def of(self, host: str) -> list[str]:
        return [outcome for name, outcome, _ in self.seen if name == host]


def copies(hosts: list[FakeHost], object_id: bytes) -> list[str]:
    return [h.id for h in hosts if object_id in h.held()]


async def test_what_is_put_lies_where_it_belongs_and_comes_back() -> None:
    seen = Outcomes()
    together, hosts = host_set(4, on_outcome=seen)
    report = await together.put(BASE, OBJECTS)
    assert (report.copies, dict(report.owed)) == (2, {})
    for object_id, row in zip(IDS, together.holders(IDS).tolist(), strict=True):
        assert copies(hosts, object_id) == [f"host{i}" for i in sorted(row)]
    got = await together.get(BASE, IDS, open_all)
    assert got.values == {i: i for i in IDS}
    assert got.missing == ()
    assert got.hedged == 0
    assert sum(s.served for s in got.shares) == len(IDS) == sum(s.asked for s in got.shares)
    assert got.payload_bytes == 40 * len(IDS)
    assert seen.of("host0") == ["served"]
    # Each is read from its first holder: no host sees more than its share of what goes together.
    assert max(s.asked for s in got.shares) < len(IDS) / 2
    assert (await together.delete(BASE, IDS)).objects == 2 * len(IDS)
    assert (await together.get(BASE, IDS, open_all)).missing == tuple(sorted(IDS))
    await together.close()


async def test_one_host_is_enough_for_a_base_at_home() -> None:
    together, _ = host_set(1)
    await together.put(BASE, OBJECTS)
    assert len((await together.get(BASE, IDS, open_all)).values) == len(IDS)
    assert (await together.get(BASE, [], open_all)).values == {}


async def test_an_id_asked_twice_is_read_once() -> None:
    together, hosts = host_set(1)
    await together.put(BASE, OBJECTS)
    got = await together.get(BASE, [IDS[0], IDS[0]], open_all)
    assert got.values == {IDS[0]: IDS[0]}
    assert hosts[0].asked[-1] == ("get", 1)


async def test_one_host_dies_while_it_writes() -> None:
    seen = Outcomes()
    together, hosts = host_set(3, on_outcome=seen)
    hosts[0].dies_after = 0
    report = await together.put(BASE, OBJECTS)
    assert report.copies == 2
    owed = report.owed["host0"]
    assert owed
    assert set(report.owed) == {"host0"}
    for object_id in IDS:
        assert {"host1", "host2"} <= set(copies(hosts, object_id)) or object_id not in owed
    assert seen.of("host0") == ["lost"]
    assert len((await together.get(BASE, IDS, open_all)).values) == len(IDS)


async def test_who_failed_lately_is_not_asked_first() -> None:
    together, hosts = host_set(4)
    hosts[0].away = True
    await together.put(BASE, OBJECTS)
    calls = len(hosts[0].asked)
    report = await together.put(BASE, objects_of(50, seed=1))
    assert len(hosts[0].asked) == calls
    assert report.copies == 2
    assert "host0" in report.owed


async def test_enough_copies_on_disks_or_none_acknowledged() -> None:
    together, hosts = host_set(3, replicas=3, least=2)
    hosts[0].away = True
    assert (await together.put(BASE, OBJECTS)).copies == 2
    hosts[1].away = True
    with pytest.raises(TooFewHosts, match="host1"):
        await together.put(BASE, OBJECTS)


async def test_full_hosts_are_passed_over_until_all_are_full() -> None:
    seen = Outcomes()
    together, hosts = host_set(3, on_outcome=seen)
    hosts[0].room = 0
    report = await together.put(BASE, OBJECTS)
    assert report.copies == 2
    assert not hosts[0].held()
    assert seen.of("host0") == ["full"]
    for host in hosts:
        host.room = 0
    with pytest.raises(StorageFull, match="room"):
        await together.put(BASE, objects_of(5, seed=2))


async def test_strangers_are_never_the_only_holders() -> None:
    hosts = [FakeHost(f"host{i}") for i in range(4)]
    members = [Member(h, h.id, tier=int(i == 0), weight=1.0) for i, h in enumerate(hosts)]
    together = HostSet(members, replicas=2, floor=1)
    await together.put(BASE, OBJECTS)
    assert set(hosts[0].held()) == set(IDS)
    hosts[0].away = True
    with pytest.raises(TooFewHosts, match="strangers"):
        await together.put(BASE, objects_of(5, seed=3))
    with pytest.raises(TooFewHosts):
        HostSet(members[1:], floor=1)


async def test_two_hosts_of_one_owner_do_not_hold_both_copies() -> None:
    hosts = [FakeHost(f"host{i}") for i in range(3)]
    owners = ["anna", "anna", "bert"]
    together = HostSet([Member(h, o, tier=1) for h, o in zip(hosts, owners, strict=True)])
    await together.put(BASE, OBJECTS)
    assert set(hosts[2].held()) == set(IDS)
    assert not set(hosts[0].held()) & set(hosts[1].held())


# Reads.


async def filled(count: int, **options: Any) -> tuple[HostSet, list[FakeHost]]:
    together, hosts = host_set(count, **options)
    await together.put(BASE, OBJECTS)
    return together, hosts


async def test_a_host_that_dies_between_two_reads() -> None:
    seen = Outcomes()
    together, hosts = await filled(3, on_outcome=seen)
    hosts[1].dies_after = 0
    got = await together.get(BASE, IDS, open_all)
    assert len(got.values) == len(IDS)
    share = next(s for s in got.shares if s.host == "host1")
    assert share.served == 0
    assert share.asked
    assert share.failure
    assert seen.of("host1") == ["lost"]
    assert set(got.sources.values()) == {"host0", "host2"}
    again = await together.get(BASE, IDS, open_all)
    assert "host1" not in {s.host for s in again.shares}


async def test_a_liar_is_found_and_passed_over() -> None:
    seen = Outcomes()
    together, hosts = await filled(3, on_outcome=seen)
    hosts[0].alter = lambda object_id, blob: bytes(len(blob))
    got = await together.get(BASE, IDS, open_all)
    assert got.values == {i: i for i in IDS}
    assert seen.of("host0") == ["wrong"]
    assert "host0" not in got.sources.values()


async def test_a_liar_about_one_object_costs_no_other() -> None:
    seen = Outcomes()
    together, hosts = await filled(3, on_outcome=seen)
    first = next(i for i, row in zip(IDS, together.holders(IDS)[:, 0], strict=True) if row == 0)
    hosts[0].alter = lambda i, blob: (
        sealed(IDS[0] if i != IDS[0] else IDS[1]) if i == first else blob
    )
    got = await together.get(BASE, IDS, open_all)
    assert len(got.values) == len(IDS)
    assert got.sources[first] != "host0"
    assert "host0" in got.sources.values()
    assert seen.of("host0") == ["wrong"]


async def test_what_everybody_lies_about_is_missing_and_never_wrong() -> None:
    together, hosts = await filled(2)
    for host in hosts:
        host.alter = lambda object_id, blob: blob[:-1] if len(blob) < 16 else b"x" * len(blob)
    got = await together.get(BASE, IDS, open_all)
    assert got.values == {}
    assert got.missing == tuple(sorted(IDS))


async def test_what_is_omitted_comes_from_another() -> None:
    together, hosts = await filled(3)
    hosts[2].alter = lambda object_id, blob: None
    got = await together.get(BASE, IDS, open_all)
    assert len(got.values) == len(IDS)
    # Who has nothing of what it should have is not asked first, however fast it says so.
    again = await together.get(BASE, IDS, open_all)
    assert "host2" not in {s.host for s in again.shares}


async def test_more_or_fewer_objects_than_asked_for() -> None:
    seen = Outcomes()
    together, hosts = await filled(2, on_outcome=seen)

    async def short(base: bytes, ids: Any) -> list[bytes | None]:
        return [None]

    hosts[0].get = short  # type: ignore[method-assign]
    assert len((await together.get(BASE, IDS, open_all)).values) == len(IDS)
    assert seen.of("host0") == ["misbehaved"]


def test_a_slow_host_is_hedged_and_then_avoided() -> None:
    async def main() -> None:
        together, hosts = await filled(3)
        for _ in range(3):
            await together.get(BASE, IDS, open_all)
        hosts[0].delay_s = 5.0
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        got = await together.get(BASE, IDS, open_all)
        assert len(got.values) == len(IDS)
        assert got.hedged
        assert loop.time() - started_s <= VPK_HEDGE_S_MAX
        again = await together.get(BASE, IDS, open_all)
        assert "host0" not in {s.host for s in again.shares}
        assert not again.hedged
        await together.close()

    run_virtual(main)


def test_a_fast_host_is_asked_rather_than_a_far_one() -> None:
    async def main() -> None:
        together, hosts = await filled(2)
        hosts[0].delay_s, hosts[1].delay_s = 0.001, 0.2
        await together.get(BASE, IDS, open_all)
        got = await together.get(BASE, IDS, open_all)
        assert [s.host for s in got.shares] == ["host0"]
        # After a while the far one gets another chance.
        await asyncio.sleep(600)
        got = await together.get(BASE, IDS, open_all)
        assert {s.host for s in got.shares} == {"host0", "host1"}

    run_virtual(main)


def test_a_read_ends_when_nobody_answers() -> None:
    async def main() -> None:
        seen = Outcomes()
        together, hosts = await filled(2, on_outcome=seen)
        for host in hosts:
            host.delay_s = 1e6
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        got = await together.get(BASE, IDS, open_all)
        assert got.missing == tuple(sorted(IDS))
        assert loop.time() - started_s == pytest.approx(VPK_READ_S_MAX)
        assert "stalled" in seen.of("host0")
        assert "stalled" in seen.of("host1")
        await together.close()

    run_virtual(main)


def test_a_read_that_is_given_up_leaves_nothing_running() -> None:
    async def main() -> None:
        together, hosts = await filled(2)
        for host in hosts:
            host.delay_s = 1e6
        task = asyncio.create_task(together.get(BASE, IDS, open_all))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await together.close()
        assert len(asyncio.all_tasks()) == 1

    run_virtual(main)


async def test_objects_are_found_where_they_lay_before_the_hosts_changed() -> None:
    together, _hosts = await filled(2)
    fresh = [FakeHost(f"new{i}") for i in range(6)]
    members = [*together.members, *(Member(h, h.id, tier=1, weight=5.0) for h in fresh)]
    got = await together.with_members(members).get(BASE, IDS, open_all)
    assert len(got.values) == len(IDS)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_with_one_host_of_three_at_fault_nothing_is_missing(seed: int) -> None:
    rng = random.Random(seed)

    async def main() -> None:
        together, hosts = host_set(3)
        bad = hosts[rng.randrange(3)]
        fault = rng.choice(["dies", "lies", "omits", "slow", "full"])
        if fault == "dies":
            bad.dies_after = rng.randrange(4)
        elif fault == "lies":
            bad.alter = lambda i, blob: rng.randbytes(rng.randrange(60))
        elif fault == "omits":
            bad.alter = lambda i, blob: None if rng.random() < 0.5 else blob
        elif fault == "slow":
            bad.delay_s = rng.choice([0.5, 5.0, 1e5])
        else:
            bad.room = rng.randrange(3000)
        for start in range(0, 300, 100):
            await together.put(BASE, OBJECTS[start : start + 100])
            got = await together.get(BASE, IDS[: start + 100], open_all)
            assert got.missing == (), (seed, fault)
        await together.close()

    run_virtual(main)


# Large objects.


def opens(expected: bytes) -> Any:
    def check(blob: bytes) -> bytes:
        if blob != expected:
            raise SealBroken("it does not open")
        return blob

    return check


BLOB = random.Random(7).randbytes(400_000)
LARGE = b"L" * 16


@pytest.mark.parametrize(("count", "coding"), [(2, "1/2"), (8, "4/8"), (12, "6/12")])
async def test_large_objects_are_coded_by_how_many_hosts_there_are(count: int, coding: str) -> None:
    together, hosts = host_set(count)
    made = await together.put_large(BASE, LARGE, BLOB)
    assert str(made) == coding
    assert sum(LARGE in h.held() for h in hosts) == made.count
    for known in (None, coding):
        assert await together.get_large(BASE, LARGE, opens(BLOB), coding=known) == BLOB
    assert sum(("get", 1) in h.asked for h in hosts) == made.least
    for host in [h for h in hosts if LARGE in h.held()][: made.count - made.least]:
        host.away = True
    assert await together.get_large(BASE, LARGE, opens(BLOB)) == BLOB
    next(h for h in hosts if LARGE in h.held() and not h.away).away = True
    with pytest.raises(TooFewHosts, match="away"):
        await together.get_large(BASE, LARGE, opens(BLOB))


async def test_large_objects_of_several_stripes() -> None:
    together, hosts = host_set(3)
    blob = random.Random(8).randbytes(2 * VPK_FRAGMENT_BYTES_MAX + 5)
    assert await together.put_large(BASE, LARGE, blob) == Coding(1, 2)
    hosts[0].away = True
    assert await together.get_large(BASE, LARGE, opens(blob)) == blob
    hosts[0].away = False
    await together.delete_large(BASE, LARGE)
    assert not any(h.held() for h in hosts)


async def test_large_objects_with_liars_among_their_hosts() -> None:
    seen = Outcomes()
    together, hosts = host_set(8, on_outcome=seen)
    await together.put_large(BASE, LARGE, BLOB)
    hosts[0].alter = lambda i, blob: blob[:-1] + bytes([blob[-1] ^ 1])
    hosts[1].alter = lambda i, blob: b"nonsense"
    hosts[2].alter = lambda i, blob: None
    # A fragment of something else, made as it should be.
    hosts[3].alter = lambda i, blob: make_fragments(bytes(400_000), Coding(4, 8))[0][3]
    assert await together.get_large(BASE, LARGE, opens(BLOB)) == BLOB
    asked = {h.id for h in hosts[:2] if ("get", 1) in h.asked}
    assert asked == {h.id for h in hosts[:2] if "wrong" in seen.of(h.id)}
    assert all(seen.of(h.id) in ([], ["served"]) for h in hosts[4:])


async def test_a_liar_with_a_whole_copy() -> None:
    seen = Outcomes()
    together, hosts = host_set(2, on_outcome=seen)
    blob = BLOB[:1000]
    await together.put_large(BASE, LARGE, blob)
    for liar in hosts:
        liar.alter = lambda i, blob: make_fragments(b"other text", Coding(1, 2))[0][0]
        assert await together.get_large(BASE, LARGE, opens(blob)) == blob
        liar.alter = lambda i, blob: blob
    wrong = [name for name, outcome, _ in seen.seen if outcome == "wrong"]
    assert len(wrong) >= 1


async def test_hosts_that_lie_together() -> None:
    seen = Outcomes()
    together, hosts = host_set(12, on_outcome=seen)
    await together.put_large(BASE, LARGE, BLOB)
    false = make_fragments(bytes(400_000), Coding(4, 8))[0]
    for liar, fragment in zip(hosts[:5], false, strict=False):
        liar.held()[LARGE] = fragment
    assert await together.get_large(BASE, LARGE, opens(BLOB)) == BLOB
    liars = {name for name, outcome, _ in seen.seen if outcome == "wrong"}
    assert liars <= {h.id for h in hosts[:5]}


async def test_large_objects_when_hosts_fail_while_writing() -> None:
    together, hosts = host_set(9)
    hosts[0].dies_after = 0
    hosts[1].room = 0
    made = await together.put_large(BASE, LARGE, BLOB)
    assert str(made) == "4/8"
    assert sum(LARGE in h.held() for h in hosts[2:]) == 7
    for host in hosts[2:6]:
        host.dies_after = 0
    other = await together.put_large(BASE, b"M" * 16, BLOB)
    assert other.is_whole
    assert await together.get_large(BASE, b"M" * 16, opens(BLOB)) == BLOB
    for host in hosts:
        host.away = False
        host.room, host.dies_after = 0, None
    fresh = together.with_members(together.members)
    with pytest.raises(StorageFull):
        await fresh.put_large(BASE, b"N" * 16, BLOB)


async def test_nobody_has_it() -> None:
    together, _ = host_set(3)
    with pytest.raises(TooFewHosts):
        await together.get_large(BASE, LARGE, opens(BLOB))


async def test_stripes_of_a_liar_who_has_only_the_first() -> None:
    """Its making never opens for want of the second stripe: the honest one is read instead."""
    together, hosts = host_set(2)
    blob = random.Random(9).randbytes(VPK_FRAGMENT_BYTES_MAX + 5)
    await together.put_large(BASE, LARGE, blob)
    false = make_fragments(bytes(len(blob)), Coding(1, 2))[0][0]
    for liar in hosts:
        kept = dict(liar.held())
        liar.held()[LARGE] = false
        assert await together.get_large(BASE, LARGE, opens(blob)) == blob
        liar.held()[stripe_id(LARGE, 1)] = kept[stripe_id(LARGE, 1)]
        liar.held()[LARGE] = kept[LARGE]


# Manifests.


@dataclass(frozen=True)
class Number:
    sequence: int


def verify(data: bytes) -> Number:
    if not data.startswith(b"ours "):
        raise SealBroken("not ours")
    return Number(int(data.split()[1]))


async def test_manifests_count_up_and_the_newest_is_found() -> None:
    together, hosts = host_set(3)
    assert await together.get_manifest(BASE, verify) is None
    put = await together.put_manifest(BASE, 1, b"ours 1", verify)
    assert put.hosts == ("host0", "host1", "host2")
    assert put.away == ()
    hosts[0].away = True
    put = await together.put_manifest(BASE, 2, b"ours 2", verify)
    assert put.away == ("host0",)
    hosts[0].away = False
    found = await together.get_manifest(BASE, verify)
    assert found is not None
    assert (found.manifest.sequence, found.data) == (2, b"ours 2")
    assert (found.hosts, found.stale) == (("host1", "host2"), ("host0",))
    spread = await together.spread_manifest(BASE, verify)
    assert spread is not None
    assert len(spread.hosts) == 3
    assert hosts[0].manifests[BASE] == (2, b"ours 2")


async def test_of_two_devices_one_wins_and_the_other_learns_of_it() -> None:
    together, hosts = host_set(3)
    await together.put_manifest(BASE, 1, b"ours 1", verify)
    hosts[0].manifests[BASE] = (2, b"ours 2 by another")
    put = await together.put_manifest(BASE, 2, b"ours 2", verify)
    assert put.hosts == ("host1", "host2")
    with pytest.raises(ManifestConflict) as raised:
        await together.put_manifest(BASE, 2, b"ours 2 by a third", verify)
    assert raised.value.current == b"ours 2"
    found = await together.get_manifest(BASE, verify)
    assert found is not None
    assert found.data == b"ours 2"
    assert [data for _, data in found.rivals] == [b"ours 2 by another"]


async def test_neither_of_two_devices_has_a_majority() -> None:
    together, hosts = host_set(2)
    hosts[0].manifests[BASE] = (1, b"ours 1 by another")
    with pytest.raises(ManifestConflict) as raised:
        await together.put_manifest(BASE, 1, b"ours 1", verify)
    assert raised.value.current == b"ours 1 by another"


async def test_a_liar_cannot_hold_up_publishing_or_roll_back() -> None:
    seen = Outcomes()
    together, hosts = host_set(3, on_outcome=seen)
    await together.put_manifest(BASE, 1, b"ours 1", verify)
    for lie in (b"nonsense", b"ours 1"):
        hosts[0].manifests[BASE] = (99, lie)
        sequence = 2 if lie == b"nonsense" else 3
        put = await together.put_manifest(BASE, sequence, b"ours %d" % sequence, verify)
        assert put.away == ("host0",)
    assert seen.of("host0") == ["wrong", "wrong"]
    found = await together.get_manifest(BASE, verify)
    assert found is not None
    assert found.manifest.sequence == 3
    assert found.stale == ("host0",)
    hosts[0].manifests[BASE] = (99, b"nonsense")
    found = await together.get_manifest(BASE, verify)
    assert found is not None
    assert found.away == ("host0",)


async def test_a_host_that_goes_back_on_what_it_took_is_told_of() -> None:
    seen = Outcomes()
    together, hosts = host_set(3, on_outcome=seen)
    await together.put_manifest(BASE, 1, b"ours 1", verify)
    hosts[0].away = True
    await together.put_manifest(BASE, 2, b"ours 2", verify)
    hosts[0].away = False
    await together.get_manifest(BASE, verify)
    assert "stale" not in seen.of("host0")  # it was away, and never took number 2
    hosts[1].manifests[BASE] = (1, b"ours 1")
    del hosts[2].manifests[BASE]
    found = await together.get_manifest(BASE, verify)
    assert found is not None
    assert seen.of("host1") == ["stale"]
    assert seen.of("host2") == ["stale"]


async def test_manifests_when_hosts_are_away_or_full() -> None:
    together, hosts = host_set(2)
    hosts[0].away = True
    assert (await together.put_manifest(BASE, 1, b"ours 1", verify)).hosts == ("host1",)
    hosts[1].away = True
    with pytest.raises(TooFewHosts):
        await together.put_manifest(BASE, 2, b"ours 2", verify)
    with pytest.raises(TooFewHosts):
        await together.get_manifest(BASE, verify)
    with pytest.raises(TooFewHosts):
        await together.bases()


# The rest.


async def test_bases_usage_and_dropping() -> None:
    together, hosts = await filled(3)
    hosts[2].away = True
    assert await together.bases() == {BASE: ("host0", "host1")}
    assert set(await together.usage()) == {"host0", "host1"}
    assert await together.drop_base(BASE) == ("host2",)
    assert (await together.delete(BASE, IDS)).away == ("host2",)
    assert not hosts[0].held()


async def test_two_hosts_for_oblivious_reads() -> None:
    together, hosts = host_set(2)
    assert together.pir_pair() == (hosts[0], hosts[1])
    with pytest.raises(TooFewHosts):
        host_set(3)[0].pir_pair()
    members = [Member(h, "anna", tier=1) for h in hosts]
    with pytest.raises(TooFewHosts, match="different owners"):
        HostSet(members).pir_pair()


def test_figures_that_cannot_be() -> None:
    host = FakeHost("host")
    for options in ({"replicas": 0}, {"replicas": 9}, {"least": 3}, {"least": 0}):
        with pytest.raises(UserError):
            HostSet([Member(host, "a", tier=1)], **options)  # type: ignore[arg-type]
    with pytest.raises(UserError):
        HostSet([])


def test_ids_of_others_are_other_ids() -> None:
    assert not set(ids_of(10, seed=1)) & set(ids_of(10, seed=2))


@dataclass(frozen=True)
class Items:
    """A manifest for a simulation: what is alive, as words."""

    sequence: int
    items: frozenset[str]


def items(data: bytes) -> Items:
    if not data.startswith(b"ours "):
        raise SealBroken("not ours")
    _, number, *words = data.decode().split()
    return Items(int(number), frozenset(words))


async def publish(hosts: HostSet, own: set[str], name: str, rng: random.Random) -> None:
    """What a device does until its items are in the newest manifest."""
    for _ in range(200):
        await asyncio.sleep(rng.random() * 3)
        try:
            found = await hosts.get_manifest(BASE, items)
            sequence = 1
            if found is not None:
                sequence = found.manifest.sequence + 1
                own |= found.manifest.items
                for rival, _data in found.rivals:
                    own |= rival.items
            data = f"ours {sequence} {' '.join(sorted(own))} by-{name}".encode()
            await hosts.put_manifest(BASE, sequence, data, items)
        except ManifestConflict as conflict:
            own |= items(conflict.current).items
        except TooFewHosts:
            pass
        else:
            return
    raise AssertionError("it never got through")


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_devices_that_publish_at_once_lose_nothing(seed: int) -> None:
    rng = random.Random(seed)

    async def main() -> None:
        together, hosts = host_set(rng.randint(1, 5))
        devices = {name: together.with_members(together.members) for name in "abc"}
        own: dict[str, set[str]] = {name: set() for name in devices}

        async def live(name: str) -> None:
            for turn in range(3):
                own[name].add(f"{name}{turn}")
                await publish(devices[name], own[name], name, rng)

        async def disturb() -> None:
            for _ in range(6):
                host = rng.choice(hosts)
                host.away = len(hosts) > 2
                host.delay_s = rng.random()
                await asyncio.sleep(rng.random() * 5)
                host.away = False

        await asyncio.gather(*map(live, devices), disturb())
        await publish(devices["a"], own["a"], "a", rng)
        found = await together.get_manifest(BASE, items)
        assert found is not None
        wanted = {f"{name}{turn}" for name in devices for turn in range(3)}
        # Whoever published before may have been overtaken: it notices, and publishes again.
        for name, hosts_of in devices.items():
            await publish(hosts_of, own[name], name, rng)
        found = await together.get_manifest(BASE, items)
        assert found is not None
        assert wanted <= found.manifest.items, seed

    run_virtual(main)
