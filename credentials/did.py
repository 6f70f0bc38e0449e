"""Decentralised identifiers of Ed25519 keys: `did:key`, and the reference network's alias.

Does not resolve anything over a network. did:key method, W3C CCG (multicodec 0xed01, base58btc
multibase). The alias is the literal `did:peer:` and a PeerId: no conformant did:peer, but what
nodes print and expect.
"""

from __future__ import annotations

from typing import NewType

import base58

from credentials.errors import IdentifierInvalid
from credentials.keys import (
    PEER_ID_CHARS_MAX,
    PUBLIC_KEY_BYTES,
    PublicKey,
    decode_base58,
    parse_peer_id,
    peer_id,
)

Did = NewType("Did", str)

_ED25519_MULTICODEC = b"\xed\x01"
_KEY_PREFIX = "did:key:"
_PEER_PREFIX = "did:peer:"


def did_key(public: PublicKey) -> Did:
    """Return the `did:key:z6Mk...` of a key."""
    return Did(f"{_KEY_PREFIX}{multikey(public)}")


def did_peer(public: PublicKey) -> Did:
    """Return the reference network's alias, `did:peer:12D3KooW...`."""
    return Did(f"{_PEER_PREFIX}{peer_id(public)}")


def multikey(public: PublicKey) -> str:
    """Return the key as a Multikey, `z6Mk...`: also the fragment of its verification method."""
    return "z" + base58.b58encode(_ED25519_MULTICODEC + public.raw).decode("ascii")


def verification_method(did: Did) -> str:
    """Return a DID's one verification method: `#z6Mk...` for did:key, `#key-1` for the alias."""
    if did.startswith(_KEY_PREFIX):
        return f"{did}#{did.removeprefix(_KEY_PREFIX)}"
    return f"{did}#key-1"


def parse_did(text: str) -> PublicKey:
    """Return the key that a did:key or an alias names. Raises IdentifierInvalid."""
    if text.startswith(_PEER_PREFIX):
        return parse_peer_id(text.removeprefix(_PEER_PREFIX))
    if not text.startswith(_KEY_PREFIX + "z"):
        raise IdentifierInvalid(f"{text!r:.80} is neither did:key:z... nor did:peer:12D3KooW...")
    body = text.removeprefix(_KEY_PREFIX + "z")
    raw = decode_base58(body, "the key of a did:key", PEER_ID_CHARS_MAX)
    if not raw.startswith(_ED25519_MULTICODEC) or len(raw) != 2 + PUBLIC_KEY_BYTES:
        raise IdentifierInvalid(f"{text!r:.80} names no Ed25519 key; only Ed25519 is used here")
    return PublicKey(raw[2:])
