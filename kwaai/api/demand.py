"""What a request over HTTP asks of whoever answers: the headers `X-Kwaai-*` and the `kwaai` object
of a body; and the headers that tell who did.

Pure: values in, values or UserError out. What a demand means is `kwaai.intent`'s. docs/intents.md,
"Over HTTP".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from kwaai import limits
from kwaai.api.errors import did_you_mean
from kwaai.errors import UserError
from kwaai.intent.demand import CredentialDemand, Demand, parse_credential, parse_name
from kwaai.node.generate import GenerationRequest, PathReport
from kwaai.placement.paths import Privacy, Route
from kwaai.trust.tiers import Tier, parse_tier

MIN_TIER: Final = "X-Kwaai-Min-Tier"
MAX_LATENCY_MS: Final = "X-Kwaai-Max-Latency-Ms"
PRIVACY: Final = "X-Kwaai-Privacy"
_PREFIX: Final = "x-kwaai-"
_HEADER_CHARS_MAX: Final = 64
_PATH_CHARS_MAX: Final = 1024
_KNOWN: Final = (MIN_TIER, MAX_LATENCY_MS, PRIVACY)

_Name = Annotated[str, Field(min_length=1, max_length=limits.DEMAND_NAME_CHARS_MAX)]
_Names = Annotated[list[_Name], Field(max_length=limits.DEMAND_NAMES_MAX)]
_Kind = Annotated[str, Field(min_length=1, max_length=limits.CREDENTIAL_KIND_CHARS_MAX)]
_Ms = Annotated[float, Field(gt=0, le=limits.DEMAND_MS_MAX)]
_Pair = Annotated[str, Field(max_length=limits.DEMAND_BUDGET_CHARS_MAX)]


def _typed(value: Any) -> Any:
    """A type alone stands for one by any issuer that counts."""
    return {"type": value} if isinstance(value, str) else value


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class CredentialBody(_Strict):
    type: _Kind
    issuers: _Names = []


class KwaaiBody(_Strict):
    """The `kwaai` object of a request's body."""

    min_tier: Annotated[str, Field(max_length=_HEADER_CHARS_MAX)] | None = None
    max_latency_ms: _Ms | None = None
    max_first_token_ms: _Ms | None = None
    credentials: list[Annotated[CredentialBody, BeforeValidator(_typed)]] = Field(
        default=[], max_length=limits.DEMAND_CREDENTIALS_MAX
    )
    allow: _Names = []
    deny: _Names = []
    max_hops_per_owner: int | None = Field(default=None, ge=1, le=limits.DEMAND_OWNER_HOPS_MAX)
    region: Annotated[str, Field(max_length=limits.DEMAND_REGION_CHARS_MAX)] | None = None
    budget: dict[_Pair, _Pair] = Field(default={}, max_length=limits.DEMAND_BUDGET_PAIRS_MAX)
    privacy: Literal["private", "fast"] | None = None
    route: Literal["auto", "alone", "peer", "split"] | None = None
    circuit: Annotated[str, Field(max_length=limits.CIRCUIT_NAME_CHARS_MAX)] | None = None
    passages: int | None = Field(default=None, ge=1, le=limits.HITS_MAX)


@dataclass(frozen=True, slots=True)
class Asked:
    """What a request asks beside the answer itself."""

    demand: Demand = field(default_factory=Demand)
    privacy: Privacy | None = None
    route: Route | None = None
    circuit: str | None = None
    """The id or name of the circuit that is to answer."""
    passages: int | None = None
    """How many passages an answer from a knowledge base rests on."""

    def apply(self, request: GenerationRequest) -> GenerationRequest:
        """Return a request that asks for this too. Raises UserError where the two differ."""
        demand = self.demand.joined(request.demand or Demand())
        return replace(
            request,
            demand=None if demand.is_empty else demand,
            privacy=_same("privacy", self.privacy, request.privacy),
            route=_same("route", self.route, request.route),
            circuit=_same("circuit", self.circuit, request.circuit),
            passages=request.passages if self.passages is None else self.passages,
        )


