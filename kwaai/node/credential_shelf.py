"""What goes into the wallet: a credential that held, one set apart, status lists of others.

Decides how old a kept status list may be before it is asked for again; whether it still counts, its
`validUntil` says.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from credentials.did_peer import peer_4_short
from credentials.document import parse_document
from credentials.errors import CredentialsError, StatusUnknown
from credentials.model import CredentialView, check_credential
from credentials.status import parse_list_credential
from credentials.wallet import StoredCredential, StoredStatusList, WalletEntry
from kwaai.limits import QUARANTINE_REASON_CHARS_MAX, STATUS_LIST_TTL_S
from kwaai.node.status_urls import parse_list_url

if TYPE_CHECKING:
    from credentials.verified import VerifiedCredential
    from kwaai.node.credential_check import StatusFetch
    from kwaai.store.wallet import Wallet


class Shelf:
    """The wallet, as the office fills it. `given` are status lists that its owner handed over; they
    count before kept ones; `fetch` gets those of others; `verify` checks one as a credential.
    """

    def __init__(
        self,
        wallet: Wallet,
        clock: Callable[[], float],
        fetch: StatusFetch | None,
        verify: Callable[[bytes], VerifiedCredential],
        given: Mapping[str, bytes],
    ) -> None:
        self._wallet = wallet
        self.long_forms = wallet.long_forms()
        """Of did:peer:4, by their short forms: as they are now."""
        self._verify = verify
        self._clock = clock
        self._fetch = fetch
        self._given = given

    def keep(self, verified: VerifiedCredential) -> StoredCredential:
        """Store what was verified, its bytes as they came, and the long forms of DIDs in it."""
        for did in (verified.issuer, *verified.view.subjects):
            if did.startswith("did:peer:4") and did.count(":") == 3:
                short = peer_4_short(did)
                self._wallet.put_long_form(short, did)
                self.long_forms[short] = did
        return self._add(verified.original, self._entry(verified.view))

    def keep_apart(self, data: bytes, error: CredentialsError) -> StoredCredential:
        """Store what failed, with the reason, where nothing counts it."""
        try:
            entry = self._entry(check_credential(parse_document(data)))
        except CredentialsError:
            entry = WalletEntry((), "", (), None, None, None, self._clock())
        reason = f"{error.code}: {error}"[:QUARANTINE_REASON_CHARS_MAX]
        return self._add(data, replace(entry, quarantined=True, reason=reason))

    def status_list(self, url: str, *, age_s_max: float = STATUS_LIST_TTL_S) -> bytes:
        """Return a status list of somebody else: a given one, a kept one that was fetched no longer
        ago than `age_s_max`, a fetched one, or any kept one. Raises StatusUnknown.
        """
        kept = self._wallet.get_status_list(url)
        now_s = self._clock()
        if url in self._given:
            data = self._checked(url, self._given[url], kept)
            self._wallet.put_status_list(url, data, now_s)
            return data
        if kept is not None and 0 <= now_s - kept.fetched_s < age_s_max:
            return kept.original
        # Of a list under a URL that names no signer only its own host can be asked.
        is_tied = url.startswith("https://") or parse_list_url(url) is not None
        if self._fetch is not None and is_tied:
            try:
                data = self._checked(url, self._fetch(url), kept)
            except StatusUnknown:
                if kept is None:
                    raise
            else:
                self._wallet.put_status_list(url, data, now_s)
                return data
        if kept is None:
            raise StatusUnknown(f"the status list {url!r:.200} is not known here")
        return kept.original

    def kept_list(self, url: str) -> bytes:
        """Return the kept status list of somebody else, however old. Raises StatusUnknown."""
        kept = self._wallet.get_status_list(url)
        if kept is None:
            raise StatusUnknown(f"the status list {url!r:.200} is not kept here")
        return kept.original

    def _checked(self, url: str, data: bytes, kept: StoredStatusList | None) -> bytes:
        """Return a list that may be kept: signed, under this URL, by the issuer that a DID URL
        names, and not older than the one before. Anybody may have handed it over: what anybody can
        make, or add to, never takes the place of the issuer's.
        """
        try:
            new = self._verify(data)
            parse_list_credential(new.document)
        except CredentialsError as error:
            raise StatusUnknown(
                f"what was given for the status list {url!r:.200} does not hold: {error}"
            ) from error
        named = parse_list_url(url)
        signer = new.issuer if named is None else named.issuer
        if new.view.id != url or new.issuer != signer or not new.contexts_trusted:
            raise StatusUnknown(f"what was given for the status list {url!r:.200} is another one")
        if kept is not None:
            with contextlib.suppress(CredentialsError):  # over, and then any new one will do
                old = self._verify(kept.original)
                if (new.view.valid_from_s or 0.0) < (old.view.valid_from_s or 0.0):
                    return kept.original
        return data

    def _entry(self, view: CredentialView) -> WalletEntry:
        return WalletEntry(
            types=view.types,
            issuer=view.issuer,
            subjects=view.subjects,
            valid_from_s=view.valid_from_s,
            valid_until_s=view.valid_until_s,
            credential_id=view.id,
            added_s=self._clock(),
        )

    def _add(self, data: bytes, entry: WalletEntry) -> StoredCredential:
        stored = self._wallet.get(self._wallet.add(data, entry))
        assert stored is not None
        return stored
