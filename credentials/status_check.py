"""The status of a credential, looked up in its lists.

Fetches nothing: lists come from `source`, their proofs are checked by `verify`. Stricter than the
Recommendation in two points, because lists come from caches and peers here: a list names its own
URL (`id`), and its issuer is the credential's, or one that the caller named. W3C Bitstring Status
List 1.0, section 3.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from credentials.bitstring import decode_list
from credentials.document import Document
from credentials.errors import (
    CredentialExpired,
    CredentialNotYetValid,
    CredentialRevoked,
    CredentialsError,
    CredentialSuspended,
    StatusListInvalid,
    StatusUnknown,
)
from credentials.status import (
    REVOCATION,
    SUSPENSION,
    ListCredential,
    StatusEntry,
    StatusFinding,
    StatusSource,
    parse_list_credential,
)

if TYPE_CHECKING:
    from credentials.model import CredentialView
    from credentials.verified import VerifiedCredential

ListVerifier: TypeAlias = Callable[[Document | bytes], "VerifiedCredential"]
"""Verifies structure, proof and validity period of a list credential. Must not look at its status:
a list that has one is refused here."""

_WORST_FIRST: Final = (CredentialRevoked, CredentialSuspended, StatusListInvalid, CredentialsError)


def check_status(
    view: CredentialView,
    source: StatusSource,
    verify: ListVerifier,
    *,
    now_s: float,
    list_issuers: frozenset[str] = frozenset(),
    age_s_max: float | None = None,
) -> tuple[StatusFinding, ...]:
    """Look up every status of a credential in its list.

    `list_issuers`: DIDs whose lists count besides the credential's issuer's. `age_s_max`: how old a
    list may be, by its validFrom, whatever its validUntil.

    Raises CredentialRevoked, CredentialSuspended, StatusListInvalid, StatusEntryInvalid or
    StatusUnknown: the first of these that any of the statuses gives.
    """
    findings: list[StatusFinding] = []
    errors: list[CredentialsError] = []
    lists: dict[str, ListCredential] = {}
    for entry in view.statuses:
        try:
            listed = _find_list(entry, view, source, verify, lists)
            if listed.issuer != view.issuer and listed.issuer not in list_issuers:
                raise StatusListInvalid(
                    f"the list {entry.list_url:.200} is of {listed.issuer:.100}, the credential of "
                    f"{view.issuer:.100}"
                )
            _check_age(listed, now_s, age_s_max)
            findings.append(_look_up(entry, listed))
        except CredentialsError as error:
            errors.append(error)
    for worst in _WORST_FIRST:
        for found in errors:
            if isinstance(found, worst):
                raise found
    return tuple(findings)


def _find_list(
    entry: StatusEntry,
    view: CredentialView,
    source: StatusSource,
    verify: ListVerifier,
    lists: dict[str, ListCredential],
) -> ListCredential:
    """Return the verified list of an entry, each list once per check."""
    if not entry.is_bitstring:
        raise StatusUnknown(f"a status of type {entry.type!r:.80} is not checked here")
    url = entry.list_url
    if url == view.id:
        raise StatusListInvalid("the credential names itself as its status list")
    if url not in lists:
        data = source(url)
        try:
            verified = verify(data)
        except (CredentialExpired, CredentialNotYetValid) as error:
            raise StatusUnknown(f"the status list {url:.200} is not valid now: {error}") from error
        except StatusUnknown:
            raise
        except CredentialsError as error:
            raise StatusListInvalid(f"the status list {url:.200} does not hold: {error}") from error
        if verified.contexts_reason:
            raise StatusListInvalid(
                f"the status list {url:.200} may mean something else: {verified.contexts_reason}"
            )
        listed = parse_list_credential(verified.document)
        if listed.url != url:
            raise StatusListInvalid(f"the list {listed.url:.200} was had in place of {url:.200}")
        lists[url] = listed
    return lists[url]


def _check_age(listed: ListCredential, now_s: float, age_s_max: float | None) -> None:
    if age_s_max is None:
        return
    if listed.valid_from_s is None or listed.valid_from_s < now_s - age_s_max:
        raise StatusUnknown(
            f"the status list {listed.url:.200} is older than {age_s_max:.0f} s; fetch it anew"
        )


def _look_up(entry: StatusEntry, listed: ListCredential) -> StatusFinding:
    """Return what the list says. Raises CredentialRevoked, CredentialSuspended, and for lists that
    do not fit the entry StatusListInvalid.
    """
    if entry.purpose not in listed.purposes:
        raise StatusListInvalid(
            f"the list {entry.list_url:.200} is for {', '.join(listed.purposes):.100}, not for "
            f"{entry.purpose:.100}"
        )
    if listed.size is not None and listed.size != entry.size:
        raise StatusListInvalid(
            f"the list has entries of {listed.size} bits, the credential says {entry.size}"
        )
    value = decode_list(listed.encoded, size=entry.size).get(entry.index)
    place = f"{entry.list_url:.200}, entry {entry.index}"
    if value and entry.purpose == REVOCATION:
        raise CredentialRevoked(f"its issuer has revoked it ({place})")
    if value and entry.purpose == SUSPENSION:
        raise CredentialSuspended(f"its issuer has suspended it for now ({place})")
    return StatusFinding(entry, value, entry.message(value))
