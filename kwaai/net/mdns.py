"""mDNS: nodes on one network find each other without being told. libp2p's discovery/mdns.

Announces `_p2p._udp.local` with `dnsaddr=` texts and reports what others announce. Does not
connect: `found` does. Where multicast is not possible it says so once and does nothing. asyncio,
through zeroconf (a dependency of libp2p), imported when it runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import random
import secrets
import string
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from credentials.keys import PeerId
from kwaai import limits
from kwaai.errors import KwaaiError, UserError
from kwaai.log import get_logger
from kwaai.net.multiaddrs import parse_peer_multiaddr

if TYPE_CHECKING:
    from zeroconf import ServiceInfo
    from zeroconf.asyncio import AsyncZeroconf

log = get_logger(__name__)
SERVICE = "_p2p._udp.local."
_KEY = b"dnsaddr="
_NAME_CHARS = string.ascii_lowercase + string.digits
_TEXT_BYTES_MAX = 255  # one string of a TXT record
_TEXTS_MAX = 64
Found = Callable[[PeerId, Sequence[str]], Awaitable[None]]


class Mdns:
    """One node's announcement and its ears."""

    def __init__(self, own: PeerId, found: Found) -> None:
        self._own = own
        self._found = found
        self._name = "".join(secrets.choice(_NAME_CHARS) for _ in range(40))
        self._present: dict[str, tuple[PeerId, tuple[str, ...]]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.is_working = False

    async def run(self, addresses: Callable[[], tuple[str, ...]]) -> None:
        """Announce `addresses()` and listen until cancelled. Never raises for want of multicast."""
        try:
            zeroconf = await self._open()
        except (OSError, RuntimeError, ValueError) as error:
            log.warning("mdns_not_possible", reason=str(error))
            return
        try:
            await self._serve(zeroconf, addresses)
        except OSError as error:
            log.warning("mdns_ended", reason=str(error))
        finally:
            self.is_working = False
            for task in self._tasks:
                task.cancel()
            with contextlib.suppress(Exception):  # whatever it says, it is being closed
                await asyncio.wait_for(asyncio.shield(zeroconf.async_close()), 2.0)

    async def _open(self) -> AsyncZeroconf:
        await asyncio.to_thread(importlib.import_module, "zeroconf.asyncio")  # takes 0.1 s
        from zeroconf import InterfaceChoice, IPVersion
        from zeroconf.asyncio import AsyncZeroconf

        return AsyncZeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.V4Only)

    async def _serve(
        self, zeroconf: AsyncZeroconf, addresses: Callable[[], tuple[str, ...]]
    ) -> None:
        from zeroconf.asyncio import AsyncServiceBrowser

        loop = asyncio.get_running_loop()

        def changed(zeroconf: Any, service_type: str, name: str, state_change: Any) -> None:
            loop.call_soon(self._changed, zeroconf, name, state_change.name)

        browser = AsyncServiceBrowser(zeroconf.zeroconf, SERVICE, handlers=[changed])
        announced: tuple[str, ...] = ()
        try:
            while True:
                current = addresses()
                if current != announced and current:
                    await self._announce(zeroconf, current, is_new=not announced)
                    announced = current
                    self.is_working = True
                await asyncio.sleep(limits.MDNS_RETRY_S)
                present = list(self._present.values())
                # Whoever invents neighbours does not make us knock on all their doors.
                for peer, where in random.sample(
                    present, min(len(present), limits.MDNS_RETRIES_MAX)
                ):
                    self._spawn(self._report(peer, where))
        finally:
            with contextlib.suppress(Exception):  # as above
                await browser.async_cancel()

    async def _announce(
        self, zeroconf: AsyncZeroconf, addresses: Sequence[str], *, is_new: bool
    ) -> None:
        info = _service_info(self._name, addresses)
        if is_new:
            await (await zeroconf.async_register_service(info, cooperating_responders=True))
        else:
            await (await zeroconf.async_update_service(info))

    def _changed(self, zeroconf: Any, name: str, change: str) -> None:
        if name.startswith(self._name + "."):
            return
        if change == "Removed":
            self._present.pop(name, None)
        elif len(self._tasks) < limits.MDNS_PEERS_MAX:
            self._spawn(self._resolve(zeroconf, name))

    async def _resolve(self, zeroconf: Any, name: str) -> None:
        from zeroconf import BadTypeInNameException
        from zeroconf.asyncio import AsyncServiceInfo

        try:
            info = AsyncServiceInfo(SERVICE, name)
        except BadTypeInNameException:
            return
        if not await info.async_request(zeroconf, limits.MDNS_RESOLVE_TIMEOUT_S * 1000):
            return
        peer, addresses = parse_texts(info.text or b"", self._own)
        if peer is None:
            return
        if name in self._present or len(self._present) < limits.MDNS_PEERS_MAX:
            self._present[name] = (peer, addresses)
        await self._report(peer, addresses)

    async def _report(self, peer: PeerId, addresses: Sequence[str]) -> None:
        if self._own > peer:  # let the other one dial: two connections at once cross
            await asyncio.sleep(limits.MDNS_YIELD_S)
        try:
            await self._found(peer, addresses)
        except KwaaiError as error:
            log.debug("mdns_peer_unreachable", peer=peer, reason=error.message)

    def _spawn(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def encode_texts(addresses: Iterable[str]) -> bytes:
    """Encode multiaddrs (with /p2p) as the strings of a TXT record: `dnsaddr=...` each."""
    texts = [_KEY + address.encode("ascii") for address in addresses]
    return b"".join(bytes([len(t)]) + t for t in texts if len(t) <= _TEXT_BYTES_MAX)


def parse_texts(data: bytes, own: PeerId) -> tuple[PeerId | None, tuple[str, ...]]:
    """Parse a TXT record: the first peer that it names, which is not us, and its addresses."""
    peer: PeerId | None = None
    addresses: list[str] = []
    offset = 0
    data = data[: limits.MDNS_TEXT_BYTES_MAX]
    for _ in range(_TEXTS_MAX):
        if offset >= len(data):
            break
        text = data[offset + 1 : offset + 1 + data[offset]]
        offset += 1 + data[offset]
        if not text.startswith(_KEY):
            continue
        try:
            address, named = parse_peer_multiaddr(text[len(_KEY) :].decode("ascii"))
        except (UserError, UnicodeDecodeError):
            continue
        if named == own or named != (peer or named) or not address.is_ip:
            continue
        peer = named
        if len(addresses) < limits.P2P_ADDRESSES_PER_PEER_MAX:
            addresses.append(str(address))
    return peer, tuple(addresses)


def _service_info(name: str, addresses: Sequence[str]) -> ServiceInfo:
    from zeroconf.asyncio import AsyncServiceInfo

    parsed = [parse_peer_multiaddr(address)[0] for address in addresses]
    return AsyncServiceInfo(
        SERVICE,
        f"{name}.{SERVICE}",
        port=parsed[0].port,
        properties=encode_texts(addresses),
        server=f"{name}.local.",
        parsed_addresses=[address.host for address in parsed if address.kind == "ip4"][:4],
    )
