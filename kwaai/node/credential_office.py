"""One home's identity at work: what it issues, checks, keeps, presents, revokes and publishes.

Synchronous, and needs no running node: the commands use it directly, the API and the peers' service
from threads. Errors of `credentials` come out as they are (`.code`, `.problem`, `.steps`); faces
turn them into theirs with `kwaai.node.credential_check.refusal`. Signing rules are
`credentials.issue`'s, verification `credentials.verify`'s; rows are `kwaai.store`'s, status lists
`kwaai.node.status_lists`'.
"""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from credentials.binding import Binding, owner_of, read_binding
from credentials.did import did_peer_alias, parse_did
from credentials.did_peer import create_peer_0
from credentials.document import Document, encode_document
from credentials.errors import CredentialsError, HolderWrong, ProofNotMade, StatusUnknown
from credentials.kinds import build_credential, find_kind
from credentials.model import check_credential
from credentials.policy import NODE_POLICY, Policy
from credentials.present import build_presentation
from credentials.proof import Suite
from kwaai.errors import CredentialMissing
from kwaai.limits import OWN_CREDENTIALS_MAX
from kwaai.node.challenges import Challenges
from kwaai.node.credential_check import Checker, StatusFetch
from kwaai.node.credential_documents import WebDocuments
from kwaai.node.credential_keys import OfficeKeys
from kwaai.node.credential_shelf import Shelf
from kwaai.node.status_lists import StatusLists
from kwaai.store.backup import export_wallet

if TYPE_CHECKING:
    from credentials.keys import SecretKey
    from credentials.resolve import Resolver
    from credentials.verified import VerifiedCredential, VerifiedPresentation
    from credentials.wallet import StoredCredential
    from kwaai.store.issued import IssuedCredential, IssuedRegister, StatusPlace
    from kwaai.store.wallet import Wallet

BINDING = "BindingVC"
REVOCATION = "revocation"
SUSPENSION = "suspension"
PURPOSES = (REVOCATION, SUSPENSION)
"""What a credential can be taken back by: for good, and for now."""
_RECALLED = Policy(status_known=False)
"""What is shown at a stranger's word: whoever checks it looks its status up."""


@dataclass(frozen=True, slots=True)
class Issued:
    """What came of issuing: the signed document, its bytes as they are delivered, its status."""

    id: str
    """The credential's own id, `urn:uuid:...`: what `revoke` takes."""
    document: Document
    data: bytes
    statuses: Mapping[str, tuple[str, int]]
    """Purpose -> the status list's URL and the index in it; empty where it cannot be revoked."""


