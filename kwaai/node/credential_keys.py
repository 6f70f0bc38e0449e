"""The keys that an office signs with: the node's, and its owner's where it is here.

Says who signs, when, and for how long; the rules of signing are `credentials.issue`'s and
`credentials.proof`'s. Never shows a secret.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from credentials.did import Did, did_key, verification_method
from credentials.document import Document
from credentials.errors import ProofNotMade
from credentials.issue import issue_credential
from credentials.keys import SecretKey
from credentials.proof import ProofOptions, Suite, add_proof
from kwaai.errors import OwnerMissing
from kwaai.limits import PRESENTATION_LIFE_S


class OfficeKeys:
    """The node's key, the owner's, and those that the node had before."""

    def __init__(
        self,
        secret: SecretKey,
        owner: SecretKey | None,
        former: Sequence[SecretKey],
        clock: Callable[[], float],
    ) -> None:
        self.node = secret
        self.former = tuple(former)
        self.did = did_key(secret.public)
        self.owner_did: Did | None = did_key(owner.public) if owner else None
        self._clock = clock
        self.by_did: dict[str, SecretKey] = {
            did_key(key.public): key for key in (secret, *([owner] if owner else []), *former)
        }
        """Every key, to sign the status lists of what it issued."""

    def did_of(self, as_owner: bool) -> Did:
        """Return the DID that signs. Raises OwnerMissing."""
        if not as_owner:
            return self.did
        if self.owner_did is None:
            raise OwnerMissing(
                "there is no owner key here; make one: kwaainet identity owner create"
            )
        return self.owner_did

    def sign_credential(
        self,
        document: Document,
        did: str,
        suite: Suite,
        *,
        created_s: float | None = None,
        expires_s: float | None = None,
    ) -> Document:
        """Sign a credential as `did`, now unless `created_s` says otherwise. Raises
        CredentialsError.
        """
        secret = self.by_did[did]
        options = ProofOptions(
            suite=suite,
            method=_method(secret),
            purpose="assertionMethod",
            created_s=self.now_s() if created_s is None else created_s,
            expires_s=expires_s,
        )
        return issue_credential(document, options, secret)

    def sign_presentation(
        self,
        document: Document,
        did: str,
        suite: Suite,
        *,
        challenge: str | None,
        domain: str | None,
    ) -> Document:
        """Sign a presentation as its holder `did`, for a short while. Raises CredentialsError."""
        holder = document.get("holder")
        name = holder.get("id") if isinstance(holder, dict) else holder
        if name != did:
            raise ProofNotMade(f"the holder is {name!r:.200}, this key is that of {did}")
        secret, now_s = self.by_did[did], self.now_s()
        options = ProofOptions(
            suite=suite,
            method=_method(secret),
            purpose="authentication",
            created_s=now_s,
            expires_s=now_s + PRESENTATION_LIFE_S,
            challenge=challenge,
            domain=domain,
        )
        return add_proof(document, options, secret)

    def now_s(self) -> float:
        """Return the moment in whole seconds, as documents write it."""
        return float(int(self._clock()))


def _method(secret: SecretKey) -> str:
    return verification_method(did_key(secret.public))
