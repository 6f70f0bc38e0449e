"""What a host keeps: round trips, quotas, counters, conflicts, space given back, hostile values."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from credentials.keys import SecretKey
from kwaai import limits
from kwaai.errors import (
    FileCorrupt,
    ManifestConflict,
    PeerRefused,
    StorageFull,
    StorageRefused,
)
from kwaai.vpk import host_rows, host_store
from kwaai.vpk.host_rows import charge_of
from kwaai.vpk.host_store import HostStore
from kwaai.vpk.host_tables import PirTables
from kwaai.vpk.pir import combine, describe_table, make_masks

TENANT = SecretKey(bytes(31) + b"\1").public.raw
OTHER = SecretKey(bytes(31) + b"\2").public.raw
BASE, BASE_2 = b"b" * 16, b"c" * 16
CAPACITY = 64 * limits.MIB
QUOTA = 16 * limits.MIB


def object_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def small_objects(count: int, size: int = 428, start: int = 0) -> list[tuple[bytes, bytes]]:
    return [(object_id(n), os.urandom(size)) for n in range(start, start + count)]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[HostStore]:
    opened = HostStore.open(tmp_path / "host" / "objects.db", CAPACITY, reserve_bytes=0)
    opened.create_tenant(TENANT, QUOTA, name="bob")
    yield opened
    opened.close()


def test_what_was_put_comes_back_in_the_order_asked(store: HostStore) -> None:
    objects = small_objects(300)
    store.put(TENANT, BASE, objects)
    ids = [object_id(250), object_id(999), object_id(3), object_id(250)]
    assert store.get(TENANT, BASE, ids) == [objects[250][1], None, objects[3][1], objects[250][1]]
    assert store.get(TENANT, BASE, []) == []
    assert store.get(TENANT, BASE_2, ids[:1]) == [None]
    assert store.list_ids(TENANT, BASE, b"", 2) == [object_id(0), object_id(1)]
    assert store.list_ids(TENANT, BASE, object_id(297), 9) == [object_id(298), object_id(299)]
    assert store.list_ids(TENANT, BASE_2, b"", 9) == []


def test_what_was_put_is_there_after_reopening(tmp_path: Path) -> None:
    path = tmp_path / "objects.db"
    first = HostStore.open(path, CAPACITY, reserve_bytes=0)
    first.create_tenant(TENANT, QUOTA)
    first.put(TENANT, BASE, [(object_id(1), b"sealed")])
    first.close()
    second = HostStore.open(path, CAPACITY, reserve_bytes=0)
    assert second.get(TENANT, BASE, [object_id(1)]) == [b"sealed"]
    assert path.stat().st_mode & 0o077 == 0
    second.close()
    second.close()


def test_counters_follow_puts_replacements_and_deletes(store: HostStore) -> None:
    store.put(TENANT, BASE, [(object_id(1), b"12345"), (object_id(2), b"1")])
    store.put(TENANT, BASE, [(object_id(1), b"123"), (object_id(1), b"12")])
    usage = store.usage(TENANT)
    assert (usage.objects, usage.used_bytes) == (2, charge_of(2) + charge_of(1))
    assert store.delete(TENANT, BASE, [object_id(1), object_id(1), object_id(7)]) == 1
    assert store.delete(TENANT, BASE, []) == 0
    assert store.delete(TENANT, BASE_2, [object_id(1)]) == 0
    usage = store.usage(TENANT)
    assert (usage.objects, usage.used_bytes) == (1, charge_of(1))
    totals = store.check()
    assert (totals.objects, totals.used_bytes) == (1, charge_of(1))


def test_a_tenant_sees_nothing_of_another(store: HostStore) -> None:
    store.create_tenant(OTHER, QUOTA)
    store.put(TENANT, BASE, [(object_id(1), b"mine")])
    store.put(OTHER, BASE, [(object_id(1), b"theirs")])
    assert store.get(OTHER, BASE, [object_id(1)]) == [b"theirs"]
    store.delete(OTHER, BASE, [object_id(1)])
    store.drop_base(OTHER, BASE)
    assert store.get(TENANT, BASE, [object_id(1)]) == [b"mine"]
    assert store.bases(OTHER) == []
    assert store.bases(TENANT) == [BASE]


def test_an_unknown_tenant_gets_nothing(store: HostStore) -> None:
    for call in (
        lambda: store.put(OTHER, BASE, small_objects(1)),
        lambda: store.get(OTHER, BASE, [object_id(1)]),
        lambda: store.delete(OTHER, BASE, [object_id(1)]),
        lambda: store.list_ids(OTHER, BASE, b"", 1),
        lambda: store.get_manifest(OTHER, BASE),
        lambda: store.bases(OTHER),
        lambda: store.drop_base(OTHER, BASE),
        lambda: store.usage(OTHER),
        lambda: store.pir_table(OTHER, BASE, 428),
        lambda: store.prove(OTHER, BASE, object_id(1), b""),
    ):
        with pytest.raises(StorageRefused, match="not known here"):
            call()


def test_a_quota_is_checked_before_anything_is_written(store: HostStore) -> None:
    store.create_tenant(TENANT, charge_of(100) * 3)
    store.put(TENANT, BASE, small_objects(2, 100))
    with pytest.raises(StorageFull, match="quota"):
        store.put(TENANT, BASE, small_objects(2, 100, start=2))
    assert store.usage(TENANT).objects == 2
    store.put(TENANT, BASE, small_objects(3, 100))  # two of them replace
    store.put(TENANT, BASE, small_objects(3, 50))  # and all of them shrink
    assert store.usage(TENANT).used_bytes == 3 * charge_of(50)


def test_a_smaller_quota_refuses_what_grows_and_takes_what_shrinks(store: HostStore) -> None:
    store.put(TENANT, BASE, small_objects(4, 100))
    store.create_tenant(TENANT, 1)
    with pytest.raises(StorageFull, match="0 left"):
        store.put(TENANT, BASE, small_objects(1, 100, start=9))
    store.put(TENANT, BASE, small_objects(4, 90))
    assert store.delete(TENANT, BASE, [object_id(0)]) == 1


def test_the_capacity_holds_for_all_tenants_together(tmp_path: Path) -> None:
    store = HostStore.open(tmp_path / "o.db", 2 * charge_of(1000), reserve_bytes=0)
    store.create_tenant(TENANT, QUOTA)
    store.create_tenant(OTHER, QUOTA)
    store.put(TENANT, BASE, small_objects(1, 1000))
    store.put(OTHER, BASE, small_objects(1, 1000))
    with pytest.raises(StorageFull, match="this host has 0 bytes left"):
        store.put(OTHER, BASE, small_objects(1, 1000, start=1))
    store.drop_base(TENANT, BASE)
    with pytest.raises(StorageFull):  # still on the disk
        store.put(OTHER, BASE, small_objects(1, 1000, start=1))
    while store.tidy():
        pass
    store.put(OTHER, BASE, small_objects(1, 1000, start=1))
    store.close()


def test_the_disk_keeps_its_reserve(tmp_path: Path) -> None:
    store = HostStore.open(tmp_path / "o.db", CAPACITY, reserve_bytes=1 << 62)
    store.create_tenant(TENANT, QUOTA)
    with pytest.raises(StorageFull):
        store.put(TENANT, BASE, small_objects(1))
    assert store.totals().free_bytes == 0
    store.close()


def test_a_full_disk_refuses_and_leaves_what_was_there(store: HostStore) -> None:
    store.put(TENANT, BASE, small_objects(10))
    with store._writer.outside() as connection:
        pages = connection.pragma("page_count")
        connection.pragma("max_page_count", pages + 4)
    with pytest.raises(StorageFull, match="no room left"):
        store.put(TENANT, BASE, small_objects(1000, start=10))
    assert store.usage(TENANT).objects == 10
    assert store.check().objects == 10


def test_space_is_given_back(store: HostStore) -> None:
    for start in range(0, 12_000, 4000):
        store.put(TENANT, BASE, small_objects(4000, start=start))
    store.put(TENANT, BASE_2, small_objects(100))
    with store._writer.outside() as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    full = store.path.stat().st_size
    store.drop_base(TENANT, BASE)
    assert store.get(TENANT, BASE, [object_id(1)]) == [None]
    assert store.usage(TENANT).objects == 100
    assert store.totals().used_bytes > 12_000 * 428  # not yet
    while store.tidy():
        pass
    assert store.path.stat().st_size < full / 2
    assert store.check().objects == 100


def test_a_base_that_was_dropped_and_made_anew_is_empty(store: HostStore) -> None:
    store.put(TENANT, BASE, small_objects(5))
    store.drop_base(TENANT, BASE)
    store.drop_base(TENANT, BASE)
    store.put(TENANT, BASE, [(object_id(9), b"new")])
    assert store.list_ids(TENANT, BASE, b"", 10) == [object_id(9)]
    while store.tidy():
        pass
    assert store.get(TENANT, BASE, [object_id(9), object_id(1)]) == [b"new", None]


def test_a_tenant_that_is_deleted_leaves_nothing(store: HostStore) -> None:
    store.put(TENANT, BASE, small_objects(5))
    assert store.delete_tenant(TENANT)
    assert not store.delete_tenant(TENANT)
    while store.tidy():
        pass
    totals = store.check()
    assert (totals.tenants, totals.objects, totals.used_bytes) == (0, 0, 0)
    store.create_tenant(TENANT, QUOTA)
    assert store.get(TENANT, BASE, [object_id(1)]) == [None]


def test_making_a_tenant_again_sets_its_quota(store: HostStore) -> None:
    made = store.create_tenant(TENANT, 5, name="other", owner="peer")
    assert (made.quota_bytes, made.name, made.owner) == (5, "bob", "")
    shown = store.create_tenant(OTHER, 5, name="a\x1b[2Jb" * 40)
    assert len(shown.name) == limits.STORAGE_NAME_CHARS_MAX
    assert shown.name.isprintable()
    assert [tenant.key for tenant in store.tenants()] == [TENANT, OTHER]


def test_there_are_not_too_many_tenants_and_bases(
    store: HostStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "STORAGE_TENANTS_MAX", 1)
    monkeypatch.setattr(limits, "STORAGE_BASES_MAX", 1)
    with pytest.raises(StorageFull, match="tenants"):
        store.create_tenant(OTHER, 1)
    store.put(TENANT, BASE, small_objects(1))
    with pytest.raises(StorageFull, match="bases"):
        store.put(TENANT, BASE_2, small_objects(1))


@pytest.mark.parametrize(
    ("base", "objects"),
    [
        (b"short", [(object_id(1), b"x")]),
        (BASE, [(b"short", b"x")]),
        (BASE, [(object_id(1), b"")]),
        (BASE, [(object_id(1), bytes(limits.STORAGE_OBJECT_BYTES_MAX + 1))]),
    ],
)
def test_what_no_object_can_be_is_refused(
    store: HostStore, base: bytes, objects: list[tuple[bytes, bytes]]
) -> None:
    with pytest.raises(StorageRefused):
        store.put(TENANT, base, objects)
    assert store.totals().objects == 0


def test_an_answer_ends_before_it_is_too_long(store: HostStore) -> None:
    store.put(TENANT, BASE, small_objects(3, 100))
    ids = [object_id(0), object_id(7), object_id(1), object_id(2)]
    assert len(store.get(TENANT, BASE, ids, bytes_max=250)) == 3
    assert len(store.get(TENANT, BASE, ids, bytes_max=10)) == 1


class Manifests:
    """Stands in for signed manifests: `<sequence> <text>`."""

    @staticmethod
    def check(tenant: bytes, base: bytes, sequence: int, data: bytes) -> None:
        if int(data.split()[0]) != sequence:
            raise StorageRefused("another number")


@pytest.fixture
def _plain_manifests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_store, "_check_manifest", Manifests.check)


@pytest.mark.usefixtures("_plain_manifests")
def test_the_later_manifest_stays(store: HostStore) -> None:
    assert store.get_manifest(TENANT, BASE) is None
    store.put_manifest(TENANT, BASE, 1, b"1 a")
    store.put_manifest(TENANT, BASE, 1, b"1 a")
    for sequence, data in ((1, b"1 b"), (2, b"2 b"), (4, b"4 b")):  # 3 was missed
        if sequence > 1:
            store.put_manifest(TENANT, BASE, sequence, data)
            continue
        with pytest.raises(ManifestConflict) as caught:
            store.put_manifest(TENANT, BASE, sequence, data)
        assert caught.value.current == b"1 a"
    with pytest.raises(ManifestConflict) as caught:
        store.put_manifest(TENANT, BASE, 3, b"3 c")
    assert caught.value.current == b"4 b"
    assert store.get_manifest(TENANT, BASE) == b"4 b"
    assert store.bases(TENANT) == [BASE]
    assert store.usage(TENANT).used_bytes == charge_of(3)
    store.check()
    store.drop_base(TENANT, BASE)
    assert store.get_manifest(TENANT, BASE) is None
    assert store.usage(TENANT).used_bytes == 0


@pytest.mark.usefixtures("_plain_manifests")
def test_of_two_who_publish_at_once_one_wins(store: HostStore) -> None:
    store.put_manifest(TENANT, BASE, 1, b"1 start")
    results: list[str] = []

    def publish(name: str) -> None:
        try:
            store.put_manifest(TENANT, BASE, 2, f"2 {name}".encode())
            results.append("kept")
        except ManifestConflict:
            results.append("conflict")

    threads = [threading.Thread(target=publish, args=(str(n),)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sorted(results) == ["conflict", "conflict", "conflict", "kept"]


def test_a_manifest_that_nobody_signed_is_refused(store: HostStore) -> None:
    for data in (b"x", bytes(500), os.urandom(500)):
        with pytest.raises(StorageRefused):
            store.put_manifest(TENANT, BASE, 1, data)
    assert store.get_manifest(TENANT, BASE) is None


def test_oblivious_reads_give_the_rows(store: HostStore) -> None:
    objects = sorted(small_objects(100, 64))
    store.put(TENANT, BASE, [*objects, (object_id(500), b"another size")])
    table = store.pir_table(TENANT, BASE, 64)
    assert table == describe_table([object_id for object_id, _ in objects], 64)
    first, second = make_masks(table.rows, [17, 99], 3)
    one, other = (store.pir(TENANT, BASE, table, masks) for masks in (first, second))
    assert combine(one, other, 2, 64) == [objects[17][1], objects[99][1]]


def test_a_table_that_has_changed_is_not_read(store: HostStore) -> None:
    store.put(TENANT, BASE, small_objects(10, 64))
    table = store.pir_table(TENANT, BASE, 64)
    store.put(TENANT, BASE, small_objects(1, 64, start=10))
    with pytest.raises(PeerRefused, match="changed"):
        store.pir(TENANT, BASE, table, [b"\xff\xff"])
    assert store.pir_table(TENANT, BASE, 64).rows == 11
    assert store.pir_table(TENANT, BASE_2, 64).rows == 0


def test_a_replaced_object_is_seen_by_oblivious_reads(store: HostStore) -> None:
    store.put(TENANT, BASE, [(object_id(1), b"a" * 8)])
    table = store.pir_table(TENANT, BASE, 8)
    assert store.pir(TENANT, BASE, table, [b"\x80"]) == [b"a" * 8]
    store.put(TENANT, BASE, [(object_id(1), b"b" * 8)])
    assert store.pir(TENANT, BASE, store.pir_table(TENANT, BASE, 8), [b"\x80"]) == [b"b" * 8]


def test_tables_are_bounded_in_memory(store: HostStore) -> None:
    store._tables = PirTables(bytes_max=64 * 10)
    store.put(TENANT, BASE, small_objects(8, 64))
    store.put(TENANT, BASE, small_objects(8, 32, start=100))
    store.pir_table(TENANT, BASE, 64)
    store.pir_table(TENANT, BASE, 32)
    assert len(store._tables._kept) == 1
    store.put(TENANT, BASE, small_objects(3, 64, start=200))
    with pytest.raises(PeerRefused, match="more than this host reads"):
        store.pir_table(TENANT, BASE, 64)


def test_a_proof_needs_the_object_and_its_tags(store: HostStore) -> None:
    store.put(TENANT, BASE, [(object_id(1), b"data")])
    with pytest.raises(PeerRefused, match="not held"):
        store.prove(TENANT, BASE, object_id(1), b"")
    with pytest.raises(PeerRefused, match="not held"):
        store.prove(TENANT, BASE, object_id(2), b"")


def test_counters_that_do_not_add_up_are_found(store: HostStore) -> None:
    store.put(TENANT, BASE, small_objects(3))
    with store._writer.write() as connection:
        connection.execute("DELETE FROM objects WHERE id = ?", (object_id(1),))
    with pytest.raises(FileCorrupt, match="does not add up"):
        store.check()


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    store = HostStore.open(path, CAPACITY, reserve_bytes=0)
    store.create_tenant(TENANT, QUOTA)
    store.put(TENANT, BASE, small_objects(2000))
    store.close()
    data = bytearray(path.read_bytes())
    for at in range(4 * limits.STORAGE_PAGE_BYTES, len(data), 100):
        data[at] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(FileCorrupt, match=r"o\.db"):
        HostStore.open(path, CAPACITY, reserve_bytes=0).check()


def test_a_file_that_is_no_storage_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "o.db"
    path.write_bytes(b"no database at all" * 1000)
    path.chmod(0o600)
    with pytest.raises(FileCorrupt):
        HostStore.open(path, CAPACITY)
    assert path.read_bytes() == b"no database at all" * 1000


def test_another_process_sees_what_was_put(store: HostStore) -> None:
    other = HostStore.open(store.path, CAPACITY, reserve_bytes=0)
    store.put(TENANT, BASE, [(object_id(1), b"x")])
    assert other.get(TENANT, BASE, [object_id(1)]) == [b"x"]
    assert other.check().objects == 1
    other.close()


def test_reads_go_on_while_something_is_written(store: HostStore) -> None:
    store.put(TENANT, BASE, [(object_id(1), b"x")])
    with store._writer.write() as connection:
        host_rows.put_objects(connection, 1, [(object_id(2), b"y")])
        found: list[object] = []
        thread = threading.Thread(
            target=lambda: found.append(store.get(TENANT, BASE, [object_id(1), object_id(2)]))
        )
        thread.start()
        thread.join(30)
        assert found == [[b"x", None]]


_ids = st.integers(0, 12).map(object_id)
_steps = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.lists(st.tuples(_ids, st.binary(min_size=1, max_size=40)))),
        st.tuples(st.just("delete"), st.lists(_ids)),
        st.tuples(st.just("drop"), st.none()),
        st.tuples(st.just("tidy"), st.none()),
    ),
    max_size=12,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=_steps)
def test_it_is_a_mapping_whose_counters_are_right(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, object]]
) -> None:
    store = HostStore.open(
        tmp_path_factory.mktemp("host") / "o.db", 30 * charge_of(40), reserve_bytes=0
    )
    store.create_tenant(TENANT, 8 * charge_of(40))
    model: dict[bytes, bytes] = {}
    for kind, value in steps:
        if kind == "put":
            wanted = {**model, **dict(value)}  # type: ignore[call-overload]
            try:
                store.put(TENANT, BASE, value)  # type: ignore[arg-type]
                model = wanted
            except StorageFull:
                pass
        elif kind == "delete":
            distinct = set(value)  # type: ignore[call-overload]
            assert store.delete(TENANT, BASE, value) == len(distinct & set(model))  # type: ignore[arg-type]
            model = {k: v for k, v in model.items() if k not in distinct}
        elif kind == "drop":
            store.drop_base(TENANT, BASE)
            model = {}
        else:
            store.tidy()
    assert store.list_ids(TENANT, BASE, b"", 100) == sorted(model)
    ids = [object_id(n) for n in range(13)]
    assert store.get(TENANT, BASE, ids) == [model.get(i) for i in ids]
    usage = store.usage(TENANT)
    assert usage.used_bytes == sum(charge_of(len(v)) for v in model.values())
    store.check()
    store.close()


def test_the_schema_is_one_that_others_can_read(store: HostStore) -> None:
    store.put(TENANT, BASE, small_objects(2))
    connection = apsw.Connection(str(store.path), flags=apsw.SQLITE_OPEN_READONLY)
    assert connection.execute("SELECT count(*) FROM objects").get == 2
    connection.close()
