"""What a wallet holds and what may be asked of it; a wallet in memory that keeps to it.

Does not verify: whoever adds a credential says what was found. Does not encrypt or survive a
restart: `kwaai.store.wallet` does, under the same contract, tests/contract/test_wallet_contract.py.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Protocol

from credentials.errors import WalletFull

FIND_LIMIT: Final = 100
"""Credentials that one question brings, unless it asks for fewer or more."""


@dataclass(frozen=True, slots=True)
class WalletEntry:
    """What a credential is found by: read from it once, when it is added."""

    types: tuple[str, ...]
    issuer: str
    subjects: tuple[str, ...]
    """The ids of its subjects; a subject without an id is found by no subject."""
    valid_from_s: float | None
    valid_until_s: float | None
    credential_id: str | None
    """Its own `id`, which several credentials may claim."""
    added_s: float
    quarantined: bool = False
    """Kept, and counted by nothing: it did not verify."""
    reason: str = ""
    """Why it is quarantined."""

    @property
    def subject(self) -> str | None:
        """The first subject, which in practice is the only one."""
        return self.subjects[0] if self.subjects else None

    def is_valid_at(self, time_s: float) -> bool:
        """Say whether a time lies within validFrom and validUntil, both included."""
        begun = self.valid_from_s is None or self.valid_from_s <= time_s
        return begun and (self.valid_until_s is None or time_s <= self.valid_until_s)


@dataclass(frozen=True, slots=True)
class StoredCredential:
    """A credential of a wallet, as it was received to the byte."""

    number: int
    """Counts up with every new one: the cursor of `find`."""
    id: str
    """SHA-256 of `original`, in hex."""
    entry: WalletEntry
    original: bytes


@dataclass(frozen=True, slots=True)
class StoredStatusList:
    """A status list credential as it was fetched, not verified."""

    url: str
    original: bytes
    fetched_s: float


class CredentialWallet(Protocol):
    """The contract of every wallet."""

    def add(self, original: bytes, entry: WalletEntry) -> str:
        """Keep a credential and return its wallet id. Known bytes change nothing, with one
        exception: adding what is quarantined as not quarantined releases it.
        """
        ...

    def get(self, wallet_id: str) -> StoredCredential | None: ...

    def find(
        self,
        *,
        type: str | None = None,
        issuer: str | None = None,
        subject: str | None = None,
        valid_at_s: float | None = None,
        quarantined: bool | None = False,
        text: str | None = None,
        limit: int = FIND_LIMIT,
        after: int | None = None,
    ) -> list[StoredCredential]:
        """Return what matches all that is given, newest first.

        `text` is part of a type, an issuer, a subject or a credential's id, in any case of ASCII
        letters. `quarantined` None means both. `after` is the `number` of the last one of the page
        before.
        """
        ...

    def iterate(self) -> Iterator[StoredCredential]:
        """Go through all, quarantined ones too, oldest first."""
        ...

    def count(self, *, quarantined: bool | None = False) -> int: ...

    def remove(self, wallet_id: str) -> bool:
        """Forget a credential. Returns whether it was there."""
        ...

    def set_quarantine(self, wallet_id: str, quarantined: bool, reason: str = "") -> bool:
        """Put a credential in or out of quarantine. Returns whether it is there."""
        ...

    def put_status_list(self, url: str, original: bytes, fetched_s: float) -> None: ...

    def get_status_list(self, url: str) -> StoredStatusList | None: ...

    def put_long_form(self, short: str, long: str) -> None:
        """Remember the long form of a did:peer:4 or the numalgo-2 form of a did:peer:3."""
        ...

    def long_forms(self) -> dict[str, str]: ...


def wallet_id(original: bytes) -> str:
    """Return the name of a credential in a wallet: the SHA-256 of its bytes, in hex."""
    return hashlib.sha256(original).hexdigest()


class MemoryWallet:
    """A `CredentialWallet` that forgets: for tests, and for programs without a disk."""

    def __init__(self, *, credentials_max: int = 10_000, status_lists_max: int = 256) -> None:
        self._credentials: dict[str, StoredCredential] = {}
        self._status_lists: dict[str, StoredStatusList] = {}
        self._long_forms: dict[str, str] = {}
        self._last = 0
        self._credentials_max = credentials_max
        self._status_lists_max = status_lists_max

    def add(self, original: bytes, entry: WalletEntry) -> str:
        name = wallet_id(original)
        known = self._credentials.get(name)
        if known is not None:
            if known.entry.quarantined and not entry.quarantined:
                self._credentials[name] = replace(known, entry=entry)
            return name
        if len(self._credentials) >= self._credentials_max:
            raise WalletFull(f"the wallet holds {self._credentials_max} credentials: remove some")
        self._last += 1
        self._credentials[name] = StoredCredential(self._last, name, entry, original)
        return name

    def get(self, wallet_id: str) -> StoredCredential | None:
        return self._credentials.get(wallet_id)

    def find(
        self,
        *,
        type: str | None = None,
        issuer: str | None = None,
        subject: str | None = None,
        valid_at_s: float | None = None,
        quarantined: bool | None = False,
        text: str | None = None,
        limit: int = FIND_LIMIT,
        after: int | None = None,
    ) -> list[StoredCredential]:
        found = [
            stored
            for stored in reversed(self._credentials.values())
            if (after is None or stored.number < after)
            and (type is None or type in stored.entry.types)
            and (issuer is None or issuer == stored.entry.issuer)
            and (subject is None or subject in stored.entry.subjects)
            and (valid_at_s is None or stored.entry.is_valid_at(valid_at_s))
            and (quarantined is None or quarantined == stored.entry.quarantined)
            and (text is None or _mentions(stored.entry, text))
        ]
        return found[: max(0, limit)]

    def iterate(self) -> Iterator[StoredCredential]:
        yield from tuple(self._credentials.values())

    def count(self, *, quarantined: bool | None = False) -> int:
        entries = (stored.entry for stored in self._credentials.values())
        return sum(quarantined is None or entry.quarantined == quarantined for entry in entries)

    def remove(self, wallet_id: str) -> bool:
        return self._credentials.pop(wallet_id, None) is not None

    def set_quarantine(self, wallet_id: str, quarantined: bool, reason: str = "") -> bool:
        known = self._credentials.get(wallet_id)
        if known is None:
            return False
        entry = replace(known.entry, quarantined=quarantined, reason=reason)
        self._credentials[wallet_id] = replace(known, entry=entry)
        return True

    def put_status_list(self, url: str, original: bytes, fetched_s: float) -> None:
        self._status_lists[url] = StoredStatusList(url, original, fetched_s)
        while len(self._status_lists) > self._status_lists_max:
            oldest = min(self._status_lists.values(), key=lambda kept: kept.fetched_s)
            del self._status_lists[oldest.url]

    def get_status_list(self, url: str) -> StoredStatusList | None:
        return self._status_lists.get(url)

    def put_long_form(self, short: str, long: str) -> None:
        if short not in self._long_forms and len(self._long_forms) >= self._credentials_max:
            raise WalletFull(f"the wallet holds {self._credentials_max} long DIDs")
        self._long_forms[short] = long

    def long_forms(self) -> dict[str, str]:
        return dict(self._long_forms)


def _mentions(entry: WalletEntry, text: str) -> bool:
    wanted = _ascii_lower(text)
    names = (*entry.types, entry.issuer, *entry.subjects, entry.credential_id or "")
    return any(wanted in _ascii_lower(name) for name in names)


def _ascii_lower(text: str) -> str:
    return text.translate(_LOWER)


_LOWER: Final = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
