"""Choose the next token from a row of logits.

Does not run the model, make text, or read a clock or an entropy source: the same logits, parameters
and seed give the same tokens. The order is the one of vLLM's sampler and of Transformers' logits
processors (temperature before the filters; llama.cpp applies it after them):

1. logit bias;
2. penalties: repetition over the last 64 tokens of prompt and answer (llama.cpp's default window,
   the formula of CTRL, arXiv:1909.05858, negative logits multiplied), frequency and presence over
   the answer only (the formula is in OpenAI's API reference);
3. temperature 0: the highest logit, the lowest id on a tie, and nothing below applies;
4. top-k;
5. softmax at the temperature;
6. top-p (arXiv:1904.09751);
7. min-p (arXiv:2407.01082);
8. one uniform number, inverted through the cumulative weights in float64.

Reported log-probabilities are those of the model itself: temperature 1, before bias and penalties.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from kwaai import limits
from kwaai.errors import PeerError, UserError

Row = NDArray[np.float32]
Ids = NDArray[np.intp]
Weights = NDArray[np.float64]

REPETITION_WINDOW_TOKENS = 64
"""How far back the repetition penalty looks; llama.cpp's default."""

BIAS_ABSOLUTE = 100.0
"""A bias of minus this much bans its token; of plus this much, it leaves only such tokens."""

_FLOAT32_MAX = float(np.finfo(np.float32).max)
_TOP_P_STEP = 1 / 64
_TOP_P_LAST = 1e-30
"""How much further down the weights each attempt to hold the wanted probability reaches, and when
the next attempt takes them all."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How the next token is chosen. The defaults are OpenAI's: every filter and penalty is off.

    Raises UserError naming the field, at construction, for anything out of range.
    """

    temperature: float = 1.0
    """0 .. 2. 0 is greedy: the most likely token, the lowest id on a tie."""
    top_k: int = 0
    """Keep the k most likely tokens. 0: all."""
    top_p: float = 1.0
    """0 .. 1. Keep the fewest tokens that hold this much probability, at least one. 1: all."""
    min_p: float = 0.0
    """0 .. 1. Drop tokens less likely than this share of the most likely one. 0: none."""
    repetition_penalty: float = 1.0
    """0 < r <= 10, over the last 64 tokens of prompt and answer. 1: none; above 1 discourages."""
    frequency_penalty: float = 0.0
    """-2 .. 2, times how often the token stands in the answer so far."""
    presence_penalty: float = 0.0
    """-2 .. 2, once for every token that stands in the answer so far."""
    seed: int | None = None
    """Same seed, same answer. None: the caller draws one."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Token id -> -100 .. 100, added to its logit. -100 bans it; 100 leaves only such tokens."""
    logprobs: int | None = None
    """How many alternatives to report with each token. 0: only the chosen one. None: nothing."""

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0.0, 2.0)
        _check_integer("top_k", self.top_k, 0, 2**31 - 1)
        _check_number("top_p", self.top_p, 0.0, 1.0)
        _check_number("min_p", self.min_p, 0.0, 1.0)
        _check_number("repetition_penalty", self.repetition_penalty, 0.0, 10.0, open_below=True)
        _check_number("frequency_penalty", self.frequency_penalty, -2.0, 2.0)
        _check_number("presence_penalty", self.presence_penalty, -2.0, 2.0)
        if self.seed is not None:
            _check_integer("seed", self.seed, -(2**63), 2**64 - 1)
        if self.logprobs is not None:
            _check_integer("logprobs", self.logprobs, 0, limits.LOGPROBS_MAX)
        if len(self.logit_bias) > limits.LOGIT_BIAS_MAX:
            raise UserError(
                f"logit_bias has {len(self.logit_bias)} entries; "
                f"at most {limits.LOGIT_BIAS_MAX} are allowed",
                param="logit_bias",
            )
        for token, bias in self.logit_bias.items():
            _check_integer("logit_bias", token, 0, 2**31 - 1, what="a token id in logit_bias")
            _check_number("logit_bias", bias, -100.0, 100.0, what=f"the bias of token {token}")
        object.__setattr__(self, "logit_bias", dict(self.logit_bias))  # the caller keeps its own


@dataclass(frozen=True, slots=True)
class Sampled:
    """One chosen token. `logprob` and `top` (most likely first) where `SamplingParams.logprobs`."""

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] = ()


