"""Mutations of signed credentials and presentations, by seed: of their bytes, or of their JSON.

Case `number` of a seed is always the same bytes: `case(seed, number)`; `judge` of
credential_targets says what became of them. Changes of JSON: credential_changes.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable

from credential_changes import CHANGES, places_in
from credential_targets import (
    Target,
    targets,
)

# Mutations of bytes

Edit = Callable[[random.Random, bytearray], None]


def _somewhere(draw: random.Random, data: bytearray) -> int:
    return draw.randrange(len(data)) if data else 0


def flip_bit(draw: random.Random, data: bytearray) -> None:
    data[_somewhere(draw, data)] ^= 1 << draw.randrange(8)


def change_letter(draw: random.Random, data: bytearray) -> None:
    """Change one letter or digit for another: JSON stays JSON."""
    for _ in range(8):
        place = _somewhere(draw, data)
        if chr(data[place]).isalnum():
            data[place] = ord(draw.choice("0123456789abcdefxyzABCXYZ"))
            return


def set_byte(draw: random.Random, data: bytearray) -> None:
    data[_somewhere(draw, data)] = draw.choice(b'\x00\x1f "\\{}[],:0e-.\x7f\x80\xc0\xed\xff')


def insert(draw: random.Random, data: bytearray) -> None:
    place = _somewhere(draw, data)
    data[place:place] = draw.choice(
        [b" ", b"\n", b"0", b'"', b"\\", b"{", b"[", b",", b"null", b"\xef\xbb\xbf", b"\\u0000"]
    )


def remove(draw: random.Random, data: bytearray) -> None:
    place = _somewhere(draw, data)
    del data[place : place + draw.choice((1, 1, 2, 5, 40, 400))]


def repeat(draw: random.Random, data: bytearray) -> None:
    place, size = _somewhere(draw, data), draw.choice((1, 2, 8, 60))
    data[place:place] = data[place : place + size]


def move(draw: random.Random, data: bytearray) -> None:
    start, size = _somewhere(draw, data), draw.choice((1, 2, 8, 60))
    piece = data[start : start + size]
    del data[start : start + size]
    place = _somewhere(draw, data)
    data[place:place] = piece


def splice(draw: random.Random, data: bytearray) -> None:
    """Go on as another target does."""
    other = draw.choice(targets()).data
    data[_somewhere(draw, data) :] = other[draw.randrange(len(other)) :]


def repeat_member(draw: random.Random, data: bytearray) -> None:
    """Write a member twice, with another value first or last."""
    name = draw.choice((b"issuer", b"validUntil", b"type", b"id", b"proof", b"credentialSubject"))
    member = b'"' + name + b'":' + draw.choice((b'"did:example:x"', b"null", b"[]"))
    if draw.random() < 0.5:
        data[1:1] = member + b","
    else:
        data[-1:] = b"," + member + b"}"


def escape(draw: random.Random, data: bytearray) -> None:
    """Write a letter as \\uXXXX: the same document, if it is in a string."""
    place = _somewhere(draw, data)
    if chr(data[place]).isalpha():
        data[place : place + 1] = b"\\u%04x" % data[place]


BYTE_EDITS: tuple[Edit, ...] = (
    flip_bit,
    change_letter,
    change_letter,
    set_byte,
    insert,
    remove,
    repeat,
    move,
    splice,
    repeat_member,
    escape,
)

# Cases


def case(seed: int, number: int) -> tuple[Target, bytes]:
    """Return the target and the mutated bytes of one case."""
    draw = random.Random(seed * 1_000_003 + number)
    target = draw.choices(targets(), [each.weight for each in targets()])[0]
    if draw.random() < 0.4:
        data = bytearray(target.data)
        for _ in range(draw.choice((1, 1, 1, 2, 5))):
            if data:
                draw.choice(BYTE_EDITS)(draw, data)
        return target, bytes(data)
    document = json.loads(target.data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        places = places_in(document)
        if places:
            draw.choice(CHANGES)(draw, document, places)
    indent = draw.choice((None, None, None, 1))
    text = json.dumps(document, ensure_ascii=draw.random() < 0.3, indent=indent)
    return target, text.encode("utf-8", "surrogatepass")
