"""The office: issues, checks, keeps, presents, takes back and publishes, with a real wallet."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from credentials.bitstring import decode_list
from credentials.did import did_key, did_peer_alias, parse_did
from credentials.did_peer import create_peer_4, peer_4_short
from credentials.document import encode_document, encode_time
from credentials.errors import (
    ChallengeWrong,
    CredentialExpired,
    CredentialRevoked,
    CredentialsError,
    CredentialSuspended,
    DidNotFound,
    DomainWrong,
    HolderWrong,
    PolicyRefused,
    ProofInvalid,
    ProofNotMade,
    SchemaViolated,
    StatusUnknown,
)
from credentials.issue import issue_credential
from credentials.keys import SecretKey
from credentials.multikey import encode_multikey
from credentials.policy import NODE_POLICY, Policy
from credentials.proof import ProofOptions
from credentials.wallet import wallet_id
from kwaai.errors import (
    CredentialMissing,
    CredentialRefused,
    CredentialUnknown,
    OwnerMissing,
    StatusPermanent,
)
from kwaai.limits import DID_WEB_KEPT_S, STATUS_LIST_LIFE_S, STATUS_LIST_TTL_S
from kwaai.node.credential_check import Checker, refusal
from kwaai.node.credential_documents import WebDocuments
from kwaai.node.credential_office import PURPOSES, CredentialOffice
from kwaai.store.home import ensure_home
from kwaai.store.issued import IssuedRegister
from kwaai.store.wallet import open_wallet

NOW_S = 1_790_000_000.0
SUITES = ("eddsa-jcs-2022", "eddsa-rdfc-2022")
EVENT = {"eventName": "Summit", "eventDate": "2026-09-01"}
PLEDGE = {"pledgeName": "Pledge 1", "pledgeHash": "sha256:" + "0" * 64}
DAY_S = 86_400.0


class Clock:
    """Unix seconds that a test moves."""

    def __init__(self) -> None:
        self.now_s = NOW_S

    def __call__(self) -> float:
        return self.now_s


Make = Callable[..., CredentialOffice]


def has(office: CredentialOffice, data: bytes) -> bool:
    """Whether the wallet counts these bytes."""
    stored = office.wallet.get(wallet_id(data))
    return stored is not None and not stored.entry.quarantined


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make(tmp_path: Path, clock: Clock) -> Iterator[Make]:
    made: list[CredentialOffice] = []

    def build(seed: int = 1, **options: Any) -> CredentialOffice:
        secret = SecretKey(bytes([seed]) * 32)
        home = ensure_home(tmp_path / f"home-{seed}")
        wallet = open_wallet(home, secret)
        office = CredentialOffice(
            secret, wallet, IssuedRegister(wallet.database), clock=clock, **options
        )
        made.append(office)
        return office

    yield build
    for office in made:
        office.close()


@pytest.fixture
def office(make: Make) -> CredentialOffice:
    return make()


@pytest.fixture
def peer(make: Make, office: CredentialOffice) -> CredentialOffice:
    """Another node, which asks the first one for its status lists."""
    return make(2, fetch_status=office.status_list_at)


class TestIssue:
    @pytest.mark.parametrize("suite", SUITES)
    def test_what_is_issued_holds_for_a_peer(
        self, suite: str, office: CredentialOffice, peer: CredentialOffice
    ) -> None:
        issued = office.issue("EventAttendeeVC", peer.did, EVENT, suite=suite)  # type: ignore[arg-type]
        verified = peer.verify(issued.data, policy=NODE_POLICY)
        assert (verified.issuer, verified.subject) == (office.did, peer.did)
        assert verified.proofs[0].suite == suite
        assert json.loads(issued.data) == issued.document
        assert issued.document["id"] == issued.id

    def test_it_has_a_place_in_both_lists(self, office: CredentialOffice) -> None:
        issued = office.issue("EventAttendeeVC", office.did, EVENT)
        assert set(issued.statuses) == set(PURPOSES)
        entries = {s["statusPurpose"]: s for s in issued.document["credentialStatus"]}
        for purpose, (url, index) in issued.statuses.items():
            assert url == f"{office.did}/status/{purpose}-1"
            assert entries[purpose]["statusListIndex"] == str(index)

    def test_it_can_do_without(self, office: CredentialOffice) -> None:
        issued = office.issue("EventAttendeeVC", office.did, EVENT, revocable=False)
        assert issued.statuses == {}
        assert "credentialStatus" not in issued.document
        with pytest.raises(CredentialMissing):
            office.revoke(issued.id)

    def test_alias_of_a_type(self, office: CredentialOffice) -> None:
        issued = office.issue("SummitAttendeeVC", office.did, EVENT)
        assert "EventAttendeeVC" in issued.document["type"]

    def test_what_is_refused_takes_no_place(self, office: CredentialOffice) -> None:
        with pytest.raises(SchemaViolated):
            office.issue("EventAttendeeVC", office.did, {"eventName": "Summit"})
        with pytest.raises(CredentialsError):
            office.issue("EventAttendeeVC", "nobody", EVENT)
        assert office.issued.lists() == []
        assert office.issued.count() == 0

    def test_one_about_oneself_is_kept(self, office: CredentialOffice) -> None:
        issued = office.issue("EventAttendeeVC", office.did, EVENT)
        assert has(office, issued.data)
        assert [stored.original for stored in office.own_credentials()] == [issued.data]
        office.issue("EventAttendeeVC", did_key(SecretKey(b"x" * 32).public), EVENT)
        assert office.wallet.count() == 1

    def test_the_end_is_the_types_or_the_callers(self, office: CredentialOffice) -> None:
        own = office.issue("EventAttendeeVC", office.did, EVENT)
        assert own.document["validUntil"] == encode_time(NOW_S + 730 * DAY_S)
        given = office.issue("EventAttendeeVC", office.did, EVENT, expires_s=NOW_S + 60)
        assert given.document["validUntil"] == encode_time(NOW_S + 60)

    def test_it_expires(self, office: CredentialOffice, clock: Clock) -> None:
        issued = office.issue("EventAttendeeVC", office.did, EVENT, expires_s=NOW_S + 60)
        clock.now_s += 3600
        with pytest.raises(CredentialExpired):
            office.verify(issued.data)
        assert office.own_credentials() == []

    def test_the_owner_signs_what_is_the_owners(self, make: Make) -> None:
        office = make(owner=SecretKey(b"o" * 32))
        issued = office.issue("BindingVC", office.did, {"nodeLabel": "attic"}, as_owner=True)
        assert office.verify(issued.data).issuer == office.owner_did != office.did
        binding = office.owner_binding()
        assert binding is not None
        assert (binding.owner, binding.label) == (office.owner_did, "attic")
        office.revoke(issued.id)
        assert office.owner_binding() is None
        assert office.lists.names() == ("owner-revocation-1", "owner-suspension-1")

    def test_without_an_owner_there_is_no_signing_as_one(self, office: CredentialOffice) -> None:
        with pytest.raises(OwnerMissing):
            office.issue("BindingVC", office.did, {"nodeLabel": "attic"}, as_owner=True)


class TestSign:
    """Documents of any kind: the VC-API's issuing."""

    def document(self, **more: Any) -> dict[str, Any]:
        return {
            "@context": ["https://www.w3.org/ns/credentials/v2"],
            "type": ["VerifiableCredential"],
            "credentialSubject": {"id": "did:example:subject"},
            **more,
        }

    @pytest.mark.parametrize("suite", SUITES)
    def test_an_absent_issuer_is_filled_in(self, suite: str, office: CredentialOffice) -> None:
        signed = office.sign(self.document(), suite=suite)  # type: ignore[arg-type]
        assert signed["issuer"] == office.did
        assert "credentialStatus" not in signed
        assert office.verify(signed).proofs[0].suite == suite
        assert office.issued.count() == 0

    def test_a_status_on_request(self, office: CredentialOffice) -> None:
        signed = office.sign(self.document(), statuses=["revocation"])
        assert signed["id"].startswith("urn:uuid:")
        assert signed["credentialStatus"]["statusPurpose"] == "revocation"
        office.verify(signed)
        office.revoke(signed["id"])
        with pytest.raises(CredentialRevoked):
            office.verify(signed)

    def test_statuses_that_are_there_stay(self, office: CredentialOffice) -> None:
        given = office.sign(self.document(), statuses=["revocation"])["credentialStatus"]
        signed = office.sign(self.document(credentialStatus=given), statuses=["suspension"])
        assert [s["statusPurpose"] for s in signed["credentialStatus"]] == [
            "revocation",
            "suspension",
        ]

    @pytest.mark.parametrize("statuses", [(), ("revocation",)])
    def test_anothers_issuer_is_refused(
        self, statuses: tuple[str, ...], office: CredentialOffice
    ) -> None:
        with pytest.raises(CredentialsError):
            office.sign(self.document(issuer="did:example:other"), statuses=statuses)
        assert office.issued.lists() == []

    def test_the_argument_is_not_changed(self, office: CredentialOffice) -> None:
        document = self.document()
        office.sign(document, statuses=["revocation"])
        assert document == self.document()


