"""What a running node does with circuits for its owner: types only.

A circuit is a path that meets a demand, pinned and kept warm for reuse. No socket, no JSON:
`kwaai.api.control_circuits` carries this, `kwaai.cli.shard_circuit` shows it, `kwaai.node.circuits`
does it. docs/circuits.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from kwaai.intent.demand import Demand
from kwaai.node.intent_control import HopRow
from kwaai.placement.paths import Privacy, Route
from kwaai.types import ModelHandle

PrefixKind: TypeAlias = Literal["system", "text"]
"""system: the prefix is a conversation's system message. text: it begins a plain prompt."""
CircuitState: TypeAlias = Literal["ready", "answering", "mending", "broken"]
"""answering: its own session is in use, another request opens a second one on the same path.
mending: its path is being opened anew. broken: there is no path for it now."""


@dataclass(frozen=True, slots=True)
class CircuitRequest:
    """A circuit to be made."""

    model: str
    """A name of `models list` or a handle; empty: the node's own."""
    demand: Demand
    route: Route | None = None
    """None: the node's setting."""
    privacy: Privacy | None = None
    """None: the node's setting."""
    ttl_s: float = 1800.0
    """It ends itself after this time."""
    name: str = ""
    """Another name for its id; empty: none."""
    prefix: str = ""
    """What prompts begin with, whose KV every part keeps; empty: nothing."""
    prefix_kind: PrefixKind = "system"


@dataclass(frozen=True, slots=True)
class CircuitView:
    """A circuit, and how it has gone."""

    id: str
    name: str
    model: str
    handle: ModelHandle
    state: CircuitState
    problem: str
    """Why it is broken; else what made it take another path last, empty where nothing did."""
    route: Route
    """What its path is: `alone`, `peer` or `split`."""
    privacy: Privacy
    hops: tuple[HopRow, ...]
    demand: Mapping[str, Any]
    """As the `kwaai` object of a request words it, with the node's settings."""
    asks: tuple[str, ...]
    """The same in words."""
    prefix_tokens: int
    """How many positions every part keeps."""
    created_s: float
    """Unix time."""
    expires_s: float
    """Unix time."""
    answers: int
    """Requests that were begun on it."""
    reused: int
    """Those of them that found its prefix read."""
    reused_tokens: int
    """Positions that they did not compute, in all."""
    reroutes: int
    """Times that it took another path."""
    checks: int
    """Round trips through every part while it was idle."""
    check_ms: float | None
    """What the last of them took."""


class CircuitControl(Protocol):
    """A running node's circuits, to its owner. `circuit` is an id or a name. All methods raise
    KwaaiError, CircuitMissing for one that there is not.
    """

    async def create(self, request: CircuitRequest) -> CircuitView:
        """Choose, open and warm a path. Raises what a request without a circuit raises, UserError
        for a name that is taken, Busy where there are too many.
        """

    def circuits(self) -> tuple[CircuitView, ...]:
        """All circuits, the oldest first."""

    def show(self, circuit: str) -> CircuitView:
        """Return one circuit."""

    async def close(self, circuit: str) -> CircuitView:
        """End a circuit: an answer that is under way on it ends first. Return what it was."""
