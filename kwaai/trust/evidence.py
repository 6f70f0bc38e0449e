"""What trust rests on: what this node saw, what credentials say, who vouches for whom.

Values only, in canonical names. Verifies nothing and believes nothing: an Attestation is made from
a credential that was verified, an Observation by the node that made it. docs/trust.md, "Evidence".
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from credentials.did import did_key, parse_did
from credentials.errors import IdentifierInvalid, KeyInvalid
from credentials.keys import parse_peer_id
from credentials.kinds import kind_of
from credentials.verified import VerifiedCredential
from kwaai.limits import EVIDENCE_TIME_S_MAX

if TYPE_CHECKING:
    from kwaai.trust.tally import Tally


class Outcome(StrEnum):
    """How one dealing with a peer ended, as this node saw it."""

    SERVED = "served"
    """It did its part of an answer."""
    FAILED = "failed"
    """It said that it could not, or broke off."""
    STALLED = "stalled"
    """It did not answer in time."""
    MISBEHAVED = "misbehaved"
    """It sent what the protocol does not allow."""
    REFUSED = "refused"
    """It said no before it began: busy, draining."""
    UNREACHABLE = "unreachable"
    """No address of it answered."""
    WRONG = "wrong"
    """A spot check decided against it."""
    DISPUTED = "disputed"
    """A spot check disagreed with another peer, and no third decided."""
    AGREED = "agreed"
    """A spot check agreed with it."""


@dataclass(frozen=True, slots=True)
class Observation:
    """One dealing of this node's own with a peer. What a third party tells is none."""

    peer: str
    """A principal."""
    at_s: float
    """Unix seconds."""
    outcome: Outcome
    latency_s: float | None = None
    """Its share of one step, as measured here."""
    expected_s: float | None = None
    """The same, as its record and the link's measurements promised."""
    tokens_s: float | None = None
    """As measured here."""
    claimed_tokens_s: float | None = None
    """As the peer announced: untrusted."""
    tokens: int = 0
    """How many tokens the dealing was about."""
    code: str = ""
    """The error's stable code, where there was an error."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.at_s <= EVIDENCE_TIME_S_MAX:
            raise ValueError(f"an observation is made between 1970 and 2242, not at {self.at_s}")


@dataclass(frozen=True, slots=True)
class Attestation:
    """A credential that held under the node's policy at the last check, shown by its subject."""

    id: str
    type: str
    """Canonical: an alias of another network is given its name here."""
    issuer: str
    """A principal; so is `subject`."""
    subject: str
    valid_from_s: float
    valid_until_s: float | None
    claims: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Refused:
    """A credential that a peer showed and that does not hold. Counts zero; kept to be explained."""

    id: str
    type: str
    issuer: str
    subject: str
    code: str
    """Of the error: `credential_revoked`, `proof_invalid`..."""
    reason: str


@dataclass(frozen=True, slots=True)
class Endorsement:
    """One principal vouches for another."""

    by: str
    of: str
    at_s: float
    weight: float
    """In (0, 1], at `at_s`."""
    source: str
    """`PeerEndorsementVC`, `receipts`."""
    until_s: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.weight <= 1.0:
            raise ValueError(f"an endorsement weighs more than 0 and at most 1, not {self.weight}")
        if not math.isfinite(self.at_s):
            raise ValueError("an endorsement is of some time")


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that a score rests on. Whatever order it is in: the same evidence, the same bits."""

    attestations: tuple[Attestation, ...] = ()
    tallies: Mapping[str, Tally] = field(default_factory=dict)
    """Principal -> what its observations add up to: `Tallies.snapshot()`, or `tally_all`."""
    endorsements: tuple[Endorsement, ...] = ()
    owners: Mapping[str, str] = field(default_factory=dict)
    """Node -> owner, both principals, by bindings that the node itself presented."""
    refused: tuple[Refused, ...] = ()


def canonical(did: str) -> str:
    """Return the principal that a DID stands for: `did:key` for a DID that is one Ed25519 key.

    Every other DID, and what is no DID, stands for itself: two spellings never share trust by
    accident. A verified credential's DIDs are valid ones.
    """
    try:
        return did_key(parse_did(did))
    except (IdentifierInvalid, KeyInvalid):
        return did


def principal_of_peer(peer_id: str) -> str:
    """Return the principal of a PeerId. Raises IdentifierInvalid, KeyInvalid."""
    return did_key(parse_peer_id(peer_id))


def attestation_of(verified: VerifiedCredential) -> Attestation | None:
    """Return what a verified credential attests; None for what no score can use.

    That is a credential of none of the network's types, without one subject, or without a time
    from which it holds. The caller has held it against its policy, and seen its subject present it.
    """
    kind, view, subject = kind_of(verified.document), verified.view, verified.subject
    if kind is None or subject is None or view.valid_from_s is None:
        return None
    content = verified.document["credentialSubject"]
    content = content[0] if isinstance(content, list) else content
    digest = f"sha256:{hashlib.sha256(verified.original).hexdigest()}"
    return Attestation(
        verified.id or digest,
        kind.name,
        canonical(verified.issuer),
        canonical(subject),
        view.valid_from_s,
        view.valid_until_s,
        {name: value for name, value in content.items() if name != "id"},
    )
