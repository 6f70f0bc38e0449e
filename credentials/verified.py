"""What verification leaves behind: values that prove it happened, the steps, a memory of proofs.

Verifies nothing: `verify` and `present` do, and only they make the values.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import InitVar, dataclass, field
from typing import Final, Literal, TypeAlias

from credentials.document import Document
from credentials.limits import VERIFIED_BYTES_MAX, VERIFIED_MAX
from credentials.model import CredentialView, PresentationView
from credentials.proof import CheckedProof
from credentials.schema_check import SchemaFinding
from credentials.status import StatusFinding

Outcome: TypeAlias = Literal["passed", "failed", "skipped", "unknown"]

MADE_HERE: Final = object()
"""Handed to the constructors below by the two modules that may call them."""


@dataclass(frozen=True, slots=True)
class Step:
    """One numbered step of a verification, for people to read."""

    number: int
    name: str
    outcome: Outcome
    detail: str


@dataclass(frozen=True, slots=True)
class VerifiedCredential:
    """A credential that held at one moment: its structure, proofs, validity period and status.

    Whether its contexts are trusted, its schema known and its status known are findings; a policy
    (`policy`) says which of them are demanded.
    """

    view: CredentialView
    original: bytes
    """The bytes that were verified; compact JSON where a parsed document was given."""
    proofs: tuple[CheckedProof, ...]
    contexts_reason: str
    """Why the contexts are not trusted; empty when they are."""
    schemas: tuple[SchemaFinding, ...]
    statuses: tuple[StatusFinding, ...]
    status: Outcome
    """`skipped` for a credential without any, `unknown` where no list could be had."""
    status_reason: str
    unmet: tuple[tuple[int, str], ...]
    """Steps that were not passed and that the Environment did not demand: number and why."""
    verified_s: float
    """The moment that was asked about."""
    made_here: InitVar[object]

    def __post_init__(self, made_here: object) -> None:
        if made_here is not MADE_HERE:
            raise TypeError("a VerifiedCredential is made by verify_credential only")

    @property
    def contexts_trusted(self) -> bool:
        return not self.contexts_reason

    @property
    def document(self) -> Document:
        """The parsed document. Do not change it: `original` is what was verified."""
        return self.view.document

    @property
    def id(self) -> str | None:
        return self.view.id

    @property
    def issuer(self) -> str:
        return self.view.issuer

    @property
    def types(self) -> tuple[str, ...]:
        return self.view.types

    @property
    def subject(self) -> str | None:
        """The id of its one subject; None without an id or with several subjects."""
        subjects = self.view.document["credentialSubject"]
        alone = not isinstance(subjects, list) or len(subjects) == 1
        return self.view.subjects[0] if alone and self.view.subjects else None

    @property
    def steps(self) -> tuple[Step, ...]:
        """The workflow of `verify`, step by step."""
        return credential_steps(self, failed=None)


@dataclass(frozen=True, slots=True)
class VerifiedPresentation:
    """A presentation that held at one moment, with its credentials, each verified."""

    view: PresentationView
    original: bytes
    """The bytes that were verified; compact JSON where a parsed document was given."""
    holder: str
    """The DID whose key signed it."""
    credentials: tuple[VerifiedCredential, ...]
    proofs: tuple[CheckedProof, ...]
    """Those of the holder."""
    contexts_reason: str
    verified_s: float
    steps: tuple[Step, ...]
    made_here: InitVar[object]

    def __post_init__(self, made_here: object) -> None:
        if made_here is not MADE_HERE:
            raise TypeError("a VerifiedPresentation is made by verify_presentation only")

    @property
    def contexts_trusted(self) -> bool:
        return not self.contexts_reason

    @property
    def document(self) -> Document:
        """The parsed document. Do not change it."""
        return self.view.document


@dataclass(slots=True)
class Progress:
    """How far a verification has come: what the steps are told from when it fails."""

    step: int = 1
    view: CredentialView | None = None
    proofs: tuple[CheckedProof, ...] = ()
    contexts_reason: str = ""
    schemas: tuple[SchemaFinding, ...] = ()
    status: Outcome = "skipped"
    status_reason: str = ""
    unmet: list[tuple[int, str]] = field(default_factory=list)


def credential_steps(
    found: VerifiedCredential | Progress, failed: tuple[int, str] | None
) -> tuple[Step, ...]:
    """Tell the steps of `verify`. `failed`: the number of the step that did, and why."""
    view = found.view
    steps: list[tuple[str, Outcome, str]] = [
        ("document", "passed", "a JSON document within the limits"),
        ("data model", "passed", _tell_model(view)),
        ("contexts", *_tell_contexts(found.contexts_reason)),
        ("proofs", "passed", _tell_proofs(found.proofs)),
        ("issuer", "passed", f"signed by {view.issuer}" if view else ""),
        ("validity period", "passed", "now is within it"),
        ("schema", *_tell_schemas(found.schemas)),
        ("status", found.status, found.status_reason or _STATUS_WORDS[found.status]),
    ]
    for number, reason in found.unmet:
        steps[number - 1] = (steps[number - 1][0], "failed", reason)
    return number_steps(steps, failed)


def number_steps(
    steps: Sequence[tuple[str, Outcome, str]], failed: tuple[int, str] | None
) -> tuple[Step, ...]:
    """Number steps from 1. What comes after the failed one was skipped."""
    numbered = []
    for number, (name, outcome, detail) in enumerate(steps, 1):
        if failed is not None and number >= failed[0]:
            outcome = "failed" if number == failed[0] else "skipped"
            detail = failed[1] if number == failed[0] else "not reached"
        numbered.append(Step(number, name, outcome, detail))
    return tuple(numbered)


_STATUS_WORDS: Final = {
    "passed": "not revoked, not suspended",
    "skipped": "it has none",
    "unknown": "its status list could not be had",
    "failed": "",
}


def _tell_model(view: CredentialView | None) -> str:
    if view is None:
        return ""
    return f"VC Data Model {view.version}, {', '.join(view.types)}"


def _tell_contexts(reason: str) -> tuple[Outcome, str]:
    return ("failed", f"not trusted: {reason}") if reason else ("passed", "all trusted")


def _tell_proofs(proofs: Sequence[CheckedProof]) -> str:
    return "; ".join(f"{proof.suite} by {proof.method}" for proof in proofs)


def _tell_schemas(findings: Sequence[SchemaFinding]) -> tuple[Outcome, str]:
    if not findings:
        return "skipped", "it names none"
    told = "; ".join(f"{finding.type}: {finding.detail}" for finding in findings)
    unknown = any(finding.outcome == "unknown" for finding in findings)
    return ("unknown" if unknown else "passed"), told


@dataclass(frozen=True, slots=True)
class Remembered:
    """What is the same at every moment about a document: its proofs, and what its contexts are."""

    proofs: tuple[CheckedProof, ...]
    contexts_reason: str


class VerifiedCache:
    """A bounded memory of credentials whose proofs held, by SHA-256 of their bytes.

    Status, validity period and policy are never in it. The proofs' own times are checked again.
    Two generations: when the younger is full, the older is forgotten. Threads may share it; what
    one of them forgets at the wrong moment is computed again.
    """

    def __init__(
        self, entries_max: int = VERIFIED_MAX, bytes_max: int = VERIFIED_BYTES_MAX
    ) -> None:
        if entries_max < 2:
            raise ValueError("entries_max is 2 or more")
        self._entries_max = entries_max // 2  # of a generation
        self._bytes_max = bytes_max // 2
        self._young: dict[bytes, tuple[Remembered, int]] = {}
        self._young_bytes = 0
        self._old: dict[bytes, tuple[Remembered, int]] = {}

    def get(self, digest: bytes) -> Remembered | None:
        """Return what is remembered of the bytes with that SHA-256."""
        found = self._young.get(digest)
        if found is None:
            found = self._old.get(digest)
            if found is None:
                return None
            self.put(digest, *found)
        return found[0]

    def put(self, digest: bytes, remembered: Remembered, size: int) -> None:
        """Remember a document of `size` bytes, and forget the oldest when full."""
        if digest in self._young or size > self._bytes_max:
            return
        full = self._young_bytes + size > self._bytes_max
        if full or len(self._young) >= self._entries_max:
            self._old, self._young, self._young_bytes = self._young, {}, 0
        self._young[digest] = remembered, size
        self._young_bytes += size

    def __contains__(self, digest: object) -> bool:
        return digest in self._young or digest in self._old

    def __len__(self) -> int:
        return len(self._young.keys() | self._old.keys())
