"""A model hub on loopback, with its storage server on a second port: real sockets, real files,
faults on demand.

Speaks as much of the Hugging Face hub's HTTP API as downloads need: model info, tree, resolve with
ranges and redirects. Not a hub for real use: it holds small files in memory and has no pages, no
uploads, no TLS. A test edits `hub.faults` and the files under `hub.root` like data, and reads
`hub.seen` afterwards.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import urllib.parse
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType

ALWAYS = 1 << 30
_WRITE_BYTES = 64 * 1024
_REVISION = "main"


@dataclass(slots=True)
class Faults:
    """What goes wrong. A number says how many answers it happens to, and counts down; ALWAYS never
    ends.
    """

    # Of the bodies of files.
    break_after: list[int] = field(default_factory=list)
    """For one GET of a file each: close the connection after this many bytes of its body."""
    wrong_bytes: int = 0
    """Flip a bit in the middle of the body."""
    ignore_range: int = 0
    no_answer: int = 0
    """Close the connection before the status line."""
    wrong_content_range: int = 0
    longer_body: int = 0
    """Announce and send more bytes than were asked for."""
    unannounced_extra: int = 0
    """Send more bytes than were asked for, without Content-Length."""
    changed_etag: int = 0
    """Claim other content in the answer to a GET."""
    no_linked_headers: int = 0
    no_etag: int = 0
    redirect_to: str | None = None
    """Instead of the storage server's address; `{path}` and `{n}` (a counter) are filled in."""
    # Of everything.
    statuses: list[int] = field(default_factory=list)
    """For one request to the hub each: answer with this status, 0 for none of it."""
    retry_after: str | None = None
    oversize_header: int = 0
    compressed: int = 0
    """Claim that the body is compressed."""
    # Of the API.
    gated: bool = False
    """The repository wants its licence accepted: files are refused even with the token."""
    token: str | None = None
    """Files are refused without it."""
    no_tree: bool = False
    api_body: bytes | None = None
    """Answer this to every API request."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One request as it came."""

    server: str
    """`hub` or `cdn`."""
    method: str
    path: str
    range: str | None
    authorization: str | None


