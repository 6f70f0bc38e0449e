"""Messages of sessions: what is encoded comes back; what the protocol forbids is a WireError."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai.limits import (
    BATCH_TOKENS_MAX,
    BLOCKS_MAX,
    HOPS_MAX,
    INTENT_BYTES_MAX,
    LINK_MESSAGE_BYTES_MAX,
    SAMPLING_BYTES_MAX,
)
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.codec import WireError
from kwaai.wire.shard import (
    Cancel,
    Close,
    CloseReason,
    Control,
    Failed,
    Open,
    Opened,
    Privacy,
    Probe,
    Progress,
    Refused,
    RefusedReason,
    encode,
    parse_control,
    printable,
)
from kwaai.wire.step import (
    Step,
    StepKind,
    Timing,
    Tokens,
    encode_step,
    encode_tokens,
    microseconds,
    parse_data,
    parse_step,
    parse_tokens,
)
from kwaai.wire.tensors import MESSAGE_HEADER_BYTES_MAX, Dtype

PEERS = [peer_id(SecretKey(bytes([n]) * 32).public) for n in range(4)]
HANDLE = ModelHandle("sha256:" + "5a" * 32)

U8, U16 = st.integers(0, 2**8 - 1), st.integers(0, 2**16 - 1)
U32, U64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
BLOBS = st.binary(max_size=40)
SESSIONS = st.binary(min_size=16, max_size=16)
HANDLES = st.binary(min_size=32, max_size=32).map(lambda raw: ModelHandle("sha256:" + raw.hex()))
PEER_IDS: st.SearchStrategy[PeerId] = st.sampled_from(PEERS)
HOPS = st.integers(0, HOPS_MAX - 1)
LAYERS = st.tuples(st.integers(0, BLOCKS_MAX - 1), st.integers(1, BLOCKS_MAX)).map(
    lambda pair: LayerRange(min(pair), max(*pair, min(pair) + 1))
)
TEXT = st.text(
    st.characters(exclude_categories=["C", "Z"], include_characters=" "), max_size=120
).filter(str.isprintable)
TIMINGS = st.lists(st.builds(Timing, HOPS, U32, U32, U32), max_size=5).map(tuple)
JSON_VALUES = st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(-1e300, 1e300)
SAMPLING = st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=6)


@st.composite
def opens(draw: st.DrawFn) -> Open:
    cuts = draw(st.sets(st.integers(1, BLOCKS_MAX), min_size=3, max_size=4).map(sorted))
    is_last, fast = draw(st.booleans()), draw(st.booleans())
    hop = draw(st.integers(0, HOPS_MAX - 2))
    samples = is_last and fast
    block_count = cuts[1] if samples else cuts[2] if is_last else BLOCKS_MAX
    return Open(
        session=draw(SESSIONS),
        handle=draw(HANDLES),
        layers=LayerRange(cuts[0], cuts[1]),
        block_count=block_count,
        hop=hop,
        hops=hop + 1 if is_last else draw(st.integers(hop + 2, HOPS_MAX)),
        previous=draw(PEER_IDS),
        next=draw(PEER_IDS),
        next_layers=None if samples else LayerRange(cuts[1], cuts[2]),
        next_addresses=tuple(draw(st.lists(TEXT.map(lambda t: t[:60]), max_size=8))),
        context_tokens=draw(st.integers(1, 2**32 - 1)),
        dtypes=draw(U8.map(lambda mask: mask | Dtype.F32)),
        privacy=Privacy.FAST if fast else Privacy.PRIVATE,
        sampling=draw(SAMPLING) if samples else None,
        keep_bytes=draw(U32),
        intent=draw(BLOBS),
    )


CONTROL: st.SearchStrategy[Control] = st.one_of(
    opens(),
    st.builds(
        Opened,
        session=SESSIONS,
        hop=HOPS,
        dtype=st.sampled_from(Dtype),
        batch_tokens=st.integers(1, BATCH_TOKENS_MAX),
        rtt_next_us=U32,
        bandwidth_next=U64,
        decode_us=U32,
        offer=BLOBS,
    ),
    st.builds(
        Refused,
        session=SESSIONS,
        hop=HOPS,
        reason=st.sampled_from(RefusedReason),
        message=TEXT,
        retry_after_ms=U32,
    ),
    st.builds(
        Failed,
        session=SESSIONS,
        step=U64,
        culprit=PEER_IDS,
        code=st.from_regex(r"[a-z_]{1,40}", fullmatch=True),
        message=TEXT,
        retry_after_ms=U32,
    ),
    st.builds(Close, SESSIONS, st.sampled_from(CloseReason)),
    st.builds(Cancel, SESSIONS, U64),
    st.builds(Probe, SESSIONS),
    st.builds(Progress, SESSIONS, st.integers(0, 63), U64, U64),
)


@st.composite
def steps(draw: st.DrawFn) -> Step:
    kind = draw(st.sampled_from(StepKind))
    rows, count, outputs, dtype = None, 0, 0, Dtype.F32
    if kind is not StepKind.ROLLBACK:
        count = 1 if kind is StepKind.DECODE else draw(st.integers(1, 5))
        outputs = draw(st.integers(0 if kind is StepKind.PREFILL else 1, count))
        values = st.floats(-60000, 60000, width=16)
        rows = draw(hnp.arrays(np.float32, (count, draw(st.integers(1, 9))), elements=values))
        dtype = draw(st.sampled_from(Dtype))
    return Step(
        session=draw(SESSIONS),
        step=draw(U64),
        kind=kind,
        handle=draw(HANDLES),
        layers=draw(LAYERS),
        position=draw(st.integers(0, 2**32 - 100)),
        count=count,
        outputs=outputs,
        dtype=dtype,
        rows=rows,
        timings=draw(TIMINGS),
    )


TOKENS = st.builds(
    Tokens,
    session=SESSIONS,
    step=U64,
    position=U32,
    tokens=st.lists(U32, max_size=9).map(tuple),
    timings=TIMINGS,
)


def step_bytes(step: Step) -> bytes:
    return b"".join(encode_step(step))


def plain(step: Step) -> dict[str, Any]:
    fields = {name: getattr(step, name) for name in Step.__slots__}
    rows = fields.pop("rows")
    return {**fields, "rows": None if rows is None else rows.tolist()}


@given(CONTROL)
def test_control_messages_come_back(message: Control) -> None:
    assert parse_control(encode(message)) == message


@given(steps())
def test_steps_come_back(step: Step) -> None:
    data = step_bytes(step)
    for view in (data, memoryview(data)):
        assert plain(parse_step(view)) == plain(step)
    assert (len(data) - len(encode_step(step)[1])) % 16 == 0
    assert step_bytes(parse_step(data)) == data


@given(TOKENS)
def test_tokens_come_back(message: Tokens) -> None:
    assert parse_data(encode_tokens(message)) == message


PARSERS: list[Callable[[bytes], object]] = [parse_control, parse_step, parse_tokens, parse_data]


@given(st.binary(max_size=300), st.integers(0, 9))
def test_any_bytes_are_a_message_or_refused(data: bytes, tag: int) -> None:
    for candidate in (data, bytes([tag]) + data):
        for parse in PARSERS:
            try:
                parse(candidate)
            except WireError:
                continue


@given(CONTROL | steps() | TOKENS, st.data())
def test_a_message_cut_short_or_grown_is_refused(message: Any, data: st.DataObject) -> None:
    encoded = any_bytes(message)
    parse = parse_data if isinstance(message, Step | Tokens) else parse_control
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(WireError):
        parse(encoded[:cut])
    with pytest.raises(WireError):
        parse(encoded + b"\0")


def any_bytes(message: Step | Tokens | Control) -> bytes:
    if isinstance(message, Step):
        return step_bytes(message)
    if isinstance(message, Tokens):
        return encode_tokens(message)
    return encode(message)


# What is refused, one by one.

STEP = Step(
    session=b"s" * 16,
    step=3,
    kind=StepKind.VERIFY,
    handle=HANDLE,
    layers=LayerRange(3, 6),
    position=10,
    count=2,
    outputs=2,
    dtype=Dtype.F32,
    rows=np.ones((2, 4), np.float32),
    timings=(Timing(0, 1, 2, 3),),
)
ROLLBACK = replace(STEP, kind=StepKind.ROLLBACK, count=0, outputs=0, rows=None)


def patched(data: bytes, at: int, layout: str, value: Any) -> bytes:
    """Return `data` with one field of its header replaced."""
    out = bytearray(data)
    struct.pack_into(layout, out, at, value)
    return bytes(out)


@pytest.mark.parametrize(
    ("at", "layout", "value", "why"),
    [
        (0, ">B", 5, "type"),
        (1, ">B", 4, "kind"),
        (2, ">B", 0, "of type 0"),
        (2, ">B", 2, "bytes, not"),
        (2, ">B", 3, "of type 3"),
        (3, ">B", 0, "bytes, not"),
        (3, ">B", 2, "hop beyond"),
        (3, ">B", 255, "timings"),
        (4, ">H", 0, "0 rows"),
        (4, ">H", 1, "1 rows and 2 outputs"),
        (4, ">H", 3, "bytes, not"),
        (4, ">H", BATCH_TOKENS_MAX + 1, "rows, from"),
        (6, ">H", 0, "0 outputs"),
        (6, ">H", 3, "3 outputs"),
        (64, ">H", 6, "layers"),
        (66, ">H", BLOCKS_MAX + 1, "layers"),
        (68, ">I", 2**32 - 1, "from position"),
        (72, ">I", 0, "0 wide"),
        (72, ">I", 2**32 - 1, "wide"),
        (72, ">I", 3, "bytes, not"),
        (76, ">I", 1, "no step"),
        (80, ">I", HOPS_MAX, "hop"),
    ],
)
def test_a_step_with_one_wrong_field_is_refused(at: int, layout: str, value: int, why: str) -> None:
    with pytest.raises(WireError, match=why):
        parse_step(patched(step_bytes(STEP), at, layout, value))


@pytest.mark.parametrize(
    ("kind", "outputs", "ok"),
    [
        (StepKind.PREFILL, 0, True),
        (StepKind.PREFILL, 2, True),
        (StepKind.PREFILL, 3, False),
        (StepKind.DECODE, 1, False),
        (StepKind.DECODE, 2, False),
        (StepKind.VERIFY, 1, True),
        (StepKind.VERIFY, 0, False),
    ],
)
def test_each_kind_has_its_outputs(kind: StepKind, outputs: int, ok: bool) -> None:
    data = step_bytes(replace(STEP, kind=kind, outputs=outputs))
    if ok:
        assert parse_step(data).outputs == outputs
        return
    with pytest.raises(WireError):
        parse_step(data)


@pytest.mark.parametrize(("at", "layout"), [(2, ">B"), (4, ">H"), (6, ">H"), (72, ">I")])
def test_a_rollback_carries_nothing(at: int, layout: str) -> None:
    with pytest.raises(WireError):
        parse_step(patched(step_bytes(ROLLBACK), at, layout, 1))


def test_a_step_larger_than_a_links_message_is_refused_before_it_is_looked_at() -> None:
    with pytest.raises(WireError, match="not 80 to"):
        parse_step(step_bytes(STEP) + bytes(LINK_MESSAGE_BYTES_MAX))


def test_the_largest_header_fits_the_room_that_is_kept_for_it() -> None:
    timings = (Timing(0, 1, 2, 3),) * HOPS_MAX
    assert len(encode_step(replace(STEP, timings=timings))[0]) <= MESSAGE_HEADER_BYTES_MAX


def test_tokens_and_timings_are_bounded() -> None:
    timings = (Timing(0, 1, 2, 3),) * (HOPS_MAX + 1)
    with pytest.raises(WireError, match="timings"):
        parse_step(step_bytes(replace(STEP, timings=timings)))
    full = Tokens(b"s" * 16, 1, 2, (3,) * BATCH_TOKENS_MAX, timings[1:])
    assert parse_tokens(encode_tokens(full)) == full
    with pytest.raises(WireError, match="timings"):
        parse_tokens(encode_tokens(replace(full, timings=timings)))
    with pytest.raises(WireError, match="513 tokens"):
        parse_tokens(encode_tokens(replace(full, tokens=(*full.tokens, 3))))


def test_float16_on_the_wire_is_half_as_long() -> None:
    small = step_bytes(replace(STEP, dtype=Dtype.F16))
    assert len(step_bytes(STEP)) - len(small) == 2 * 8
    assert parse_step(small).dtype is Dtype.F16


OPEN = Open(
    session=b"s" * 16,
    handle=HANDLE,
    layers=LayerRange(3, 6),
    block_count=10,
    hop=0,
    hops=2,
    previous=PEERS[0],
    next=PEERS[2],
    next_layers=LayerRange(6, 8),
    next_addresses=("192.0.2.1:4001", "[2001:db8::1]:4001"),
    context_tokens=4096,
    dtypes=3,
    privacy=Privacy.PRIVATE,
    sampling=None,
    keep_bytes=1 << 20,
)
LAST = replace(OPEN, hop=1, next_layers=LayerRange(6, 10))
FAST_LAST = replace(
    OPEN,
    hop=1,
    layers=LayerRange(6, 10),
    next_layers=None,
    privacy=Privacy.FAST,
    sampling={"temperature": 0.5, "logit_bias": {"7": -100}},
)


@pytest.mark.parametrize("message", [OPEN, LAST, FAST_LAST, replace(OPEN, privacy=Privacy.FAST)])
def test_every_place_on_a_path_can_be_opened(message: Open) -> None:
    assert parse_control(encode(message)) == message


@pytest.mark.parametrize(
    "message",
    [
        replace(OPEN, layers=LayerRange(0, 6)),
        replace(OPEN, block_count=0),
        replace(OPEN, block_count=BLOCKS_MAX + 1),
        replace(OPEN, block_count=5),
        replace(OPEN, block_count=7),
        replace(OPEN, hop=2),
        replace(OPEN, hops=HOPS_MAX + 1),
        replace(OPEN, next_layers=LayerRange(7, 8)),
        replace(OPEN, next_layers=LayerRange(5, 8)),
        replace(OPEN, next_layers=None),
        replace(OPEN, sampling={}),
        replace(OPEN, next_addresses=("a",) * 9),
        replace(OPEN, next_addresses=("two\nlines",)),
        replace(OPEN, context_tokens=0),
        replace(OPEN, dtypes=2),
        replace(LAST, next_layers=LayerRange(6, 9)),
        replace(LAST, next_layers=LayerRange(7, 10)),
        replace(LAST, privacy=Privacy.FAST),
        replace(LAST, next_layers=None),
        replace(FAST_LAST, sampling=None),
        replace(FAST_LAST, block_count=11),
        replace(FAST_LAST, next_layers=LayerRange(10, 11)),
        replace(FAST_LAST, privacy=Privacy.PRIVATE),
        Opened(b"s" * 16, 0, Dtype.F32, 0, 0, 0, 0),
        Opened(b"s" * 16, 0, Dtype.F32, BATCH_TOKENS_MAX + 1, 0, 0, 0),
        Opened(b"s" * 16, HOPS_MAX, Dtype.F32, 1, 0, 0, 0),
        Opened(b"s" * 16, 0, 3, 1, 0, 0, 0),  # type: ignore[arg-type]
        Refused(b"s" * 16, 0, 0, "", 0),  # type: ignore[arg-type]
        Close(b"s" * 16, 9),  # type: ignore[arg-type]
    ],
)
def test_a_control_message_that_contradicts_itself_is_refused(message: Control) -> None:
    with pytest.raises(WireError):
        parse_control(encode(message))


def with_sampling(raw: bytes) -> bytes:
    empty = encode(replace(FAST_LAST, sampling={}))
    assert empty.endswith(b"\0\2{}\0\0")  # and no intent
    return empty[:-6] + len(raw).to_bytes(2, "big") + raw + b"\0\0"


@pytest.mark.parametrize(
    ("message", "field"),
    [(LAST, "intent"), (Opened(b"s" * 16, 0, Dtype.F32, 1, 0, 0, 0), "offer")],
)
def test_an_intent_and_its_answer_are_small(message: Any, field: str) -> None:
    most = replace(message, **{field: b"i" * INTENT_BYTES_MAX})
    data = encode(most)
    assert parse_control(data) == most
    with pytest.raises(ValueError, match="over 4096"):
        encode(replace(message, **{field: b"i" * (INTENT_BYTES_MAX + 1)}))
    at = len(data) - INTENT_BYTES_MAX - 2
    longer = data[:at] + (INTENT_BYTES_MAX + 1).to_bytes(2, "big") + data[at + 2 :] + b"i"
    for bad in (longer, data[:-1], data + b"i"):
        with pytest.raises(WireError):
            parse_control(bad)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"[]",
        b"7",
        b"{",
        b'{"a":NaN}',
        b'{"a":-Infinity}',
        b'{"a":1e999}',
        b"\xff\xfe",
        '{"a":1}'.encode("utf-16"),
        b"[" * SAMPLING_BYTES_MAX,
        b'{"a":' * 5000,
        b'{"a":' + b"9" * 6000 + b"}",
        b'{"a":"' + b"x" * SAMPLING_BYTES_MAX + b'"}',
    ],
)
def test_sampling_is_a_small_json_object(raw: bytes) -> None:
    with pytest.raises(WireError):
        parse_control(with_sampling(raw))


def test_too_much_sampling_is_not_sent() -> None:
    with pytest.raises(ValueError, match="sampling"):
        encode(replace(FAST_LAST, sampling={"a": "x" * SAMPLING_BYTES_MAX}))


@given(st.text(max_size=2000))
def test_any_words_of_ours_can_be_sent(text: str) -> None:
    refused = Refused(b"s" * 16, 1, RefusedReason.BUSY, text, 10)
    back = parse_control(encode(refused))
    assert isinstance(back, Refused)
    assert back.message == printable(text)


@pytest.mark.parametrize(
    ("duration_s", "us"), [(-1.0, 0), (0.0, 0), (1.5e-6, 2), (0.001, 1000), (1e9, 2**32 - 1)]
)
def test_durations_fit_a_timing(duration_s: float, us: int) -> None:
    assert microseconds(duration_s) == us


def test_messages_of_the_other_channel_are_refused() -> None:
    with pytest.raises(WireError, match="does not belong on the control channel"):
        parse_control(step_bytes(STEP))
    with pytest.raises(WireError, match="does not belong on a session's channel"):
        parse_data(encode(OPEN))


# Mutations: of what is right, so that the checks behind the first ones are reached.

CORPUS = [
    *(encode(m) for m in (OPEN, LAST, FAST_LAST, Cancel(b"s" * 16, 7))),
    encode(Close(b"s" * 16, CloseReason.DONE)),
    encode(Opened(b"s" * 16, 1, Dtype.F16, 128, 900, 10**8, 2000)),
    encode(Refused(b"s" * 16, 1, RefusedReason.BUSY, "später", 1000)),
    encode(Failed(b"s" * 16, 9, PEERS[1], "peer_lost", "gone", 0)),
    *(step_bytes(s) for s in (STEP, ROLLBACK, replace(STEP, dtype=Dtype.F16))),
    encode_tokens(Tokens(b"s" * 16, 4, 9, (1, 2, 3), (Timing(1, 2, 3, 4),))),
]
EDGES = [b"\0", b"\1", b"\x7f", b"\x80", b"\xff"]


def mutate(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 5))):
        at = rng.randrange(len(out) + 1)
        match rng.randrange(6):
            case 0 if at < len(out):
                out[at] ^= 1 << rng.randrange(8)
            case 1:
                out[at : at + 1] = rng.choice(EDGES)
            case 2:
                width = rng.choice((2, 4, 8))
                out[at : at + width] = rng.choice(EDGES) * width
            case 3:
                del out[at : at + rng.randrange(1, 20)]
            case 4:
                out[at:at] = rng.randbytes(rng.randrange(1, 20))
            case _:
                other = rng.choice(CORPUS)
                out[at:] = other[min(at, len(other)) :]
    return bytes(out)


def fuzz(seed: int, count: int) -> int:
    """Parse `count` mutated messages; return how many were accepted, each of them sound."""
    rng = random.Random(seed)
    accepted = 0
    for number in range(count):
        data = mutate(rng, rng.choice(CORPUS))
        for parse in (parse_control, parse_data):
            try:
                message: Any = parse(data)
            except WireError:
                continue
            except BaseException as error:
                raise AssertionError(f"seed {seed}, message {number}: {data.hex()}") from error
            accepted += 1
            if isinstance(message, Open):
                continue  # JSON is written in one way and read in many
            assert any_bytes(message) == data, f"seed {seed}, message {number}: {data.hex()}"
    return accepted


def test_mutated_messages_are_parsed_or_refused() -> None:
    assert fuzz(seed=3, count=20_000) > 1_000


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_mutated_messages_are_parsed_or_refused() -> None:
    assert fuzz(seed=4, count=1_000_000) > 50_000