class TestStatus:
    def test_revoked_for_good(self, office: CredentialOffice, peer: CredentialOffice) -> None:
        issued = office.issue("EventAttendeeVC", peer.did, EVENT)
        row = office.revoke(issued.id)
        assert row is not None
        assert {s.place.purpose: s.on for s in row.statuses} == {
            "revocation": True,
            "suspension": False,
        }
        with pytest.raises(CredentialRevoked):
            peer.verify(issued.data)
        with pytest.raises(StatusPermanent):
            office.set_status("revocation", False, id=issued.id)

    def test_suspended_and_lifted(
        self, office: CredentialOffice, peer: CredentialOffice, clock: Clock
    ) -> None:
        issued = office.issue("EventAttendeeVC", peer.did, EVENT)
        office.suspend(issued.id)
        with pytest.raises(CredentialSuspended):
            peer.verify(issued.data)
        office.resume(issued.id)
        clock.now_s += STATUS_LIST_TTL_S  # the peer asks again only then
        peer.verify(issued.data)

    def test_by_index(self, office: CredentialOffice) -> None:
        issued = office.issue("EventAttendeeVC", office.did, EVENT)
        _, index = issued.statuses["suspension"]
        row = office.suspend(index=index)
        assert row is not None
        assert row.credential_id == issued.id
        with pytest.raises(CredentialSuspended):
            office.verify(issued.data)

    @pytest.mark.parametrize("index", [-1, 131_072, 7])
    def test_an_index_that_nobody_has(self, index: int, office: CredentialOffice) -> None:
        issued = office.issue("EventAttendeeVC", office.did, EVENT)
        assert issued.statuses["revocation"][1] != index, "drawn at random, one in 131,072"
        with pytest.raises(CredentialMissing):
            office.revoke(index=index)

    def test_unknown_ones(self, office: CredentialOffice) -> None:
        with pytest.raises(CredentialMissing):
            office.revoke("urn:uuid:no")
        with pytest.raises(CredentialMissing):
            office.status_list("revocation-1")
        for name in ("", "../identity.key", "revocation-1/x", "revocation", "owner-revocation-1"):
            with pytest.raises(CredentialMissing):
                office.status_list(name)
        with pytest.raises(ValueError, match="by its id or by its index"):
            office.revoke()

    def test_a_peer_that_cannot_ask_does_not_know(self, make: Make) -> None:
        issued = make(1).issue("EventAttendeeVC", make(2).did, EVENT)
        with pytest.raises(StatusUnknown) as caught:
            make(3).verify(issued.data)
        assert isinstance(refusal(caught.value), CredentialUnknown)

    def test_a_kept_list_ends_after_a_day(
        self, make: Make, office: CredentialOffice, clock: Clock
    ) -> None:
        """Who holds back a revocation holds it back for a day at most."""
        asked: list[str] = []

        def fetch(url: str) -> bytes:
            asked.append(url)
            if len(asked) > 2:
                raise StatusUnknown("nobody answers")
            return office.status_list_at(url)

        peer = make(2, fetch_status=fetch)
        issued = office.issue("EventAttendeeVC", peer.did, EVENT)
        peer.verify(issued.data)
        peer.verify(issued.data)
        assert len(asked) == 2, "two lists, each fetched once"
        clock.now_s += STATUS_LIST_TTL_S
        peer.verify(issued.data)  # nobody answers: the kept ones still count
        assert len(asked) == 4
        clock.now_s += STATUS_LIST_LIFE_S
        with pytest.raises(StatusUnknown):
            peer.verify(issued.data)

    def test_another_ones_list_does_not_count(self, make: Make, office: CredentialOffice) -> None:
        other = make(3)
        other.issue("EventAttendeeVC", other.did, EVENT)

        def fetch(url: str) -> bytes:
            return other.status_list(url.rpartition("/")[2])

        peer = make(2, fetch_status=fetch)
        with pytest.raises(CredentialsError) as caught:
            peer.verify(office.issue("EventAttendeeVC", peer.did, EVENT).data)
        assert not isinstance(caught.value, CredentialRevoked)


