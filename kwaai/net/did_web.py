"""Fetch the DID document of a did:web from a host that the owner allows.

Where the document is says `credentials.did_web`, whether it is the DID's own
`credentials.did_document`, how it is fetched `kwaai.net.web_fetch`. W3C CCG did:web.
"""

from __future__ import annotations

import ssl
from collections.abc import Collection

from credentials.did_document import parse_did_document
from credentials.did_web import did_web_url
from credentials.document import Document, parse_document
from credentials.errors import DidDocumentInvalid, DidNotFound, DocumentInvalid
from kwaai.errors import DownloadFailed
from kwaai.limits import DID_WEB_BODY_BYTES_MAX, WEB_TIMEOUT_S
from kwaai.net.web_fetch import fetch_web

_ACCEPT = "application/did+json, application/did+ld+json, application/json"


async def fetch_did_web(
    did: str,
    *,
    hosts: Collection[str],
    context: ssl.SSLContext | None = None,
    allow_loopback: bool = False,
    timeout_s: float = WEB_TIMEOUT_S,
) -> Document:
    """Fetch the document of `did` from its host, if `hosts` (`name` or `name:port`) has it.

    Raises IdentifierInvalid for a DID that names no public host, DidNotFound when the host is not
    allowed or gives no document, DidDocumentInvalid for one that is not the DID's. `context` and
    `allow_loopback` are for tests.
    """
    url = did_web_url(did, allow_loopback=allow_loopback)
    try:
        body = await fetch_web(
            url,
            hosts=hosts,
            accept=_ACCEPT,
            bytes_max=DID_WEB_BODY_BYTES_MAX,
            context=context,
            allow_loopback=allow_loopback,
            timeout_s=timeout_s,
        )
    except DownloadFailed as error:
        raise DidNotFound(f"{did:.80} has no document here: {error.message}") from error
    try:
        document = parse_document(body, bytes_max=DID_WEB_BODY_BYTES_MAX)
    except DocumentInvalid as error:
        raise DidDocumentInvalid(f"what {did:.80} leads to is no JSON document: {error}") from error
    parse_did_document(did, document)
    return document
