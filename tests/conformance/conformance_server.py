"""A credential server on loopback with a real office, in a thread, and a client that speaks HTTP.

What the public suites see of this project is what these tests see: requests and answers.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web

from credentials.did import did_key, verification_method
from credentials.document import Document
from credentials.keys import SecretKey
from credentials.proof import ProofOptions, Suite, add_proof
from kwaai.api.vc_server import create_vc_app, listening
from kwaai.node.credential_office import CredentialOffice
from kwaai.store.home import ensure_home
from kwaai.store.issued import IssuedRegister
from kwaai.store.wallet import open_wallet

RDFC: Suite = "eddsa-rdfc-2022"
JCS: Suite = "eddsa-jcs-2022"
SUITES: tuple[Suite, ...] = (RDFC, JCS)
V2 = "https://www.w3.org/ns/credentials/v2"
V1 = "https://www.w3.org/2018/credentials/v1"
EXAMPLES = "https://www.w3.org/ns/credentials/examples/v2"
DATA_INTEGRITY = "https://w3id.org/security/data-integrity/v2"
SUBJECT = {"id": "did:example:subject"}

_START_S = 20.0
_REQUEST_S = 30.0


@dataclass(frozen=True)
class Answer:
    """One answer of the server."""

    status: int
    body: Any
    media_type: str
    headers: http.client.HTTPMessage


class Client:
    """Sends requests to one server."""

    def __init__(self, port: int, office: CredentialOffice) -> None:
        self.port, self.office = port, office

    def send(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_REQUEST_S)
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        sent = {"Content-Type": "application/json"} if data is not None else {}
        try:
            connection.request(method, path, body=data, headers=sent | (headers or {}))
            response = connection.getresponse()
            raw = response.read()
        finally:
            connection.close()
        media_type = response.headers.get_content_type()
        parsed = json.loads(raw) if "json" in media_type or raw[:1] == b"{" else raw
        return Answer(response.status, parsed, media_type, response.headers)

    def post(self, path: str, body: Any) -> Answer:
        return self.send("POST", path, body)

    def get(self, path: str, **headers: str) -> Answer:
        return self.send("GET", path, headers=headers)

    def issue(self, credential: Document, suite: Suite | None = None, **options: Any) -> Answer:
        path = f"/issuers/{suite}/credentials/issue" if suite else "/credentials/issue"
        return self.post(path, {"credential": credential, "options": options})

    def issued(self, credential: Document, suite: Suite | None = None, **options: Any) -> Document:
        answer = self.issue(credential, suite, **options)
        assert answer.status == 201, answer.body
        document: Document = answer.body["verifiableCredential"]
        return document

    def verify(self, credential: Any, **options: Any) -> Answer:
        body = {"verifiableCredential": credential, "options": options}
        return self.post("/credentials/verify", body)

    def verify_presentation(self, presentation: Any, **options: Any) -> Answer:
        body = {"verifiablePresentation": presentation, "options": options}
        return self.post("/presentations/verify", body)

    def resolve(self, did: str, query: str = "", accept: str = "") -> Answer:
        path = f"/1.0/identifiers/{quote(did, safe='')}{query}"
        return self.get(path, **({"Accept": accept} if accept else {}))


def assert_refused(answer: Answer) -> None:
    """An error of the caller's, as problem details, never as a failure of the server's."""
    assert answer.status == 400, answer.body
    assert answer.media_type == "application/problem+json"
    assert answer.body["status"] == 400
    assert answer.body["detail"]


class Party:
    """Somebody else than the server, with a key of their own."""

    def __init__(self, number: int) -> None:
        self.secret = SecretKey(bytes([number]) * 32)
        self.did = str(did_key(self.secret.public))
        self.method = verification_method(did_key(self.secret.public))

    def sign(
        self,
        document: Document,
        suite: Suite = RDFC,
        purpose: str = "assertionMethod",
        **changes: Any,
    ) -> Document:
        created_s = float(int(time.time()))
        options = ProofOptions(suite, self.method, purpose=purpose, created_s=created_s)
        return add_proof(document, replace(options, **changes), self.secret)

    def credential(self, suite: Suite = RDFC, **changes: Any) -> Document:
        """Return a signed credential of this party's."""
        return self.sign(credential(issuer=self.did, **changes), suite)

    def presentation(
        self, suite: Suite = RDFC, proof: dict[str, Any] | None = None, **changes: Any
    ) -> Document:
        """Return a presentation signed by this party. `proof`: its challenge and domain."""
        document = {"@context": [V2], "type": ["VerifiablePresentation"], **changes}
        made = {"challenge": "u0123456789", "domain": "verifier.example", **(proof or {})}
        return self.sign(document, suite, "authentication", **made)


HOLDER, STRANGER = Party(71), Party(72)


def credential(**changes: Any) -> Document:
    """Return an unsigned VC 2.0. A change to None takes the property away."""
    document: Document = {
        "@context": [V2],
        "type": ["VerifiableCredential"],
        "issuer": "did:example:issuer",
        "credentialSubject": SUBJECT,
        **changes,
    }
    return {name: value for name, value in document.items() if value is not None}


@contextmanager
def open_office(directory: Path, **options: Any) -> Iterator[CredentialOffice]:
    """Give a real office over a wallet in `directory`."""
    secret = SecretKey(bytes([9]) * 32)
    with open_wallet(ensure_home(directory), secret) as wallet:
        yield CredentialOffice(secret, wallet, IssuedRegister(wallet.database), **options)


@contextmanager
def served(
    office: CredentialOffice, make: Callable[[], web.Application] | None = None
) -> Iterator[Client]:
    """Serve an office in a thread of its own."""
    ready = threading.Event()
    bound: list[Any] = []

    async def serve() -> None:
        app = make() if make is not None else create_vc_app(office)
        async with listening(app, "127.0.0.1", 0, api_key=None) as (_, port):
            stop = asyncio.Event()
            bound.extend([port, asyncio.get_running_loop(), stop])
            ready.set()
            await stop.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),), daemon=True)
    thread.start()
    assert ready.wait(_START_S), "the server does not start"
    port, loop, stop = bound
    office.publish_at(f"http://127.0.0.1:{port}")
    try:
        yield Client(port, office)
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(_START_S)