class Sampler:
    """The choice of one answer's tokens, one after another; it remembers what it chose."""

    def __init__(
        self, params: SamplingParams, prompt_tokens: Sequence[int] = (), *, seed: int | None = None
    ) -> None:
        """Start an answer. `seed`, where given, wins over `params.seed`: several answers to one
        request need one each. ValueError where both are None and the temperature is not 0.
        """
        seed = params.seed if seed is None else seed
        if seed is None and params.temperature > 0:
            raise ValueError("sampling needs a seed: pass Sampler(..., seed=secrets.randbits(63))")
        self.params = params
        # NumPy promises that a bit generator's stream stays the same in every version.
        self._bits = np.random.PCG64((seed or 0) % 2**64)
        self._recent = deque(prompt_tokens[-REPETITION_WINDOW_TOKENS:], REPETITION_WINDOW_TOKENS)
        self._answer: Counter[int] = Counter()
        ids = np.fromiter(params.logit_bias, np.intp, len(params.logit_bias))
        bias = np.fromiter(params.logit_bias.values(), np.float64, len(params.logit_bias))
        self._banned = ids[bias <= -BIAS_ABSOLUTE]
        self._forced = ids[bias >= BIAS_ABSOLUTE]
        self._biased_max = int(ids.max(initial=-1))

    def sample(self, logits: Row) -> Sampled:
        """Choose the next token and remember it.

        `logits`: float32, (vocabulary,); not changed. Raises PeerError for NaN, +inf or nothing but
        -inf; UserError where logit_bias names a token that does not exist or leaves none;
        ValueError for a wrong shape or dtype.
        """
        if logits.ndim != 1 or logits.size == 0 or logits.dtype != np.float32:
            raise ValueError(f"logits: float32 (vocabulary,), not {logits.dtype} {logits.shape}")
        highest = _highest(logits)
        if self._biased_max >= logits.size:
            raise UserError(
                f"logit_bias names token {self._biased_max}; "
                f"this model's tokens are 0 to {logits.size - 1}",
                param="logit_bias",
            )
        adjusted = self._adjust(logits)
        chosen = highest if adjusted is logits else int(np.argmax(adjusted))
        if adjusted[chosen] == -np.inf:
            raise UserError("logit_bias leaves no token to choose: ban fewer", param="logit_bias")
        if self.params.temperature > 0:
            chosen = self._draw(adjusted, float(adjusted[chosen]))
        self._recent.append(chosen)
        self._answer[chosen] += 1
        if self.params.logprobs is None:
            return Sampled(chosen)
        return _report(chosen, logits, float(logits[highest]), self.params.logprobs)

    def _adjust(self, logits: Row) -> Row:
        """Apply bias and penalties to the few tokens they touch; with none, return the row."""
        params = self.params
        touched: set[int] = set(params.logit_bias)
        if params.repetition_penalty != 1.0:
            touched.update(self._recent)
        if params.frequency_penalty or params.presence_penalty:
            touched.update(self._answer)
        touched = {token for token in touched if 0 <= token < logits.size}
        if not touched:
            return logits
        recent = set(self._recent) if params.repetition_penalty != 1.0 else set()
        ids = np.fromiter(sorted(touched), np.intp, len(touched))
        values = np.empty(ids.size, np.float64)
        for position, token in enumerate(ids.tolist()):
            value = float(logits[token]) + params.logit_bias.get(token, 0.0)
            if token in recent:
                factor = params.repetition_penalty
                value = value / factor if value > 0 else value * factor
            if count := self._answer[token]:
                value -= count * params.frequency_penalty + params.presence_penalty
            values[position] = value
        values = np.where(np.isneginf(values), values, values.clip(-_FLOAT32_MAX, _FLOAT32_MAX))
        if self._forced.size:
            forced = np.isin(ids, self._forced)
            adjusted = np.full_like(logits, -np.inf)
            adjusted[ids[forced]] = values[forced]
            return adjusted
        adjusted = logits.copy()
        adjusted[ids] = values
        adjusted[self._banned] = -np.inf
        return adjusted

    def _draw(self, adjusted: Row, highest: float) -> int:
        params = self.params
        ids: Ids | None = None
        if 0 < params.top_k < adjusted.size:
            ids = _top(adjusted, params.top_k)
        kept = adjusted if ids is None else adjusted[ids]
        weights = _weights(kept, highest, params.temperature)
        if params.top_p < 1.0:
            nucleus = _nucleus(weights, params.top_p)
            ids = nucleus if ids is None else ids[nucleus]
            weights = weights[nucleus]
        if params.min_p > 0.0:
            likely = np.flatnonzero(weights >= params.min_p)  # the highest weight is 1
            ids = likely if ids is None else ids[likely]
            weights = weights[likely]
        bounds = np.cumsum(weights)
        uniform = (int(self._bits.random_raw()) >> 11) * 2.0**-53
        position = int(np.searchsorted(bounds, uniform * bounds[-1], side="right"))
        if position >= bounds.size:  # rounding reached the end: the last token that can be drawn
            position = int(np.searchsorted(bounds, bounds[-1], side="left"))
        return position if ids is None else int(ids[position])


