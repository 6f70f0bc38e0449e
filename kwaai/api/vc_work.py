"""The office behind the event loop: its work runs in a few threads, and more than a bounded number
of requests is refused as busy (`kwaai.node.threads`). Knows no route.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Concatenate, ParamSpec, TypeAlias, TypeVar

from aiohttp import web

from kwaai import limits
from kwaai.node.credential_office import CredentialOffice
from kwaai.node.threads import Threads

_P = ParamSpec("_P")
_T = TypeVar("_T")

GetOffice: TypeAlias = Callable[[], CredentialOffice]
"""Gives the office while there is one; raises ResourceError while there is not."""


class OfficeWork:
    """Runs work with the office in threads of its own. Used from one event loop."""

    def __init__(
        self,
        office: GetOffice,
        *,
        threads: int = limits.VC_THREADS,
        requests_max: int = limits.VC_REQUESTS_MAX,
    ) -> None:
        self._office = office
        self.threads = Threads(
            "credential-api",
            threads=threads,
            calls_max=requests_max,
            what="requests about credentials",
        )

    async def run(
        self,
        work: Callable[Concatenate[CredentialOffice, _P], _T],
        *args: _P.args,
        **options: _P.kwargs,
    ) -> _T:
        """Run `work(office, ...)` in a thread and return what it returns. Raises what it raises,
        Busy, and what the office's giver raises while there is none.
        """
        return await self.threads.run(work, self._office(), *args, **options)

    async def close(self, _: web.Application | None = None) -> None:
        """Wait for what runs; drop what waits."""
        await self.threads.join()
