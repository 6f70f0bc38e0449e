"""What "fast" mode can sample: the few settings that travel to the last hop, which has the logits.

The rest (penalties, bias, log-probabilities) needs the logits at home, in "private" mode.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Any

from kwaai.errors import UserError
from kwaai.inference.sampling import Sampler, SamplingParams

_FIELDS = ("temperature", "top_k", "top_p", "min_p", "seed")
_OTHERS = ("repetition_penalty", "frequency_penalty", "presence_penalty", "logit_bias", "logprobs")


def encode_sampling(params: SamplingParams) -> Mapping[str, Any]:
    """Return what the last hop is told, with a seed. Raises UserError for what it cannot do."""
    usual = SamplingParams()
    for name in _OTHERS:
        if getattr(params, name) != getattr(usual, name):
            raise UserError(
                f"{name} needs the logits, which stay with another peer in fast mode: leave it "
                "out, or ask with privacy private",
                param=name,
            )
    fields = {name: getattr(params, name) for name in _FIELDS}
    if params.seed is None:
        fields["seed"] = secrets.randbits(63)
    return fields


def parse_sampling(fields: Mapping[str, Any]) -> Sampler:
    """Return the sampler that a requester asks for. Raises UserError for what is not one."""
    unknown = fields.keys() - set(_FIELDS)
    if unknown or "seed" not in fields:
        raise UserError(f"sampling takes {', '.join(_FIELDS)}, not {sorted(unknown)!r:.200}")
    return Sampler(SamplingParams(**fields))
