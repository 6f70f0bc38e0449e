"""did:web: where its document is. Fetches nothing (`kwaai.net.did_web`).

W3C CCG did:web method specification. Narrower than it on purpose: lower-case names with a dot, no
IP addresses, no percent-encoding but that of a port.
"""

from __future__ import annotations

import re

from credentials.errors import IdentifierInvalid
from credentials.limits import DID_CHARS_MAX

PREFIX = "did:web:"
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(rf"{_LABEL}(?:\.{_LABEL})+")
_NAME_CHARS_MAX = 253
_SEGMENT = re.compile(r"[A-Za-z0-9._-]+")
_PORT = re.compile(r"[1-9][0-9]{0,4}")
_LOOPBACK = frozenset({"localhost", "127.0.0.1"})
_LOCAL_ENDINGS = frozenset({"local", "localhost", "internal", "lan", "home", "test", "invalid"})


def did_web_host(did: str, *, allow_loopback: bool = False) -> str:
    """Return `name` or `name:port`, as an allow-list has it. Raises as `did_web_url`."""
    return did_web_url(did, allow_loopback=allow_loopback).split("/", 3)[2]


def did_web_url(did: str, *, allow_loopback: bool = False) -> str:
    """Return the https URL of a did:web's document. Raises IdentifierInvalid.

    Refuses IP addresses and names that only a local network knows. `allow_loopback` lets localhost
    and 127.0.0.1 through: for tests.
    """
    if len(did) > DID_CHARS_MAX or not did.startswith(PREFIX):
        raise IdentifierInvalid(f"{did!r:.80} is no did:web, or too long")
    host, *segments = did.removeprefix(PREFIX).split(":")
    name, _, port = host.partition("%3A")
    if not is_public_name(name) and not (allow_loopback and name in _LOOPBACK):
        raise IdentifierInvalid(f"{did!r:.80} names no public host: no addresses, no local names")
    if port or host != name:
        if _PORT.fullmatch(port) is None or not (port == "443" or 1024 <= int(port) <= 65535):
            raise IdentifierInvalid(f"{did!r:.80} has a port that is not allowed")
        name = f"{name}:{port}"
    for segment in segments:
        if _SEGMENT.fullmatch(segment) is None or segment.strip(".") == "":
            raise IdentifierInvalid(f"{did!r:.80} has a path that is not allowed")
    path = "/".join(segments) if segments else ".well-known"
    return f"https://{name}/{path}/did.json"


def is_public_name(name: str) -> bool:
    """Whether it is a DNS name, in lower case, that may lead to the public internet."""
    last = name.rpartition(".")[2]
    return (
        len(name) <= _NAME_CHARS_MAX
        and _NAME.fullmatch(name) is not None
        and not last.isdigit()  # 127.0.0.1, and 127.1
        and not re.fullmatch(r"0x[0-9a-f]*", last)
        and last not in _LOCAL_ENDINGS
    )
