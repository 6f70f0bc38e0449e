"""Records: bytes and back, what is refused and why, what a store keeps, the exchange's messages."""

from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai import limits
from kwaai.node.rates import Rates
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.codec import WireError
from kwaai.wire.record_exchange import (
    Exchange,
    ExchangeAnswer,
    encode_answer,
    encode_exchange,
    parse_answer,
    parse_exchange,
    take_records,
)
from kwaai.wire.record_store import RecordStore, short_id
from kwaai.wire.records import (
    SIGNATURE_DOMAIN,
    STATES,
    NodeRecord,
    RecordInvalid,
    Served,
    handle_key,
    record_key,
    sign_record,
    verify_record,
)

NOW_S = 1_800_000_000.0
HANDLE = ModelHandle("sha256:" + "5a" * 32)
ME = SecretKey(bytes(32))
OTHERS = [SecretKey(bytes([n]) * 32) for n in range(1, 40)]


def served(**changes: object) -> Served:
    base = Served(
        HANDLE, "demo", 24, LayerRange(6, 24), True, "online", 4096, 8, 7, 512, 896, 1500, 250.5,
        32_768,
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def record(secret: SecretKey = OTHERS[0], **changes: object) -> NodeRecord:
    base = NodeRecord(
        peer_id(secret.public), 7, NOW_S, NOW_S + 60, "lab", "0.1.0",
        ("/ip4/10.0.0.1/tcp/4001",), ("10.0.0.1:4002", "[::1]:4002"), (served(),),
    )  # fmt: skip
    return replace(base, **changes)  # type: ignore[arg-type]


def signed(secret: SecretKey = OTHERS[0], **changes: object) -> bytes:
    return sign_record(record(secret, **changes), secret)


def resigned(data: bytes, at: int, new: bytes, secret: SecretKey = OTHERS[0]) -> bytes:
    """Put bytes of a liar's choice into a record, and sign it rightly."""
    payload = data[:at] + new + data[at + len(new) : -64]
    return payload + secret.sign(SIGNATURE_DOMAIN + payload)


def reason(data: bytes, now_s: float = NOW_S, **options: bytes) -> str:
    with pytest.raises(RecordInvalid) as caught:
        verify_record(data, now_s, **options)
    return caught.value.reason


def test_a_record_comes_back_as_it_was() -> None:
    data = signed()
    assert verify_record(data, NOW_S) == record()
    assert verify_record(data, NOW_S, key=record_key(record().peer)) == record()
    assert len(data) < 300


def test_the_layout_is_the_documented_one() -> None:
    data = signed(listen=(), links=(), name="ab", version="c", extra=b"xyz")
    expected = b"\x01" + OTHERS[0].public.raw + struct.pack(">Q", 7)
    expected += struct.pack(">QQ", int(NOW_S) * 1000, int(NOW_S) * 1000 + 60_000)
    expected += b"\x00" + b"\x02ab" + b"\x01c" + b"\x00" + b"\x00" + b"\x01"
    expected += b"\x5a" * 32 + b"\x04demo" + struct.pack(">HHH", 24, 6, 24) + b"\x01\x01"
    expected += struct.pack(">IHHIIIfI", 4096, 8, 7, 512, 896, 1500, 250.5, 32_768)
    expected += b"\x00\x03xyz"
    assert data[:-64] == expected
    OTHERS[0].public.verify(b"kwaainet record 1\x00" + expected, data[-64:])


def test_flags_of_a_range() -> None:
    (served,) = record().served
    data = signed()
    at = data.index(b"\x01\x01" + struct.pack(">I", served.context_tokens))
    for flags, head, divisible in ((0, False, False), (1, True, False), (2, False, True)):
        (found,) = verify_record(resigned(data, at, bytes([flags])), NOW_S).served
        assert (found.head, found.divisible) == (head, divisible)
    assert verify_record(resigned(data, at, b"\x03"), NOW_S) == record(
        served=(replace(served, divisible=True),)
    )
    for flags in (4, 0x80, 0xFF):
        assert reason(resigned(data, at, bytes([flags]))) == "format"


text = st.text(st.characters(categories=["L", "N", "P"]), max_size=16)
numbers = st.integers(0, 2**32 - 1)


@st.composite
def any_served(draw: st.DrawFn) -> Served:
    count = draw(st.integers(1, limits.BLOCKS_MAX))
    start = draw(st.integers(0, count - 1))
    stop = draw(st.integers(start + 1, count))
    sessions = draw(st.integers(0, 65_535))
    return Served(
        ModelHandle("sha256:" + draw(st.binary(min_size=32, max_size=32)).hex()),
        draw(text), count, LayerRange(start, stop), stop == count and draw(st.booleans()),
        draw(st.sampled_from(STATES)), draw(st.integers(1, 2**32 - 1)), sessions,
        draw(st.integers(0, sessions)), draw(st.integers(1, 2**32 - 1)),
        draw(st.integers(1, limits.EMBEDDING_LENGTH_MAX)), draw(numbers),
        draw(st.floats(0, 1e9, width=32)), draw(numbers), draw(st.booleans()),
    )  # fmt: skip


@given(
    st.lists(any_served(), max_size=limits.RECORD_SERVED_MAX), text, st.integers(0, 2**64 - 1),
    st.integers(1, 360_000), st.binary(max_size=64),
)  # fmt: skip
def test_every_record_comes_back(
    ranges: list[Served], name: str, sequence: int, lifetime_ms: int, extra: bytes
) -> None:
    whole = record(
        served=tuple(ranges), name=name, sequence=sequence, extra=extra,
        expires_s=(int(NOW_S) * 1000 + lifetime_ms) / 1000,
    )  # fmt: skip
    assert verify_record(sign_record(whole, OTHERS[0]), NOW_S) == whole


@settings(max_examples=300)
@given(st.binary(max_size=400), st.integers(0, 300), st.binary(min_size=1, max_size=8))
def test_no_bytes_crash_it_and_no_change_passes(junk: bytes, at: int, new: bytes) -> None:
    with pytest.raises(RecordInvalid):
        verify_record(junk, NOW_S)
    data = signed()
    changed = data[:at] + new + data[at + len(new) :]
    if changed != data:
        assert reason(changed) in {
            "size", "format", "version", "lifetime", "future", "expired", "signature"
        }  # fmt: skip


@given(st.integers(0, 250), st.binary(min_size=1, max_size=4))
def test_a_liar_with_a_key_still_stays_within_bounds(at: int, new: bytes) -> None:
    """Whatever somebody signs is refused, or a record whose every field keeps to its bound."""
    try:
        found = verify_record(resigned(signed(), at, new), NOW_S)
    except RecordInvalid:
        return
    assert sign_record(found, OTHERS[0])


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "size"),
        (signed() + bytes(limits.RECORD_BYTES_MAX), "size"),
        (signed()[:-1], "format"),
        (signed() + b"\x00", "format"),
        (resigned(signed(), 0, b"\x02"), "version"),
        (signed()[:-64] + bytes(64), "signature"),
        (signed()[:-64] + OTHERS[1].sign(SIGNATURE_DOMAIN + signed()[:-64]), "signature"),
        (signed()[:-64] + OTHERS[0].sign(signed()[:-64]), "signature"),
        (resigned(signed(), 1, OTHERS[1].public.raw), "signature"),
        (signed(expires_s=NOW_S), "lifetime"),
        (signed(expires_s=NOW_S - 5), "lifetime"),
        (signed(expires_s=NOW_S + 361), "lifetime"),
        (signed(issued_s=NOW_S + 31, expires_s=NOW_S + 60), "future"),
        (signed(issued_s=NOW_S + 1e9, expires_s=NOW_S + 1e9 + 60), "future"),
        (signed(issued_s=NOW_S - 60, expires_s=NOW_S), "expired"),
        (signed(issued_s=0.0, expires_s=60.0), "expired"),
    ],
)
def test_refused(data: bytes, expected: str) -> None:
    assert reason(data) == expected