class TestListsOfOthers:
    """A list may be handed over by anybody; only the issuer's own, and the newest, is kept."""

    @pytest.fixture
    def answers(self) -> dict[str, bytes]:
        return {}

    @pytest.fixture
    def asker(self, make: Make, answers: dict[str, bytes]) -> CredentialOffice:
        def fetch(url: str) -> bytes:
            if url not in answers:
                raise StatusUnknown("nobody answers")
            return answers[url]

        return make(2, fetch_status=fetch)

    def lists(self, office: CredentialOffice) -> dict[str, bytes]:
        names = [f"{office.did}/status/{name}" for name in office.lists.names()]
        return {url: office.status_list_at(url) for url in names}

    @pytest.mark.parametrize("how", ["garbage", "changed", "another's", "another list", "empty"])
    def test_what_is_not_the_issuers_is_not_kept(
        self,
        how: str,
        make: Make,
        office: CredentialOffice,
        asker: CredentialOffice,
        answers: dict[str, bytes],
    ) -> None:
        issued = office.issue("EventAttendeeVC", asker.did, EVENT)
        other = make(3)
        other.issue("EventAttendeeVC", other.did, EVENT)
        mine = self.lists(office)
        url = f"{office.did}/status/revocation-1"
        answers |= mine
        answers[url] = {
            "garbage": b"not a list",
            "empty": b"",
            "changed": mine[url].replace(b'"statusPurpose":"revocation"', b'"statusPurpose":"x"'),
            "another's": other.status_list("revocation-1"),
            "another list": mine[f"{office.did}/status/suspension-1"],
        }[how]
        with pytest.raises(StatusUnknown):
            asker.verify(issued.data)
        assert asker.wallet.get_status_list(url) is None
        answers |= mine
        asker.verify(issued.data)

    def test_an_old_one_does_not_take_back_a_new_one(
        self,
        office: CredentialOffice,
        asker: CredentialOffice,
        answers: dict[str, bytes],
        clock: Clock,
    ) -> None:
        issued = office.issue("EventAttendeeVC", asker.did, EVENT)
        old = self.lists(office)
        clock.now_s += 10
        office.revoke(issued.id)
        answers |= self.lists(office)
        with pytest.raises(CredentialRevoked):
            asker.verify(issued.data)
        answers |= old
        clock.now_s += STATUS_LIST_TTL_S
        with pytest.raises(CredentialRevoked):
            asker.verify(issued.data)


