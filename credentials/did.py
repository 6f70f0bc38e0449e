"""Decentralised identifiers: their syntax, `did:key`, and the reference network's alias.

Does not resolve anything (`credentials.resolve`). W3C DID Core 1.0, section 3; did:key method, W3C
CCG. The alias is the literal `did:peer:` and a PeerId: no conformant did:peer, but what nodes print
and expect.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NewType

from credentials.errors import IdentifierInvalid
from credentials.keys import PublicKey, parse_peer_id, peer_id
from credentials.limits import DID_CHARS_MAX, DID_URL_CHARS_MAX
from credentials.multikey import encode_multikey, parse_multikey

Did = NewType("Did", str)

KEY_PREFIX = "did:key:"
ALIAS_PREFIX = "did:peer:"
_PEER_0_PREFIX = "did:peer:0"

_DID = r"did:(?P<method>[a-z0-9]+):(?:[A-Za-z0-9._:-]|%[0-9A-Fa-f]{2})+(?<!:)"
_PCHAR = r"[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2}"
_DID_SYNTAX = re.compile(_DID)
_DID_URL_SYNTAX = re.compile(
    rf"(?P<did>{_DID})(?P<path>(?:/(?:{_PCHAR})*)*)"
    rf"(?:\?(?P<query>(?:{_PCHAR}|[/?])*))?(?:#(?P<fragment>(?:{_PCHAR}|[/?])*))?"
)


@dataclass(frozen=True, slots=True)
class DidUrl:
    """The parts of a DID URL. A part that is not there is None, one that is empty is ''."""

    did: Did
    method: str
    path: str
    query: str | None
    fragment: str | None


def did_key(public: PublicKey) -> Did:
    """Return the `did:key:z6Mk...` of a key."""
    return Did(f"{KEY_PREFIX}{encode_multikey(public)}")


def did_peer_alias(public: PublicKey) -> Did:
    """Return the reference network's alias, `did:peer:12D3KooW...`."""
    return Did(f"{ALIAS_PREFIX}{peer_id(public)}")


def verification_method(did: Did) -> str:
    """Return the one verification method of a DID that is one key: `#z6Mk...` for did:key and
    did:peer:0, `#key-1` for the alias. Raises IdentifierInvalid for other DIDs.
    """
    for prefix in (KEY_PREFIX, _PEER_0_PREFIX):
        if did.startswith(prefix):
            return f"{did}#{did.removeprefix(prefix)}"
    if is_alias(did):
        return f"{did}#key-1"
    raise IdentifierInvalid(f"{did:.80} is not one key; its document lists its methods")


def is_alias(text: str) -> bool:
    """Whether a text begins as the reference network's alias does."""
    return text.startswith("did:peer:12D3KooW")


def parse_did(text: str) -> PublicKey:
    """Return the key of a DID that is one key: did:key, the alias, did:peer:0.

    Raises IdentifierInvalid, and KeyInvalid for bytes that are no key. One key has one did:key:
    what is written otherwise (a version, another base) is refused.
    """
    if is_alias(text):
        public = parse_peer_id(text.removeprefix(ALIAS_PREFIX))
        public.check_point()
        return public
    for prefix in (KEY_PREFIX, _PEER_0_PREFIX):
        if text.startswith(prefix):
            return parse_multikey(text.removeprefix(prefix))
    raise IdentifierInvalid(f"{text!r:.80} is neither did:key:z... nor did:peer:12D3KooW...")


def check_did(text: str) -> Did:
    """Check the syntax of a DID, of whatever method. Raises IdentifierInvalid."""
    if len(text) > DID_CHARS_MAX:
        raise IdentifierInvalid(f"a DID has at most {DID_CHARS_MAX} characters: {text!r:.80}")
    if _DID_SYNTAX.fullmatch(text) is None:
        raise IdentifierInvalid(f"{text!r:.80} is no DID: did:METHOD:IDENTIFIER")
    return Did(text)


def parse_did_url(text: str) -> DidUrl:
    """Return the parts of a DID URL. Raises IdentifierInvalid."""
    if len(text) > DID_URL_CHARS_MAX:
        raise IdentifierInvalid(
            f"a DID URL has at most {DID_URL_CHARS_MAX} characters: {text!r:.80}"
        )
    found = _DID_URL_SYNTAX.fullmatch(text)
    if found is None:
        raise IdentifierInvalid(f"{text!r:.80} is no DID URL: did:METHOD:IDENTIFIER/path?query#key")
    did = found["did"]
    if len(did) > DID_CHARS_MAX:
        raise IdentifierInvalid(f"a DID has at most {DID_CHARS_MAX} characters: {text!r:.80}")
    return DidUrl(Did(did), found["method"], found["path"], found["query"], found["fragment"])
