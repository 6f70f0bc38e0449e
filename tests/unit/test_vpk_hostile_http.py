"""What a program of this machine may send to the knowledge routes: names that are paths, bodies
that are traps."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kwaai.errors import UserError
from kwaai.node.knowledge_desk import KnowledgeDesk
from tests.unit.test_knowledge_api import Client, Knowledge, ask, client

__all__ = ["client"]


class Checking(Knowledge):
    """Looks at names as the node does."""

    async def upload_path(self, base: str, name: str) -> str:
        service = SimpleNamespace(
            find_own=lambda base: None, home=SimpleNamespace(uploads=self.uploads)
        )
        return await KnowledgeDesk.upload_path(
            cast(Any, SimpleNamespace(service=service)), base, name
        )


@pytest.fixture
def knowledge(tmp_path: Path) -> Knowledge:
    return Checking(tmp_path)


NAMES = [
    "",
    ".",
    "..",
    "../x.txt",
    "..%2Fx.txt/../y",
    "/etc/passwd",
    "a/b.txt",
    "a\0b.txt",
    ".bashrc",
    "x" * 300,
    "\udcff.txt",
]


@pytest.mark.parametrize("name", NAMES)
async def test_upload_stays_in_its_folder(tmp_path: Path, name: str) -> None:
    service = SimpleNamespace(find_own=lambda base: None, home=SimpleNamespace(uploads=tmp_path))
    desk = SimpleNamespace(service=service)
    try:
        path = Path(await KnowledgeDesk.upload_path(cast(Any, desk), "default", name))
    except UserError:
        return
    assert path.parent.parent == tmp_path
    assert path.name == name
    assert path.resolve().is_relative_to(tmp_path.resolve())


def body(*parts: bytes, end: bytes = b"--b--\r\n") -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + end


def file(name: bytes, data: bytes = b"text", more: bytes = b"") -> bytes:
    head = b'Content-Disposition: form-data; name="file"; filename="' + name + b'"\r\n'
    return head + more + b"\r\n" + data


BODIES = {
    "nothing": b"",
    "no part": b"--b--\r\n",
    "no end": body(file(b"a.txt"), end=b""),
    "cut in a head": b"--b\r\nContent-Dispo",
    "a head without an end": b"--b\r\n" + b"X: y\r\n" * 10_000,
    "a long line in a head": body(b"X: " + b"y" * 100_000 + b"\r\n" + file(b"a.txt")),
    "a long name": body(file(b"n" * 5000)),
    "a path": body(file(b"../../../../tmp/x")),
    "an absolute path": body(file(b"/etc/cron.d/x")),
    "a zero in the name": body(file(b"a\0b.txt")),
    "bytes that are no text": body(file(b"\xff\xfe.txt")),
    "a message in a message": body(
        b"Content-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n"
    ),
    "a message in itself": body(b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"),
    "packed": body(file(b"a.txt", b"\x1f\x8b\x08" + bytes(50), b"Content-Encoding: gzip\r\n")),
    "a transfer encoding": body(file(b"a.txt", b"=", b"Content-Transfer-Encoding: base64\r\n")),
    "an unknown encoding": body(file(b"a.txt", b"x", b"Content-Transfer-Encoding: zz\r\n")),
    "a wrong length": body(file(b"a.txt", b"xyz", b"Content-Length: 1\r\n")),
    "a length below zero": body(file(b"a.txt", b"xyz", b"Content-Length: -1\r\n")),
    "a length that is none": body(file(b"a.txt", b"xyz", b"Content-Length: x\r\n")),
    "many parts": body(*(file(b"%d.txt" % n) for n in range(100))),
}


@pytest.mark.parametrize("what", BODIES)
async def test_bodies_that_are_traps(client: Client, knowledge: Knowledge, what: str) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b"}
    status, answer = await ask(client, "POST", "/api/ingest", data=BODIES[what], headers=headers)
    assert status == 200 or 400 <= status < 500, answer
    assert list(knowledge.uploads.iterdir()) == []
    assert all("/" not in name for name, _ in knowledge.seen)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"q": "x", "top_k": 1e400}',
        b'{"q": "x", "top_k": NaN}',
        b'{"q": "x", "min_score": NaN}',
        b'{"q": "x", "min_score": Infinity}',
        b'{"q": "x", "top_k": ' + b"9" * 5000 + b"}",
        b'{"q": "\\ud800", "base": "\\udfff"}',
        b'{"q": ["x"]}',
        b"[" * 100_000,
        b'{"q": "x", "q": "y"}',
        b'{"q": "' + b"x" * 1_000_000 + b'"}',
        b'{"q": "x", "base": "../../etc"}',
    ],
)
async def test_searches_that_are_traps(client: Client, raw: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    status, answer = await ask(client, "POST", "/api/search", data=raw, headers=headers)
    assert status == 200 or 400 <= status < 500, answer


@pytest.mark.parametrize("name", ["..%2F..%2Fetc%2Fpasswd", "%00", "%1b%5b2J", "a" * 5000, "%ff"])
async def test_documents_named_like_paths(client: Client, name: str) -> None:
    status, _ = await ask(client, "DELETE", f"/api/docs/{name}")
    assert status == 200 or 400 <= status < 500
