"""What the evidence log amounts to, peer by peer: read without a running node, or beside one.

Behaviour only: scores and tiers, which credentials and the graph go into, are the running node's
(`kwaai.node.trust_service`). Prints nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from credentials.did import parse_did
from credentials.errors import CredentialsError
from credentials.keys import peer_id
from kwaai.errors import UserError
from kwaai.limits import REPUTATION_END_CHARS_MIN
from kwaai.node.credential_home import wallet_exists
from kwaai.node.trust_policy import trust_policy
from kwaai.store.evidence import EvidenceLog, PeerEvidence
from kwaai.store.identity_file import load_identity
from kwaai.store.wallet import open_wallet
from kwaai.trust.behaviour import Conduct, judge
from kwaai.trust.evidence import Observation, canonical, principal_of_peer
from kwaai.trust.policy import TrustPolicy
from kwaai.trust.tally import Tally, tally_all

if TYPE_CHECKING:
    from kwaai.config import Config
    from kwaai.store.home import Home
    from kwaai.store.key_file import Unlock


@dataclass(frozen=True, slots=True)
class Reputation:
    """One peer's."""

    name: str
    """Its PeerId; its DID where that is no key of a peer's."""
    evidence: PeerEvidence
    tally: Tally
    conduct: Conduct


class Reputations:
    """The reputations of one home. Made by `open_reputations`."""

    def __init__(
        self, log: EvidenceLog | None, policy: TrustPolicy, clock: Callable[[], float]
    ) -> None:
        """`log`: None where nothing was ever seen."""
        self._log, self._policy, self._clock = log, policy, clock

    def peers(self) -> list[Reputation]:
        """Return all, the peer dealt with last first."""
        if self._log is None:
            return []
        rows = self._log.peers()
        tallies = tally_all(self._log.load(), self._policy.behaviour_half_life_s)
        return [self._of(row, tallies) for row in rows]

    def find(self, name: str) -> tuple[Reputation, tuple[Observation, ...]]:
        """Return a peer's, with its observations, the newest first. Raises UserError."""
        log, row = self._find(name)
        observations = log.of_peer(row.principal)
        tallies = tally_all(observations, self._policy.behaviour_half_life_s)
        return self._of(row, tallies), observations

    def reset(self, name: str) -> tuple[str, int]:
        """Forget what was seen of a peer; return its name and how many observations. Raises
        UserError.
        """
        log, row = self._find(name)
        return _name(row.principal), log.reset(row.principal)

    def _of(self, row: PeerEvidence, tallies: Mapping[str, Tally]) -> Reputation:
        # It may have been reset since the row was read.
        tally = tallies.get(row.principal) or Tally(self._policy.behaviour_half_life_s)
        conduct = judge(tally, self._policy, self._clock())
        return Reputation(_name(row.principal), row, tally, conduct)

    def _find(self, name: str) -> tuple[EvidenceLog, PeerEvidence]:
        rows = () if self._log is None else self._log.peers()
        principal = _principal(name)
        found = [row for row in rows if row.principal == principal]
        if not found and len(name) >= REPUTATION_END_CHARS_MIN:
            found = [row for row in rows if _name(row.principal).endswith(name)]
        if len(found) > 1:
            raise UserError(f"{name:.80} is the end of several peers' ids; give more of it")
        if self._log is None or not found:
            raise UserError(
                f"this node has not dealt with {name!r:.80}; `kwaainet reputation list` says with "
                "whom it has"
            )
        return self._log, found[0]


@contextlib.contextmanager
def open_reputations(
    home: Home, config: Config, clock: Callable[[], float], *, unlock: Unlock | None = None
) -> Iterator[Reputations]:
    """Open the evidence of a home; makes no wallet. Raises as `load_identity`, `open_wallet`."""
    policy = trust_policy(config, "", None)
    if not wallet_exists(home):
        yield Reputations(None, policy, clock)
        return
    secret = load_identity(config.identity_key or home.identity_key, unlock=unlock)
    with open_wallet(home, secret) as wallet:
        yield Reputations(EvidenceLog(wallet.database), policy, clock)


def _principal(name: str) -> str:
    try:
        return canonical(name) if name.startswith("did:") else principal_of_peer(name)
    except CredentialsError:
        return name


def _name(principal: str) -> str:
    try:
        return str(peer_id(parse_did(principal)))
    except CredentialsError:
        return principal
