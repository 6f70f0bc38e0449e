"""The credential routes against clients that misbehave or may not ask, and the office behind them.

What the standards' suites ask of the same routes is in tests/conformance.
"""

from __future__ import annotations

import asyncio
import gzip
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from credentials.did import did_key, verification_method
from credentials.document import Document, encode_document
from credentials.keys import SecretKey
from credentials.proof import ProofOptions, add_proof
from kwaai import limits
from kwaai.api.app import create_app
from kwaai.api.port import bound
from kwaai.api.vc_api import WORK
from kwaai.api.vc_server import create_vc_app, listening
from kwaai.api.vc_work import OfficeWork
from kwaai.errors import Busy, ResourceError, UserError
from kwaai.net.certificate import self_signed_context
from kwaai.node.credential_office import CredentialOffice
from kwaai.store.home import ensure_home
from kwaai.store.identity_file import ensure_identity
from kwaai.store.issued import IssuedRegister
from kwaai.store.wallet import open_wallet
from kwaai.testing.generator import FakeGenerator

KEY = "correct-horse-battery"
V2 = "https://www.w3.org/ns/credentials/v2"
CREDENTIAL = {
    "@context": [V2],
    "type": ["VerifiableCredential"],
    "issuer": "did:example:issuer",
    "credentialSubject": {"id": "did:example:subject"},
}
ISSUER = SecretKey(bytes([5]) * 32)
ROOT = Path(__file__).parents[2]
TIMEOUT_S = 60

Serve = Callable[..., Any]