def _highest(logits: Row) -> int:
    """Return the first highest logit's id. NumPy's argmax stops at a NaN: one pass finds both."""
    highest = int(np.argmax(logits))
    value = float(logits[highest])
    if math.isnan(value):
        raise PeerError("the model gave NaN logits: its file or a machine in its chain is faulty")
    if math.isinf(value):
        what = "an infinite logit" if value > 0 else "no token any probability"
        raise PeerError(f"the model gave {what}: its file or a machine in its chain is faulty")
    return highest


def _top(values: Row, count: int) -> Ids:
    """Return the ids of the `count` highest values, ascending."""
    if count >= values.size:
        return np.arange(values.size)
    edge = float(np.partition(values, values.size - count)[values.size - count])
    return _down_to(values, edge, count)


def _down_to(values: Row | Weights, edge: float, count: int) -> Ids:
    """Return the ids of the `count` values from `edge` up, ascending; of those equal to the edge,
    the lower ids.
    """
    ids = np.flatnonzero(values >= edge)
    if ids.size > count:
        at_edge = ids[values[ids] == edge]
        spare = at_edge[at_edge.size - (ids.size - count) :]
        ids = np.setdiff1d(ids, spare, assume_unique=True)
    return ids


def _weights(values: Row, highest: float, temperature: float) -> Weights:
    """Return exp((value - highest) / temperature): the softmax, not yet divided by its sum."""
    weights = values.astype(np.float64)
    weights -= highest
    with np.errstate(over="ignore"):  # a tiny temperature: -inf, weight 0
        weights /= temperature
    np.exp(weights, out=weights)
    return weights


def _nucleus(weights: Weights, share: float) -> Ids:
    """Return the ids of the fewest highest weights that hold `share` of their sum, at least one.

    Sorts only the weights above a falling threshold: a confident model's nucleus is a handful of
    its 152,000 tokens.
    """
    wanted = share * float(weights.sum())
    threshold = _TOP_P_STEP
    while True:
        heavy = np.sort(weights[weights >= threshold])[::-1]
        bounds = np.cumsum(heavy)
        if bounds[-1] >= wanted or threshold == 0.0:
            count = min(int(np.searchsorted(bounds, wanted)) + 1, heavy.size)
            return _down_to(weights, float(heavy[count - 1]), count)
        threshold = threshold * _TOP_P_STEP if threshold > _TOP_P_LAST else 0.0


def _report(chosen: int, logits: Row, highest: float, count: int) -> Sampled:
    """Return the chosen token with the model's own log-probabilities."""
    log_sum = highest + math.log(float(_weights(logits, highest, 1.0).sum()))
    top: list[tuple[int, float]] = []
    if count:
        ids = _top(logits, count)
        ids = ids[np.argsort(-logits[ids], kind="stable")]
        top = [(int(i), float(logits[i]) - log_sum) for i in ids if logits[i] > -np.inf]
    return Sampled(chosen, float(logits[chosen]) - log_sum, tuple(top))


def _check_number(
    param: str, value: float, low: float, high: float, *, open_below: bool = False, what: str = ""
) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if is_number and (low < value <= high or (value == low and not open_below)):
        return
    bounds = f"above {low:g} and at most {high:g}" if open_below else f"from {low:g} to {high:g}"
    raise UserError(f"{what or param} must be a number {bounds}, not {_shown(value)}", param=param)


def _check_integer(param: str, value: int, low: int, high: int, *, what: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise UserError(
            f"{what or param} must be a whole number from {low} to {high}, not {_shown(value)}",
            param=param,
        )


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 128:  # Python does not print the longest
        return f"a number of {value.bit_length()} bits"
    return f"{value!r:.40}"
