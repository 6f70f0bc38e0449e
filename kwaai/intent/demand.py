"""What a request asks of whoever answers: the unsigned core of an intent.

A value and its joining with others. Whether a peer meets it is `match`'s; its bytes are `intent`'s.
docs/intents.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from credentials.did import check_did
from credentials.errors import CredentialsError
from credentials.kinds import find_kind
from kwaai import limits
from kwaai.errors import UserError
from kwaai.trust.evidence import canonical, principal_of_peer
from kwaai.trust.tiers import Tier
from kwaai.trust.words import counted, with_article


@dataclass(frozen=True, slots=True)
class CredentialDemand:
    """A credential that whoever answers must hold."""

    type: str
    """`VerifiedNodeVC` and so on."""
    issuers: tuple[str, ...] = ()
    """Principals, any of which will do. Empty: any issuer that counts here."""

    @property
    def text(self) -> str:
        """Say it for people: `an UptimeVC by did:key:z6Mk...`."""
        by = f" by {' or '.join(self.issuers)}" if self.issuers else ""
        return f"{with_article(self.type)}{by}"


@dataclass(frozen=True, slots=True)
class Demand:
    """What every peer of a path must be, and how fast the path. Empty asks for nothing."""

    min_tier: Tier | None = None
    credentials: tuple[CredentialDemand, ...] = ()
    """All of them, of every peer."""
    allow: frozenset[str] = frozenset()
    """Principals, of peers or of their owners: nobody else. Empty: anybody."""
    deny: frozenset[str] = frozenset()
    """Principals, of peers or of their owners: none of these, whatever `allow` says."""
    token_ms_max: float | None = None
    """Predicted time of one token through the whole path."""
    first_token_ms_max: float | None = None
    """Predicted time until the first token, prompt included."""
    owner_hops_max: int | None = None
    """Parts of one path that may be of one owner."""
    region: str = ""
    """A hint: peers there come first among equals. Nobody's word on it is proof."""
    budget: Mapping[str, str] = field(default_factory=dict)
    """For settlement plug-ins; not understood here."""

    @property
    def is_empty(self) -> bool:
        """Whether it asks for nothing."""
        return self == Demand()

    def with_defaults(
        self, *, min_tier: Tier | None = None, owner_hops_max: int | None = None
    ) -> Demand:
        """Return it with what the node's settings ask where it says nothing itself."""
        return replace(
            self,
            min_tier=min_tier if self.min_tier is None else self.min_tier,
            owner_hops_max=owner_hops_max if self.owner_hops_max is None else self.owner_hops_max,
        )

    def joined(self, other: Demand) -> Demand:
        """Return what either of two asks for, where they say nothing different. Raises UserError
        naming the first field on which they differ.
        """
        values: dict[str, Any] = {}
        nothing = Demand()
        for name in self.__dataclass_fields__:
            one, two, neither = (getattr(d, name) for d in (self, other, nothing))
            if one != neither and two != neither and one != two:
                raise UserError(f"'{name}' is asked for twice, and differently", param=name)
            values[name] = two if one == neither else one
        return Demand(**values)


def parse_name(text: str, param: str = "") -> str:
    """Return the principal that a PeerId or a DID names. Raises UserError naming `param`."""
    if not 1 <= len(text) <= limits.DEMAND_NAME_CHARS_MAX:
        raise UserError(f"{text!r:.80} is neither a PeerId nor a DID", param=param or None)
    try:
        return canonical(check_did(text)) if text.startswith("did:") else principal_of_peer(text)
    except CredentialsError:
        raise UserError(
            f"{text!r:.80} is neither a PeerId nor a DID", param=param or None
        ) from None


def parse_credential(
    type_name: str, issuers: Iterable[str] = (), param: str = ""
) -> CredentialDemand:
    """Return the demand for a credential of one of our types. Raises UserError naming `param`."""
    try:
        kind = find_kind(type_name[: limits.CREDENTIAL_KIND_CHARS_MAX])
    except CredentialsError as error:
        raise UserError(str(error), param=param or None) from None
    return CredentialDemand(kind.name, tuple(sorted({parse_name(i, param) for i in issuers})))


def demand_json(demand: Demand) -> dict[str, Any]:
    """Return what a demand asks for, as the `kwaai` object of a request words it."""
    said = {
        "min_tier": None if demand.min_tier is None else demand.min_tier.label,
        "max_latency_ms": demand.token_ms_max,
        "max_first_token_ms": demand.first_token_ms_max,
        "credentials": [
            {"type": wanted.type, "issuers": list(wanted.issuers)} for wanted in demand.credentials
        ],
        "allow": sorted(demand.allow),
        "deny": sorted(demand.deny),
        "max_hops_per_owner": demand.owner_hops_max,
        "region": demand.region,
        "budget": dict(sorted(demand.budget.items())),
    }
    return {name: value for name, value in said.items() if value not in (None, "", [], {})}


def describe(demand: Demand) -> tuple[str, ...]:
    """Return what a demand asks for in words, each alone; nothing where it is empty."""
    said: list[str] = []
    if demand.min_tier:  # everybody is at least Unknown
        said.append(f"at least {demand.min_tier.label}")
    said += [wanted.text for wanted in demand.credentials]
    if demand.allow:
        said.append(f"only {', '.join(sorted(demand.allow))}")
    if demand.deny:
        said.append(f"not {', '.join(sorted(demand.deny))}")
    if demand.token_ms_max is not None:
        said.append(f"at most {demand.token_ms_max:g} ms a token")
    if demand.first_token_ms_max is not None:
        said.append(f"at most {demand.first_token_ms_max:g} ms to the first token")
    if demand.owner_hops_max is not None:
        said.append(f"at most {counted(demand.owner_hops_max, 'part')} of one owner")
    if demand.region:
        said.append(f"rather in {demand.region}")
    if demand.budget:
        pairs = ", ".join(f"{key}={value}" for key, value in sorted(demand.budget.items()))
        said.append(f"budget {pairs}")
    return tuple(said)
