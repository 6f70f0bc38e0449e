"""DID documents of did:web, had before a verification asks for them, from hosts that the owner
allows (`web_hosts`).

Fetches for one document at a time and forgets soon: what a host says may change. The request itself
is `kwaai.net.did_web`'s. Where no host is allowed nothing is ever fetched.
"""

from __future__ import annotations

import asyncio
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from credentials.did_document import DidDocument
from credentials.document import Document
from credentials.errors import CredentialsError, DidNotFound
from credentials.resolve import Resolver, make_resolver
from credentials.verify import dids_needed
from kwaai.limits import DID_WEB_FETCHES_MAX, DID_WEB_KEPT_MAX, DID_WEB_KEPT_S

_PREFIX = "did:web:"


@dataclass(frozen=True, slots=True)
class _Answer:
    document: Document | None
    error: CredentialsError | None
    fetched_s: float


class WebDocuments:
    """What the allowed hosts said lately. May be used from several threads, none of them with a
    running event loop.
    """

    def __init__(
        self,
        hosts: Collection[str],
        clock: Callable[[], float],
        fetch: Callable[[str], Document] | None = None,
    ) -> None:
        self._hosts = frozenset(hosts)
        self._clock = clock
        self._fetch = fetch or self._ask
        self._answers: OrderedDict[str, _Answer] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def is_on(self) -> bool:
        """Whether any host may be asked."""
        return bool(self._hosts)

    def have(self, document: Document) -> None:
        """Fetch what the verification of a document needs and is not here yet, within bounds: the
        document may be a stranger's.
        """
        needed = [did for did in dids_needed(document) if did.startswith(_PREFIX)]
        for did in needed[:DID_WEB_FETCHES_MAX]:
            self._answer(did)

    def resolver(self, inner: Resolver) -> Resolver:
        """Return a resolver of what was fetched, too: it fetches nothing itself."""

        def resolve(did: str) -> DidDocument:
            if not did.startswith(_PREFIX):
                return inner(did)
            with self._lock:
                answer = self._answers.get(did)
            if answer is None:
                return inner(did)
            if answer.document is None:
                raise answer.error or DidNotFound(f"{did:.80} has no document here")
            return make_resolver(documents={did: answer.document})(did)

        return resolve

    def _answer(self, did: str) -> None:
        now_s = self._clock()
        with self._lock:
            known = self._answers.get(did)
        if known is not None and 0 <= now_s - known.fetched_s < DID_WEB_KEPT_S:
            return
        try:
            answer = _Answer(self._fetch(did), None, now_s)
        except CredentialsError as error:
            answer = _Answer(None, error, now_s)
        with self._lock:
            self._answers[did] = answer
            while len(self._answers) > DID_WEB_KEPT_MAX:
                self._answers.popitem(last=False)

    def _ask(self, did: str) -> Document:
        from kwaai.net.did_web import fetch_did_web  # aiohttp takes a while to import

        return asyncio.run(fetch_did_web(did, hosts=self._hosts))
