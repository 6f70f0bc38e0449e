"""Values of trust as the rows that the owner is shown. Pure; see `trust_views`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

from credentials.did import parse_did
from credentials.errors import CredentialsError
from credentials.keys import peer_id
from kwaai import limits
from kwaai.node.trust_collect import Shown
from kwaai.node.trust_control import AttestationRow, ReasonView
from kwaai.trust.evidence import Endorsement
from kwaai.trust.explain import Reason
from kwaai.trust.score import TrustState


def attestation_row(one: Shown, codes: Mapping[str, tuple[str, float]]) -> AttestationRow:
    """Return one credential. `codes`: what each that holds counts, by its id."""
    at = one.attestation
    code, points = codes.get(at.id, ("not_looked_at", 0.0))
    return AttestationRow(
        at.id,
        at.type,
        at.issuer,
        at.valid_from_s,
        at.valid_until_s,
        one.code or code,
        0.0 if one.code else points,
    )


def endorsements_at(state: TrustState, principal: str) -> list[tuple[Endorsement, float]]:
    """Return the endorsements that are in force at a principal, with what they weigh now."""
    weights = {(edge.by, edge.of): edge.weight for edge in state.edges}
    return [
        (each, weights[each.by, each.of])
        for each in state.evidence.endorsements
        if principal in (each.by, each.of) and (each.by, each.of) in weights
    ]


def reason_view(reason: Reason) -> ReasonView:
    """Return one line of an explanation, with those below it."""
    return ReasonView(
        reason.kind,
        reason.text,
        reason.points,
        reason.share,
        reason.source,
        tuple(map(reason_view, reason.children)),
    )


def depths_of(
    roots: Iterable[str], following: Mapping[str, Sequence[str]], depth: int
) -> dict[str, int]:
    """Return how many edges each principal is from the nearest root, up to `depth`."""
    found = dict.fromkeys(sorted(roots), 0)
    edge = list(found)
    for distance in range(1, depth + 1):
        ahead = {to for name in edge for to in following.get(name, ()) if to not in found}
        edge = sorted(ahead)
        found.update(dict.fromkeys(edge, distance))
    return found


@lru_cache(limits.TRUST_PEERS_ASKED_MAX)
def peer_of(did: str) -> str:
    """Return the PeerId of a principal; empty where it is no Ed25519 key."""
    try:
        return str(peer_id(parse_did(did)))
    except CredentialsError:
        return ""