@pytest.fixture
def office(tmp_path: Path) -> Iterator[CredentialOffice]:
    secret = SecretKey(bytes([9]) * 32)
    with open_wallet(ensure_home(tmp_path / "home"), secret) as wallet:
        yield CredentialOffice(secret, wallet, IssuedRegister(wallet.database))


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Serve an application; return a session at it."""
    async with AsyncExitStack() as stack:

        async def start(app: web.Application, **options: Any) -> aiohttp.ClientSession:
            host, port = await stack.enter_async_context(bound(app, "127.0.0.1", 0, **options))
            session = aiohttp.ClientSession(f"http://{host}:{port}")
            return await stack.enter_async_context(session)

        yield start


async def problem_of(response: aiohttp.ClientResponse) -> dict[str, Any]:
    assert response.content_type == "application/problem+json", await response.text()
    body: dict[str, Any] = await response.json()
    assert body["status"] == response.status
    assert {"type", "title", "detail"} <= body.keys()
    return body


def signed(**changes: Any) -> Document:
    """A credential that somebody else issued."""
    did = did_key(ISSUER.public)
    document = {**CREDENTIAL, "issuer": str(did), **changes}
    options = ProofOptions("eddsa-jcs-2022", verification_method(did), created_s=time.time())
    return add_proof(document, options, ISSUER)


# Who may ask.


async def test_a_key_is_needed(office: CredentialOffice, serve: Serve) -> None:
    http = await serve(create_vc_app(office, api_key=KEY))
    for path in ("/credentials", "/1.0/identifiers/did:key:z6Mk", "/nowhere"):
        async with http.get(path) as response:
            assert response.status == 401
            assert response.headers["WWW-Authenticate"] == "Bearer"
            await problem_of(response)
    for wrong in ("Bearer wrong-horse-battery", f"Basic {KEY}", KEY):
        async with http.get("/credentials", headers={"Authorization": wrong}) as response:
            assert response.status == 401
    async with http.get("/credentials", headers={"Authorization": f"Bearer {KEY}"}) as response:
        assert (response.status, await response.json()) == (200, [])


async def test_health_and_status_lists_are_open(office: CredentialOffice, serve: Serve) -> None:
    office.sign({**CREDENTIAL, "issuer": office.did}, statuses=("revocation",))
    http = await serve(create_vc_app(office, api_key=KEY))
    for path in ("/health", "/status/revocation-1"):
        async with http.get(path) as response:
            assert response.status == 200
    async with http.post("/status/revocation-1", json={}) as response:
        assert response.status in (401, 405)


@pytest.mark.parametrize(
    "headers",
    [{"Host": "attacker.example"}, {"Origin": "https://attacker.example"}, {"Origin": "null"}],
)
async def test_without_a_key_web_pages_may_not_ask(
    office: CredentialOffice, serve: Serve, headers: dict[str, str]
) -> None:
    http = await serve(create_vc_app(office))
    body = {"credential": CREDENTIAL}
    async with http.post("/credentials/issue", json=body, headers=headers) as response:
        assert response.status == 403
        await problem_of(response)
    assert office.issued.count() == 0
    async with http.post("/credentials/issue", json=body) as response:
        assert response.status == 201


async def test_open_to_all_asks_nothing(office: CredentialOffice, serve: Serve) -> None:
    http = await serve(create_vc_app(office, open_to_all=True))
    async with http.get("/credentials", headers={"Host": "node.example"}) as response:
        assert response.status == 200


async def test_other_machines_need_a_key(office: CredentialOffice) -> None:
    app = create_vc_app(office)
    with pytest.raises(UserError, match="other machines"):
        async with listening(app, "0.0.0.0", 0, api_key=None):
            pass


def test_a_short_key_is_no_key(office: CredentialOffice) -> None:
    with pytest.raises(UserError, match="at least"):
        create_vc_app(office, api_key="short")


# What a body may be.

ISSUE = {"credential": CREDENTIAL}
DEEP = b'{"credential": ' + b"[" * 40 + b"]" * 40 + b"}"
BODIES: dict[str, tuple[bytes, int]] = {
    "empty": (b"", 400),
    "not JSON": (b"{", 400),
    "a list": (b"[]", 400),
    "a string": (b'"x"', 400),
    "not UTF-8": (b'{"credential": "\xff"}', 400),
    "a key twice": (b'{"credential": {"a": 1, "a": 2}}', 400),
    "NaN": (b'{"credential": {"a": NaN}}', 400),
    "a number that JCS cannot hold": (b'{"credential": {"a": 9007199254740993}}', 400),
    "half a surrogate pair": (b'{"credential": {"a": "\\ud800"}}', 400),
    "too deep": (DEEP, 400),
    "too long": (b'{"a": "' + b"x" * limits.VC_BODY_BYTES_MAX + b'"}', 413),
    "an unknown name": (json.dumps(ISSUE | {"credentail": 1}).encode(), 400),
    "an unknown option": (json.dumps(ISSUE | {"options": {"suite": "x"}}).encode(), 400),
    "options that are a list": (json.dumps(ISSUE | {"options": []}).encode(), 400),
    "a credential that is a token": (b'{"credential": "eyJhbGciOi.eyJ.x"}', 400),
    "a time that is none": (json.dumps(ISSUE | {"options": {"created": "now"}}).encode(), 400),
    "a purpose that is none": (
        json.dumps(ISSUE | {"options": {"credentialStatus": {"statusPurpose": "x"}}}).encode(),
        400,
    ),
}


@pytest.mark.parametrize(("body", "status"), BODIES.values(), ids=BODIES.keys())
async def test_bodies_that_are_refused(
    office: CredentialOffice, serve: Serve, body: bytes, status: int
) -> None:
    http = await serve(create_vc_app(office))
    headers = {"Content-Type": "application/json"}
    async with http.post("/credentials/issue", data=body, headers=headers) as response:
        assert response.status == status
        await problem_of(response)
    assert office.issued.count() == 0


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
async def test_bodies_of_other_kinds(
    office: CredentialOffice, serve: Serve, headers: dict[str, str]
) -> None:
    http = await serve(create_vc_app(office))
    body = gzip.compress(json.dumps(ISSUE).encode())
    async with http.post("/credentials/issue", data=body, headers=headers) as response:
        assert response.status == 415


async def test_a_misspelt_check_is_named(office: CredentialOffice, serve: Serve) -> None:
    http = await serve(create_vc_app(office))
    body = {"verifiableCredential": signed(), "options": {"checks": ["proofs"]}}
    async with http.post("/credentials/verify", json=body) as response:
        assert response.status == 400
        assert "'proofs'" in (await problem_of(response))["detail"]


async def test_routes_that_are_not_there(office: CredentialOffice, serve: Serve) -> None:
    http = await serve(create_vc_app(office))
    async with http.get("/credential") as response:
        assert response.status == 404
        assert "/credentials" in (await problem_of(response))["detail"]
    async with http.get("/credentials/issue/x") as response:
        assert response.status == 404
    async with http.put("/presentations/verify") as response:
        assert response.status == 405
        assert response.headers["Allow"] == "POST"


# What becomes of failures.


async def test_a_defect_is_told_without_its_words(
    office: CredentialOffice, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("a secret detail")

    monkeypatch.setattr(CredentialOffice, "verify", fail)
    http = await serve(create_vc_app(office))
    async with http.post("/credentials/verify", json={"verifiableCredential": {}}) as response:
        assert response.status == 500
        assert "secret" not in (await problem_of(response))["detail"]


async def test_while_there_is_no_office(office: CredentialOffice, serve: Serve) -> None:
    there: list[CredentialOffice] = []

    def find() -> CredentialOffice:
        if not there:
            raise ResourceError("the wallet is not open yet", retry_after_s=2)
        return there[0]

    http = await serve(create_app(FakeGenerator(), office=find))
    async with http.get("/status/revocation-1") as response:
        assert response.status == 503
        assert response.headers["Retry-After"] == "2"
        await problem_of(response)
    there.append(office)
    async with http.get("/status/revocation-1") as response:
        assert response.status == 404


class Slow:
    """Holds the office's verification until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        self.started = threading.Semaphore(0)
        verify = CredentialOffice.verify

        def wait(office: CredentialOffice, *arguments: Any, **options: Any) -> Any:
            self.started.release()
            assert self.gate.wait(TIMEOUT_S)
            return verify(office, *arguments, **options)

        monkeypatch.setattr(CredentialOffice, "verify", wait)