class CredentialOffice:
    """The identity, wallet and issued register of one home. May be used from several threads.

    `owner` signs what is issued `as_owner`; `former` are keys this node had before, whose lists it
    still publishes. `status_base`: public base URL of this node's API (`https://host:port`),
    without which status lists have DID URLs. `fetch_status`: URL -> bytes of a status list
    credential, raising StatusUnknown; None asks nobody; `given_lists` count before it and before
    kept ones, by URL. `web_hosts`: whose did:web documents may be
    fetched.
    """

    def __init__(
        self,
        secret: SecretKey,
        wallet: Wallet,
        issued: IssuedRegister,
        *,
        owner: SecretKey | None = None,
        former: Sequence[SecretKey] = (),
        status_base: str | None = None,
        clock: Callable[[], float] = time.time,
        fetch_status: StatusFetch | None = None,
        given_lists: Mapping[str, bytes] = MappingProxyType({}),
        web_hosts: Collection[str] = (),
    ) -> None:
        self.wallet = wallet
        self.issued = issued
        self._clock = clock
        self._keys = OfficeKeys(secret, owner, former, clock)
        self.did: str = self._keys.did
        self.owner_did: str | None = self._keys.owner_did
        self.lists = StatusLists(
            issued,
            self._keys.by_did,
            did=self.did,
            owner_did=self.owner_did,
            base=status_base,
        )
        self._challenges = Challenges(secret, clock)
        self._shelf = Shelf(
            wallet, clock, fetch_status, lambda d: self.checker.verify_list(d), given_lists
        )
        web = WebDocuments(web_hosts, clock)
        self.checker = Checker(
            (self._own_list, self._shelf.status_list),
            clock=clock,
            web=web,
            long_forms=self._shelf.long_forms,
            look=self.lists.know,
        )
        # For what strangers present: nobody is asked for the lists that they name.
        self._unasking = Checker(
            (self._own_list, self._shelf.kept_list),
            clock=clock,
            web=web,
            long_forms=self._shelf.long_forms,
            look=self.lists.know,
        )
        # For peers who ask what is held here: at a stranger's word no other peer is asked.
        self._recall = Checker(
            (self._own_list, self._shelf.kept_list),
            clock=clock,
            web=web,
            long_forms=self._shelf.long_forms,
            look=self.lists.know,
            status_required=False,
        )

    def issue(
        self,
        kind: str,
        subject: str,
        claims: Mapping[str, Any],
        *,
        expires_s: float | None = None,
        suite: Suite = "eddsa-jcs-2022",
        revocable: bool = True,
        as_owner: bool = False,
    ) -> Issued:
        """Issue a credential of one of our kinds. `expires_s`: Unix seconds, None: the kind's
        default. One about this node is kept in its wallet too. Raises SchemaViolated, KindUnknown,
        IdentifierInvalid, OwnerMissing.
        """
        issuer, now_s = self._keys.did_of(as_owner), self._keys.now_s()
        described = find_kind(kind)
        name = f"urn:uuid:{uuid.uuid4()}"

        def build(status: Sequence[Document]) -> Document:
            return build_credential(
                described,
                issuer,
                subject,
                claims,
                valid_from_s=now_s,
                valid_until_s=expires_s,
                credential_id=name,
                status=status,
            )

        build(())  # what is refused takes no place in a list
        places: Sequence[StatusPlace] = ()
        entries: list[Document] = []
        if revocable:
            places, entries = self.lists.reserve(issuer, PURPOSES, now_s)
        signed = self._keys.sign_credential(build(entries), issuer, suite, created_s=now_s)
        issued = self._record(signed, places)
        if as_owner:
            self.lists.renew_owners(now_s)
        return issued

    def sign(
        self,
        document: Document,
        *,
        suite: Suite = "eddsa-jcs-2022",
        statuses: Sequence[str] = (),
        created_s: float | None = None,
        expires_s: float | None = None,
        as_owner: bool = False,
    ) -> Document:
        """Issue a document of any kind (VC-API). `statuses`: purposes ("revocation", "suspension")
        for which it gets an entry; one that gets any is given an `id` where it has none, and is
        recorded in the issued register. An absent `issuer` is filled in, another's is refused.
        `created_s` None: now. Raises CredentialsError.
        """
        issuer = self._keys.did_of(as_owner)
        document = dict(document)
        if not document.get("issuer"):
            document["issuer"] = issuer

        def signed() -> Document:
            return self._keys.sign_credential(
                document, issuer, suite, created_s=created_s, expires_s=expires_s
            )

        if not statuses:
            return signed()
        if "id" not in document:
            document["id"] = f"urn:uuid:{uuid.uuid4()}"
        view = check_credential(document)
        if view.version != "2.0":
            raise ProofNotMade("only a credential of the data model 2.0 gets a status here")
        if view.issuer != issuer:
            raise ProofNotMade(f"the issuer is {view.issuer!r:.200}, this key is that of {issuer}")
        signed()  # what is refused takes no place in a list
        places, entries = self.lists.reserve(issuer, statuses, self._keys.now_s())
        given = document.get("credentialStatus", [])
        given = given if isinstance(given, list) else [given]
        every = [*given, *entries]
        document["credentialStatus"] = every[0] if len(every) == 1 else every
        return self._record(signed(), places).document

    def _record(self, signed: Document, places: Sequence[StatusPlace]) -> Issued:
        data = encode_document(signed)
        view = check_credential(signed)
        self.issued.record(
            data,
            credential_id=str(view.id),
            issuer=view.issuer,
            subject=view.subjects[0] if view.subjects else "",
            kind=next((t for t in view.types if t != "VerifiableCredential"), view.types[0]),
            issued_s=self._clock(),
            valid_until_s=view.valid_until_s,
            places=places,
        )
        if names_of(self.did).intersection(view.subjects):
            self.import_credential(data, policy=None)  # we know what we meant
        entries = {place.purpose: (self.lists.url(place), place.index) for place in places}
        return Issued(str(view.id), signed, data, entries)

    def verify(
        self,
        data: bytes | Document,
        *,
        policy: Policy | None = None,
        checks: Collection[str] | None = None,
        asks: bool = True,
    ) -> VerifiedCredential:
        """Verify a credential now, status lists included, then ask `policy`. `checks`: those that
        must hold, None for all; the others are told in the steps. Without `asks` nobody is asked
        for a status list: what is not kept is unknown. Raises CredentialsError; its
        `.steps` say what was checked.
        """
        checker = self.checker if asks else self._unasking
        return checker.verify(data, policy=policy, checks=checks)

    def verify_presentation(
        self,
        data: bytes | Document,
        *,
        challenge: str | None,
        domain: str | None = None,
        holder_must_be_subject: bool = True,
        checks: Collection[str] | None = None,
        asks: bool = True,
    ) -> VerifiedPresentation:
        """Verify a presentation and all it holds. A challenge of `new_challenge` is used up by it;
        another one is only compared. `asks` as in `verify`. Raises CredentialsError.
        """
        checker = self.checker if asks else self._unasking
        return checker.verify_presentation(
            data,
            challenge=challenge,
            domain=domain,
            consume=self._challenges.use,
            holder_must_be_subject=holder_must_be_subject,
            checks=checks,
        )

    def import_credential(
        self, data: bytes, *, quarantine: bool = False, policy: Policy | None = NODE_POLICY
    ) -> StoredCredential:
        """Verify, ask `policy` and store; what fails is stored only under `quarantine`, where
        nothing counts it. Raises CredentialsError.
        """
        try:
            verified = self.verify(data, policy=policy)
        except CredentialsError as error:
            if not quarantine:
                raise
            return self._shelf.keep_apart(data, error)
        return self._shelf.keep(verified)

    def owner_binding(self) -> Binding | None:
        """Return who certified this node as theirs, by a credential that holds now."""
        bindings = []
        for _, verified in self._holding(self.did, BINDING, self.checker):
            with contextlib.suppress(CredentialsError):  # valid, and no binding
                bindings.append(read_binding(verified))
        return owner_of(self.did, bindings, now_s=self._clock())

    def is_about_us(self, subject: str | None) -> bool:
        """Say whether a subject is this node, under any name of its key, or its owner."""
        return subject is not None and (subject in names_of(self.did) or subject == self.owner_did)

    def own_credentials(self, *, as_owner: bool = False) -> list[StoredCredential]:
        """Return the stored credentials about this node that hold now, the newest first. One whose
        status cannot be had is not among them.
        """
        did = self._keys.did_of(as_owner)
        return [stored for stored, _ in self._holding(did, None, self.checker)]

    def _holding(
        self, did: str, kind: str | None, checker: Checker
    ) -> Iterator[tuple[StoredCredential, VerifiedCredential]]:
        found = [
            stored
            for name in names_of(did)
            for stored in self.wallet.find(
                subject=name, type=kind, valid_at_s=self._clock(), limit=OWN_CREDENTIALS_MAX
            )
        ]
        for stored in sorted(found, key=lambda stored: -stored.number):
            try:
                policy = _RECALLED if checker is self._recall else NODE_POLICY
                verified = checker.verify(stored.original, policy=policy)
            except CredentialsError:
                continue
            yield stored, verified

    def revoke(self, id: str | None = None, *, index: int | None = None) -> IssuedCredential | None:
        """Revoke an issued credential, for good. Raises CredentialMissing."""
        return self.set_status(REVOCATION, True, id=id, index=index)

    def suspend(
        self, id: str | None = None, *, index: int | None = None
    ) -> IssuedCredential | None:
        """Suspend an issued credential until `resume`. Raises CredentialMissing."""
        return self.set_status(SUSPENSION, True, id=id, index=index)

    def resume(self, id: str | None = None, *, index: int | None = None) -> IssuedCredential | None:
        """Lift a suspension. Raises CredentialMissing."""
        return self.set_status(SUSPENSION, False, id=id, index=index)

    def set_status(
        self,
        purpose: str,
        on: bool,
        *,
        id: str | None = None,
        index: int | None = None,
        list_name: str | None = None,
        as_owner: bool = False,
    ) -> IssuedCredential | None:
        """What `revoke`, `suspend` and `resume` do, by purpose. By `id`, or by the `index` in a
        list (`list_name`, by default the first of the purpose). Returns the credential, None where
        the index is nobody's here. Raises CredentialMissing, StatusPermanent.
        """
        if (id is None) == (index is None):
            raise ValueError("a credential is named by its id or by its index")
        if id is not None:
            self.issued.set_status(id, purpose, on, self._clock())
            found = self.issued.get(id)
        else:
            assert index is not None
            name = list_name or f"{purpose}-1"
            issuer = self._keys.did_of(as_owner)
            self.issued.set_entry(issuer, name, index, on, self._clock())
            found = self.issued.at(issuer, name, index)
        self.lists.renew_owners(self._clock())
        return found

    @property
    def resolver(self) -> Resolver:
        """What resolves DIDs here, without a network."""
        return self.checker.resolver

    def publish_at(self, base: str) -> None:
        """Give the status lists of what is issued from now on URLs under `base`."""
        self.lists.publish_at(base)

    def status_list(self, name: str) -> bytes:
        """Return a signed status list credential ("revocation-1", "owner-revocation-1"): signed
        anew when it changed or half its life is over. Raises CredentialMissing.
        """
        return self.lists.named(name, self._clock())

    def status_list_at(self, url: str) -> bytes:
        """Return a signed status list of this home by its URL. Raises StatusUnknown."""
        return self.lists.at(url, self._clock())

    def refresh_status(self, url: str, age_s_max: float) -> bytes:
        """Return a status list as it was `age_s_max` seconds ago or later, where whoever publishes
        it answers; else as it was kept. Raises StatusUnknown.
        """
        try:
            return self._own_list(url)
        except StatusUnknown:
            return self._shelf.status_list(url, age_s_max=age_s_max)

    def new_challenge(self) -> str:
        """Return a fresh challenge that one presentation may answer, for a short while."""
        return self._challenges.new()

    def present(
        self,
        to: str | None,
        challenge: str,
        *,
        types: Sequence[str] = (),
        ids: Sequence[str] = (),
        domain: str | None = None,
        suite: Suite = "eddsa-jcs-2022",
        as_owner: bool = False,
        recall: bool = False,
    ) -> Document:
        """Present stored credentials about this node: all valid ones, or those of `types` or `ids`.
        `domain` is `to` where it is not given. `recall`: ask nobody for status lists, and show what
        has a status that is not known now; whoever checks it looks it up. Raises CredentialMissing
        where there is none, and CredentialsError for one of `ids` that does not hold.
        """
        did = self._keys.did_of(as_owner)
        chosen = self._chosen(did, types, ids, self._recall if recall else self.checker)
        if not chosen:
            asked = f" of type {' or '.join(types)}" if types else ""
            raise CredentialMissing(
                f"there is no valid credential{asked} about {did} in the wallet "
                "(see: kwaainet credential list)"
            )
        document = build_presentation([stored.original for stored in chosen], did)
        return self._keys.sign_presentation(
            document, did, suite, challenge=challenge, domain=domain or to
        )

    def _chosen(
        self, did: str, types: Sequence[str], ids: Sequence[str], checker: Checker
    ) -> list[StoredCredential]:
        chosen: dict[str, StoredCredential] = {}
        for name in ids:
            stored = self.wallet.resolve(name)
            if not names_of(did).issuperset(checker.verify(stored.original).view.subjects):
                raise HolderWrong(f"{name:.200} is not about {did}: only its subject can show it")
            chosen[stored.id] = stored
        everything: list[str | None] = [] if ids else [None]
        for kind in types or everything:
            chosen.update((stored.id, stored) for stored, _ in self._holding(did, kind, checker))
        return list(chosen.values())

    def prove(
        self,
        presentation: Document,
        *,
        challenge: str | None,
        domain: str | None = None,
        suite: Suite = "eddsa-jcs-2022",
        as_owner: bool = False,
    ) -> Document:
        """Sign a presentation of any content as its holder (VC-API). An absent `holder` is filled
        in. Raises CredentialsError.
        """
        did = self._keys.did_of(as_owner)
        presentation = dict(presentation)
        presentation.setdefault("holder", did)
        return self._keys.sign_presentation(
            presentation, did, suite, challenge=challenge, domain=domain
        )

    def _own_list(self, url: str) -> bytes:
        return self.lists.at(url, self._clock())

    def backup(self, passphrase: bytes, *, now_s: float, with_identity: bool = True) -> bytes:
        """Return all that the wallet holds, sealed. Raises UserError (a weak passphrase)."""
        if not with_identity:
            return export_wallet(self.wallet, passphrase, now_s=now_s)
        node, former = self._keys.node, self._keys.former
        return export_wallet(self.wallet, passphrase, now_s=now_s, identity=node, former=former)

    def close(self) -> None:
        """Close the database."""
        self.wallet.close()


def names_of(did: str) -> frozenset[str]:
    """Return a did:key, and the other names of the same key that need no document: did:peer:0, and
    the alias of the reference network.
    """
    key = parse_did(did)
    return frozenset((did, create_peer_0(key), did_peer_alias(key)))
