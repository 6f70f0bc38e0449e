"""Tiers: what a score allows a peer to do here, and by which rule it is refused.

Computes no score (`score`) and enforces nothing: whoever is about to act asks. docs/trust.md,
"Tiers".
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Literal, TypeAlias, get_args

from kwaai.errors import UserError


class Tier(IntEnum):
    """What a score amounts to. Higher is more."""

    UNKNOWN = 0
    KNOWN = 1
    VERIFIED = 2
    TRUSTED = 3

    @property
    def label(self) -> str:
        """The name that people see: `Verified`."""
        return self.name.capitalize()


Action: TypeAlias = Literal["serve", "early_layers", "prefix", "host", "compute"]
ACTIONS: Final[tuple[Action, ...]] = get_args(Action)

_WORDS: Final[dict[Action, str]] = {
    "serve": "run layers of a request",
    "early_layers": "run the early layers of a request",
    "prefix": "exchange cached prefixes",
    "host": "host knowledge",
    "compute": "use this node's compute",
}

INTEGRITY_RULE: Final = "integrity_floor"


def parse_tier(text: str) -> Tier:
    """Return the tier of that name, in upper or lower case. Raises UserError."""
    try:
        return Tier[text.strip().upper()]
    except KeyError:
        names = ", ".join(tier.label for tier in Tier)
        raise UserError(f"{text!r:.40} is no tier; the tiers are {names}") from None


@dataclass(frozen=True, slots=True)
class Denial:
    """Why a peer may not do something here."""

    action: Action
    rule: str
    """The config key that says so: `tier_serve`, `integrity_floor`."""
    peer: str
    tier: Tier
    floor: Tier
    integrity: float = 1.0

    @property
    def message(self) -> str:
        """Say which rule denies it, and what would change that."""
        who = f"{self.peer} may not {_WORDS[self.action]}"
        if self.rule == INTEGRITY_RULE:
            return (
                f"{who}: its integrity is {self.integrity:.2f} after wrong answers, below "
                f"{self.rule}; it recovers as they age and spot checks agree with it, or at once "
                f"by `kwaainet reputation reset {self.peer}`"
            )
        return (
            f"{who}: it is {self.tier.label}, and {self.rule} asks for {self.floor.label}; "
            f"`kwaainet trust explain {self.peer}` says what would raise it, the config key "
            f"{self.rule} lowers what is asked"
        )


@dataclass(frozen=True, slots=True)
class Floors:
    """The lowest tier for each action: policy, from the config keys `tier_*`."""

    serve: Tier = Tier.UNKNOWN
    early_layers: Tier = Tier.KNOWN
    prefix: Tier = Tier.VERIFIED
    host: Tier = Tier.VERIFIED
    compute: Tier = Tier.UNKNOWN
    integrity: float = 0.30
    """The lowest `Standing.integrity`, in [0, 1], for everything but `compute`: a peer that gave
    wrong answers, and not one sample, is not asked again until that has aged. 0: never refused."""

    def __post_init__(self) -> None:
        if not 0.0 <= self.integrity <= 1.0:
            raise UserError("integrity_floor is a number from 0 to 1", param=INTEGRITY_RULE)

    def floor(self, action: Action) -> Tier:
        """Return the lowest tier that may do it."""
        found: Tier = getattr(self, action)
        return found

    def check(self, action: Action, peer: str, tier: Tier, integrity: float = 1.0) -> Denial | None:
        """Return why a peer may not do it; None where it may.

        Wrong answers do not bar a peer from asking (`compute`): what it asks is harmless.
        """
        floor = self.floor(action)
        if tier < floor:
            return Denial(action, f"tier_{action}", peer, tier, floor, integrity)
        if action != "compute" and integrity < self.integrity:
            return Denial(action, INTEGRITY_RULE, peer, tier, floor, integrity)
        return None


def compute_weight(tier: Tier) -> int:
    """Return the share of this node's compute in a queue, relative to Unknown: 1, 2, 4 or 8.

    Everybody is served; of two that wait, the one of the higher tier is served that much oftener.
    """
    return 1 << tier