class TestWebDocuments:
    DID = "did:web:issuer.example"

    def documents(self, key: SecretKey) -> dict[str, Any]:
        method = f"{self.DID}#key-1"
        return {
            "@context": ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"],
            "id": self.DID,
            "verificationMethod": [
                {
                    "id": method,
                    "type": "Multikey",
                    "controller": self.DID,
                    "publicKeyMultibase": encode_multikey(key.public),
                }
            ],
            "assertionMethod": [method],
        }

    def credential(self, key: SecretKey) -> dict[str, Any]:
        document = {
            "@context": ["https://www.w3.org/ns/credentials/v2"],
            "type": ["VerifiableCredential"],
            "issuer": self.DID,
            "credentialSubject": {"id": "did:example:subject"},
        }
        options = ProofOptions(suite="eddsa-jcs-2022", method=f"{self.DID}#key-1")
        return issue_credential(document, options, key)

    def test_an_allowed_host_is_asked_once_in_a_while(self, clock: Clock) -> None:
        key, asked = SecretKey(b"w" * 32), []

        def fetch(did: str) -> dict[str, Any]:
            asked.append(did)
            return self.documents(key)

        checker = Checker(clock=clock, web=WebDocuments(["issuer.example"], clock, fetch))
        for _ in range(3):
            assert checker.verify(self.credential(key)).issuer == self.DID
        assert asked == [self.DID]
        clock.now_s += DID_WEB_KEPT_S
        checker.verify(self.credential(key))
        assert len(asked) == 2

    def test_what_the_host_answers_is_what_is_told(self, clock: Clock) -> None:
        def fetch(did: str) -> dict[str, Any]:
            raise DidNotFound("it is not at home")

        checker = Checker(clock=clock, web=WebDocuments(["issuer.example"], clock, fetch))
        with pytest.raises(DidNotFound, match="not at home"):
            checker.verify(self.credential(SecretKey(b"w" * 32)))

    def test_another_key_is_refused(self, clock: Clock) -> None:
        web = WebDocuments(["x"], clock, lambda did: self.documents(SecretKey(b"v" * 32)))
        with pytest.raises(ProofInvalid):
            Checker(clock=clock, web=web).verify(self.credential(SecretKey(b"w" * 32)))

    def test_no_host_is_asked_by_default(self, clock: Clock) -> None:
        def fetch(did: str) -> dict[str, Any]:
            raise AssertionError("nothing may be fetched")

        web = WebDocuments([], clock, fetch)
        with pytest.raises(CredentialsError) as caught:
            Checker(clock=clock, web=web).verify(self.credential(SecretKey(b"w" * 32)))
        assert isinstance(refusal(caught.value), CredentialUnknown)

    def test_a_host_that_is_not_allowed_is_not_asked(self, clock: Clock) -> None:
        web = WebDocuments(["another.example"], clock)
        with pytest.raises(DidNotFound, match="not on the list"):
            Checker(clock=clock, web=web).verify(self.credential(SecretKey(b"w" * 32)))


