"""Bitstring Status List 1.0: what a credential says of its status, and the list credential.

Looks nothing up: status_check.py does; the bits are in bitstring.py. W3C Recommendation of 15 May
2025, https://www.w3.org/TR/vc-bitstring-status-list/, section 2.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from credentials.bitstring import StatusList, encode_list
from credentials.document import Document, encode_time, parse_time
from credentials.errors import CredentialsError, StatusEntryInvalid, StatusListInvalid
from credentials.limits import (
    STATUS_PURPOSE_CHARS_MAX,
    STATUS_PURPOSES_MAX,
    STATUS_SIZE_BITS_MAX,
    STATUSES_MAX,
    URL_CHARS_MAX,
)

ENTRY_TYPE: Final = "BitstringStatusListEntry"
LIST_TYPE: Final = "BitstringStatusList"
LIST_CREDENTIAL_TYPE: Final = "BitstringStatusListCredential"
REVOCATION: Final = "revocation"
SUSPENSION: Final = "suspension"
MESSAGE: Final = "message"
REFRESH: Final = "refresh"

StatusSource: TypeAlias = Callable[[str], Document | bytes]
"""URL -> the list credential, from memory. Raises StatusUnknown where there is none."""

_INDEX = re.compile(r"[0-9]{1,18}\Z")
_STATUS_VALUE = re.compile(r"0x[0-9a-fA-F]{1,8}\Z")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[^\s\x00-\x20<>\"\\^`{|}]+\Z")


@dataclass(frozen=True, slots=True)
class StatusEntry:
    """One `credentialStatus` of a credential. Of another type than ENTRY_TYPE only `id`, `type`."""

    id: str | None
    type: str
    purpose: str = ""
    list_url: str = ""
    index: int = 0
    size: int = 1
    """Bits of one entry in the list."""
    messages: Mapping[int, str] = field(default_factory=dict)
    references: tuple[str, ...] = ()

    @property
    def is_bitstring(self) -> bool:
        return self.type == ENTRY_TYPE

    def message(self, value: int) -> str:
        """Return what the issuer committed to say with that value."""
        if self.messages:
            return self.messages.get(value, "undefined")
        return "set" if value else "unset"


@dataclass(frozen=True, slots=True)
class StatusFinding:
    """What a list says of a credential that it does not invalidate: `value` 0 is "not set"."""

    entry: StatusEntry
    value: int
    message: str


@dataclass(frozen=True, slots=True)
class ListCredential:
    """A list credential as it stands, bits still packed. Nothing here is verified."""

    url: str
    issuer: str
    purposes: tuple[str, ...]
    encoded: str
    size: int | None
    """`statusSize` of the list, where it has one; the entry of the credential counts."""
    ttl_ms: int | None
    valid_from_s: float | None
    valid_until_s: float | None

    def refresh_due_s(self, fetched_s: float) -> float | None:
        """Return when a copy fetched at `fetched_s` should be fetched anew; None: nobody said."""
        ends = [] if self.valid_until_s is None else [self.valid_until_s]
        if self.ttl_ms is not None:
            ends.append(fetched_s + self.ttl_ms / 1000)
        return min(ends, default=None)


def build_status_entry(
    list_url: str,
    purpose: str,
    index: int,
    *,
    size: int = 1,
    messages: Mapping[int, str] | None = None,
    reference: str | None = None,
) -> Document:
    """Return a `credentialStatus` value for a credential to be issued.

    `size`: bits of the entry; above 1 each of the 2**size values needs its message. Raises
    StatusEntryInvalid.
    """
    entry: Document = {
        "id": f"{list_url}#{index}",
        "type": ENTRY_TYPE,
        "statusPurpose": purpose,
        "statusListIndex": str(index),
        "statusListCredential": list_url,
    }
    if size != 1:
        entry["statusSize"] = size
    if messages:
        entry["statusMessage"] = [
            {"status": hex(value), "message": text} for value, text in sorted(messages.items())
        ]
    if reference is not None:
        entry["statusReference"] = reference
    parse_status_entry(entry)
    return entry


def parse_status_entry(value: Any) -> StatusEntry:
    """Parse one value of `credentialStatus`. Raises StatusEntryInvalid."""
    if not isinstance(value, Mapping):
        raise StatusEntryInvalid(f"credentialStatus is {value!r:.60}, not an object")
    entry_id = _optional_url(value, "id")
    types = _strings(value.get("type"), "credentialStatus.type")
    if ENTRY_TYPE not in types:
        return StatusEntry(entry_id, " ".join(types))
    list_url = value.get("statusListCredential")
    if not isinstance(list_url, str) or not _is_url(list_url):
        raise StatusEntryInvalid(f"statusListCredential is {list_url!r:.80}, not a URL")
    if entry_id == list_url:
        raise StatusEntryInvalid("credentialStatus.id is the URL of the list; it names the entry")
    purpose = value.get("statusPurpose")
    if not isinstance(purpose, str) or not 0 < len(purpose) <= STATUS_PURPOSE_CHARS_MAX:
        raise StatusEntryInvalid(f"statusPurpose is {purpose!r:.60}, not one purpose in a string")
    index = value.get("statusListIndex")
    if not isinstance(index, str) or not _INDEX.match(index):
        raise StatusEntryInvalid(
            f"statusListIndex is {index!r:.60}, not a whole number in base 10 as a string"
        )
    size = _parse_size(value)
    references = value.get("statusReference", [])
    references = _strings(references, "statusReference") if references != [] else ()
    if not all(map(_is_url, references)):
        raise StatusEntryInvalid("statusReference is not a URL or a list of URLs")
    return StatusEntry(
        entry_id,
        ENTRY_TYPE,
        purpose,
        list_url,
        int(index),
        size,
        _parse_messages(value, size),
        references,
    )


def parse_statuses(values: Sequence[Any]) -> tuple[StatusEntry, ...]:
    """Parse the `credentialStatus` values of one credential. Raises StatusEntryInvalid."""
    if len(values) > STATUSES_MAX:
        raise StatusEntryInvalid(f"{len(values)} statuses; at most {STATUSES_MAX} are read")
    return tuple(parse_status_entry(value) for value in values)


def build_list_credential(
    issuer: str,
    url: str,
    purpose: str | tuple[str, ...],
    status_list: StatusList,
    *,
    valid_from_s: float,
    valid_until_s: float,
    ttl_ms: int | None = None,
) -> Document:
    """Return the unsigned list credential, to be signed by the issuer and served at `url`.

    `ttl_ms`: after how long a copy should be fetched anew. `statusSize` is left to the entries: the
    W3C's context has no such term for lists, so that no proof could cover it.
    """
    subject: Document = {
        "id": f"{url}#list",
        "type": LIST_TYPE,
        "statusPurpose": purpose if isinstance(purpose, str) else list(purpose),
        "encodedList": encode_list(status_list),
    }
    if ttl_ms is not None:
        subject["ttl"] = ttl_ms
    return {
        "@context": ["https://www.w3.org/ns/credentials/v2"],
        "id": url,
        "type": ["VerifiableCredential", LIST_CREDENTIAL_TYPE],
        "issuer": issuer,
        "validFrom": encode_time(valid_from_s),
        "validUntil": encode_time(valid_until_s),
        "credentialSubject": subject,
    }


def parse_list_credential(document: Document) -> ListCredential:
    """Read a list credential, verified or not. Raises StatusListInvalid."""
    if LIST_CREDENTIAL_TYPE not in _strings(document.get("type"), "type", StatusListInvalid):
        raise StatusListInvalid(f"the list is no {LIST_CREDENTIAL_TYPE}")
    if document.get("credentialStatus") not in (None, []):
        raise StatusListInvalid("the list has a status of its own, which nobody could end checking")
    url, issuer = document.get("id"), document.get("issuer")
    issuer = issuer.get("id") if isinstance(issuer, Mapping) else issuer
    if not isinstance(url, str) or not isinstance(issuer, str):
        raise StatusListInvalid("the list does not name its URL (id) or its issuer")
    subject = document.get("credentialSubject")
    if isinstance(subject, list) and len(subject) == 1:
        subject = subject[0]
    if not isinstance(subject, Mapping):
        raise StatusListInvalid("the list's credentialSubject is not one object")
    if LIST_TYPE not in _strings(subject.get("type"), "credentialSubject.type", StatusListInvalid):
        raise StatusListInvalid(f"the list's credentialSubject is no {LIST_TYPE}")
    encoded, ttl = subject.get("encodedList"), subject.get("ttl")
    if not isinstance(encoded, str):
        raise StatusListInvalid("the list has no encodedList")
    if ttl is not None and (isinstance(ttl, bool) or not isinstance(ttl, int) or ttl < 0):
        raise StatusListInvalid(f"the list's ttl is {ttl!r:.40}, not whole milliseconds")
    size = subject.get("statusSize")
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise StatusListInvalid(f"the list's statusSize is {size!r:.40}, not a number of bits")
    return ListCredential(
        url,
        issuer,
        _strings(subject.get("statusPurpose"), "statusPurpose", StatusListInvalid),
        encoded,
        size,
        ttl,
        _optional_time(document, "validFrom"),
        _optional_time(document, "validUntil"),
    )


def _parse_size(value: Mapping[str, Any]) -> int:
    size = value.get("statusSize", 1)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise StatusEntryInvalid(f"statusSize is {size!r:.40}, not a number of bits from 1")
    if size > STATUS_SIZE_BITS_MAX:
        raise StatusEntryInvalid(
            f"statusSize is {size}; up to {STATUS_SIZE_BITS_MAX} bits are read"
        )
    return size


def _parse_messages(value: Mapping[str, Any], size: int) -> dict[int, str]:
    """Return value -> message. Every value of `size` bits has one, where there are any."""
    listed = value.get("statusMessage")
    if listed is None and size == 1:
        return {}
    if not isinstance(listed, list) or len(listed) != 2**size:
        raise StatusEntryInvalid(f"statusMessage is not a list of {2**size} messages")
    messages: dict[int, str] = {}
    for item in listed:
        status = item.get("status") if isinstance(item, Mapping) else None
        message = item.get("message") if isinstance(item, Mapping) else None
        if not isinstance(status, str) or not _STATUS_VALUE.match(status):
            raise StatusEntryInvalid(f"a statusMessage's status is {status!r:.40}, not 0x and hex")
        if not isinstance(message, str):
            raise StatusEntryInvalid(f"the statusMessage of {status} has no message")
        messages[int(status, 16)] = message
    if sorted(messages) != list(range(2**size)):
        raise StatusEntryInvalid("statusMessage does not name each value once")
    return messages


def _strings(
    value: Any, what: str, error: type[CredentialsError] = StatusEntryInvalid
) -> tuple[str, ...]:
    """Return a string or list of strings as a tuple, at least one."""
    values = value if isinstance(value, list) else [value]
    if not 0 < len(values) <= STATUS_PURPOSES_MAX:
        raise error(f"{what} has {len(values)} values; 1 to {STATUS_PURPOSES_MAX} are read")
    if not all(isinstance(one, str) and one for one in values):
        raise error(f"{what} is {value!r:.60}, not a string or a list of strings")
    return tuple(values)


def _optional_url(value: Mapping[str, Any], name: str) -> str | None:
    url = value.get(name)
    if url is None and name not in value:
        return None
    if not isinstance(url, str) or not _is_url(url):
        raise StatusEntryInvalid(f"credentialStatus.{name} is {url!r:.80}, not a URL")
    return url


def _is_url(text: str) -> bool:
    return len(text) <= URL_CHARS_MAX and _URL.match(text) is not None


def _optional_time(document: Document, name: str) -> float | None:
    text = document.get(name)
    if text is None:
        return None
    if not isinstance(text, str):
        raise StatusListInvalid(f"the list's {name} is {text!r:.40}, not a time")
    return parse_time(text)
