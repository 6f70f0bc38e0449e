"""Endorsements out of credentials: PeerEndorsementVC, and receipts of those who were served.

Decides what a signed statement weighs as an edge of the graph, not what the edge is worth: that
depends on who signed it, which is the graph's business. docs/trust.md, "The graph".
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Final

from kwaai.trust.evidence import Attestation, Endorsement

ENDORSEMENT: Final = "PeerEndorsementVC"
RECEIPT: Final = "InferenceReceiptVC"
INTERACTIONS_MAX: Final = 1_000_000_000
"""The schema's bound."""
INTERACTIONS_PRIOR: Final = 10.0
"""Interactions after which an endorsement weighs half of what ever so many would."""


def endorsements_of(attestations: Iterable[Attestation]) -> tuple[Endorsement, ...]:
    """Return what attestations vouch for, sorted; the same for any order of them.

    A PeerEndorsementVC weighs (share of interactions that went well) x n / (n + 10) of its n
    interactions. Receipts of one pair are one endorsement of the same form, as of the newest, and
    only those that a requester signed about a hop: that a peer asked for something says nothing
    for it. What went well in no case endorses nobody.
    """
    every = tuple(attestations)
    found = [_of_one(each) for each in every if each.type == ENDORSEMENT]
    receipts: dict[tuple[str, str], dict[str, Attestation]] = defaultdict(dict)
    for each in every:
        if each.type == RECEIPT and each.claims.get("receiptRole") == "requester":
            # By the session: the same receipt can be written in many ways, and has no id.
            session = str(each.claims.get("requestNonce", each.id))
            known = receipts[each.issuer, each.subject].setdefault(session, each)
            receipts[each.issuer, each.subject][session] = max(known, each, key=_age)
    found += [_of_receipts(list(each.values())) for each in receipts.values()]
    kept = [each for each in found if each is not None]
    return tuple(
        sorted(kept, key=lambda e: (e.by, e.of, e.source, e.at_s, e.weight, e.until_s or 0))
    )


def _of_one(attestation: Attestation) -> Endorsement | None:
    count = _count(attestation.claims.get("interactionCount"))
    good = _count(attestation.claims.get("successCount", count))
    return _endorsement(attestation, min(good, count), count, ENDORSEMENT)


def _of_receipts(receipts: list[Attestation]) -> Endorsement | None:
    good = sum(each.claims.get("inferenceOutcome") == "completed" for each in receipts)
    newest = max(receipts, key=_age)
    return _endorsement(newest, float(good), float(len(receipts)), "receipts")


def _age(attestation: Attestation) -> tuple[float, str]:
    return attestation.valid_from_s, attestation.id


def _endorsement(
    attestation: Attestation, good: float, count: float, source: str
) -> Endorsement | None:
    if good <= 0.0 or not math.isfinite(attestation.valid_from_s):
        return None
    weight = good / count * (count / (count + INTERACTIONS_PRIOR))
    return Endorsement(
        attestation.issuer,
        attestation.subject,
        attestation.valid_from_s,
        weight,
        source,
        attestation.valid_until_s,
    )


def _count(value: object) -> float:
    """Return a number of interactions; 0 for what is none. The schema has checked it already."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value:
        return 0.0
    return float(min(max(value, 0), INTERACTIONS_MAX))