class TestStatusLists:
    def test_signed_once_until_it_changes_or_grows_old(
        self, office: CredentialOffice, clock: Clock
    ) -> None:
        issued = office.issue("EventAttendeeVC", office.did, EVENT)
        first = office.status_list("revocation-1")
        clock.now_s += STATUS_LIST_LIFE_S / 2 - 1
        assert office.status_list("revocation-1") == first
        clock.now_s += 1
        second = office.status_list("revocation-1")
        assert second != first
        office.revoke(issued.id)
        third = office.status_list("revocation-1")
        bits = decode_list(json.loads(third)["credentialSubject"]["encodedList"])
        set_ones = [at for at in range(len(bits)) if bits.get(at)]
        assert set_ones == [issued.statuses["revocation"][1]]

    def test_it_is_a_credential_of_the_issuer(self, office: CredentialOffice) -> None:
        office.issue("EventAttendeeVC", office.did, EVENT)
        verified = office.verify(office.status_list("suspension-1"))
        assert verified.issuer == office.did
        assert verified.document["id"] == f"{office.did}/status/suspension-1"
        assert verified.document["validUntil"] == encode_time(NOW_S + STATUS_LIST_LIFE_S)

    def test_under_a_base_url_it_is_signed_for_the_web(self, make: Make) -> None:
        office = make(owner=SecretKey(b"o" * 32), status_base="https://node.example/")
        issued = office.issue("EventAttendeeVC", office.did, EVENT)
        bound = office.issue("BindingVC", office.did, {"nodeLabel": "x"}, as_owner=True)
        url = "https://node.example/status/revocation-1"
        assert issued.statuses["revocation"][0] == url
        assert bound.statuses["revocation"][0] == url.replace("/rev", "/owner-rev")
        assert office.lists.names() == tuple(
            prefix + name for prefix in ("", "owner-") for name in ("revocation-1", "suspension-1")
        )
        for name in office.lists.names():
            verified = office.verify(office.status_list(name))
            assert verified.document["id"] == f"https://node.example/status/{name}"
            assert verified.proofs[0].suite == "eddsa-rdfc-2022"
        office.revoke(bound.id)
        office.verify(issued.data)
        with pytest.raises(CredentialRevoked):
            office.verify(bound.data)

    def test_it_has_both_addresses(self, make: Make) -> None:
        office = make(status_base="https://node.example")
        office.issue("EventAttendeeVC", office.did, EVENT)
        url = f"{office.did}/status/revocation-1"
        assert json.loads(office.status_list_at(url))["id"] == url

    @pytest.mark.parametrize(
        "url",
        [
            "https://node.example/status/revocation-1",
            "did:key:z6Mkother/status/revocation-1",
            "/status/revocation-1",
            "revocation-1",
            "",
        ],
    )
    def test_addresses_that_are_not_its_own(self, url: str, office: CredentialOffice) -> None:
        office.issue("EventAttendeeVC", office.did, EVENT)
        with pytest.raises(StatusUnknown):
            office.status_list_at(url)

    def test_where_it_was_when_it_was_issued(self, make: Make, clock: Clock) -> None:
        """The server under whose URL it was issued has ended: here its lists are known anyway."""
        serving = make(status_base="http://127.0.0.1:1")
        issued = serving.issue("EventAttendeeVC", serving.did, EVENT)
        serving.close()
        office = make()
        office.verify(json.dumps(issued.document, indent=1).encode())
        assert len(office.own_credentials()) == 1
        changed = {**issued.document, "name": "another"}
        with pytest.raises(ProofInvalid):
            office.verify(changed)
        office.revoke(issued.id)
        with pytest.raises(CredentialRevoked):
            office.verify(issued.data)

    def test_it_is_not_led_to_call_anothers_list_its_own(self, make: Make) -> None:
        url = "https://other.example"
        other = make(2, status_base=url)
        theirs = other.issue("EventAttendeeVC", other.did, EVENT)
        office = make(3, fetch_status=other.status_list_at)
        office.issue("EventAttendeeVC", office.did, EVENT)
        mine = office.issued.find()[0].credential_id
        with pytest.raises(CredentialsError):
            office.verify({**theirs.document, "id": mine})
        office.verify(theirs.data)

    def test_former_keys_keep_their_lists(self, make: Make, tmp_path: Path) -> None:
        before = make(1)
        issued = before.issue("EventAttendeeVC", before.did, EVENT)
        before.issued.set_status(issued.id, "revocation", True, NOW_S)
        after = CredentialOffice(
            SecretKey(b"n" * 32),
            before.wallet,
            before.issued,
            former=[SecretKey(bytes([1]) * 32)],
            clock=lambda: NOW_S,
        )
        with pytest.raises(CredentialRevoked):
            after.verify(issued.data)