async def test_work_does_not_hold_the_event_loop_up(
    office: CredentialOffice, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    http = await serve(create_vc_app(office))
    body = {"verifiableCredential": signed()}
    asked = asyncio.create_task(http.post("/credentials/verify", json=body))
    assert await asyncio.to_thread(slow.started.acquire, timeout=TIMEOUT_S)
    async with http.get("/health") as response:
        assert response.status == 200
    slow.gate.set()
    assert (await asked).status == 200


async def test_more_than_enough_requests_are_turned_away(
    office: CredentialOffice, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = Slow(monkeypatch)
    app = create_vc_app(office)
    app[WORK].threads.calls_max = 2
    http = await serve(app)
    body = {"verifiableCredential": signed()}
    asked = [asyncio.create_task(http.post("/credentials/verify", json=body)) for _ in range(2)]
    for _ in asked:
        assert await asyncio.to_thread(slow.started.acquire, timeout=TIMEOUT_S)
    async with http.post("/credentials/verify", json=body) as response:
        assert response.status == 429
        assert int(response.headers["Retry-After"]) >= 1
    slow.gate.set()
    assert {(await answer).status for answer in asked} == {200}
    async with http.post("/credentials/verify", json=body) as response:
        assert response.status == 200


async def test_a_place_is_free_when_the_work_has_ended(office: CredentialOffice) -> None:
    work = OfficeWork(lambda: office, threads=1, requests_max=1)
    gate, started = threading.Event(), threading.Event()

    def hold(_: CredentialOffice) -> None:
        started.set()
        assert gate.wait(TIMEOUT_S)

    asked = asyncio.create_task(work.run(hold))
    assert await asyncio.to_thread(started.wait, TIMEOUT_S)
    asked.cancel()  # as when a client goes away
    await asyncio.wait([asked])
    with pytest.raises(Busy):
        await work.run(lambda office: office.did)
    gate.set()
    async with asyncio.timeout(TIMEOUT_S):
        while work.threads.under_way:
            await asyncio.sleep(0)
    assert await work.run(lambda office: office.did) == office.did
    await work.close()
    with pytest.raises(Busy):
        await work.run(lambda office: office.did)


# Presentations.


async def test_a_challenge_of_ours_answers_once(office: CredentialOffice, serve: Serve) -> None:
    http = await serve(create_vc_app(office))
    async with http.post("/challenges", json={}) as response:
        challenge = (await response.json())["challenge"]
    presentation = {"@context": [V2], "type": ["VerifiablePresentation"], "holder": office.did}
    options = {"challenge": challenge, "domain": "shop.example"}
    body: dict[str, Any] = {"presentation": presentation, "options": options}
    async with http.post("/presentations/prove", json=body) as response:
        assert response.status == 201
        proven = (await response.json())["verifiablePresentation"]
    assert proven["proof"]["proofPurpose"] == "authentication"
    body = {"verifiablePresentation": proven, "options": options}
    async with http.post("/presentations/verify", json=body) as response:
        answer = await response.json()
        assert (response.status, answer["holder"]) == (200, office.did)
        assert answer["warnings"] == []
    for again in (options, {}):
        body = {"verifiablePresentation": proven, "options": again}
        async with http.post("/presentations/verify", json=body) as response:
            assert response.status == 400
            problem = await problem_of(response)
            assert problem["type"] == "https://w3id.org/security#INVALID_CHALLENGE_ERROR"


async def test_a_challenge_that_is_not_compared_is_a_warning(
    office: CredentialOffice, serve: Serve
) -> None:
    http = await serve(create_vc_app(office))
    presentation = {"@context": [V2], "type": ["VerifiablePresentation"]}
    body: dict[str, Any] = {"presentation": presentation, "options": {"challenge": "u1"}}
    async with http.post("/presentations/prove", json=body) as response:
        proven = (await response.json())["verifiablePresentation"]
    body = {"verifiablePresentation": proven, "options": {"returnPresentation": True}}
    async with http.post("/presentations/verify", json=body) as response:
        answer = await response.json()
        assert [warning["step"] for warning in answer["warnings"]] == ["challenge"]
        assert answer["presentation"] == proven


async def test_the_holder_is_the_subject_where_that_is_asked_for(
    office: CredentialOffice, serve: Serve
) -> None:
    http = await serve(create_vc_app(office))
    presentation = {
        "@context": [V2],
        "type": ["VerifiablePresentation"],
        "verifiableCredential": [signed()],
    }
    options = {"challenge": "u1"}
    body: dict[str, Any] = {"presentation": presentation, "options": options}
    async with http.post("/presentations/prove", json=body) as response:
        proven = (await response.json())["verifiablePresentation"]
    for demanded, status in ((False, 200), (True, 400)):
        body = {
            "verifiablePresentation": proven,
            "options": options | {"holderMustBeSubject": demanded},
        }
        async with http.post("/presentations/verify", json=body) as response:
            assert response.status == status


# The wallet.


async def test_the_wallets_list_in_pages(office: CredentialOffice, serve: Serve) -> None:
    documents = [signed(id=f"urn:example:{number}") for number in range(5)]
    for document in documents:
        office.import_credential(encode_document(document))
    http = await serve(create_vc_app(office))
    seen: list[str] = []
    path: str | None = "/credentials?limit=2"
    while path is not None:
        async with http.get(path) as response:
            page = await response.json()
            assert 1 <= len(page) <= 2
            seen += [document["id"] for document in page]
            link = re.fullmatch(r'<(.+)>; rel="next"', response.headers.get("Link", ""))
            path = link.group(1) if link else None
    assert seen == [document["id"] for document in reversed(documents)]
    issuer = str(did_key(ISSUER.public))
    for query, count in (({"issuer": issuer}, 5), ({"issuer": office.did}, 0), ({"type": "X"}, 0)):
        async with http.get("/credentials", params=query) as response:
            assert len(await response.json()) == count


async def test_one_credential_as_it_was_received(office: CredentialOffice, serve: Serve) -> None:
    original = b" " + encode_document(signed(id="urn:example:1"))
    stored = office.import_credential(original)
    http = await serve(create_vc_app(office))
    for name in (stored.id, "urn:example:1"):
        async with http.get(f"/credentials/{name}") as response:
            assert (response.status, await response.read()) == (200, original)
    async with http.get("/credentials/urn:example:2") as response:
        assert response.status == 404
        await problem_of(response)


async def test_what_did_not_verify_is_not_listed(office: CredentialOffice, serve: Serve) -> None:
    forged = signed(id="urn:example:1") | {"credentialSubject": {"id": "did:example:other"}}
    stored = office.import_credential(encode_document(forged), quarantine=True)
    http = await serve(create_vc_app(office))
    async with http.get("/credentials") as response:
        assert await response.json() == []
    async with http.get(f"/credentials/{stored.id}") as response:
        assert response.status == 404


@pytest.mark.parametrize("query", ["limit=0", "limit=x", "limit=-1", "after=1e3", "issuers=x"])
async def test_questions_that_mean_nothing(
    office: CredentialOffice, serve: Serve, query: str
) -> None:
    http = await serve(create_vc_app(office))
    async with http.get(f"/credentials?{query}") as response:
        assert response.status == 400
        assert (await problem_of(response))["param"] == query.partition("=")[0]


# On the node's API.


async def test_beside_the_other_routes(office: CredentialOffice, serve: Serve) -> None:
    office.sign({**CREDENTIAL, "issuer": office.did}, statuses=("revocation",))
    http = await serve(create_app(FakeGenerator(), api_key=KEY, office=lambda: office))
    key = {"Authorization": f"Bearer {KEY}"}
    async with http.get("/v1/models", headers=key) as response:
        assert response.status == 200
    body = {"credential": CREDENTIAL}
    async with http.post("/credentials/issue", json=body, headers=key) as response:
        assert response.status == 201
    async with http.post("/credentials/issue", json=body) as response:
        assert response.status == 401
        await problem_of(response)
    async with http.get("/v1/models") as response:
        assert (await response.json())["error"]["code"] == "invalid_api_key"
    async with http.get("/status/revocation-1") as response:
        assert response.status == 200
    async with http.post("/credentials/verify", json=[], headers=key) as response:
        assert response.status == 400
        await problem_of(response)


@pytest.mark.parametrize(
    "route",
    [
        "POST /credentials/issue",
        "POST /issuers/eddsa-jcs-2022/credentials/issue",
        "POST /credentials/status",
        "POST /presentations/prove",
        "GET /credentials",
        "GET /credentials/0123456789",
    ],
)
async def test_without_a_key_nobody_signs_as_the_node(
    office: CredentialOffice, serve: Serve, route: str
) -> None:
    http = await serve(create_app(FakeGenerator(), office=lambda: office))
    method, _, path = route.partition(" ")
    body = {"credential": CREDENTIAL} if method == "POST" else None
    async with http.request(method, path, json=body) as response:
        assert response.status == 401
        assert "--api-key-file" in (await problem_of(response))["detail"]
    async with http.post("/challenges", json={}) as response:
        assert response.status == 200


async def test_without_an_office_there_are_no_such_routes(serve: Serve) -> None:
    http = await serve(create_app(FakeGenerator()))
    async with http.get("/credentials") as response:
        assert response.status == 404


# HTTPS and HTTP on one port.


async def test_a_port_that_speaks_both(office: CredentialOffice, serve: Serve) -> None:
    tls = self_signed_context("127.0.0.1", now_s=time.time())
    http = await serve(create_vc_app(office), tls=tls)
    async with http.get("/health") as response:
        assert response.status == 200
    secure = str(http._base_url).replace("http:", "https:")
    async with aiohttp.ClientSession(secure) as https:
        async with https.get("/health", ssl=False) as response:
            assert response.status == 200
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            await https.get("/health")


@pytest.mark.parametrize("data", [b"\x16", b"\x16\x03\x01\x00\x05hello", b"\x00\x01\x02", b""])
async def test_what_is_neither(office: CredentialOffice, serve: Serve, data: bytes) -> None:
    tls = self_signed_context("localhost", now_s=time.time())
    http = await serve(create_vc_app(office), tls=tls)
    assert http._base_url is not None
    reader, writer = await asyncio.open_connection("127.0.0.1", http._base_url.port)
    writer.write(data)
    writer.write_eof()
    async with asyncio.timeout(TIMEOUT_S):
        await reader.read()
    writer.close()
    async with http.get("/health") as response:
        assert response.status == 200


async def test_the_certificate_is_of_this_machine() -> None:
    context = self_signed_context("node.example", now_s=time.time())
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    assert context.cert_store_stats()["x509"] == 0


# The command.


@pytest.fixture
def home(kwaainet_home: Path) -> Path:
    ensure_identity(ensure_home(kwaainet_home).identity_key)
    return kwaainet_home


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "kwaai.cli", "credential", "serve", *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "TERM": "dumb", "PYTHONUNBUFFERED": "1"}


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("--port", "0", *arguments),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def read_until(process: subprocess.Popen[str], pattern: str) -> re.Match[str]:
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if found := re.search(pattern, line):
            return found
    raise AssertionError(f"{lines} {process.stderr.read() if process.stderr else ''}")


def stop(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    out, _ = process.communicate(timeout=TIMEOUT_S)
    assert "stopped" in out


async def test_the_command_serves_what_it_issues(home: Path) -> None:
    with started("--no-auth", "--self-signed") as process:
        base = read_until(process, r"on (https://127\.0\.0\.1:\d+) as did:key:").group(1)
        connector = aiohttp.TCPConnector(ssl=False)
        async with aiohttp.ClientSession(base, connector=connector) as https:
            async with https.post("/credentials/issue", json=ISSUE) as response:
                assert response.status == 201
                issued = (await response.json())["verifiableCredential"]
            listed = issued["credentialStatus"]["statusListCredential"]
            assert listed == f"{base}/status/revocation-1"
            async with https.get("/status/revocation-1") as response:
                assert (await response.json())["id"] == listed
            body = {"verifiableCredential": issued}
            async with https.post("/credentials/verify", json=body) as response:
                assert response.status == 200
        stop(process)


async def test_the_command_asks_for_a_key_of_its_own(home: Path) -> None:
    with started() as process:
        path = Path(read_until(process, r"need the key in (\S+):").group(1))
        base = read_until(process, r"on (http://127\.0\.0\.1:\d+) as").group(1)
        assert path.stat().st_mode & 0o777 == 0o600
        key = path.read_text().strip()
        async with aiohttp.ClientSession(base) as http:
            async with http.get("/credentials") as response:
                assert response.status == 401
            headers = {"Authorization": f"Bearer {key}"}
            async with http.get("/credentials", headers=headers) as response:
                assert response.status == 200
        stop(process)
    assert not path.exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--no-auth", "--host", "0.0.0.0"), "--open-to-network"),
        (("--open-to-network",), "--no-auth"),
        (("--no-auth", "--api-key-file", "/key"), "--api-key-file"),
        (("--port", "x"), "whole number"),
    ],
)
def test_the_command_refuses(home: Path, arguments: tuple[str, ...], said: str) -> None:
    done = subprocess.run(
        command(*arguments),
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 2
    assert said in done.stderr


def test_in_an_empty_home_it_makes_an_identity(kwaainet_home: Path) -> None:
    process = subprocess.Popen(
        command("--no-auth", "--port", "0"),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert "as did:key:z6Mk" in process.stdout.readline()
        assert (kwaainet_home / "identity.key").exists()
    finally:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=TIMEOUT_S)
    assert "made an identity" in said
    assert process.returncode == 0
