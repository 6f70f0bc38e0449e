"""Checking what others present: verification with this machine's clock, status lists and documents.

Has no secret and needs no wallet. The rules are `credentials.verify`'s; this gathers what they ask
for (status lists from sources in their order, each asked only when the one before does not know)
and remembers what held.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from credentials.document import Document, parse_document
from credentials.errors import (
    ContextUnknown,
    CredentialsError,
    DidMethodUnsupported,
    DidNotFound,
    ProofUnsupported,
    SchemaUnknown,
    StatusUnknown,
)
from credentials.limits import PRESENTATION_BYTES_MAX
from credentials.present import verify_presentation
from credentials.resolve import Resolver, make_resolver
from credentials.verified import VerifiedCache, VerifiedCredential, VerifiedPresentation
from credentials.verify import ALL_CHECKS, Environment, verify_credential
from kwaai.errors import CredentialRefused, CredentialUnknown
from kwaai.node.credential_documents import WebDocuments

if TYPE_CHECKING:
    from credentials.policy import Policy

StatusFetch: TypeAlias = Callable[[str], bytes]
"""URL of a status list -> the bytes of its credential. Raises StatusUnknown."""

_UNABLE = (
    *(StatusUnknown, DidNotFound, DidMethodUnsupported),
    *(ContextUnknown, ProofUnsupported, SchemaUnknown),
)
"""Findings that say what is missing here, not what is wrong with the credential."""


class Checker:
    """Verifies credentials and presentations. May be used from several threads.

    `sources` are asked for status lists in their order. `web` has the documents of did:web, None:
    nobody has. `long_forms`: of did:peer:3 and 4, by their short forms. `look` sees every document
    before it is verified. Without `status_required` a status that nobody here knows is no obstacle.
    """

    def __init__(
        self,
        sources: Sequence[StatusFetch] = (),
        *,
        clock: Callable[[], float] = time.time,
        web: WebDocuments | None = None,
        long_forms: Mapping[str, str] | None = None,
        look: Callable[[Document], None] | None = None,
        status_required: bool = True,
    ) -> None:
        self._sources = tuple(sources)
        self._status_required = status_required
        self._clock = clock
        self._web, self._long_forms, self._look = web, long_forms, look
        offline = make_resolver(long_forms={} if long_forms is None else long_forms)
        self._resolver = web.resolver(offline) if web else offline
        self._cache = VerifiedCache()

    @property
    def resolver(self) -> Resolver:
        """What resolves DIDs here, without a network."""
        return self._resolver

    def environment(self, checks: Collection[str] | None = None) -> Environment:
        """Return what verification knows of the world now. `checks`: those that must hold, by name
        (`credentials.verify.Check`; "proof" always must); None: all.
        """
        return Environment(
            now_s=self._clock(),
            resolver=self._resolver,
            status=self.fetch_status,
            cache=self._cache,
            status_required=self._status_required,
            checks=ALL_CHECKS if checks is None else ALL_CHECKS & set(checks),
        )

    def fetch_status(self, url: str) -> bytes:
        """Return the status list credential of a URL from the first source that knows it."""
        finding = StatusUnknown(f"nobody here has the status list {url!r:.200}")
        for source in self._sources:
            try:
                return source(url)
            except StatusUnknown as error:
                finding = error
        raise finding

    def verify(
        self,
        data: bytes | Document,
        *,
        policy: Policy | None = None,
        checks: Collection[str] | None = None,
    ) -> VerifiedCredential:
        """Verify a credential now, then ask `policy`. Raises CredentialsError with `.steps`."""
        self._prepare(data)
        verified = verify_credential(data, self.environment(checks))
        if policy is not None:
            policy.require(verified)
        return verified

    def verify_list(self, data: bytes) -> VerifiedCredential:
        """Verify a status list as a credential: it has no status of its own to look up."""
        inner = replace(self.environment(), status=None, status_required=False)
        return verify_credential(data, inner)

    def verify_presentation(
        self,
        data: bytes | Document,
        *,
        challenge: str | None,
        domain: str | None = None,
        consume: Callable[[str | None], None] | None = None,
        holder_must_be_subject: bool = True,
        checks: Collection[str] | None = None,
    ) -> VerifiedPresentation:
        """Verify a presentation and every credential in it. Raises CredentialsError."""
        self._prepare(data)
        return verify_presentation(
            data,
            self.environment(checks),
            challenge=challenge,
            domain=domain,
            consume=consume,
            holder_must_be_subject=holder_must_be_subject,
        )

    def _prepare(self, data: bytes | Document) -> None:
        """Have ready what its verification needs: DID documents, from hosts that the owner allows,
        and the lists of what was issued here.
        """
        web = self._web if self._web is not None and self._web.is_on else None
        if web is None and self._look is None:
            return
        with contextlib.suppress(CredentialsError):  # verification says what is wrong with it
            document = data
            if isinstance(document, bytes):
                document = parse_document(document, bytes_max=PRESENTATION_BYTES_MAX)
            if web is not None:
                web.have(document)
            if self._look is not None:
                self._look(document)


def refusal(error: CredentialsError) -> CredentialRefused:
    """Return a finding of `credentials` as the error that faces know: refused, or not judged."""
    kind = CredentialUnknown if isinstance(error, _UNABLE) else CredentialRefused
    return kind(str(error), reason=error.code, problem=error.problem)
