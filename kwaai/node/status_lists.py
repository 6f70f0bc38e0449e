"""The status lists of what this home issued: where they are, and signed copies that are not old.

A list has a URL: `<base>/status/<name>` where the node has a public address for HTTP, else the DID
URL of `kwaai.node.status_urls`, which peers ask the node for. One list may be asked for under
both. A signed list ends after a day, so that holding back a revocation has an end; an owner's after
a month, and the last one is kept on the disk: the owner's key is mostly sealed. Bits and indexes
are `kwaai.store.issued`'s, the format is `credentials.status`'s (Bitstring Status List 1.0).
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from credentials.bitstring import StatusList
from credentials.did import did_key, verification_method
from credentials.document import Document, encode_document, parse_document
from credentials.errors import StatusUnknown
from credentials.issue import issue_credential
from credentials.keys import SecretKey
from credentials.model import check_credential
from credentials.proof import ProofOptions, Suite
from credentials.status import build_list_credential, build_status_entry
from kwaai.errors import CredentialMissing
from kwaai.limits import (
    STATUS_LIST_COPIES_MAX,
    STATUS_LIST_LIFE_S,
    STATUS_LIST_OWNER_LIFE_S,
    STATUS_LIST_TTL_S,
)
from kwaai.node.status_urls import NAME, list_url, parse_list_url
from kwaai.store.issued import SignedList

if TYPE_CHECKING:
    from kwaai.store.issued import IssuedList, IssuedRegister, StatusPlace

_OWNER_PREFIX = "owner-"
"""Before the name of an owner's list where the node's own lists are, under the same base URL."""


@dataclass(frozen=True, slots=True)
class _Copy:
    data: bytes
    version: int
    signed_s: float


class StatusLists:
    """The lists of one node's issuers: itself, its owner, and keys it had before.

    `issuers` by DID; `owner_did` is the one whose lists have the prefix under `base`. May be used
    from several threads.
    """

    def __init__(
        self,
        register: IssuedRegister,
        issuers: Mapping[str, SecretKey],
        *,
        did: str,
        owner_did: str | None = None,
        base: str | None = None,
    ) -> None:
        self._register = register
        self._issuers = issuers
        self._did = did
        self._owner_did = owner_did
        self._base = base.rstrip("/") if base else None
        self._copies: OrderedDict[str, _Copy] = OrderedDict()
        self._elsewhere: OrderedDict[str, tuple[str, str]] = OrderedDict()
        self._lock = threading.Lock()

    def publish_at(self, base: str) -> None:
        """Publish under another base URL from now on: a server's, once it is known."""
        self._base = base.rstrip("/")

    def know(self, document: Document) -> None:
        """Remember where the lists of a credential were when it was issued here: the base URL was
        another one then, and nobody may answer there now. What was not issued here changes nothing.
        """
        name = document.get("id")
        row = self._register.get(name) if isinstance(name, str) else None
        if row is None or not row.statuses or parse_document(row.original) != document:
            return
        places = {
            (status.place.purpose, status.place.index): status.place for status in row.statuses
        }
        for entry in check_credential(document).statuses:
            place = places.get((entry.purpose, entry.index))
            if place is not None and not entry.list_url.startswith("did:"):
                with self._lock:
                    self._elsewhere[entry.list_url] = (place.issuer, place.list_name)
                    while len(self._elsewhere) > STATUS_LIST_COPIES_MAX:
                        self._elsewhere.popitem(last=False)

    def reserve(
        self, issuer: str, purposes: Sequence[str], now_s: float
    ) -> tuple[tuple[StatusPlace, ...], list[Document]]:
        """Take a place for each purpose, and return the credential's `credentialStatus` of them."""
        places = self._register.reserve(issuer, purposes, now_s)
        entries = [build_status_entry(self.url(p), p.purpose, p.index) for p in places]
        return places, entries

    def url(self, place: StatusPlace) -> str:
        """Return the URL of the list of a place."""
        return self._url(place.issuer, place.list_name)

    def _url(self, issuer: str, name: str) -> str:
        if self._base is None or issuer not in (self._did, self._owner_did):
            publisher = self._did if issuer == self._owner_did else issuer
            return list_url(publisher, issuer, name)
        prefix = _OWNER_PREFIX if issuer == self._owner_did else ""
        return f"{self._base}/status/{prefix}{name}"

    def names(self) -> tuple[str, ...]:
        """Return what `named` takes: the lists of the node and of its owner."""
        return tuple(name for name, *_ in self.rows())

    def rows(self) -> list[tuple[str, str, int, int]]:
        """Return name, URL, entries and entries used of the lists of the node and of its owner."""
        issuers = [(self._did, ""), (self._owner_did, _OWNER_PREFIX)]
        return [
            (prefix + row.name, self._url(issuer, row.name), row.entries, row.used)
            for issuer, prefix in issuers
            if issuer is not None
            for row in self._register.lists(issuer)
        ]

    def named(self, name: str, now_s: float) -> bytes:
        """Return a signed list by name. Raises CredentialMissing."""
        issuer: str | None = self._did
        short = name
        if name.startswith(_OWNER_PREFIX):
            issuer, short = self._owner_did, name.removeprefix(_OWNER_PREFIX)
        if issuer is None or not NAME.fullmatch(short):
            raise CredentialMissing(f"this node has no status list {name!r:.80}")
        return self._signed(issuer, short, self._url(issuer, short), now_s)

    def at(self, url: str, now_s: float) -> bytes:
        """Return a signed list by URL. Raises StatusUnknown for one that is not of this home."""
        issuer, name = self._find(url)
        try:
            return self._signed(issuer, name, url, now_s)
        except CredentialMissing as error:
            raise StatusUnknown(error.message) from error

    def _find(self, url: str) -> tuple[str, str]:
        parsed = parse_list_url(url)
        if parsed is not None and parsed.publisher in self._issuers:
            return parsed.issuer, parsed.name
        place, _, name = url.rpartition("/status/")
        if self._base is not None and place == self._base:
            if NAME.fullmatch(name):
                return self._did, name
            short = name.removeprefix(_OWNER_PREFIX)
            if self._owner_did is not None and short != name and NAME.fullmatch(short):
                return self._owner_did, short
        with self._lock:
            known = self._elsewhere.get(url)
        if known is None:
            raise StatusUnknown(f"the status list {url!r:.200} is not one of this node")
        return known

    def _signed(self, issuer: str, name: str, url: str, now_s: float) -> bytes:
        row = self._register.get_list(issuer, name)
        if row is None:
            raise CredentialMissing(f"this node has no status list {name!r:.80}")
        with self._lock:
            copy = self._copies.get(url)
            if (
                copy is not None
                and copy.version == row.version
                and 0 <= now_s - copy.signed_s < self._life_s(issuer) / 2
            ):
                self._copies.move_to_end(url)
                return copy.data
        if issuer not in self._issuers:
            return self._kept(row, url)
        data = self._sign(issuer, name, row.purpose, url, now_s)
        if issuer == self._owner_did and url.startswith("did:"):
            self._register.put_signed(issuer, name, SignedList(data, row.version, now_s))
        with self._lock:
            self._copies[url] = _Copy(data, row.version, now_s)
            while len(self._copies) > STATUS_LIST_COPIES_MAX:
                self._copies.popitem(last=False)
        return data

    def renew_owners(self, now_s: float) -> None:
        """Sign the owner's lists now, while the key is here, so that they can be asked for when it
        is not.
        """
        if self._owner_did is not None:
            for row in self._register.lists(self._owner_did):
                url = list_url(self._did, self._owner_did, row.name)
                self._signed(self._owner_did, row.name, url, now_s)

    def _kept(self, row: IssuedList, url: str) -> bytes:
        """Return the list of an owner whose key is not here, as it was signed last; one that has
        changed since is not told, rather than told wrong.
        """
        kept = self._register.get_signed(row.issuer, row.name)
        is_current = kept is not None and kept.version == row.version
        if kept is None or not is_current or parse_document(kept.original).get("id") != url:
            raise CredentialMissing(
                f"the owner's key is needed for the status list {url!r:.200}, and is sealed"
            )
        return kept.original

    def _life_s(self, issuer: str) -> float:
        return STATUS_LIST_OWNER_LIFE_S if issuer == self._owner_did else STATUS_LIST_LIFE_S

    def _sign(self, issuer: str, name: str, purpose: str, url: str, now_s: float) -> bytes:
        # Bits are read after the version: a change in between is at worst signed once more.
        bits = StatusList(self._register.list_bits(issuer, name))
        document = build_list_credential(
            issuer,
            url,
            purpose,
            bits,
            valid_from_s=now_s,
            valid_until_s=now_s + self._life_s(issuer),
            ttl_ms=int(STATUS_LIST_TTL_S * 1000),
        )
        secret = self._issuers[issuer]
        # What the web fetches is signed as the web's verifiers know it.
        suite: Suite = "eddsa-jcs-2022" if url.startswith("did:") else "eddsa-rdfc-2022"
        method = verification_method(did_key(secret.public))
        options = ProofOptions(suite=suite, method=method, created_s=now_s)
        return encode_document(issue_credential(document, options, secret))
