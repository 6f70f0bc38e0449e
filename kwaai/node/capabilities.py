"""What this node serves now, as it offers it for intents.

Values, made from the node's own record; loads and measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kwaai.intent.match import ModelFacts
from kwaai.models.entries import quantisation
from kwaai.node.slice_plan import LocalModel
from kwaai.types import LayerRange, ModelHandle
from kwaai.wire.records import Served


@dataclass(frozen=True, slots=True)
class Capability:
    """One range that this node serves now, as it offers it."""

    model: ModelFacts
    layers: LayerRange
    head: bool
    context_tokens: int
    sessions_free: int
    decode_us: int = 0
    prefill_tokens_s: float = 0.0
    divisible: bool = False
    """Any range inside `layers` is served too."""

    def holds(self, handle: ModelHandle, layers: LayerRange) -> bool:
        """Whether a session on these layers can be opened here."""
        inside = self.layers.start <= layers.start and layers.stop <= self.layers.stop
        is_range = inside if self.divisible else layers == self.layers
        return is_range and self.model.handle == handle

    def part_us(self, layers: LayerRange) -> int:
        """Return the microseconds of one token through `layers`, by what the whole takes."""
        return round(self.decode_us * len(layers) / len(self.layers))


def capabilities_of(
    served: Iterable[Served], models: Mapping[ModelHandle, ModelFacts]
) -> tuple[Capability, ...]:
    """Return what a node's own record says that it serves now, for a Negotiator. `models`: what is
    known of them beside their handles.
    """
    return tuple(
        Capability(
            model=models.get(one.handle, ModelFacts(one.handle)),
            layers=one.layers,
            head=one.head,
            context_tokens=one.context_tokens,
            sessions_free=one.sessions_free,
            decode_us=one.decode_us,
            prefill_tokens_s=one.prefill_tokens_s,
            divisible=one.divisible,
        )
        for one in served
        if one.state == "online"
    )


def model_facts(model: LocalModel) -> ModelFacts:
    """Return what the header of a model here says; of parts of one, how many parameters it has is
    not known.
    """
    entry = model.entry
    params = sum(math.prod(tensor.dims) for tensor in entry.header.tensors) if entry.whole else 0
    return ModelFacts(model.handle, entry.header.architecture, params, quantisation(entry))
