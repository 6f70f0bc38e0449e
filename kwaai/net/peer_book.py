"""The peers that a node has met, and where: bounded, kept across restarts as JSON.

Pure but for `load` and `save`. Only peers that proved who they are get written; addresses that were
merely heard of are kept in memory, in fewer places. What the file says is checked like a stranger's
word.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import credentials.keys
from credentials.errors import CredentialsError
from credentials.keys import PeerId
from kwaai import limits
from kwaai.atomic import set_aside, write_atomic
from kwaai.errors import FileCorrupt
from kwaai.log import get_logger
from kwaai.net.multiaddrs import Address, keep_addresses

log = get_logger(__name__)
VERSION = 1


@dataclass(slots=True)
class _Entry:
    addresses: tuple[Address, ...]
    """Best first."""
    met_s: float
    """Unix seconds; 0 for a peer that we only heard of."""


class PeerBook:
    """Peer -> addresses, best first; P2P_KNOWN_PEERS_MAX met, and as many that were heard of."""

    def __init__(self, own: PeerId, clock: Callable[[], float] = time.time) -> None:
        self._own = own
        self._clock = clock
        self._met: dict[PeerId, _Entry] = {}
        self._heard: dict[PeerId, tuple[Address, ...]] = {}
        self.changes = 0
        """Grows with everything that is worth saving."""

    def meet(
        self, peer: PeerId, addresses: Iterable[Address] = (), used: Address | None = None
    ) -> None:
        """A peer is connected now (through `used` if we dialled), and says it has `addresses`."""
        old = self._met.pop(peer, None)
        said = tuple(addresses) or (old.addresses if old else ())
        merged = _merge((used,) if used else (), said)
        merged = merged or self._heard.get(peer, ())
        self._heard.pop(peer, None)
        self._met[peer] = _Entry(merged, self._clock())
        while len(self._met) > limits.P2P_KNOWN_PEERS_MAX:
            self._met.pop(next(iter(self._met)))
        if old is None or old.addresses != merged:
            self.changes += 1

    def hear(self, peer: PeerId, addresses: Iterable[Address]) -> None:
        """Somebody says that a peer listens there."""
        new = tuple(addresses)
        if peer == self._own or not new:
            return
        entry = self._met.get(peer)
        if entry is not None:
            entry.addresses = _merge(entry.addresses, new)
            return
        self._heard[peer] = _merge(new, self._heard.pop(peer, ()))
        while len(self._heard) > limits.P2P_KNOWN_PEERS_MAX:
            self._heard.pop(next(iter(self._heard)))

    def forget(self, peer: PeerId) -> None:
        """None of the peer's addresses leads to it any more."""
        self._heard.pop(peer, None)
        if self._met.pop(peer, None) is not None:
            self.changes += 1

    def addresses(self, peer: PeerId) -> tuple[Address, ...]:
        """Return where the peer may be, best first."""
        entry = self._met.get(peer)
        return entry.addresses if entry is not None else self._heard.get(peer, ())

    def met(self) -> tuple[PeerId, ...]:
        """Return the peers that have proven who they are, last met first."""
        return tuple(reversed(self._met))

    # --- the file

    def encode(self) -> bytes:
        """Encode the peers met, last met first."""
        peers = [
            {
                "peer": peer,
                "met_s": int(self._met[peer].met_s),
                "addresses": [str(address) for address in self._met[peer].addresses],
            }
            for peer in self.met()
            if self._met[peer].addresses
        ]
        return json.dumps({"version": VERSION, "peers": peers}, indent=1).encode() + b"\n"

    def parse(self, data: bytes) -> None:
        """Add what `encode` wrote. Raises FileCorrupt for what it never writes."""
        try:
            value = json.loads(data)
            if value["version"] != VERSION or len(value["peers"]) > limits.P2P_KNOWN_PEERS_MAX:
                raise ValueError("another version, or too many peers")
            found = [self._parse_peer(item) for item in value["peers"]]
        except (ValueError, TypeError, KeyError, RecursionError, CredentialsError) as error:
            raise FileCorrupt(f"it is no list of peers: {type(error).__name__} {error}") from error
        oldest = self._clock() - limits.P2P_KNOWN_AGE_S
        for peer, entry in reversed(found):
            if entry.met_s >= oldest and entry.addresses and peer != self._own:
                entry.met_s = min(entry.met_s, self._clock())
                self._met.setdefault(peer, entry)

    def _parse_peer(self, item: dict[str, object]) -> tuple[PeerId, _Entry]:
        peer, met_s, texts = item["peer"], item["met_s"], item["addresses"]
        if not isinstance(peer, str) or type(met_s) is not int or not isinstance(texts, list):
            raise ValueError("a peer has an id, a time and addresses")
        credentials.keys.parse_peer_id(peer)
        kept = keep_addresses(text for text in texts if isinstance(text, str))
        return PeerId(peer), _Entry(kept, float(met_s))

    def load(self, path: Path) -> None:
        """Add the peers of a file, if there is one; a broken one is set aside, and said so."""
        try:
            if path.stat().st_size > limits.P2P_STATE_BYTES_MAX:
                raise FileCorrupt(f"it has more than {limits.P2P_STATE_BYTES_MAX} bytes")
            self.parse(path.read_bytes())
        except FileNotFoundError:
            return
        except (OSError, FileCorrupt) as error:
            aside = set_aside(path) if isinstance(error, FileCorrupt) else path
            log.warning("known_peers_unreadable", path=str(path), aside=str(aside), why=str(error))

    def save(self, path: Path) -> None:
        """Write the peers met. Raises OSError, DiskFull."""
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, self.encode())


def _merge(first: Iterable[Address], then: Iterable[Address]) -> tuple[Address, ...]:
    return tuple(dict.fromkeys((*first, *then)))[: limits.P2P_ADDRESSES_PER_PEER_MAX]