class TestImport:
    def test_what_holds_is_kept_to_the_byte(
        self, office: CredentialOffice, peer: CredentialOffice
    ) -> None:
        data = office.issue("EventAttendeeVC", peer.did, EVENT).data
        spaced = json.dumps(json.loads(data), indent=3).encode()
        stored = peer.import_credential(spaced)
        assert stored.original == spaced
        assert stored.entry.types[-1] == "EventAttendeeVC"
        assert has(peer, spaced)

    def test_what_does_not_hold_is_refused_or_set_apart(
        self, office: CredentialOffice, peer: CredentialOffice
    ) -> None:
        document = office.issue("EventAttendeeVC", peer.did, EVENT).document
        document["credentialSubject"]["eventName"] = "Another"
        forged = json.dumps(document).encode()
        with pytest.raises(ProofInvalid):
            peer.import_credential(forged)
        assert peer.wallet.count(quarantined=None) == 0
        stored = peer.import_credential(forged, quarantine=True)
        assert stored.entry.quarantined
        assert stored.entry.reason.startswith("proof_invalid: ")
        assert not has(peer, forged)
        assert peer.own_credentials() == []
        with pytest.raises(CredentialMissing):
            peer.present("did:example:v", "challenge", types=["EventAttendeeVC"])

    def test_a_proof_alone_is_not_enough(
        self, office: CredentialOffice, peer: CredentialOffice
    ) -> None:
        """Contexts of the issuer's own could give our type's name another meaning."""
        meaning = {"EventAttendeeVC": "https://example.com/anything"}
        document = {
            "@context": ["https://www.w3.org/ns/credentials/v2", meaning],
            "type": ["VerifiableCredential", "EventAttendeeVC"],
            "issuer": office.did,
            "credentialSubject": {"id": peer.did},
        }
        data = json.dumps(office.sign(document)).encode()
        assert peer.verify(data).contexts_reason
        with pytest.raises(PolicyRefused):
            peer.import_credential(data)
        peer.import_credential(data, policy=None)
        assert peer.own_credentials() == []
        with pytest.raises(CredentialMissing):
            peer.present("did:example:v", "challenge", recall=True)

    @pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\x00", b'{"a":1,"a":2}'])
    def test_no_credential_at_all_can_be_set_apart(
        self, data: bytes, office: CredentialOffice
    ) -> None:
        with pytest.raises(CredentialsError):
            office.import_credential(data)
        stored = office.import_credential(data, quarantine=True)
        assert (stored.original, stored.entry.types, stored.entry.quarantined) == (data, (), True)

    def test_a_short_did_resolves_once_its_long_form_was_seen(
        self, office: CredentialOffice
    ) -> None:
        key = SecretKey(b"p" * 32)
        document = {
            "@context": ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"],
            "verificationMethod": [
                {
                    "id": "#key-1",
                    "type": "Multikey",
                    "publicKeyMultibase": encode_multikey(key.public),
                }
            ],
            "assertionMethod": ["#key-1"],
        }
        long = create_peer_4(document)

        def issued_by(did: str) -> bytes:
            credential = {
                "@context": ["https://www.w3.org/ns/credentials/v2"],
                "type": ["VerifiableCredential"],
                "issuer": did,
                "credentialSubject": {"id": office.did},
            }
            options = ProofOptions(suite="eddsa-jcs-2022", method=f"{did}#key-1")
            return encode_document(issue_credential(credential, options, key))

        short = peer_4_short(long)
        with pytest.raises(DidNotFound):
            office.verify(issued_by(short))
        office.import_credential(issued_by(long))
        assert office.verify(issued_by(short)).issuer == short

    def test_set_apart_until_it_holds(self, make: Make, office: CredentialOffice) -> None:
        data = office.issue("EventAttendeeVC", make(2).did, EVENT).data
        reachable = [False]

        def fetch(url: str) -> bytes:
            if not reachable[0]:
                raise StatusUnknown("nobody answers")
            return office.status_list_at(url)

        peer = make(3, fetch_status=fetch)
        assert peer.import_credential(data, quarantine=True).entry.quarantined
        reachable[0] = True
        assert not peer.import_credential(data).entry.quarantined


