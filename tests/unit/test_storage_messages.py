"""The storage protocol's bytes: round trips, bounds, what a signature ties down, hostile bytes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.keys import SecretKey, peer_id
from kwaai import limits
from kwaai.errors import (
    Busy,
    DiskFull,
    KwaaiError,
    ManifestConflict,
    PeerRefused,
    StorageFull,
    StorageRefused,
)
from kwaai.wire import storage_bodies as bodies
from kwaai.wire import storage_messages as messages
from kwaai.wire.codec import WireError
from kwaai.wire.storage_messages import Binding, Operation

TENANT = SecretKey(bytes(31) + b"\1")
READER = SecretKey(bytes(31) + b"\2")
HOST, CALLER, STRANGER = (
    peer_id(SecretKey(bytes(31) + bytes((number,))).public) for number in (3, 4, 5)
)
BINDING = Binding(HOST, CALLER, b"n" * 32)
BASE = b"b" * 16
IDS = [number.to_bytes(16, "big") for number in range(5)]
TABLE = bodies.Table(9, 4, b"d" * 32)


def request(operation: Operation = Operation.USAGE, body: bytes = b"body") -> bytes:
    return messages.encode_request(
        operation,
        body,
        tenant=TENANT.public.raw,
        signer=TENANT,
        binding=BINDING,
        counter=7,
    )


def test_a_request_is_read_as_it_was_written() -> None:
    data = messages.encode_request(
        Operation.GET,
        b"body",
        tenant=TENANT.public.raw,
        signer=READER,
        binding=BINDING,
        counter=1 << 40,
        delegation=b"right",
    )
    parsed = messages.parse_request(data)
    assert parsed is not None
    assert parsed.operation is Operation.GET
    assert parsed.tenant == TENANT.public.raw
    assert parsed.signer == READER.public.raw
    assert parsed.counter == 1 << 40
    assert parsed.delegation == b"right"
    assert bytes(parsed.body) == b"body"
    messages.verify_request(data, parsed, BINDING)


def test_the_bytes_are_those_of_the_document() -> None:
    data = request(body=b"")
    assert data[:2] == b"\x02\x04"
    assert data[2:34] == data[34:66] == TENANT.public.raw
    assert data[66:74] == bytes(7) + b"\x07"
    assert data[74:76] == b"\0\0"
    assert len(data) == messages.HEAD_BYTES + 2 + 64


def test_health_is_asked_by_anybody() -> None:
    assert messages.encode_health() == b"\x02\x01"
    assert messages.parse_request(messages.encode_health()) is None
    with pytest.raises(WireError):
        messages.parse_request(messages.encode_health() + b"x")


@pytest.mark.parametrize(
    "binding",
    [
        Binding(STRANGER, CALLER, BINDING.nonce),
        Binding(HOST, STRANGER, BINDING.nonce),
        Binding(CALLER, HOST, BINDING.nonce),
        Binding(HOST, CALLER, b"m" * 32),
        Binding(HOST, CALLER, b""),
    ],
)
def test_a_request_means_nothing_elsewhere(binding: Binding) -> None:
    data = request()
    parsed = messages.parse_request(data)
    assert parsed is not None
    with pytest.raises(StorageRefused):
        messages.verify_request(data, parsed, binding)


def test_no_byte_of_a_request_can_be_changed() -> None:
    data = request()
    for at in range(len(data)):
        changed = bytearray(data)
        changed[at] ^= 1
        try:
            parsed = messages.parse_request(bytes(changed))
        except WireError:
            continue
        assert parsed is not None
        with pytest.raises(StorageRefused):
            messages.verify_request(bytes(changed), parsed, BINDING)


def test_a_key_that_is_no_point_verifies_nothing() -> None:
    data = bytearray(request())
    data[34:66] = bytes(32)
    parsed = messages.parse_request(bytes(data))
    assert parsed is not None
    with pytest.raises(StorageRefused):
        messages.verify_request(bytes(data), parsed, BINDING)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x02",
        b"\x01" + request()[1:],
        b"\x02\x00" + request()[2:],
        b"\x02\xff" + request()[2:],
        request()[: messages.HEAD_BYTES],
        request()[: messages.HEAD_BYTES + 2 + 63],
        request()[: messages.HEAD_BYTES] + b"\xff\xff" + bytes(100_000),
    ],
)
def test_what_is_no_request_is_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        messages.parse_request(data)


# Answers.


def test_an_answer_is_read_as_it_was_written() -> None:
    assert bytes(messages.parse_answer(messages.encode_answer(b"xy"), HOST)) == b"xy"
    assert bytes(messages.parse_answer(messages.encode_answer(b""), HOST)) == b""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Busy("later", retry_after_s=1.5), Busy),
        (StorageFull("full"), StorageFull),
        (StorageRefused("no"), StorageRefused),
        (PeerRefused("changed"), PeerRefused),
        (DiskFull("disk"), PeerRefused),
        (KwaaiError("?"), PeerRefused),
        (WireError("bytes"), PeerRefused),
    ],
)
def test_a_refusal_is_raised_at_the_other_end(error: KwaaiError, kind: type[KwaaiError]) -> None:
    with pytest.raises(kind, match=error.message.replace("?", r"\?")) as caught:
        messages.parse_answer(messages.encode_refusal(error), HOST)
    assert type(caught.value) is kind
    assert HOST in caught.value.message
    assert caught.value.retry_after_s == error.retry_after_s


def test_a_conflict_brings_the_manifest() -> None:
    conflict = ManifestConflict("there is one")
    conflict.current = b"manifest" * 1000
    with pytest.raises(ManifestConflict) as caught:
        messages.parse_answer(messages.encode_refusal(conflict), HOST)
    assert caught.value.current == conflict.current


def test_a_refusals_text_is_cut_and_printable() -> None:
    data = messages.encode_refusal(StorageRefused("\x1b[31m" + "ä" * 5000))
    assert len(data) < limits.STORAGE_ERROR_BYTES_MAX + 64
    with pytest.raises(StorageRefused) as caught:
        messages.parse_answer(data, HOST)
    assert caught.value.message.isprintable()


# Bodies.


def test_bodies_are_read_as_they_were_written() -> None:
    objects = [(IDS[0], b"x"), (IDS[1], b"yz" * 300)]
    assert bodies.parse_put(bodies.encode_put(BASE, objects)) == (BASE, objects)
    assert bodies.parse_ids(bodies.encode_ids(BASE, IDS)) == (BASE, IDS)
    assert bodies.parse_ids(bodies.encode_ids(BASE, [])) == (BASE, [])
    assert bodies.parse_list(bodies.encode_list(BASE, b"", 3)) == (BASE, b"", 3)
    assert bodies.parse_list(bodies.encode_list(BASE, IDS[1], 3)) == (BASE, IDS[1], 3)
    assert bodies.parse_base(bodies.encode_base(BASE)) == BASE
    manifest = bodies.encode_put_manifest(BASE, 3, b"signed")
    assert bodies.parse_put_manifest(manifest) == (BASE, 3, b"signed")
    assert bodies.parse_table_request(bodies.encode_table_request(BASE, 64)) == (BASE, 64)
    assert bodies.parse_table(bodies.encode_table(TABLE)) == TABLE
    pir = bodies.encode_pir(BASE, TABLE, [b"ab", b"cd"])
    assert bodies.parse_pir(pir) == (BASE, TABLE, [b"ab", b"cd"])
    assert bodies.masks_of(pir) == 2
    assert bodies.masks_of(b"") == 0
    prove = bodies.encode_prove(BASE, IDS[0], b"challenge")
    assert bodies.parse_prove(prove) == (BASE, IDS[0], b"challenge")
    create = bodies.CreateTenant(1 << 40, "Alice's laptop")
    assert bodies.parse_create_tenant(bodies.encode_create_tenant(create)) == create
    usage = bodies.TenantUsage(1, 2, 3, 4)
    assert bodies.parse_usage(bodies.encode_usage(usage)) == usage
    health = bodies.Health(1, 2, 3, 4, 1, "0.1.0")
    assert bodies.parse_health_answer(bodies.encode_health_answer(health)) == health
    assert bodies.parse_id_list(bodies.encode_id_list(IDS), 5) == IDS
    assert bodies.parse_count(bodies.encode_count(5), 5) == 5
    assert bodies.parse_rows(b"abcdefgh", TABLE, 2) == [b"abcd", b"efgh"]


def test_objects_come_in_the_order_asked() -> None:
    objects = [b"x" * 428, None, b"y", None]
    body = bodies.encode_objects(objects)
    assert len(body) == 428 + 1 + 4 * 4
    assert bodies.parse_objects(body, 4) == objects
    assert bodies.parse_objects(body, 9) == objects  # the rest is asked for again
    assert bodies.parse_objects(b"", 0) == []


@pytest.mark.parametrize(
    ("body", "count"),
    [(b"", 1), (b"\0\0\0", 1), (b"\0\0\0\2x", 1), (b"\0\0\0\1xy", 1), (b"\0\0\0\1x", 0)],
)
def test_objects_that_do_not_fill_their_answer_are_refused(body: bytes, count: int) -> None:
    with pytest.raises(WireError):
        bodies.parse_objects(body, count)


def test_lists_of_ids_ascend_and_are_bounded() -> None:
    for wrong in ([IDS[1], IDS[0]], [IDS[0], IDS[0]]):
        with pytest.raises(WireError, match="ascending"):
            bodies.parse_id_list(b"".join(wrong), 5)
    with pytest.raises(WireError):
        bodies.parse_id_list(b"".join(IDS), 4)
    with pytest.raises(WireError):
        bodies.parse_id_list(b"x" * 17, 5)


@pytest.mark.parametrize(
    ("parse", "body"),
    [
        (bodies.parse_put, BASE + b"\xff\xff" + bytes(100)),
        (bodies.parse_put, BASE + b"\0\1" + IDS[0] + b"\0\0\0\0"),
        (bodies.parse_put, BASE + b"\0\1" + IDS[0] + b"\xff\xff\xff\xff"),
        (bodies.parse_put, BASE + b"\0\1" + IDS[0] + b"\0\0\0\1"),
        (bodies.parse_ids, BASE + b"\0\2" + IDS[0]),
        (bodies.parse_ids, BASE + b"\0\1" + IDS[0] + b"x"),
        (bodies.parse_list, BASE + b"\5" + bytes(5) + b"\0\0\0\1"),
        (bodies.parse_list, BASE + b"\0" + b"\xff\xff\xff\xff"),
        (bodies.parse_base, BASE + b"x"),
        (bodies.parse_put_manifest, BASE + bytes(8) + b"x"),
        (bodies.parse_put_manifest, BASE + bytes(7) + b"\1"),
        (bodies.parse_table_request, BASE + bytes(4)),
        (bodies.parse_pir, bodies.encode_pir(BASE, TABLE, [b"ab"])[:-1]),
        (bodies.parse_pir, BASE + bodies.encode_table(TABLE) + b"\xff\xff"),
        (bodies.parse_prove, BASE + IDS[0] + b"\xff\xff"),
        (bodies.parse_create_tenant, b"\xff" * 8 + b"\0\0"),
    ],
)
def test_bodies_that_are_out_of_bounds_are_refused(
    parse: Callable[[bytes], object], body: bytes
) -> None:
    with pytest.raises(WireError):
        parse(body)


def test_what_does_not_fit_is_not_encoded() -> None:
    many = [IDS[0]] * (limits.STORAGE_OBJECTS_MAX + 1)
    calls: list[Callable[[], bytes]] = [
        lambda: bodies.encode_ids(BASE, many),
        lambda: bodies.encode_put(BASE, [(i, b"x") for i in many]),
        lambda: bodies.encode_ids(BASE, [b"short"]),
        lambda: bodies.encode_list(BASE, b"short", 1),
        lambda: bodies.encode_list(BASE, b"", limits.STORAGE_IDS_LISTED_MAX + 1),
        lambda: bodies.encode_pir(BASE, TABLE, [b"a"]),
        lambda: bodies.encode_prove(BASE, IDS[0], bytes(5000)),
        lambda: bodies.encode_create_tenant(bodies.CreateTenant(1, "x" * 300)),
    ]
    for encode in calls:
        with pytest.raises(ValueError, match=r"."):
            encode()


def test_the_largest_object_fits_a_call() -> None:
    data = bytes(limits.STORAGE_OBJECT_BYTES_MAX)
    put = messages.encode_request(
        Operation.PUT,
        bodies.encode_put(BASE, [(IDS[0], data)]),
        tenant=TENANT.public.raw,
        signer=TENANT,
        binding=BINDING,
        counter=1,
        delegation=bytes(limits.STORAGE_DELEGATION_BYTES_MAX),
    )
    assert len(put) <= limits.CALL_BODY_BYTES_MAX
    conflict = ManifestConflict("x" * 5000)
    conflict.current = data
    assert len(messages.encode_refusal(conflict)) <= limits.CALL_BODY_BYTES_MAX
    listed = messages.encode_answer(bytes(16 * limits.STORAGE_IDS_LISTED_MAX))
    assert len(listed) <= limits.CALL_BODY_BYTES_MAX


_PARSERS: list[Callable[[bytes], object]] = [
    messages.parse_request,
    bodies.parse_put,
    bodies.parse_ids,
    bodies.parse_list,
    bodies.parse_base,
    bodies.parse_put_manifest,
    bodies.parse_table_request,
    bodies.parse_table,
    bodies.parse_pir,
    bodies.parse_prove,
    bodies.parse_create_tenant,
    bodies.parse_usage,
    bodies.parse_health_answer,
    bodies.masks_of,
    lambda data: bodies.parse_objects(data, 3),
    lambda data: bodies.parse_id_list(data, 3),
    lambda data: bodies.parse_count(data, 3),
    lambda data: bodies.parse_rows(data, TABLE, 2),
    lambda data: messages.parse_answer(data, HOST),
]


@given(data=st.binary(max_size=300), head=st.sampled_from([b"", BASE, b"\x01", b"\x02\x06"]))
def test_no_bytes_crash_a_parser(data: bytes, head: bytes) -> None:
    for parse in _PARSERS:
        with contextlib.suppress(KwaaiError):
            parse(head + data)


@given(
    objects=st.lists(
        st.tuples(st.binary(min_size=16, max_size=16), st.binary(min_size=1, max_size=50)),
        max_size=8,
    )
)
def test_any_objects_survive_the_wire(objects: list[tuple[bytes, bytes]]) -> None:
    assert bodies.parse_put(bodies.encode_put(BASE, objects)) == (BASE, objects)
    held = [data for _, data in objects]
    assert bodies.parse_objects(bodies.encode_objects(held), len(held)) == held
