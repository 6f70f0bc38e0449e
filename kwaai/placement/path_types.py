"""What a planner is given and what it answers: candidates, the machine at home, constraints, paths.

Values only, no rules: `kwaai.placement.paths` chooses. Times are seconds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from kwaai.trust.tiers import Tier
from kwaai.types import LayerRange

Privacy: TypeAlias = Literal["private", "fast"]
"""private: the requester holds the first and the last layers. fast: the last peer samples."""
Route: TypeAlias = Literal["auto", "alone", "peer", "split"]
"""auto: whichever is predicted to be fastest."""
Between: TypeAlias = Callable[[str, str], float]
"""Round trip in seconds between two peers; below 0 where nobody has measured it."""
Pairs: TypeAlias = Mapping[tuple[str, str], float]
"""The same for the pairs that were measured, in one order of the two peers or in both."""
Rule: TypeAlias = Literal[
    "min_tier", "early_tier", "owner_hops", "token_s", "first_token_s", "demand"
]
"""What a change relaxes; `demand`: one of the words in `Candidate.breaks`."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A range that a peer serves, what it costs to use it, and how far the peer is trusted."""

    peer: str
    name: str
    layers: LayerRange
    decode_s: float
    """One token through the whole range. 0: unknown, estimated from the others."""
    rtt_s: float
    """Between the requester and the peer. Below 0: unknown, taken as the others' median."""
    sessions_free: int
    """0: taken only where there is no path without it."""
    head: bool = True
    """Whether a range that stops at the last block can sample (only "fast" asks)."""
    tier: int = 0
    """0 to 3, as `kwaai.trust.tiers.Tier`."""
    trust: float = 0.0
    """Score in [0, 1]. Decides between paths of about the same time."""
    owner: str = ""
    """Who runs the peer; empty where nobody is known, which is nobody else's owner."""
    failure: float = 0.0
    """Probability in [0, 1] that it fails an answer; it costs what is expected to be lost."""
    load: float = 0.0
    """Share in [0, 1] of the time that it computes for others; a token waits behind that."""
    prefill_tokens_s: float = 0.0
    """Rows of a prompt a second through the whole range. 0: unknown."""
    divisible: bool = False
    """Runs any part of `layers` too, at the same time per layer, but has to load it first."""
    breaks: tuple[str, ...] = ()
    """What it does not meet of a demand, in words ("deny did:key:z6Mk...", "region eu"): it is not
    taken, but it may be named as what a relaxed demand would take."""


@dataclass(frozen=True, slots=True)
class HomePart:
    """What the requester's own machine can do."""

    block_s: float
    """One token through one block."""
    head_s: float
    """One token through the head."""
    blocks_max: int
    """Blocks that memory here allows, first and last part together."""
    alone_s: float | None
    """One token through the whole model here; None where it does not fit."""
    pass_s: float = 0.0
    """What one token takes besides, in each part that runs here."""
    measured: Mapping[LayerRange, float] = field(default_factory=dict)
    """One token through parts that run here already, head and all: instead of the sums above."""
    prefill_block_s: float = 0.0
    """One row of a prompt through one block. 0: unknown, guessed from `block_s`."""


@dataclass(frozen=True, slots=True)
class Constraints:
    """What a path must keep to, whatever it costs. The defaults ask for nothing."""

    floor: int = 0
    """Least tier of every hop."""
    early_floor: int = 0
    """Least tier of a hop whose range starts below `early_stop`."""
    early_stop: int = 0
    """The first layer that is not early."""
    owner_hops_max: int | None = None
    """Hops of one owner in one path; who has no known owner is its own."""
    token_s_max: float | None = None
    """Predicted time of one token."""
    first_token_s_max: float | None = None
    """Predicted time to the first token."""


@dataclass(frozen=True, slots=True)
class Hop:
    """One peer's part of a path. Where the peer's range is divisible, it may be a part of that."""

    peer: str
    name: str
    layers: LayerRange
    tier: int = 0
    trust: float = 0.0
    owner: str = ""


