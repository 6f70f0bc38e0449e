"""The settings of trust, as the rules take them: `TrustPolicy` and `Floors`. Reads no file."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kwaai.config import Config
from kwaai.trust.evidence import canonical
from kwaai.trust.policy import DAY_S, WEIGHTS, TrustPolicy
from kwaai.trust.tiers import Floors, parse_tier


def trust_policy(
    config: Config, own: str, own_owner: str | None, roots: Sequence[str] | None = None
) -> TrustPolicy:
    """Return the policy of a node. `roots`: instead of the settings'. Raises ConfigError for what
    the settings allow one by one and not together.
    """
    rising = tuple(float(value) for value in config.trust_thresholds)
    return TrustPolicy(
        own=own,
        own_owner=own_owner,
        roots=frozenset(map(canonical, config.trust_roots if roots is None else roots)),
        issuers=dict(_numbers(config.trust_issuers)),
        weights={**WEIGHTS, **dict(_numbers(config.trust_weights))},
        half_life_s=config.trust_half_life_days * DAY_S,
        thresholds=(rising[0], rising[1], rising[2]),
    )


def trust_floors(config: Config) -> Floors:
    """Return who may do what."""
    return Floors(
        serve=parse_tier(config.tier_serve),
        early_layers=parse_tier(config.tier_early_layers),
        prefix=parse_tier(config.tier_prefix),
        host=parse_tier(config.tier_host),
        compute=parse_tier(config.tier_compute),
        integrity=config.integrity_floor,
    )


def _numbers(entries: Iterable[str]) -> Iterable[tuple[str, float]]:
    for entry in entries:
        name, _, number = entry.rpartition("=")
        yield canonical(name), float(number)
