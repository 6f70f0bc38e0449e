"""Multibase: bytes as text whose first character names the base.

Does not know what the bytes are (`credentials.multikey`). multiformats/multibase: every base of its
table except proquint, base45 and base256emoji, which are drafts and experiments.
"""

from __future__ import annotations

import binascii
from dataclasses import dataclass

import base58

from credentials.errors import IdentifierInvalid
from credentials.keys import decode_base58

_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_RFC_4648 = "abcdefghijklmnopqrstuvwxyz234567"
_FLICKR = "123456789abcdefghijkmnopqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ"
_BITCOIN = base58.BITCOIN_ALPHABET.decode("ascii")
_BASE64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
_BASE64_URL = _BASE64[:-2] + "-_"


@dataclass(frozen=True, slots=True)
class _Base:
    """`bits` of one character, or 0 where the whole text is one number; `group` is how many
    characters padding fills up to, 0 where there is none.
    """

    alphabet: str
    bits: int
    group: int = 0
    upper: bool = False
    """Written in capitals. Bases without `cased` are read in either."""
    cased: bool = False


_BASES = {
    "0": _Base(_DIGITS[:2], 1),
    "7": _Base(_DIGITS[:8], 3),
    "9": _Base(_DIGITS[:10], 0),
    "f": _Base(_DIGITS[:16], 4),
    "F": _Base(_DIGITS[:16], 4, upper=True),
    "v": _Base(_DIGITS[:32], 5),
    "V": _Base(_DIGITS[:32], 5, upper=True),
    "t": _Base(_DIGITS[:32], 5, group=8),
    "T": _Base(_DIGITS[:32], 5, group=8, upper=True),
    "b": _Base(_RFC_4648, 5),
    "B": _Base(_RFC_4648, 5, upper=True),
    "c": _Base(_RFC_4648, 5, group=8),
    "C": _Base(_RFC_4648, 5, group=8, upper=True),
    "h": _Base("ybndrfg8ejkmcpqxot1uwisza345h769", 5, cased=True),
    "k": _Base(_DIGITS, 0),
    "K": _Base(_DIGITS, 0, upper=True),
    "Z": _Base(_FLICKR, 0, cased=True),
    "z": _Base(_BITCOIN, 0, cased=True),
    "m": _Base(_BASE64, 6, cased=True),
    "M": _Base(_BASE64, 6, group=4, cased=True),
    "u": _Base(_BASE64_URL, 6, cased=True),
    "U": _Base(_BASE64_URL, 6, group=4, cased=True),
}


def decode_multibase(text: str, *, chars_max: int) -> bytes:
    """Decode a multibase text of at most `chars_max` characters. Raises IdentifierInvalid.

    Refuses what no encoder writes: missing or surplus padding, bits behind the last byte. The
    bases that are one number (10, 36, 58) take time in the square of the length.
    """
    if len(text) > chars_max:
        raise IdentifierInvalid(f"a multibase text has at most {chars_max} characters")
    base = _BASES.get(text[:1])
    if base is None:
        raise IdentifierInvalid(f"{text!r:.80} names no multibase that is read here")
    body = text[1:]
    if text[0] == "z":
        return decode_base58(body, "base58 after the z", chars_max) if body else b""
    if base.group:
        body = _without_padding(body, base)
    if not base.cased and body.isascii():  # beyond it is a sign whose lower case is k
        body = body.lower()
    if not set(body) <= set(base.alphabet):
        raise IdentifierInvalid(f"{text!r:.80} has characters that its base has not")
    try:
        return _decode_bits(body, base) if base.bits else _decode_number(body, base)
    except ValueError as error:
        raise IdentifierInvalid(f"{text!r:.80} is not what its base writes: {error}") from error


def encode_multibase(prefix: str, raw: bytes) -> str:
    """Encode in the base of this one-character prefix, for instance "z", "u", "f" or "b"."""
    base = _BASES[prefix]
    body = _encode_bits(raw, base) if base.bits else _encode_number(raw, base)
    if base.group:
        body += "=" * (-len(body) % base.group)
    return prefix + (body.upper() if base.upper else body)


def _without_padding(body: str, base: _Base) -> str:
    stripped = body.rstrip("=")
    if len(body) % base.group or len(body) - len(stripped) >= base.group:
        raise IdentifierInvalid("a multibase text is not padded as its base demands")
    return stripped


def _decode_bits(body: str, base: _Base) -> bytes:
    spare = len(body) * base.bits % 8
    if base.bits == 6:
        standard = body.translate(str.maketrans("-_", "+/")) + "=" * (-len(body) % 4)
        raw = binascii.a2b_base64(standard, strict_mode=True)
        last = base.alphabet.index(body[-1]) if body else 0
        number = last
    else:
        number = int(_as_digits(body, base) or "0", 1 << base.bits)
        raw = (number >> spare).to_bytes(len(body) * base.bits // 8, "big")
    if spare >= base.bits or number & ((1 << spare) - 1):
        raise ValueError("there are bits behind the last byte")
    return raw


def _encode_bits(raw: bytes, base: _Base) -> str:
    if base.bits == 6:
        text = binascii.b2a_base64(raw, newline=False).decode("ascii").rstrip("=")
        return text.translate(str.maketrans("+/", base.alphabet[-2:]))
    length = -(-len(raw) * 8 // base.bits)
    number = int.from_bytes(raw, "big") << (length * base.bits - len(raw) * 8)
    digits = [number >> (index * base.bits) for index in reversed(range(length))]
    return "".join(base.alphabet[digit % (1 << base.bits)] for digit in digits)


def _decode_number(body: str, base: _Base) -> bytes:
    if base.alphabet is _FLICKR:
        bitcoin = body.translate(str.maketrans(_FLICKR, _BITCOIN))
        return decode_base58(bitcoin, "base58", len(bitcoin)) if bitcoin else b""
    number = int(body or "0", len(base.alphabet))
    zeros = len(body) - len(body.lstrip(base.alphabet[0]))
    return bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big")


def _encode_number(raw: bytes, base: _Base) -> str:
    number = int.from_bytes(raw, "big")
    digits = []
    while number:
        number, digit = divmod(number, len(base.alphabet))
        digits.append(base.alphabet[digit])
    zeros = len(raw) - len(raw.lstrip(b"\0"))
    return base.alphabet[0] * zeros + "".join(reversed(digits))


def _as_digits(body: str, base: _Base) -> str:
    return body.translate(str.maketrans(base.alphabet, _DIGITS[: len(base.alphabet)]))
