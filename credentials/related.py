"""Related resources of a credential: their form, and the digests of those that are pinned here.

Fetches nothing: the digest of a resource that is not pinned here is not checked. VC Data Model 2.0
section 5.3; Subresource Integrity; multihash in multibase.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from credentials.errors import CredentialsError, ModelInvalid
from credentials.model_values import read_id, read_objects
from credentials.multibase import decode_multibase
from schemas import context_bytes, context_digests

_SRI: Final = re.compile(r"(sha256|sha384|sha512)-([A-Za-z0-9+/_-]{1,88}={0,2})(\?\S*)?\Z")
_URL_SAFE: Final = frozenset("-_")
_MULTIHASHES: Final = {b"\x12\x20": "sha256", b"\x20\x30": "sha384", b"\x13\x40": "sha512"}
_DIGESTS_MAX: Final = 8
_DIGEST_CHARS_MAX: Final = 256

# The credentials context v2 as it was published until the Recommendation (July 2024): credentials
# of that time, and the W3C's own test suite, carry its digests.
_OLDER: Final[Mapping[str, tuple[bytes, ...]]] = {
    "https://www.w3.org/ns/credentials/v2": (
        bytes.fromhex("24a18c90e9856d526111f29376e302d970b2bd10182e33959995b0207d7043b9"),
        base64.b64decode("NSOcNpmdIVUxIJGvGUoe22FjTWrXiaXlsZ8q6912LdnR3KraQO2n75Ica4wK4Qeg"),
    )
}


def check_related(value: object) -> None:
    """Check the value of `relatedResource`. Raises ModelInvalid."""
    seen: set[str] = set()
    for resource in read_objects(value, "relatedResource"):
        url = read_id(resource, "relatedResource.id")
        if url is None:
            raise ModelInvalid("relatedResource has no id")
        if url in seen:
            raise ModelInvalid(f"relatedResource names {url:.120} twice")
        seen.add(url)
        if not isinstance(resource.get("mediaType", ""), str):
            raise ModelInvalid("relatedResource.mediaType is not text")
        _check_digests(url, resource)


def _check_digests(url: str, resource: Mapping[str, Any]) -> None:
    if "digestSRI" not in resource and "digestMultibase" not in resource:
        raise ModelInvalid("relatedResource has neither digestSRI nor digestMultibase")
    for name in ("digestSRI", "digestMultibase"):
        if name in resource:
            _check_digest(url, name, resource[name])


def _check_digest(url: str, name: str, value: object) -> None:
    known = _known_digests(url) if url in context_digests() else frozenset()
    texts = value if isinstance(value, list) and value else [value]
    if len(texts) > _DIGESTS_MAX:
        raise ModelInvalid(f"relatedResource.{name} has {len(texts)} digests")
    for text in texts:
        if not isinstance(text, str):
            raise ModelInvalid(f"relatedResource.{name} is not text")
        if known and not _matches(name, text, known):
            raise ModelInvalid(f"relatedResource.{name} is not the digest of {url:.120}")


@cache
def _known_digests(url: str) -> frozenset[bytes]:
    """Return the digests of a pinned resource, by every hash. Raises LookupError for others."""
    data = context_bytes(url)
    digests = (hashlib.new(name, data).digest() for name in _MULTIHASHES.values())
    return frozenset((*digests, *_OLDER.get(url, ())))


def _matches(name: str, text: str, known: frozenset[bytes]) -> bool:
    digest = _parse_sri(text) if name == "digestSRI" else _parse_multibase(text)
    return any(hmac.compare_digest(digest, each) for each in known)


def _parse_sri(text: str) -> bytes:
    match = _SRI.match(text)
    if match is None:
        raise ModelInvalid("relatedResource.digestSRI is not like sha256-<base64>")
    try:
        digest = base64.b64decode(match[2], altchars=b"-_" if _URL_SAFE & set(match[2]) else None)
    except binascii.Error as error:
        raise ModelInvalid("relatedResource.digestSRI is not base64") from error
    if len(digest) * 8 != int(match[1].removeprefix("sha")):
        raise ModelInvalid(f"relatedResource.digestSRI is no {match[1]} digest")
    return digest


def _parse_multibase(text: str) -> bytes:
    try:
        raw = decode_multibase(text, chars_max=_DIGEST_CHARS_MAX)
    except CredentialsError as error:
        raise ModelInvalid("relatedResource.digestMultibase is not multibase") from error
    if raw[:2] in _MULTIHASHES and len(raw) == 2 + raw[1]:
        return raw[2:]
    return raw  # the digest alone, as the W3C's test suite has it