@dataclass(frozen=True, slots=True)
class Path:
    """Who runs what. Private: first and last at home. Fast: no last. Alone: first is everything."""

    first: LayerRange | None
    hops: tuple[Hop, ...]
    last: LayerRange | None
    token_s: float
    """Predicted time of one token."""
    first_token_s: float = 0.0
    """Predicted time to the first token, from when all hops have been opened."""
    risk_s: float = 0.0
    """What failures, and the loading of parts of ranges, are expected to cost for each token; paths
    are compared with it."""

    @property
    def ranges(self) -> tuple[LayerRange, ...]:
        """All ranges in order; they tile the model."""
        parts = (self.first, *(hop.layers for hop in self.hops), self.last)
        return tuple(part for part in parts if part is not None)

    @property
    def tier(self) -> int | None:
        """The least tier of its hops; None without hops."""
        return min((hop.tier for hop in self.hops), default=None)

    @property
    def trust(self) -> float:
        """The least trust of its hops; 1 without hops."""
        return min((hop.trust for hop in self.hops), default=1.0)


@dataclass(frozen=True, slots=True)
class Change:
    """One constraint, what was asked and what would do: tiers, hops, or seconds."""

    rule: Rule
    asked: float
    needed: float | None
    """None: without it altogether."""
    detail: str = ""
    """Of `demand`: the words in `Candidate.breaks`."""

    @property
    def text(self) -> str:
        """Say it for people: what was asked -> what would do."""
        if self.rule == "demand":
            return f"without {self.detail}"
        needed = 0.0 if self.needed is None else self.needed
        if self.rule in ("min_tier", "early_tier"):
            name = "minimum tier" if self.rule == "min_tier" else "tier for early layers"
            asked, enough = (_tier_label(value) for value in (self.asked, needed))
            return f"{name} {asked} -> {enough}"
        if self.rule == "owner_hops":
            return f"hops of one owner {self.asked:.0f} -> {needed:.0f}"
        name = "time of a token" if self.rule == "token_s" else "time to the first token"
        # Upwards: the number that is shown is one that does.
        return f"{name} {1000 * self.asked:.4g} -> {_ms_up(needed)} ms"


@dataclass(frozen=True, slots=True)
class Relaxation:
    """Changes of the constraints, as small as they can be, and the path that they would give."""

    changes: tuple[Change, ...]
    path: Path

    @property
    def what(self) -> str:
        """Say the changes for people."""
        return " and ".join(change.text for change in self.changes)

    @property
    def text(self) -> str:
        """Say it for people, with the peers that would answer."""
        names = ", ".join(f"{hop.name or hop.peer} {hop.layers}" for hop in self.path.hops)
        return f"{self.what} ({names or 'this machine alone'})"


@dataclass(frozen=True, slots=True)
class Choice:
    """The best path of each kind, the one to take, and what is missing where peers have none."""

    alone: Path | None
    one_peer: Path | None
    split: Path | None
    best: Path | None
    """Of the route that was asked for; None where that route has no path."""
    gaps: tuple[LayerRange, ...]
    """Ranges that would complete a path over peers, were they served; empty where there is one or
    would be one without the constraints, and where this machine can hold too few layers for any."""
    unmet: tuple[Relaxation, ...] = ()
    """Where constraints leave no path: what would have to give. Each alone that helps alone; else
    several together. Empty where there is a path, and where none of it would help."""


def _tier_label(tier: float) -> str:
    return Tier(int(min(max(tier, 0), max(Tier)))).label


def _ms_up(seconds: float) -> str:
    """Return milliseconds in tenths, or thousandths below one; never too few."""
    per_ms = 10 if seconds >= 1e-3 else 1000
    return f"{math.ceil(seconds * 1000 * per_ms - 1e-6) / per_ms:.9g}"
