"""The status of a signed credential in signed lists, and every way in which a list can lie."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from credentials.bitstring import StatusList, encode_list
from credentials.did import did_key, verification_method
from credentials.document import Document, encode_time
from credentials.errors import (
    CredentialRevoked,
    CredentialsError,
    CredentialSuspended,
    StatusEntryInvalid,
    StatusIndexBeyondEnd,
    StatusListInvalid,
    StatusListTooShort,
    StatusUnknown,
)
from credentials.keys import SecretKey
from credentials.kinds import KINDS, build_credential
from credentials.model import check_credential
from credentials.proof import ProofOptions, add_proof
from credentials.status import StatusFinding, build_list_credential, build_status_entry
from credentials.status_check import check_status
from credentials.verify import Environment, verify_credential

NOW_S = 1_795_000_000
DAY_S = 86_400
ISSUER, OTHER = SecretKey(bytes(range(32))), SecretKey(bytes(range(2, 34)))
ISSUER_DID, OTHER_DID = did_key(ISSUER.public), did_key(OTHER.public)
REVOKED_URL = "https://issuer.example/status/revocation-1"
SUSPENDED_URL = f"{ISSUER_DID}/status/suspension-1"
INDEX = 94_567
FOUR = {0: "new", 1: "seen", 2: "approved", 3: "undefined"}


def sign(document: Document, secret: SecretKey = ISSUER, suite: Any = "eddsa-jcs-2022") -> Document:
    method = verification_method(did_key(secret.public))
    options = ProofOptions(suite=suite, method=method, created_s=NOW_S - 60)
    return add_proof(document, options, secret)  # whoever lies does not check first


def credential(*entries: Document, credential_id: str | None = None) -> Document:
    return build_credential(
        KINDS["BindingVC"],
        ISSUER_DID,
        OTHER_DID,
        {"nodeLabel": "attic"},
        valid_from_s=NOW_S - DAY_S,
        credential_id=credential_id,
        status=entries,
    )


def status_list(
    url: str = REVOKED_URL,
    purpose: str | tuple[str, ...] = "revocation",
    values: Mapping[int, int] | None = None,
    *,
    secret: SecretKey = ISSUER,
    size: int = 1,
    change: Callable[[Document], Any] = lambda document: None,
    suite: str = "eddsa-jcs-2022",
) -> Document:
    bits = StatusList.new(size=size)
    for index, value in (values or {}).items():
        bits.set(index, value)
    document = build_list_credential(
        did_key(secret.public),
        url,
        purpose,
        bits,
        valid_from_s=NOW_S - 60,
        valid_until_s=NOW_S + DAY_S,
        ttl_ms=3_600_000,
    )
    change(document)
    return sign(document, secret, suite)


def look_up(
    document: Document, *lists: Document, now_s: float = NOW_S, **options: Any
) -> tuple[StatusFinding, ...]:
    known = {each["id"]: each for each in lists}

    def source(url: str) -> Document:
        if url not in known:
            raise StatusUnknown(f"nobody has {url}")
        return known[url]

    inner = Environment(now_s=now_s, status_required=False)
    view = check_credential(sign(document))
    return check_status(
        view, source, lambda data: verify_credential(data, inner), now_s=now_s, **options
    )


REVOCABLE = build_status_entry(REVOKED_URL, "revocation", INDEX)
SUSPENDABLE = build_status_entry(SUSPENDED_URL, "suspension", INDEX)


@pytest.mark.parametrize("suite", ["eddsa-jcs-2022", "eddsa-rdfc-2022"])
def test_a_credential_is_valid_revoked_or_suspended_as_the_lists_say(suite: str) -> None:
    both = credential(REVOCABLE, SUSPENDABLE)
    clear = status_list(suite=suite)
    calm = status_list(SUSPENDED_URL, "suspension", {INDEX - 1: 1, INDEX + 1: 1}, suite=suite)
    found = look_up(both, clear, calm)
    assert [(f.entry.purpose, f.value, f.message) for f in found] == [
        ("revocation", 0, "unset"),
        ("suspension", 0, "unset"),
    ]
    with pytest.raises(CredentialRevoked, match=str(INDEX)):
        look_up(both, status_list(values={INDEX: 1}, suite=suite), calm)
    with pytest.raises(CredentialSuspended):
        look_up(both, clear, status_list(SUSPENDED_URL, "suspension", {INDEX: 1}, suite=suite))


def test_a_credential_without_a_status_asks_for_no_list() -> None:
    assert look_up(credential()) == ()


def test_the_worst_that_is_known_counts() -> None:
    both = credential(REVOCABLE, SUSPENDABLE)
    suspended = status_list(SUSPENDED_URL, "suspension", {INDEX: 1})
    with pytest.raises(CredentialRevoked):
        look_up(both, status_list(values={INDEX: 1}), suspended)
    with pytest.raises(CredentialSuspended):
        look_up(both, suspended)
    with pytest.raises(StatusUnknown):
        look_up(both, status_list())
    bad = status_list(purpose="refresh")
    with pytest.raises(StatusListInvalid):
        look_up(both, bad)
    with pytest.raises(CredentialSuspended):
        look_up(both, bad, suspended)


def test_one_list_may_have_several_purposes_and_is_verified_once() -> None:
    entries = [
        build_status_entry(REVOKED_URL, p, i) for p, i in (("revocation", 1), ("refresh", 2))
    ]
    listed = status_list(purpose=("revocation", "refresh"), values={2: 1})
    asked: list[str] = []
    known = {REVOKED_URL: listed}

    def source(url: str) -> Document:
        asked.append(url)
        return known[url]

    view = check_credential(sign(credential(*entries)))
    inner = Environment(now_s=NOW_S, status_required=False)
    found = check_status(view, source, lambda data: verify_credential(data, inner), now_s=NOW_S)
    assert [(f.entry.purpose, f.value) for f in found] == [("revocation", 0), ("refresh", 1)]
    assert asked == [REVOKED_URL]


def test_messages_and_refresh_invalidate_nothing() -> None:
    entry = build_status_entry(REVOKED_URL, "message", 5, size=2, messages=FOUR)
    found = look_up(credential(entry), status_list(purpose="message", values={5: 2}, size=2))
    assert (found[0].value, found[0].message) == (2, "approved")
    for purpose in ("refresh", "message", "https://example.org/purpose"):
        entry = build_status_entry(REVOKED_URL, purpose, 5)
        found = look_up(credential(entry), status_list(purpose=purpose, values={5: 1}))
        assert (found[0].value, found[0].message) == (1, "set")


def subject(name: str, value: Any) -> Callable[[Document], Any]:
    return lambda document: document["credentialSubject"].update({name: value})


def top(name: str, value: Any) -> Callable[[Document], Any]:
    return lambda document: document.update({name: value})


def gzipped(bits: bytes) -> str:
    return "u" + base64.urlsafe_b64encode(gzip.compress(bits)).decode().rstrip("=")


def tampered() -> Document:
    listed = status_list(values={INDEX: 1})
    listed["credentialSubject"]["encodedList"] = encode_list(StatusList.new())
    return listed


LIES: dict[str, tuple[type[CredentialsError], Document]] = {
    "of another issuer": (StatusListInvalid, status_list(secret=OTHER)),
    "for another purpose": (StatusListInvalid, status_list(purpose="suspension")),
    "another list of the issuer": (StatusListInvalid, status_list(url=REVOKED_URL + "0")),
    "without its URL": (StatusListInvalid, status_list(change=lambda d: d.pop("id"))),
    "of another type": (
        StatusListInvalid,
        status_list(change=top("type", ["VerifiableCredential"])),
    ),
    "with a status": (StatusListInvalid, status_list(change=top("credentialStatus", REVOCABLE))),
    "with a bit cleared on its way": (StatusListInvalid, tampered()),
    "unsigned": (StatusListInvalid, {k: v for k, v in status_list().items() if k != "proof"}),
    "too short": (
        StatusListTooShort,
        status_list(change=subject("encodedList", gzipped(bytes(16_383)))),
    ),
    "a bomb": (
        StatusListInvalid,
        status_list(change=subject("encodedList", gzipped(bytes(64 * 2**20)))),
    ),
    "not encoded": (StatusListInvalid, status_list(change=subject("encodedList", "u!"))),
    "of another size": (StatusListInvalid, status_list(size=2, change=subject("statusSize", 2))),
    "over": (
        StatusUnknown,
        status_list(
            change=lambda d: d.update(
                validFrom=encode_time(NOW_S - 900), validUntil=encode_time(NOW_S - 600)
            )
        ),
    ),
    "not begun": (StatusUnknown, status_list(change=top("validFrom", encode_time(NOW_S + 600)))),
    "with a context of its own": (
        StatusListInvalid,
        status_list(change=lambda d: d["@context"].append({"more": "urn:x:more"})),
    ),
}


@pytest.mark.parametrize(("error", "listed"), LIES.values(), ids=LIES.keys())
def test_lists_that_lie_are_refused(error: type[CredentialsError], listed: Document) -> None:
    view = check_credential(sign(credential(REVOCABLE)))
    inner = Environment(now_s=NOW_S, status_required=False)
    with pytest.raises(error) as caught:
        check_status(view, lambda url: listed, lambda d: verify_credential(d, inner), now_s=NOW_S)
    assert caught.type is error


def test_another_issuers_list_counts_where_the_verifier_says_so() -> None:
    clear, revoked = status_list(secret=OTHER), status_list(values={INDEX: 1}, secret=OTHER)
    allowed = frozenset({OTHER_DID})
    assert look_up(credential(REVOCABLE), clear, list_issuers=allowed)[0].value == 0
    with pytest.raises(CredentialRevoked):
        look_up(credential(REVOCABLE), revoked, list_issuers=allowed)


def test_a_list_older_than_the_verifier_wants_is_unknown() -> None:
    assert look_up(credential(REVOCABLE), status_list(), age_s_max=3600)
    with pytest.raises(StatusUnknown, match="older"):
        look_up(credential(REVOCABLE), status_list(), now_s=NOW_S + 7200, age_s_max=3600)
    timeless = status_list(change=lambda d: d.pop("validFrom"))
    assert look_up(credential(REVOCABLE), timeless)
    with pytest.raises(StatusUnknown, match="older"):
        look_up(credential(REVOCABLE), timeless, age_s_max=3600)


def test_a_credential_is_not_its_own_list() -> None:
    own = credential(REVOCABLE, credential_id=REVOKED_URL)
    with pytest.raises(StatusListInvalid, match="itself"):
        look_up(own, status_list())


def test_an_index_beyond_the_end_is_refused() -> None:
    far = credential(build_status_entry(REVOKED_URL, "revocation", 131_072))
    with pytest.raises(StatusIndexBeyondEnd):
        look_up(far, status_list())


def test_a_status_that_is_not_read_here_is_unknown() -> None:
    other = {"id": f"{REVOKED_URL}#1", "type": "StatusList2021Entry"}
    with pytest.raises(StatusUnknown, match="StatusList2021Entry"):
        look_up(credential(other))


def test_malformed_or_too_many_statuses_are_refused() -> None:
    with pytest.raises(StatusEntryInvalid):
        look_up(credential({**REVOCABLE, "statusListIndex": "-1"}), status_list())
    many = [build_status_entry(REVOKED_URL, "revocation", index) for index in range(17)]
    with pytest.raises(StatusEntryInvalid, match="17"):
        look_up(credential(*many), status_list())


def test_the_verification_of_a_credential_asks_the_lists() -> None:
    signed = sign(credential(REVOCABLE))
    for values, now_s in (({}, NOW_S), ({INDEX: 1}, NOW_S)):
        listed = status_list(values=values)
        env = Environment(now_s=now_s, status=lambda url, listed=listed: listed)
        if values:
            with pytest.raises(CredentialRevoked):
                verify_credential(signed, env)
        else:
            assert verify_credential(signed, env).status == "passed"
    with pytest.raises(StatusUnknown):
        verify_credential(signed, Environment(now_s=NOW_S))
