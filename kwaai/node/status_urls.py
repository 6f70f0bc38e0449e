"""The DID URLs of status lists: which node publishes a list, and who signs it.

`<node's DID>/status/<name>` is signed by the node's key, `<node's DID>/status/<owner>/<name>` by
the owner's, whose multikey `<owner>` is: an owner has no machine that could be asked.
docs/protocol/credentials.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

NAME: Final = re.compile(r"[a-z]{1,20}-[0-9]{1,6}")
_SEPARATOR: Final = "/status/"
_KEY_PREFIX: Final = "did:key:"


@dataclass(frozen=True, slots=True)
class ListUrl:
    """A status list of a node."""

    publisher: str
    """DID of the node that has it."""
    issuer: str
    """DID whose key signs it."""
    name: str
    """`revocation-1`."""


def list_url(publisher: str, issuer: str, name: str) -> str:
    """Return the URL of a list. An issuer that is not the publisher is a did:key."""
    owner = "" if issuer == publisher else issuer.removeprefix(_KEY_PREFIX) + "/"
    return f"{publisher}{_SEPARATOR}{owner}{name}"


def parse_list_url(url: str) -> ListUrl | None:
    """Return what a URL says; None for one that is not of this form."""
    publisher, found, rest = url.partition(_SEPARATOR)
    owner, slash, name = rest.rpartition("/")
    if not url.startswith("did:") or not found or not NAME.fullmatch(name):
        return None
    if not slash:
        return ListUrl(publisher, publisher, name)
    if not owner.isalnum() or not owner.isascii():
        return None
    return ListUrl(publisher, _KEY_PREFIX + owner, name)
