"""Whether a peer, a model, an offer and a path meet what is asked, and if not, by which rule.

Pure rules over facts that others found: credentials that were verified, tiers that were scored,
times that were predicted. Chooses nothing (`kwaai.placement` does). docs/intents.md, "Rules".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

from kwaai.intent.demand import CredentialDemand, Demand
from kwaai.intent.intent import ModelConstraint
from kwaai.intent.offer import Offer
from kwaai.trust.tiers import Tier
from kwaai.types import ModelHandle

Rule: TypeAlias = Literal[
    "deny", "allow", "min_tier", "credential",
    "model", "family", "params", "quantisation",
    "token_ms_max", "first_token_ms_max", "owner_hops_max",
]  # fmt: skip


@dataclass(frozen=True, slots=True)
class HeldCredential:
    """A credential that a peer presented about itself and that held when it was verified last."""

    type: str
    issuer: str
    """A principal."""
    counts: bool = True
    """Whether this node's policy gives its issuer any weight."""


@dataclass(frozen=True, slots=True)
class PeerFacts:
    """What this node holds to be true of a peer."""

    peer: str
    """Its principal."""
    tier: Tier = Tier.UNKNOWN
    owner: str | None = None
    """The principal of its owner, where that is proven."""
    credentials: tuple[HeldCredential, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Who it is to allow and deny lists."""
        return frozenset({self.peer, self.owner} - {None, ""})  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What a model is. Empty texts and zeros: not known, which meets no constraint."""

    handle: ModelHandle
    family: str = ""
    params: int = 0
    quantisation: str = ""


@dataclass(frozen=True, slots=True)
class Mismatch:
    """One thing that is asked and is not so."""

    rule: Rule
    """The part of the demand that says so."""
    text: str
    """For people: what is asked, and what is."""
    asked: str = ""
    """What is asked alone, the same for every peer: what is left out where the demand gives way."""


def match(demand: Demand, facts: PeerFacts) -> tuple[Mismatch, ...]:
    """Return why a peer may take no part; nothing where it may. All reasons, in a fixed order."""
    found: list[Mismatch] = []
    if denied := demand.deny & facts.names:
        found.append(
            Mismatch("deny", f"{_who(denied, facts)} is on the deny list", "the deny list")
        )
    if demand.allow and not demand.allow & facts.names:
        text = "neither it nor its owner is on the allow list"
        found.append(Mismatch("allow", text, "the allow list"))
    if demand.min_tier is not None and facts.tier < demand.min_tier:
        label = demand.min_tier.label
        text = f"it is {facts.tier.label}, and {label} is asked for"
        found.append(Mismatch("min_tier", text, f"at least {label}"))
    found += [
        Mismatch("credential", _lacks(wanted, facts), wanted.text)
        for wanted in demand.credentials
        if not any(_satisfies(held, wanted, facts) for held in facts.credentials)
    ]
    return tuple(found)


def _who(denied: Iterable[str], facts: PeerFacts) -> str:
    return "it" if facts.peer in denied else "its owner"


def _satisfies(held: HeldCredential, wanted: CredentialDemand, facts: PeerFacts) -> bool:
    """Nobody vouches for itself, and no owner for its own nodes, whoever is asked for by name."""
    if held.type != wanted.type or held.issuer in facts.names:
        return False
    return held.issuer in wanted.issuers if wanted.issuers else held.counts


def _lacks(wanted: CredentialDemand, facts: PeerFacts) -> str:
    same = [held for held in facts.credentials if held.type == wanted.type]
    if not same:
        return f"it has shown no {wanted.type} that holds"
    if all(held.issuer in facts.names for held in same):
        return f"its {wanted.type} is issued by itself or its owner"
    if wanted.issuers:
        return f"its {wanted.type} is not by {' or '.join(wanted.issuers)}"
    return f"its {wanted.type} is by an issuer that does not count here"


def match_model(wanted: ModelHandle | ModelConstraint, model: ModelFacts) -> tuple[Mismatch, ...]:
    """Return why a model is not what is asked for; nothing where it is."""
    if not isinstance(wanted, ModelConstraint):
        is_it = wanted == model.handle
        return () if is_it else (Mismatch("model", f"it is {model.handle}, not {wanted}"),)
    found: list[Mismatch] = []
    for rule, asked, known in (
        ("family", wanted.family, model.family),
        ("quantisation", wanted.quantisation, model.quantisation),
    ):
        if asked and asked.casefold() != known.casefold():
            name: Rule = "family" if rule == "family" else "quantisation"
            found.append(Mismatch(name, f"its {rule} is {known or 'not known'}, not {asked}"))
    most = wanted.params_max or model.params
    if (wanted.params_min or wanted.params_max) and not (
        model.params and wanted.params_min <= model.params <= most
    ):
        asked = f"{wanted.params_min or ''} to {wanted.params_max or ''}".strip()
        found.append(
            Mismatch("params", f"it has {model.params or 'an unknown number of'} parameters, "
                     f"not {asked}")
        )  # fmt: skip
    return tuple(found)


def match_offer(demand: Demand, offer: Offer) -> tuple[Mismatch, ...]:
    """Return why an offer does not do by its own word; what it says for itself proves nothing."""
    most, claimed_ms = demand.token_ms_max, offer.decode_us / 1000
    if most is None or claimed_ms <= most:
        return ()
    return (
        Mismatch(
            "token_ms_max", f"its part alone takes {claimed_ms:.0f} ms, and {most:g} ms are allowed"
        ),
    )
