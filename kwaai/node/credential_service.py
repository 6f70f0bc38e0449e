"""Credentials in a running node: the office of its home is open, and peers are dealt with.

Wires the office, the book and the exchange for as long as the service runs; does nothing itself.
"""

from __future__ import annotations

import asyncio

from kwaai.config import Config
from kwaai.errors import ResourceError
from kwaai.net.network import Network
from kwaai.node.credential_control import ExchangeControl
from kwaai.node.credential_exchange import CredentialExchange
from kwaai.node.credential_home import open_office
from kwaai.node.credential_office import CredentialOffice
from kwaai.node.credential_peers import CredentialPeers
from kwaai.node.services import Ready
from kwaai.node.view import View
from kwaai.store.home import Home
from kwaai.store.requests import RequestBook


class CredentialService:
    """One node's credentials. Belongs to the event loop; the office may be used in threads."""

    def __init__(self, config: Config, home: Home, network: Network, view: View) -> None:
        self._config = config
        self._home = home
        self._network = network
        self._view = view
        self._peers = CredentialPeers(network)
        self._office: CredentialOffice | None = None
        self._exchange: CredentialExchange | None = None

    async def run(self, ready: Ready) -> None:
        """Open the wallet and serve peers until cancelled. Raises WalletLocked, FileCorrupt."""
        opening = open_office(self._home, self._config, fetch_status=self._peers.fetch_status)
        self._office = await asyncio.to_thread(opening.__enter__)
        try:
            self._exchange = CredentialExchange(
                self._network,
                self._office,
                RequestBook(self._office.wallet.database),
                self._peers,
                auto_issue=self._config.auto_issue,
                shares=self._config.share_credentials,
            )
            await self._exchange.run(ready)
        finally:
            self._office = self._exchange = None
            opening.__exit__(None, None, None)

    def office(self) -> CredentialOffice:
        """Return the office. Raises ResourceError while the wallet is not open."""
        if self._office is None:
            raise ResourceError(
                "the wallet of this node is not open; `kwaainet status` says why", retry_after_s=2.0
            )
        return self._office

    def control(self) -> ExchangeControl:
        """Return what the owner may do. Raises ResourceError while the wallet is not open."""
        return ExchangeControl(
            self.exchange(), self.office(), self._view.find_peer, self._view.name_of
        )

    def exchange(self) -> CredentialExchange:
        """Return the dealings with peers. Raises ResourceError while the wallet is not open."""
        if self._exchange is None:
            raise ResourceError("the wallet of this node is being opened", retry_after_s=1.0)
        return self._exchange

    def stats(self) -> dict[str, float]:
        """Return counters for /metrics."""
        counters = {} if self._exchange is None else self._exchange.counters
        return {f"credential_messages_{name}": counters.get(name, 0) for name in _COUNTED}


_COUNTED = ("answered", "dropped_rate", "failed")
