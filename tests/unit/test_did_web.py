"""did:web: where a document is, and fetching it from a server of our own that misbehaves."""

from __future__ import annotations

import asyncio
import datetime
import json
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from credentials.did_web import did_web_host, did_web_url
from credentials.errors import CredentialsError, DidDocumentInvalid, DidNotFound, IdentifierInvalid
from credentials.keys import SecretKey
from credentials.multikey import encode_multikey
from credentials.resolve import make_resolver
from kwaai.limits import DID_WEB_BODY_BYTES_MAX, WEB_HEADER_BYTES_MAX
from kwaai.net.did_web import fetch_did_web
from kwaai.net.web_fetch import is_public

PUBLIC = SecretKey(bytes(range(32))).public


@pytest.mark.parametrize(
    ("did", "url"),
    [  # the first four are the did:web specification's
        ("did:web:w3c-ccg.github.io", "https://w3c-ccg.github.io/.well-known/did.json"),
        ("did:web:w3c-ccg.github.io:user:alice", "https://w3c-ccg.github.io/user/alice/did.json"),
        (
            "did:web:example.com%3A3000:user:alice",
            "https://example.com:3000/user/alice/did.json",
        ),
        ("did:web:example.com%3A3000", "https://example.com:3000/.well-known/did.json"),
        ("did:web:example.com%3A443", "https://example.com:443/.well-known/did.json"),
        ("did:web:xn--e1afmkfd.xn--p1ai", "https://xn--e1afmkfd.xn--p1ai/.well-known/did.json"),
        ("did:web:a.b:A_b-c.d", "https://a.b/A_b-c.d/did.json"),
    ],
)
def test_urls(did: str, url: str) -> None:
    assert did_web_url(did) == url
    assert did_web_host(did) == url.split("/")[2]


REFUSED = [
    "",
    "did:web:",
    "did:web:localhost",
    "did:web:example",
    "did:web:127.0.0.1",
    "did:web:127.1",
    "did:web:0x7f.1",
    "did:web:1.2.3.0x4",
    "did:web:2130706433",
    "did:web:[::1]",
    "did:web:169.254.169.254",
    "did:web:printer.local",
    "did:web:db.internal",
    "did:web:a.localhost",
    "did:web:Example.com",
    "did:web:example.com.",
    "did:web:-a.com",
    "did:web:a-.com",
    "did:web:a..com",
    "did:web:" + "a" * 64 + ".com",
    "did:web:" + "a." * 127 + "com",
    "did:web:user@example.com",
    "did:web:user%40example.com",
    "did:web:example.com%3A",
    "did:web:example.com%3A80",
    "did:web:example.com%3A22",
    "did:web:example.com%3A0443",
    "did:web:example.com%3A65536",
    "did:web:example.com%3a3000",
    "did:web:example.com%3A3000%3A1",
    "did:web:example.com%2Fpath",
    "did:web:example.com:",
    "did:web:example.com:..",
    "did:web:example.com:.",
    "did:web:example.com:a%2Fb",
    "did:web:example.com:%2e%2e",
    "did:web:example.com:a:",
    "did:web:example.com:a?b",
    "did:web:example.com#key-1",
    "did:web:example.com\r\nHost: a",
    "did:web:exämple.com",
    "did:web:example.com:" + "a" * 5_000,
    "did:key:z6Mk",
]


@pytest.mark.parametrize("did", REFUSED)
def test_urls_refused(did: str) -> None:
    with pytest.raises(IdentifierInvalid):
        did_web_url(did)


