"""Peers that call and do not read, and bytes of every kind for every parser of sealed knowledge."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_link_calls import NAME, open_by_hand, until, world

from credentials.keys import PeerId, SecretKey
from kwaai import limits
from kwaai.errors import Busy, KwaaiError
from kwaai.node import storage_answers
from kwaai.vpk import fragments, records, retrievability
from kwaai.vpk.codes import CodeIndex
from kwaai.vpk.delegation import open_share, verify_delegation
from kwaai.vpk.erasure import Coding
from kwaai.vpk.keys import new_root_key, parse_root_key
from kwaai.vpk.manifest import check_manifest_header, read_manifest_header, verify_manifest
from kwaai.vpk.segments import parse_segment
from kwaai.vpk.thin import ThinCells
from kwaai.vpk.thin_store import parse_ref
from kwaai.wire import call_messages, storage_bodies, storage_messages
from kwaai.wire import call_messages as wire
from kwaai.wire.record_extra import parse_extra
from kwaai.wire.storage_offer import parse_offer


async def test_answers_that_nobody_reads_do_not_fill_the_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """2 MiB for each of 48 calls on each of 8 channels, and the asker reads none of them."""
    monkeypatch.setattr(limits, "CALL_UNREAD_BYTES_PER_PEER_MAX", 8 << 20)

    async def big(peer: PeerId, nonce: bytes, body: bytes) -> bytes:
        return bytes(2 << 20)[: limits.CALL_BODY_BYTES_MAX]

    async with world() as w:
        w.server.serve(NAME, big)
        channel, queue = await open_by_hand(w)
        for number in range(40):
            await channel.send(wire.encode_head(wire.CALL, number))
        await until(lambda: w.server.counts.answered == 40)
        assert w.server._unread.total() < 9 << 20
        whole = told = 0
        for _ in range(40):
            came = await queue.get()
            channel.consumed(len(came))
            message = wire.parse_to_asker(came)
            if isinstance(message, wire.CallError):
                assert message.code == Busy.code
                told += 1
            else:
                whole += 1
        assert whole >= 4
        assert told >= 20
        assert not w.server._unread


ROOT = new_root_key()
BASE = b"b" * 16
KEYS = ROOT.base(BASE)
TENANT = ROOT.tenant().public.raw
KEY = SecretKey(b"\x05" * 32)
PARSERS: dict[str, Callable[[bytes], Any]] = {
    "request": storage_messages.parse_request,
    "answer": lambda data: storage_messages.parse_answer(data, "peer"),  # type: ignore[arg-type]
    "to answerer": call_messages.parse_to_answerer,
    "to asker": call_messages.parse_to_asker,
    "open": call_messages.parse_open,
    "opened": call_messages.parse_opened,
    "offer": parse_offer,
    "extra": parse_extra,
    "fragment": lambda data: fragments.parse_fragment(data, 0),
    "text": records.parse_text,
    "vectors": lambda data: records.decode_vectors([data], 8),
    "segment": parse_segment,
    "manifest": lambda data: verify_manifest(data, TENANT, KEYS),
    "manifest header": read_manifest_header,
    "manifest of a host": lambda data: check_manifest_header(data, TENANT, BASE),
    "delegation": lambda data: verify_delegation(
        data, tenant=TENANT, reader=KEY.public.raw, base=BASE, right="read", now_s=1.0
    ),
    "share": lambda data: open_share(data.decode("latin-1"), KEY, now_s=None),
    "root key": lambda data: parse_root_key(data.decode("latin-1")),
    "codes": CodeIndex,
    "cells": lambda data: ThinCells(data, b"\1\x08\0" + bytes(32)),
    "thin": parse_ref,
    "proof": lambda data: retrievability.verify(KEYS, BASE, bytes(16) + b"\0\1", data),
    "prove": lambda data: retrievability.prove(data[:64], data[64:], bytes(16) + b"\0\1"),
    "put": storage_bodies.parse_put,
    "ids": storage_bodies.parse_ids,
    "list": storage_bodies.parse_list,
    "pir": storage_bodies.parse_pir,
    "prove body": storage_bodies.parse_prove,
    "put manifest": storage_bodies.parse_put_manifest,
    "health": storage_bodies.parse_health_answer,
    "objects": lambda data: storage_bodies.parse_objects(data, 5),
    "id list": lambda data: storage_bodies.parse_id_list(data, 5),
}
HEADS = st.sampled_from(
    [
        b"",
        b"\1",
        b"\2\5",
        b"kwF1\1\1\0\0\0\0\0\1",
        b"KSG1\1\0\0\0",
        b"vpkshare1-",
        b"vpk1-",
        b"\x78\x9c",
        bytes(58),
        b"\1\x08\0" + bytes(16),
    ]
)


@pytest.mark.parametrize("which", PARSERS)
@settings(max_examples=60, deadline=None)
@given(head=HEADS, data=st.binary(max_size=400), pad=st.sampled_from([0, 0, 0, 2048]))
def test_no_bytes_break_a_parser(which: str, head: bytes, data: bytes, pad: int) -> None:
    with contextlib.suppress(KwaaiError):
        PARSERS[which](head + data + bytes(pad))


def _valid() -> dict[str, bytes]:
    text = records.TextRecord("the text", "a.txt", ("One", "Two"), 3, 5, 13)
    return {
        "fragment": fragments.make_fragments(bytes(3000), Coding(2, 3))[0][1],
        "text": records.encode_text(text),
        "put": storage_bodies.encode_put(BASE, [(bytes(16), b"abc"), (b"\1" * 16, b"d")]),
        "pir": storage_bodies.encode_pir(BASE, storage_bodies.Table(9, 4, bytes(32)), [b"ab"]),
        "to asker": wire.encode_error(wire.CallError(1, "busy", "later", 1.0)),
        "answer": storage_messages.encode_refusal(Busy("later", retry_after_s=1.0)),
    }


VALID = _valid()


@pytest.mark.parametrize("which", VALID)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_change_breaks_a_parser(which: str, data: st.DataObject) -> None:
    sound = VALID[which]
    changed = bytearray(sound)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([None, None, -1, -5, len(sound) // 2]))
    with contextlib.suppress(KwaaiError):
        PARSERS[which](bytes(changed[:cut]))


def test_every_operation_is_answered_by_somebody() -> None:
    """A new operation without its answer would be a KeyError at the host."""
    known = set(storage_answers._ANSWERS)
    assert known == set(storage_messages.Operation) - {
        storage_messages.Operation.HEALTH,
        storage_messages.Operation.CREATE_TENANT,
    }