def test_refused_under_another_peers_key() -> None:
    for key in (record_key(peer_id(OTHERS[1].public)), b"/kwaai/", b"", b"\xff"):
        assert reason(signed(), key=key) == "key"


def test_a_small_order_key_signs_nothing() -> None:
    """With the neutral point as key, OpenSSL takes one signature for every message."""
    neutral = b"\x01" + bytes(31)
    payload = resigned(signed(), 1, neutral)[:-64]
    assert reason(payload + neutral + bytes(32)) == "signature"


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "x" * 65},
        {"name": "two\nlines"},
        {"name": "\x1b[31m"},
        {"version": "v" * 33},
        {"listen": ("/ip4/1.2.3.4",) * 9},
        {"listen": ("10.0.0.1:80",)},
        {"listen": ("/ip4/" + "1" * 200,)},
        {"links": ("10.0.0.1:4002",) * 9},
        {"links": ("10.0.0.1",)},
        {"links": ("10.0.0.1:0",)},
        {"links": ("10.0.0.1:65536",)},
        {"links": ("10.0.0.1:٣",)},
        {"links": ("::1:80",)},
        {"links": ("[]:80",)},
        {"links": (":80",)},
        {"links": ("a b:80",)},
        {"served": (served(),) * 17},
        {"served": (served(layers=LayerRange(6, 25)),)},
        {"served": (served(layers=LayerRange(6, 23)),)},
        {"served": (served(block_count=513),)},
        {"served": (served(sessions_free=9),)},
        {"served": (served(context_tokens=0),)},
        {"served": (served(embd=0),)},
        {"served": (served(batch_tokens=0),)},
        {"served": (served(prefill_tokens_s=float("nan")),)},
        {"served": (served(prefill_tokens_s=float("inf")),)},
        {"served": (served(prefill_tokens_s=-1.0),)},
        {"served": (served(model="m" * 201),)},
        {"withdrawn": True},
        {"sequence": -1},
        {"sequence": 2**64},
        {"extra": bytes(1025)},
        {"peer": peer_id(OTHERS[1].public)},
    ],
)
def test_what_others_would_refuse_is_not_signed(changes: dict[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - many ways to be wrong
        signed(**changes)


def test_the_longest_record_fits() -> None:
    longest = record(
        name="n" * limits.RECORD_NAME_BYTES_MAX,
        version="v" * limits.RECORD_VERSION_BYTES_MAX,
        listen=("/" + "x" * (limits.RECORD_ADDRESS_BYTES_MAX - 1),) * limits.RECORD_ADDRESSES_MAX,
        links=("x" * (limits.RECORD_ADDRESS_BYTES_MAX - 3) + ":80",) * limits.RECORD_ADDRESSES_MAX,
        served=(served(model="m" * limits.RECORD_MODEL_BYTES_MAX),) * limits.RECORD_SERVED_MAX,
        extra=bytes(limits.RECORD_EXTRA_BYTES_MAX),
    )
    assert verify_record(sign_record(longest, OTHERS[0]), NOW_S) == longest


def test_keys() -> None:
    assert record_key(record().peer) == b"/kwaai/" + record().peer.encode()
    assert handle_key(HANDLE) == b"\x5a" * 32


# The store.

MY_ID = peer_id(ME.public)
SOURCE = peer_id(OTHERS[-1].public)


def offer(store: RecordStore, data: bytes, now_s: float = NOW_S, source: PeerId = SOURCE) -> str:
    return store.offer(data, now_s, source).outcome


def test_the_higher_sequence_wins() -> None:
    store = RecordStore(MY_ID)
    assert offer(store, signed(sequence=7)) == "changed"
    assert offer(store, signed(sequence=7)) == "duplicate"
    assert offer(store, signed(sequence=7, name="other")) == "stale"
    assert offer(store, signed(sequence=6)) == "stale"
    assert offer(store, signed(sequence=8, expires_s=NOW_S + 61)) == "refreshed"
    assert offer(store, signed(sequence=9, name="other")) == "changed"
    assert [r.sequence for r in store.records(NOW_S)] == [9]
    assert store.outcomes == {"changed": 2, "refreshed": 1, "duplicate": 1, "stale": 2}
    assert store.dropped == {"stale": 2}


def test_what_is_invalid_is_counted_and_changes_nothing() -> None:
    store = RecordStore(MY_ID)
    data = signed()
    offer(store, data)
    forged = signed(sequence=99)[:-64] + bytes(64)
    assert offer(store, forged) == "signature"
    assert store.offer(forged, NOW_S, SOURCE).error is not None
    assert offer(store, signed(sequence=99, expires_s=NOW_S + 400)) == "lifetime"
    key = record_key(MY_ID)
    assert store.offer(signed(sequence=99), NOW_S, SOURCE, key=key).outcome == "key"
    held = store.get(record().peer, NOW_S)
    assert held is not None
    assert held.data == data
    assert store.dropped == {"signature": 2, "lifetime": 1, "key": 1}


def test_records_leave_when_they_expire() -> None:
    store = RecordStore(MY_ID)
    offer(store, signed())
    offer(store, signed(OTHERS[1], expires_s=NOW_S + 300))
    assert len(store.records(NOW_S + 59.9)) == 2
    assert [r.peer for r in store.records(NOW_S + 60)] == [peer_id(OTHERS[1].public)]
    assert store.get(record().peer, NOW_S + 60) is None
    assert [r.peer for r in store.expire(NOW_S + 60)] == [record().peer]
    assert (len(store), store.next_expiry_s()) == (1, NOW_S + 300)


def test_a_clock_that_runs_ahead_makes_no_ghost() -> None:
    store = RecordStore(MY_ID)
    offer(store, signed(issued_s=NOW_S + 29, expires_s=NOW_S + 89))
    assert len(store.records(NOW_S + 59)) == 1
    assert not store.records(NOW_S + 60)


def test_the_last_word_hides_the_node_and_keeps_replays_out() -> None:
    store = RecordStore(MY_ID)
    old = signed(sequence=7, expires_s=NOW_S + 300)
    offer(store, old)
    gone = {"listen": (), "links": (), "served": (), "withdrawn": True}
    assert offer(store, signed(sequence=8, expires_s=NOW_S + 360, **gone)) == "changed"
    assert not store.records(NOW_S)
    assert offer(store, old, NOW_S + 299) == "stale"
    assert not store.records(NOW_S + 299)
    assert offer(store, signed(sequence=9)) == "changed"  # it is back
    assert len(store.records(NOW_S)) == 1


def test_records_of_one_model() -> None:
    store = RecordStore(MY_ID)
    offer(store, signed())
    offer(store, signed(OTHERS[1], served=()))
    store.set_own(record(ME), signed(ME))
    assert len(store.records(NOW_S)) == 3
    assert {r.peer for r in store.records(NOW_S, HANDLE)} == {record().peer, MY_ID}
    assert store.own is not None


def test_our_own_record_is_ours_alone() -> None:
    store = RecordStore(MY_ID)
    store.set_own(record(ME, sequence=10), signed(ME, sequence=10))
    assert offer(store, signed(ME, sequence=20, name="from before")) == "own"
    assert offer(store, signed(ME, sequence=30)[:-64] + bytes(64)) == "signature"
    assert store.own_sequence == 20
    assert store.own is not None
    assert store.own.record.sequence == 10


def test_it_is_bounded_and_prefers_who_speaks_for_itself() -> None:
    store = RecordStore(MY_ID, records_max=4, per_source_max=3)
    for n, lifetime_s in ((0, 50), (1, 20), (2, 40)):
        assert offer(store, signed(OTHERS[n], expires_s=NOW_S + lifetime_s)) == "changed"
    assert offer(store, signed(OTHERS[3])) == "quota"
    own = peer_id(OTHERS[3].public)
    assert offer(store, signed(OTHERS[3]), source=own) == "changed"
    assert offer(store, signed(OTHERS[4]), source=own) == "full"
    # Who speaks for itself takes the place of the hearsay that would leave first.
    own = peer_id(OTHERS[5].public)
    assert offer(store, signed(OTHERS[5]), source=own) == "changed"
    assert len(store) == 4
    assert peer_id(OTHERS[1].public) not in {r.peer for r in store.records(NOW_S)}
    # Room comes back by expiry, and the source's share with it.
    assert offer(store, signed(OTHERS[6]), NOW_S + 45) == "changed"
    assert store.outcomes["full"] == 1


def test_a_full_store_of_those_who_speak_for_themselves_takes_no_more() -> None:
    store = RecordStore(MY_ID, records_max=2)
    for n in (0, 1):
        assert offer(store, signed(OTHERS[n]), source=peer_id(OTHERS[n].public)) == "changed"
    assert offer(store, signed(OTHERS[2]), source=peer_id(OTHERS[2].public)) == "full"


def test_what_it_wants() -> None:
    store = RecordStore(MY_ID, records_max=3, per_source_max=1)
    store.set_own(record(ME, sequence=10), signed(ME, sequence=10))
    offer(store, signed(sequence=7))
    theirs = short_id(record().peer)
    other = PeerId(peer_id(OTHERS[2].public))
    assert store.wants(theirs, 8, SOURCE, NOW_S)
    assert not store.wants(theirs, 7, SOURCE, NOW_S)
    assert store.wants(theirs, 7, SOURCE, NOW_S + 60)
    assert store.wants(bytes(8), 1, other, NOW_S)
    assert not store.wants(bytes(8), 1, SOURCE, NOW_S)
    assert store.wants(short_id(MY_ID), 11, SOURCE, NOW_S)
    assert not store.wants(short_id(MY_ID), 10, SOURCE, NOW_S)
    held = store.by_id(theirs, NOW_S)
    assert held is not None
    assert held.record.peer == record().peer


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 5), st.integers(0, 6), st.integers(-40, 40), st.integers(0, 9),
            st.booleans(),
        ),
        max_size=40,
    )
)  # fmt: skip
def test_its_books_stay_in_order(
    offers: list[tuple[int, int, int, int, bool]],
) -> None:
    store = RecordStore(MY_ID, records_max=4, per_source_max=2)
    now_s = NOW_S
    highest: dict[PeerId, int] = {}
    for who, sequence, shift_s, step_s, direct in offers:
        now_s += step_s
        peer = peer_id(OTHERS[who].public)
        data = signed(
            OTHERS[who], sequence=sequence, issued_s=now_s + shift_s, expires_s=now_s + shift_s + 60
        )
        before = store.get(peer, now_s)
        result = store.offer(data, now_s, peer if direct else SOURCE)
        if result.is_news:
            assert before is None or sequence > before.record.sequence
            highest[peer] = sequence
        assert len(store) <= 4
        held = list(store.fresh(now_s))
        assert all(h.until_s <= min(h.record.expires_s, now_s + 60) for h in held)
        assert all(store.by_id(h.id, now_s) is h for h in held)
        assert sum(h.source != h.record.peer for h in store.fresh(0.0)) == sum(store._told.values())