@given(st.text(max_size=60))
def test_any_text_has_a_url_or_is_refused(text: str) -> None:
    try:
        url = did_web_url("did:web:" + text)
    except IdentifierInvalid:
        return
    assert url.startswith("https://")
    assert url.isascii()
    assert url.isprintable()


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("93.184.215.14", True),
        ("2606:2800:21f:cb07:6820:80da:af6b:8b2c", True),
        ("127.0.0.1", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("172.16.0.1", False),
        ("192.168.1.1", False),
        ("169.254.169.254", False),
        ("100.64.0.1", False),
        ("192.0.2.1", False),
        ("224.0.0.1", False),
        ("255.255.255.255", False),
        ("::", False),
        ("::1", False),
        ("fe80::1", False),
        ("fe80::1%eth0", False),
        ("fd00::1", False),
        ("ff02::1", False),
        ("::ffff:127.0.0.1", False),
        ("::ffff:93.184.215.14", True),
        ("2002:7f00:1::", False),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", False),
        ("64:ff9b::7f00:1", False),
        ("", False),
    ],
)
def test_public_addresses(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The server's context, with a certificate for localhost, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=3))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = tmp_path_factory.mktemp("tls") / "server.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    return server, ssl.create_default_context(cafile=str(pem))


Answer = Callable[[str], bytes | None]


class Site:
    """A host that gives one answer. `None` means: says nothing and stays."""

    def __init__(self, port: int, client: ssl.SSLContext) -> None:
        self.did = f"did:web:localhost%3A{port}"
        self.host = f"localhost:{port}"
        self.client = client
        self.requests: list[bytes] = []

    async def fetch(self, did: str = "", timeout_s: float = 30.0) -> dict[str, object]:
        return await fetch_did_web(
            did or self.did,
            hosts={self.host},
            context=self.client,
            allow_loopback=True,
            timeout_s=timeout_s,
        )


@asynccontextmanager
async def site(tls: tuple[ssl.SSLContext, ssl.SSLContext], answer: Answer) -> AsyncIterator[Site]:
    over = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            served.requests.append(await reader.readuntil(b"\r\n\r\n"))
            data = answer(served.did)
            if data is None:
                await over.wait()
            else:
                writer.write(data)
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # the client had enough
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls[0])
    served = Site(server.sockets[0].getsockname()[1], tls[1])
    try:
        yield served
    finally:
        over.set()
        server.close()
        await server.wait_closed()


def document(did: str, **changes: object) -> bytes:
    entry = {
        "id": f"{did}#key-1",
        "type": "Multikey",
        "controller": did,
        "publicKeyMultibase": encode_multikey(PUBLIC),
    }
    body = {"id": did, "verificationMethod": [entry], "assertionMethod": [f"{did}#key-1"]}
    return json.dumps({**body, **changes}).encode()


def http(body: bytes, *headers: str, status: str = "200 OK", length: bool = True) -> bytes:
    lines = [f"HTTP/1.1 {status}", *headers]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


def chunked(body: bytes) -> bytes:
    parts = [body[:50], body[50:]]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