def asked_in_body(body: KwaaiBody | None) -> Asked:
    """Return what a body's `kwaai` object asks for. Raises UserError naming the field."""
    if body is None:
        return Asked()
    return Asked(
        Demand(
            min_tier=None if body.min_tier is None else _tier(body.min_tier, "kwaai.min_tier"),
            credentials=_credentials(body.credentials),
            allow=frozenset(parse_name(name, "kwaai.allow") for name in body.allow),
            deny=frozenset(parse_name(name, "kwaai.deny") for name in body.deny),
            token_ms_max=body.max_latency_ms,
            first_token_ms_max=body.max_first_token_ms,
            owner_hops_max=body.max_hops_per_owner,
            region=_printable(body.region or "", "kwaai.region"),
            budget={
                _printable(key, "kwaai.budget"): _printable(value, "kwaai.budget")
                for key, value in body.budget.items()
            },
        ),
        body.privacy,
        body.route,
        body.circuit,
        body.passages,
    )


def asked_in_headers(headers: Mapping[str, str]) -> Asked:
    """Return what a request's headers ask for. `headers`: names in any case, as aiohttp has them.

    Raises UserError naming the header, also for one of ours that is given twice or that nobody
    knows: a demand that is not understood must not be passed over.
    """
    given: dict[str, str] = {}
    for name, value in headers.items():
        if not name.lower().startswith(_PREFIX):
            continue
        known = next((k for k in _KNOWN if k.lower() == name.lower()), None)
        if known is None:
            hint = did_you_mean(name, _KNOWN)
            raise UserError(f"unknown header {name[:100]!r}{hint}", param=name[:100])
        if known in given:
            raise UserError(f"the header {known} is given twice", param=known)
        given[known] = value.strip()
    if not given:
        return Asked()
    tier, latency = given.get(MIN_TIER), given.get(MAX_LATENCY_MS)
    return Asked(
        Demand(
            min_tier=None if tier is None else _tier(tier, MIN_TIER),
            token_ms_max=None if latency is None else _milliseconds(latency),
        ),
        _privacy(given.get(PRIVACY)),
    )


def path_headers(path: PathReport) -> dict[str, str]:
    """Return the headers that tell which path answers: before the answer what is known then, after
    it also what was measured.
    """
    peers = [hop for hop in path.hops if hop.peer]
    headers = {
        "X-Kwaai-Path": header_text(path.text),
        "X-Kwaai-Route": path.route,
        "X-Kwaai-Hops": str(len(peers)),
    }
    if any(hop.tier for hop in peers):
        tiers = ", ".join(hop.tier or Tier.UNKNOWN.label for hop in peers)
        headers["X-Kwaai-Tiers"] = header_text(tiers)
    predicted_tokens_s = path.predicted_tokens_s.get(path.route)
    if predicted_tokens_s:
        headers["X-Kwaai-Predicted-Ms"] = f"{1000 / predicted_tokens_s:.1f}"
    if path.token_ms is not None:
        headers["X-Kwaai-Token-Ms"] = f"{path.token_ms[0]:.1f}"
    return headers


def header_text(text: str) -> str:
    """Return what of a text a header can carry."""
    return "".join(char if " " <= char <= "~" else "?" for char in text)[:_PATH_CHARS_MAX]


def _credentials(wanted: list[CredentialBody]) -> tuple[CredentialDemand, ...]:
    param = "kwaai.credentials"
    return tuple(parse_credential(one.type, one.issuers, param) for one in wanted)


def _tier(text: str, param: str) -> Tier:
    try:
        return parse_tier(text)
    except UserError as error:
        error.param = param
        raise


def _privacy(text: str | None) -> Privacy | None:
    if text is None:
        return None
    for known in get_args(Privacy):
        if text.lower() == known:
            privacy: Privacy = known
            return privacy
    raise UserError(
        f"{PRIVACY} is {' or '.join(get_args(Privacy))}, not {text!r:.40}", param=PRIVACY
    )


def _milliseconds(text: str) -> float:
    try:
        value = float(text) if text.isascii() and len(text) <= _HEADER_CHARS_MAX else math.nan
    except ValueError:
        value = math.nan
    if not 0 < value <= limits.DEMAND_MS_MAX:  # NaN is not either
        raise UserError(
            f"{MAX_LATENCY_MS} is a number of milliseconds up to {limits.DEMAND_MS_MAX:.0f}, not "
            f"{text!r:.40}",
            param=MAX_LATENCY_MS,
        )
    return value


def _printable(text: str, param: str) -> str:
    if not text.isprintable():
        raise UserError(f"'{param}' has characters that cannot be printed", param=param)
    return text


def _same(name: str, one: Any, other: Any) -> Any:
    if one is not None and other is not None and one != other:
        raise UserError(f"'{name}' is asked for twice, and differently", param=name)
    return other if one is None else one
