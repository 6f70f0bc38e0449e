"""The credentials of a simulated swarm: real documents, signed and verified as a node does it.

What honest nodes hold is issued by a society that checks who runs a node and by an observatory that
measures; liars and sybils sign credentials about themselves, and forge the society's. Only what
holds under the node's policy becomes an Attestation, as in `kwaai.node.trust_collect`.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from credentials.constructors import (
    Frame,
    Window,
    build_event_attendee,
    build_fiduciary_pledge,
    build_throughput,
    build_uptime,
    build_verified_node,
)
from credentials.did import did_key, verification_method
from credentials.document import Document
from credentials.errors import CredentialsError
from credentials.keys import SecretKey
from credentials.policy import NODE_POLICY
from credentials.proof import ProofOptions, add_proof
from credentials.verify import Environment, verify_credential
from kwaai.testing.sim_people import DAY_S, Cast, Person, Role
from kwaai.trust.evidence import Attestation, attestation_of

HANDLE = "sha256:" + "5a" * 32


@dataclass(frozen=True, slots=True)
class Shown:
    """What a peer shows of itself, and from when on."""

    from_s: float
    attestation: Attestation


class Papers:
    """Everybody's credentials, and how many of those that were shown do not hold."""

    def __init__(self, cast: Cast, start_s: float) -> None:
        """start_s: Unix time of the simulation's beginning."""
        rng = random.Random(f"papers {cast.scene.seed}")
        self.society, self.observatory = (SecretKey(rng.randbytes(32)) for _ in range(2))
        self.roots = frozenset(str(did_key(key.public)) for key in (self.society, self.observatory))
        self._complaints: dict[str, set[str]] = {}
        self._needed = cast.scene.complaints
        self._revoked_s: dict[str, float] = {}
        self.refused = 0
        """Forged ones that did not hold."""
        self._start_s = start_s
        end_s = start_s + cast.scene.days * DAY_S
        self.shown: dict[str, list[Shown]] = {}
        for person in cast.people:
            for from_s, document in self._documents(person, cast, rng):
                if from_s > end_s:
                    continue
                attestation = _verified(document, person, from_s + 60.0)
                if attestation is None:
                    self.refused += 1
                else:
                    self.shown.setdefault(person.peer, []).append(Shown(from_s, attestation))

    def attestations(self, now_s: float) -> tuple[Attestation, ...]:
        """Return what holds by now, of everybody."""
        return tuple(
            shown.attestation
            for many in self.shown.values()
            for shown in many
            if shown.from_s <= now_s < self._revoked_s.get(shown.attestation.subject, math.inf)
        )

    def complain(self, by: Person, of: Person, now_s: float) -> None:
        """Tell the issuers that a check found a node wrong. They look for themselves."""
        complaints = self._complaints.setdefault(of.peer, set())
        complaints.add(by.peer)
        if self._needed and len(complaints) >= self._needed and of.lies:
            self._revoked_s.setdefault(of.peer, now_s + DAY_S)

    def _documents(
        self, person: Person, cast: Cast, rng: random.Random
    ) -> Iterator[tuple[float, Document]]:
        joins_s = self._start_s + person.joins_s
        if person.is_vetted:
            yield from self._vetted(person, cast, rng, joins_s)
        if person.is_known:
            at_s = joins_s - rng.uniform(1, 90) * DAY_S
            yield joins_s, self._event(self.society, person, at_s)
        if person.role in (Role.SYBIL, Role.LIAR) and not person.is_vetted:
            yield joins_s, self._checked(person.secret, person, joins_s)
            yield joins_s, self._pledge(person.secret, person, joins_s)
            forged = self._checked(person.secret, person, joins_s)
            forged["issuer"] = str(did_key(self.society.public))
            yield joins_s, forged

    def _vetted(
        self, person: Person, cast: Cast, rng: random.Random, joins_s: float
    ) -> Iterator[tuple[float, Document]]:
        """Checked by the society, measured by the observatory each month; newcomers wait."""
        is_new = person.joins_s > 0.0
        checked_s = joins_s + (rng.uniform(0.5, 3) if is_new else -rng.uniform(10, 200)) * DAY_S
        yield max(checked_s, joins_s), self._checked(self.society, person, checked_s)
        if rng.random() < 0.4:
            yield max(checked_s, joins_s), self._pledge(self.society, person, checked_s)
        measured_s = joins_s + (7 if is_new else -rng.uniform(0, 25)) * DAY_S
        while measured_s < self._start_s + cast.scene.days * DAY_S:
            for document in self._measured(person, measured_s):
                yield max(measured_s, joins_s), document
            measured_s += 30 * DAY_S

    # Documents.

    def _checked(self, issuer: SecretKey, person: Person, at_s: float) -> Document:
        frame = _frame(issuer, person, at_s)
        return _sign(
            issuer, build_verified_node(frame, checks=["operator-contact"], checked_s=at_s), at_s
        )

    def _pledge(self, issuer: SecretKey, person: Person, at_s: float) -> Document:
        frame = _frame(issuer, person, at_s)
        return _sign(issuer, build_fiduciary_pledge(frame, name="care", sha256="a5" * 32), at_s)

    def _event(self, issuer: SecretKey, person: Person, at_s: float) -> Document:
        frame = _frame(issuer, person, at_s)
        return _sign(issuer, build_event_attendee(frame, event="meet", date="2026-09-01"), at_s)

    def _measured(self, person: Person, at_s: float) -> Iterator[Document]:
        issuer, window = self.observatory, Window(at_s - 14 * DAY_S, at_s)
        frame = _frame(issuer, person, at_s)
        yield _sign(issuer, build_uptime(frame, window, probes=1000, successes=920), at_s)
        throughput = build_throughput(
            frame,
            window,
            model=HANDLE,
            block_start=person.layers.start,
            block_stop=person.layers.stop,
            phase="decode",
            tokens_per_s=1.0 / person.decode_s,
            samples=500,
        )
        yield _sign(issuer, throughput, at_s)


def _frame(issuer: SecretKey, person: Person, at_s: float) -> Frame:
    return Frame(str(did_key(issuer.public)), person.peer, at_s)


def _sign(issuer: SecretKey, document: Document, at_s: float) -> Document:
    method = verification_method(did_key(issuer.public))
    return add_proof(document, ProofOptions("eddsa-jcs-2022", method, created_s=at_s), issuer)


def _verified(document: Document, person: Person, now_s: float) -> Attestation | None:
    """What a node makes of a credential that `person` shows of itself; None: it does not hold."""
    try:
        verified = verify_credential(json.dumps(document).encode(), Environment(now_s=now_s))
        NODE_POLICY.require(verified)
    except CredentialsError:
        return None
    attestation = attestation_of(verified)
    return attestation if attestation and attestation.subject == person.peer else None