class TestPresent:
    @pytest.mark.parametrize("suite", SUITES)
    def test_a_challenge_is_answered_once(
        self, suite: str, office: CredentialOffice, peer: CredentialOffice
    ) -> None:
        peer.import_credential(office.issue("EventAttendeeVC", peer.did, EVENT).data)
        challenge = office.new_challenge()
        shown = peer.present(office.did, challenge, suite=suite)  # type: ignore[arg-type]
        held = office.verify_presentation(shown, challenge=challenge, domain=office.did)
        assert held.holder == peer.did
        assert [c.issuer for c in held.credentials] == [office.did]
        with pytest.raises(ChallengeWrong):
            office.verify_presentation(shown, challenge=challenge, domain=office.did)

    def test_refused(self, office: CredentialOffice, peer: CredentialOffice) -> None:
        peer.import_credential(office.issue("EventAttendeeVC", peer.did, EVENT).data)
        challenge = office.new_challenge()
        shown = peer.present(office.did, challenge)
        with pytest.raises(ChallengeWrong):
            office.verify_presentation(shown, challenge=office.new_challenge())
        with pytest.raises(DomainWrong):
            office.verify_presentation(shown, challenge=challenge, domain="did:example:else")

    def test_a_challenge_of_others_is_compared(
        self, office: CredentialOffice, peer: CredentialOffice
    ) -> None:
        office.issue("EventAttendeeVC", office.did, EVENT)
        shown = office.present(peer.did, "a challenge of mine")
        for _ in range(2):
            peer.verify_presentation(shown, challenge="a challenge of mine")

    def test_an_old_challenge_is_no_longer_answered(
        self, office: CredentialOffice, clock: Clock
    ) -> None:
        office.issue("EventAttendeeVC", office.did, EVENT)
        challenge = office.new_challenge()
        clock.now_s += 301
        shown = office.present(office.did, challenge)
        with pytest.raises(ChallengeWrong):
            office.verify_presentation(shown, challenge=challenge)

    def test_what_is_not_about_the_holder(
        self, office: CredentialOffice, peer: CredentialOffice
    ) -> None:
        stored = peer.import_credential(office.issue("EventAttendeeVC", office.did, EVENT).data)
        with pytest.raises(HolderWrong):
            peer.present(office.did, "a challenge of mine", ids=[stored.id])

    def test_about_the_reference_networks_name_of_the_same_key(
        self, office: CredentialOffice, peer: CredentialOffice
    ) -> None:
        alias = did_peer_alias(parse_did(peer.did))
        stored = peer.import_credential(office.issue("EventAttendeeVC", alias, EVENT).data)
        assert peer.own_credentials() == [stored]
        challenge = office.new_challenge()
        shown = peer.present(office.did, challenge)
        held = office.verify_presentation(shown, challenge=challenge, domain=office.did)
        assert held.credentials[0].subject == alias

    def test_only_what_was_asked_for(self, office: CredentialOffice) -> None:
        office.issue("EventAttendeeVC", office.did, EVENT)
        office.issue("FiduciaryPledgeVC", office.did, PLEDGE)
        assert len(office.present("did:example:v", "a challenge")["verifiableCredential"]) == 2
        shown = office.present("did:example:v", "a challenge", types=["EventAttendeeVC"])
        assert len(shown["verifiableCredential"]) == 1
        with pytest.raises(CredentialMissing):
            office.present("did:example:v", "a challenge", types=["UptimeVC"])

    def test_revoked_ones_are_not_shown(self, office: CredentialOffice) -> None:
        issued = office.issue("EventAttendeeVC", office.did, EVENT)
        office.revoke(issued.id)
        with pytest.raises(CredentialMissing):
            office.present("did:example:v", "a challenge")
        with pytest.raises(CredentialRevoked):
            office.present("did:example:v", "a challenge", ids=[issued.id])

    def test_prove_signs_as_the_holder(self, office: CredentialOffice) -> None:
        document = {
            "@context": ["https://www.w3.org/ns/credentials/v2"],
            "type": ["VerifiablePresentation"],
        }
        proven = office.prove(document, challenge="c" * 20, domain="example.org")
        assert proven["holder"] == office.did
        office.verify_presentation(proven, challenge="c" * 20, domain="example.org")
        with pytest.raises(ProofNotMade):
            office.prove({**document, "holder": "did:example:other"}, challenge="c" * 20)


