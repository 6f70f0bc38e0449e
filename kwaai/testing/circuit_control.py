"""A `CircuitControl` that says what it is told to. Opens nothing. Edit the fields like data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from kwaai.errors import CircuitMissing
from kwaai.intent.demand import demand_json, describe
from kwaai.node.circuit_control import CircuitRequest, CircuitView
from kwaai.node.intent_control import HopRow
from kwaai.testing.generator import CARD
from kwaai.types import LayerRange

NOW_S = 1.8e9


def circuit_view(**changes: Any) -> CircuitView:
    """Return a circuit over one peer that has answered twice."""
    view = CircuitView(
        id="0a1b2c3d",
        name="",
        model=CARD.name,
        handle=CARD.handle,
        state="ready",
        problem="",
        route="peer",
        privacy="private",
        hops=(
            HopRow("here", "", LayerRange(0, 1)),
            HopRow("amber", "12D3KooWFakePeerA", LayerRange(1, 7), "Verified", 0.52),
            HopRow("here", "", LayerRange(7, 8)),
        ),
        demand={},
        asks=(),
        prefix_tokens=0,
        created_s=NOW_S,
        expires_s=NOW_S + 1800,
        answers=2,
        reused=1,
        reused_tokens=120,
        reroutes=0,
        checks=3,
        check_ms=4.5,
    )
    return replace(view, **changes)


@dataclass
class FakeCircuits:
    """What is open."""

    called: Callable[..., None]
    views: list[CircuitView] = field(default_factory=list)

    async def create(self, request: CircuitRequest) -> CircuitView:
        self.called("circuit create", request)
        view = circuit_view(
            name=request.name,
            privacy=request.privacy or "private",
            demand=demand_json(request.demand),
            asks=describe(request.demand),
            prefix_tokens=len(request.prefix.split()),
            expires_s=NOW_S + request.ttl_s,
            answers=0,
            reused=0,
            reused_tokens=0,
            checks=0,
            check_ms=None,
        )
        self.views.append(view)
        return view

    def circuits(self) -> tuple[CircuitView, ...]:
        self.called("circuits")
        return tuple(self.views)

    def show(self, circuit: str) -> CircuitView:
        self.called("circuit show", circuit)
        for view in self.views:
            if circuit in (view.id, view.name):
                return view
        raise CircuitMissing(f"there is no circuit {circuit!r} here", param="circuit")

    async def close(self, circuit: str) -> CircuitView:
        self.called("circuit close", circuit)
        view = self.show(circuit)
        self.views.remove(view)
        return view