ANSWERS: dict[str, Answer] = {
    "with a length": lambda did: http(document(did), "Content-Type: application/did+json"),
    "until the end": lambda did: http(document(did), length=False),
    "in chunks": lambda did: http(
        chunked(document(did)), "Transfer-Encoding: chunked", length=False
    ),
    "of HTTP/1.0": lambda did: http(document(did)).replace(b"HTTP/1.1", b"HTTP/1.0"),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_a_document_is_fetched(tls: tuple[ssl.SSLContext, ssl.SSLContext], name: str) -> None:
    async with site(tls, ANSWERS[name]) as served:
        fetched = await served.fetch()
        assert fetched == json.loads(document(served.did))
        resolved = make_resolver(documents={served.did: fetched})(served.did)
        assert resolved.method(f"{served.did}#key-1", "assertionMethod").key == PUBLIC
    (request,) = served.requests
    assert request.startswith(b"GET /.well-known/did.json HTTP/1.1\r\n")
    assert f"Host: {served.host}\r\n".encode() in request


BIG = b"x" * (DID_WEB_BODY_BYTES_MAX + 1)
BAD_ANSWERS: list[tuple[Answer, type[CredentialsError], str]] = [
    (lambda did: http(b"", status="404 Not Found"), DidNotFound, "404"),
    (lambda did: http(document(did), status="500 Oh"), DidNotFound, "500"),
    (
        lambda did: http(b"", "Location: https://169.254.169.254/", status="302 Found"),
        DidNotFound,
        "redirects are refused",
    ),
    (lambda did: http(document(did), status="301 Moved"), DidNotFound, "redirects"),
    (lambda did: b"SSH-2.0-OpenSSH\r\n\r\n", DidNotFound, "well-formed"),
    (lambda did: b"", DidNotFound, "well-formed|reached"),
    (lambda did: b"HTTP/1.1 200 OK\r\n", DidNotFound, "well-formed|reached"),
    (lambda did: b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 20_000, DidNotFound, "well-formed"),
    (lambda did: b"x" * (3 * WEB_HEADER_BYTES_MAX), DidNotFound, "well-formed"),
    (lambda did: http(BIG), DidNotFound, "more than 65536"),
    (lambda did: http(BIG, length=False), DidNotFound, "more than 65536"),
    (lambda did: http(b"{}", "Content-Length: 99999999999"), DidNotFound, "well-formed"),
    (lambda did: http(b"{}", "Content-Length: -1"), DidNotFound, "well-formed"),
    (lambda did: http(b"{}", "Content-Length: 99", length=False), DidNotFound, "well-formed"),
    (
        lambda did: http(b"{}", "Content-Encoding: gzip"),
        DidNotFound,
        "compressed its answer",
    ),
    (
        lambda did: http(b"{}", "Transfer-Encoding: gzip"),
        DidNotFound,
        "well-formed|more than|no JSON",
    ),
    *(
        (
            lambda did, body=body: http(body, "Transfer-Encoding: chunked", length=False),
            DidNotFound,
            message,
        )
        for body, message in [
            (b"zz\r\n", "well-formed"),
            (b"-1\r\n", "well-formed"),
            (b"ffffffff\r\n", "well-formed"),
            (b"1\r\na\r\n" * 2_000, "well-formed"),
            (b"5\r\nabc", "well-formed"),
            (b"1;" + b"e" * 100 + b"\r\na\r\n", "well-formed"),
        ]
    ),
    (lambda did: http(b"not json"), DidDocumentInvalid, "is no JSON document"),
    (lambda did: http(b"[]"), DidDocumentInvalid, "is no JSON document"),
    (lambda did: http(b'{"id":1,"id":2}'), DidDocumentInvalid, "is no JSON document"),
    (lambda did: http(b"[" * 50_000), DidDocumentInvalid, "is no JSON document"),
    (lambda did: http(document("did:web:example.com")), DidDocumentInvalid, "has the id"),
    (lambda did: http(document(did, assertionMethod="a")), DidDocumentInvalid, "is a list"),
]


@pytest.mark.parametrize("number", range(len(BAD_ANSWERS)))
async def test_answers_refused(tls: tuple[ssl.SSLContext, ssl.SSLContext], number: int) -> None:
    answer, error, message = BAD_ANSWERS[number]
    async with site(tls, answer) as served:
        with pytest.raises(error, match=message):
            await served.fetch()
    assert len(served.requests) <= 2  # nothing is followed; one that hangs up is asked once more


async def test_a_silent_host_is_not_waited_for(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with site(tls, lambda did: None) as served:
        with pytest.raises(DidNotFound, match=r"no answer in 0\.3 s"):
            await served.fetch(timeout_s=0.3)


async def test_hosts_that_are_not_allowed_are_not_asked(
    tls: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    async with site(tls, ANSWERS["with a length"]) as served:
        for hosts in ((), ("localhost",), ("example.com",), (served.host + "0",)):
            with pytest.raises(DidNotFound, match="not on the list"):
                await fetch_did_web(
                    served.did, hosts=hosts, context=served.client, allow_loopback=True
                )
        with pytest.raises(IdentifierInvalid, match="no public host"):
            await fetch_did_web(served.did, hosts={served.host}, context=served.client)
    assert served.requests == []


async def test_a_name_that_leads_inside_is_refused(
    tls: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def leads(*_: object, **__: object) -> list[tuple[object, ...]]:
        return [(2, 1, 6, "", ("93.184.215.14", 443)), (2, 1, 6, "", ("127.0.0.1", 443))]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", leads)
    with pytest.raises(DidNotFound, match=r"leads to 127\.0\.0\.1"):
        await fetch_did_web("did:web:example.com", hosts={"example.com"})


async def test_a_certificate_that_nobody_trusts_is_refused(
    tls: tuple[ssl.SSLContext, ssl.SSLContext], tmp_path: Path
) -> None:
    async with site(tls, ANSWERS["with a length"]) as served:
        served.client = ssl.create_default_context()
        with pytest.raises(DidNotFound, match="cannot be reached"):
            await served.fetch()


async def test_a_host_that_is_not_there(tls: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    async with site(tls, ANSWERS["with a length"]) as served:
        pass
    with pytest.raises(DidNotFound, match="cannot be reached"):
        await served.fetch()