# Messages.

ids = st.binary(min_size=8, max_size=8)


@given(
    st.lists(st.binary(max_size=50), max_size=5),
    st.none() | st.lists(st.tuples(ids, st.integers(0, 2**64 - 1)), max_size=5),
)
def test_requests_come_back(records: list[bytes], held: list[tuple[bytes, int]] | None) -> None:
    request = Exchange(tuple(records), None if held is None else tuple(held))
    assert parse_exchange(encode_exchange(request)) == request


@given(st.lists(st.binary(max_size=50), max_size=5), st.lists(ids, max_size=5), st.booleans())
def test_answers_come_back(records: list[bytes], wanted: list[bytes], more: bool) -> None:
    answer = ExchangeAnswer(tuple(records), tuple(wanted), more)
    assert parse_answer(encode_answer(answer)) == answer


@settings(max_examples=300)
@given(st.binary(max_size=100))
def test_junk_is_refused_or_a_message(junk: bytes) -> None:
    for parse, encode in ((parse_exchange, encode_exchange), (parse_answer, encode_answer)):
        try:
            message = parse(junk)
        except WireError:
            continue
        assert encode(message) == junk  # type: ignore[operator]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00\x00\x00",
        b"\x03\x00\x00",
        b"\x01\x00\x01",
        b"\x01\xff\xff",
        b"\x01\x00\x01\xff\xff",
        b"\x02\x00\x00\xff\xff",
        b"\x02\x00\x00\x00\x00\x00",
        b"\x01\x00\x00\x00",
    ],
)
def test_requests_refused(data: bytes) -> None:
    with pytest.raises(WireError):
        parse_exchange(data)


def test_a_message_takes_what_fits() -> None:
    one = bytes(limits.RECORDS_ANSWER_BYTES_MAX // 4)
    assert len(take_records([one] * 9)) == 3
    assert take_records([]) == ()
    largest = Exchange(
        take_records([bytes(limits.RECORD_BYTES_MAX)] * 20),
        tuple((bytes(8), 0) for _ in range(limits.RECORDS_MAX)),
    )
    assert len(encode_exchange(largest)) < limits.P2P_MESSAGE_BYTES_MAX


def test_rates() -> None:
    rates = Rates(2.0, 3.0, keys_max=2)
    assert [rates.take("a", 0.0) for _ in range(4)] == [True, True, True, False]
    assert rates.take("b", 0.0, 3.0)
    assert not rates.take("a", 0.4)
    assert rates.take("a", 0.5)
    assert rates.take("a", 100.0, 3.0)
    assert not rates.take("a", 99.0)  # a clock that goes back gives nothing
    rates.take("c", 100.0)
    rates.take("d", 100.0)
    assert len(rates._buckets) == 2