class TestPolicyAndErrors:
    def test_policy_is_asked(self, office: CredentialOffice) -> None:
        issued = office.issue("EventAttendeeVC", office.did, EVENT)
        with pytest.raises(PolicyRefused):
            office.verify(issued.data, policy=Policy(types=frozenset({"UptimeVC"})))

    def test_findings_become_errors_of_faces(self) -> None:
        refused = refusal(CredentialRevoked("it was revoked"))
        assert type(refused) is CredentialRefused
        assert (refused.exit_code, refused.http_status) == (1, 400)
        assert refused.reason == "credential_revoked"
        assert refused.problem == CredentialRevoked.problem
        unknown = refusal(StatusUnknown("no list"))
        assert (unknown.exit_code, unknown.http_status) == (69, 503)

    def test_checks_that_are_left_out_are_told(
        self, office: CredentialOffice, clock: Clock
    ) -> None:
        issued = office.issue("EventAttendeeVC", office.did, EVENT, expires_s=NOW_S + 60)
        clock.now_s += 3600
        verified = office.verify(issued.data, checks=["proof"])
        assert "failed" in {step.outcome for step in verified.steps}

    def test_a_checker_needs_no_identity(self, clock: Clock, office: CredentialOffice) -> None:
        issued = office.issue("EventAttendeeVC", office.did, EVENT)
        checker = Checker([office.status_list_at], clock=clock)
        assert checker.verify(issued.data).issuer == office.did


def test_from_several_threads(office: CredentialOffice) -> None:
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for _ in range(5):
                issued = office.issue("EventAttendeeVC", office.did, EVENT)
                office.verify(issued.data)
                if number % 2:
                    office.revoke(issued.id)
                office.status_list("revocation-1")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert office.issued.count() == 20
    assert len(office.own_credentials()) == 10


def test_no_secret_in_what_is_shown(office: CredentialOffice) -> None:
    seed = bytes([1]) * 32
    issued = office.issue("EventAttendeeVC", office.did, EVENT)
    for text in (repr(office), repr(office.lists), repr(issued), issued.data.decode()):
        assert seed.hex() not in text
        assert repr(seed)[2:-1] not in text
