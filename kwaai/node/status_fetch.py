"""Where the status lists of others come from: web hosts that the owner allows, and peers.

Verifies nothing: whoever asks checks what comes (`kwaai.node.credential_shelf`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection

from credentials.errors import StatusUnknown
from kwaai.errors import DownloadFailed
from kwaai.limits import CREDENTIAL_MESSAGE_BYTES_MAX
from kwaai.node.credential_check import StatusFetch

_ACCEPT = "application/vc, application/vc+ld+json, application/ld+json, application/json"


def status_fetch(hosts: Collection[str], peers: StatusFetch | None) -> StatusFetch:
    """Return a source of status lists: `https` URLs from `hosts`, all others from `peers`.

    It is for threads without an event loop, and raises StatusUnknown.
    """

    def fetch(url: str) -> bytes:
        if url.startswith("https://"):
            return _fetch_web(url, hosts)
        if peers is None:
            raise StatusUnknown(f"nobody is asked here for the status list {url!r:.200}")
        return peers(url)

    return fetch


def _fetch_web(url: str, hosts: Collection[str]) -> bytes:
    if not hosts:
        raise StatusUnknown(
            f"the status list {url!r:.200} is on a web host, and none may be asked; allow it with: "
            "kwaainet config set web_hosts HOST"
        )
    from kwaai.net.web_fetch import fetch_web  # aiohttp takes a while to import

    try:
        return asyncio.run(
            fetch_web(url, hosts=hosts, accept=_ACCEPT, bytes_max=CREDENTIAL_MESSAGE_BYTES_MAX)
        )
    except DownloadFailed as error:
        raise StatusUnknown(f"no status list {url!r:.200}: {error.message}") from error