class LoopbackHub:
    """A context manager that serves the repositories `root/<owner>/<model>/<file>`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.faults = Faults()
        self.seen: list[Seen] = []
        self.bytes_served = 0
        """Bytes of bodies of files, by both servers."""
        self.lock = threading.Lock()
        self._servers: list[_Server] = []

    @cached_property
    def endpoint(self) -> str:
        return self._servers[0].address

    @cached_property
    def cdn(self) -> str:
        return self._servers[1].address

    def env(self, home: Path, **more: str) -> dict[str, str]:
        """Return the variables that point a client here and nowhere else."""
        return {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), **more}

    def files_asked(self) -> list[Seen]:
        """Return the GET requests for files that reached the storage server."""
        return [s for s in self.seen if s.server == "cdn" and s.method == "GET"]

    def commit(self, repository: str) -> str:
        """Return the repository's commit: it changes with the content of its files."""
        digest = hashlib.sha1(repository.encode(), usedforsecurity=False)
        for path in self.paths(repository):
            digest.update(path.encode() + (self.root / repository / path).read_bytes())
        return digest.hexdigest()

    def paths(self, repository: str) -> list[str]:
        base = self.root / repository
        return sorted(str(p.relative_to(base)) for p in base.rglob("*") if p.is_file())

    def take(self, fault: str) -> bool:
        """Count a fault down; answer whether it happens now."""
        with self.lock:
            left = int(getattr(self.faults, fault))
            if left > 0:
                setattr(self.faults, fault, left - 1)
            return left > 0

    def take_first(self, fault: str) -> int | None:
        with self.lock:
            values: list[int] = getattr(self.faults, fault)
            return values.pop(0) if values else None

    def record(self, seen: Seen) -> None:
        with self.lock:
            self.seen.append(seen)

    def served(self, count: int) -> None:
        with self.lock:
            self.bytes_served += count

    def __enter__(self) -> LoopbackHub:
        for role in ("hub", "cdn"):
            server = _Server(self, role)
            self._servers.append(server)
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for server in self._servers:
            server.shutdown()
            server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = True

    def __init__(self, hub: LoopbackHub, role: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub = hub
        self.role = role

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 10

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests are in `hub.seen`."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        hub = self.server.hub
        # A client that speaks through a proxy sends the whole address.
        path = urllib.parse.urlsplit(self.path).path
        query = urllib.parse.urlsplit(self.path).query
        self.close_connection = True
        hub.record(
            Seen(
                self.server.role,
                self.command,
                path,
                self.headers.get("Range"),
                self.headers.get("Authorization"),
            )
        )
        if hub.take("no_answer"):
            return
        status = hub.take_first("statuses") if self.server.role == "hub" else None
        if status:
            self._answer(status, b"no", self._retry_after())
        elif self.server.role == "cdn":
            self._serve_stored(path)
        elif path.startswith("/api/models/"):
            self._serve_api(path.removeprefix("/api/models/"), query)
        else:
            self._serve_resolve(path)

    def _retry_after(self) -> dict[str, str]:
        value = self.server.hub.faults.retry_after
        return {"Retry-After": value} if value else {}

    def _serve_api(self, rest: str, query: str) -> None:
        hub, parts = self.server.hub, rest.split("/")
        repository = "/".join(parts[:2])
        if hub.faults.api_body is not None:
            return self._answer(200, hub.faults.api_body)
        if not (hub.root / repository).is_dir():
            code = {"X-Error-Code": "RepoNotFound"}
            return self._answer(404 if "Authorization" in self.headers else 401, b"", code)
        revision = urllib.parse.unquote(parts[3]) if len(parts) > 3 else _REVISION
        if revision not in (_REVISION, hub.commit(repository)):
            return self._answer(404, b"", {"X-Error-Code": "RevisionNotFound"})
        if len(parts) > 2 and parts[2] == "tree":
            return self._serve_tree(repository, query)
        info = {
            "id": repository,
            "sha": hub.commit(repository),
            "siblings": [{"rfilename": path} for path in hub.paths(repository)],
        }
        return self._answer_json(info)

    def _serve_tree(self, repository: str, query: str) -> None:
        hub = self.server.hub
        if hub.faults.no_tree:
            return self._answer(404, b"")
        entries = []
        for path in hub.paths(repository):
            data = (hub.root / repository / path).read_bytes()
            entry: dict[str, object] = {"type": "file", "path": path, "size": len(data)}
            if path.endswith(".gguf"):
                entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data)}
            entries.append(entry)
        # Two pages, so that a client has to follow the link.
        half = (len(entries) + 1) // 2
        if "cursor=2" in query:
            return self._answer_json(entries[half:])
        url = f"{hub.endpoint}/api/models/{repository}/tree/{_REVISION}?recursive=true&cursor=2"
        return self._answer_json(entries[:half], {"Link": f'<{url}>; rel="next"'})

    def _serve_resolve(self, path: str) -> None:
        hub = self.server.hub
        found = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        if found is None:
            return self._answer(404, b"")
        repository, name = found[1], urllib.parse.unquote(found[3])
        if hub.faults.gated:
            return self._answer(403, b"", {"X-Error-Code": "GatedRepo"})
        token = hub.faults.token
        if token is not None and self.headers.get("Authorization") != f"Bearer {token}":
            return self._answer(401, b"", {"X-Error-Code": "GatedRepo"})
        if name not in hub.paths(repository):
            return self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
        data = (hub.root / repository / name).read_bytes()
        headers = {"X-Repo-Commit": hub.commit(repository)}
        if not name.endswith(".gguf"):
            return self._serve_bytes(data, headers)
        if not hub.take("no_linked_headers"):
            headers["X-Linked-Size"] = str(len(data))
            headers["X-Linked-Etag"] = f'"{self._content_name(data)}"'
        counter = len(hub.seen)
        headers["Location"] = (
            hub.faults.redirect_to.format(path=path, n=counter)
            if hub.faults.redirect_to is not None
            else f"{hub.cdn}/{repository}/{urllib.parse.quote(name)}?signature=abc"
        )
        return self._answer(302, b"", headers)

    def _content_name(self, data: bytes) -> str:
        changed = self.command == "GET" and self.server.hub.take("changed_etag")
        return hashlib.sha256(data + b"changed" if changed else data).hexdigest()

    def _serve_stored(self, path: str) -> None:
        file = self.server.hub.root / urllib.parse.unquote(path).lstrip("/")
        if not file.is_file():
            return self._answer(404, b"")
        return self._serve_bytes(file.read_bytes(), {})

    def _serve_bytes(self, data: bytes, headers: dict[str, str]) -> None:
        """Answer with a file or the range of it that is asked for, with the faults that are due."""
        hub, size = self.server.hub, len(data)
        headers["Accept-Ranges"] = "bytes"
        if not hub.take("no_etag"):
            headers["ETag"] = f'"{hashlib.md5(data, usedforsecurity=False).hexdigest()}"'
        if self.command == "HEAD":
            return self._answer(200, data, headers)
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        status = 200
        if asked and not hub.take("ignore_range"):
            start, last = int(asked[1]), min(int(asked[2] or size), size - 1)
            if start >= size:
                return self._answer(416, b"", {"Content-Range": f"bytes */{size}"})
            if hub.take("wrong_content_range"):
                headers["Content-Range"] = f"bytes {start + 1}-{last + 1}/{size + 1}"
            else:
                headers["Content-Range"] = f"bytes {start}-{last}/{size}"
            data, status = data[start : last + 1], 206
        if data and hub.take("wrong_bytes"):
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        if hub.take("longer_body"):
            data += b"more"
        announce = True
        if hub.take("unannounced_extra"):
            data, announce = data + b"more", False
        return self._answer(
            status,
            data,
            headers,
            stop=hub.take_first("break_after"),
            announce=announce,
            counted=True,
        )

    def _answer_json(self, value: object, headers: dict[str, str] | None = None) -> None:
        self._answer(
            200, json.dumps(value).encode(), {"Content-Type": "application/json", **(headers or {})}
        )

    def _answer(
        self,
        status: int,
        body: bytes,
        headers: dict[str, str] | None = None,
        *,
        stop: int | None = None,
        announce: bool = True,
        counted: bool = False,
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if self.server.hub.take("oversize_header"):
            self.send_header("X-Filler", "x" * 100_000)
        if self.server.hub.take("compressed"):
            self.send_header("Content-Encoding", "gzip")
        if announce:
            self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        try:
            self.end_headers()
            if self.command != "HEAD":
                self._send_body(body if stop is None else body[:stop], counted)
        except (BrokenPipeError, ConnectionResetError):
            return  # the client has had enough

    def _send_body(self, body: bytes, counted: bool) -> None:
        for at in range(0, len(body), _WRITE_BYTES):
            piece = body[at : at + _WRITE_BYTES]
            self.wfile.write(piece)
            if counted:
                self.server.hub.served(len(piece))
