"""A client of a Hugging Face compatible hub: which files a repository has, and the bytes of one of
them.

Writes nothing to disk and keeps nothing between calls; blocking, so it is called from a thread.
Files are always asked for by commit, so that they cannot change under a download; where a mirror
lets them, the change is noticed. Source: the hub's HTTP API (`/api/models`,
`/api/models/.../tree`, `/resolve`), as huggingface.co serves it.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import TypeVar

from kwaai.errors import AccessDenied, DownloadFailed, KwaaiError, ModelNotFound
from kwaai.limits import HUB_FILE_BYTES_MAX, HUB_FILES_MAX, HUB_JSON_BYTES_MAX, HUB_TREE_PAGES_MAX
from kwaai.models.http_client import (
    REDIRECTS,
    TRANSIENT_STATUSES,
    Answer,
    Hop,
    Patience,
    Retrier,
    Transient,
    Transport,
    retry_after_s,
    shown,
)
from kwaai.models.hub_names import ModelRef, choose_file, parse_model_ref
from kwaai.models.hub_settings import HubSettings

__all__ = [
    "FileChanged",
    "Hub",
    "HubSettings",
    "ModelRef",
    "RangesIgnored",
    "RemoteFile",
    "parse_model_ref",
]

T = TypeVar("T")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_DEFAULT_REVISION = "main"


class FileChanged(Exception):
    """The hub now serves another file under this name: what was fetched before is of no use. Stays
    in kwaai.models.
    """


class RangesIgnored(Exception):
    """The hub answers a range with the whole file. Stays in kwaai.models."""


@dataclass(frozen=True, slots=True)
class Repository:
    ref: ModelRef
    commit: str
    paths: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file at one commit, and what the hub says about its content."""

    repository: str
    commit: str
    path: str
    size: int
    etag: str
    etag_is_linked: bool
    """The hub's own name for the content (X-Linked-Etag), not the storage server's ETag."""
    sha256: str | None
    """Of the whole file, where the hub keeps it in large file storage; else nothing to verify
    against.
    """


class Hub:
    """One hub, as one person sees it."""

    def __init__(self, settings: HubSettings, patience: Patience | None = None) -> None:
        self.settings = settings
        self._patience = patience or Patience()
        self._transport = Transport(settings.endpoint, settings.token, self._patience)

    def repository(self, ref: ModelRef) -> Repository:
        """Fetch the list of a repository's files at `ref`'s revision (the default branch when it
        names none).
        """
        revision = f"/revision/{_quoted(ref.revision)}" if ref.revision else ""
        what = f"{ref.repository}@{ref.revision}" if ref.revision else ref.repository
        info, _ = self._json(f"/api/models/{ref.repository}{revision}", what)
        siblings = info.get("siblings") if isinstance(info, dict) else None
        if (
            not isinstance(info, dict)
            or not isinstance(siblings, list)
            or len(siblings) > HUB_FILES_MAX
        ):
            raise DownloadFailed(
                f"{self.settings.endpoint} does not speak a model hub's API: check HF_ENDPOINT"
            )
        names = (s.get("rfilename") for s in siblings if isinstance(s, dict))
        sha = info.get("sha")
        commit = (
            sha
            if isinstance(sha, str) and _COMMIT.fullmatch(sha)
            else ref.revision or _DEFAULT_REVISION
        )
        return Repository(ref, commit, tuple(n for n in names if isinstance(n, str)))

    def locate(self, ref: ModelRef) -> tuple[RemoteFile, Repository]:
        """Find the one file that `ref` means, with its size and hash."""
        repository = self.repository(ref)
        return self.stat(repository, choose_file(ref, repository.paths)), repository

    def stat(self, repository: Repository, path: str) -> RemoteFile:
        """Ask what the hub knows of a file: size, name of the content, SHA-256 if there is one."""
        name, commit = repository.ref.repository, repository.commit
        linked, etag, length = self._retried(
            "HEAD",
            self._resolve_url(name, commit, path),
            f"{name}: {path}",
            _described,
            _says_too_little,
        )
        sha256 = etag if linked and _SHA256.fullmatch(etag) else None
        if sha256 is None or length is None:
            listed = self._listed(name, commit, path)
            if length is not None and listed.get("size", length) != length:
                raise DownloadFailed(f"{name}: the hub gives two sizes for {path}; try again later")
            length = _size(listed.get("size")) if length is None else length
            sha256 = _listed_sha256(listed) or sha256
        if length is None:
            raise DownloadFailed(
                f"{name}: the hub does not say how large {path} is; check HF_ENDPOINT"
            )
        return RemoteFile(name, commit, path, length, etag, linked, sha256)

    def fetch(self, file: RemoteFile, start: int, stop: int) -> Generator[bytes, None, None]:
        """Yield the bytes [start, stop) of a file in order, over as many connections as it takes.

        Raises FileChanged, RangesIgnored, DownloadFailed.
        """
        retrier = Retrier(self._patience, f"fetching {file.path}")
        at = start
        while at < stop:
            try:
                with self._ranged(file, at, stop) as answer:
                    for data in answer.chunks():
                        if at + len(data) > stop:
                            raise DownloadFailed(
                                f"the hub sends more of {file.path} than it announced: refused"
                            )
                        at += len(data)
                        retrier.progressed()
                        yield data
                if at < stop:
                    raise Transient(f"the connection ended {stop - at} bytes early")
            except Transient as error:
                retrier.failed(error)

    def fetch_small(self, repository: Repository, path: str, limit_bytes: int) -> bytes:
        """Fetch a whole small file. Raises DownloadFailed when it has more than `limit_bytes`."""
        what = f"{repository.ref.repository}: {path}"
        url = self._resolve_url(repository.ref.repository, repository.commit, path)
        return self._retried("GET", url, what, lambda answer: answer.read_all(limit_bytes))

    def _ranged(self, file: RemoteFile, start: int, stop: int) -> Answer:
        """Open a connection that yields exactly [start, stop), or say why not. Raises Transient
        too.
        """
        whole = (start, stop) == (0, file.size)
        url = self._resolve_url(file.repository, file.commit, file.path)
        answer = self._transport.open(
            "GET", url, {} if whole else {"Range": f"bytes={start}-{stop - 1}"}
        )
        try:
            if answer.status == 416:
                raise FileChanged(f"{file.path} is shorter than it was")
            self._check(answer, f"{file.repository}: {file.path}")
            _check_same(file, answer)
            if answer.status == 200 and not whole:
                raise RangesIgnored(
                    f"{self.settings.endpoint} does not serve ranges of {file.path}"
                )
            if answer.status == 206 and answer.header("content-range") not in (
                f"bytes {start}-{stop - 1}/{file.size}",
                f"bytes {start}-{stop - 1}/*",
            ):
                given = shown(answer.header("content-range"))
                raise Transient(
                    f"asked for bytes {start}-{stop - 1}, got Content-Range {given or 'none'}"
                )
            if answer.status not in (200, 206) or answer.length() not in (None, stop - start):
                raise Transient(
                    f"asked for {stop - start} bytes, got {answer.length()} (status "
                    f"{answer.status})"
                )
        except BaseException:
            answer.close()
            raise
        return answer

    def _resolve_url(self, repository: str, commit: str, path: str) -> str:
        file = f"{_quoted(commit)}/{urllib.parse.quote(path)}"
        return f"{self.settings.endpoint}/{repository}/resolve/{file}"

    def _listed(self, name: str, commit: str, path: str) -> dict[str, object]:
        """Return the file's entry of the repository's tree; empty where the hub offers no tree."""
        url: str | None = f"/api/models/{name}/tree/{_quoted(commit)}?recursive=true"
        for _ in range(HUB_TREE_PAGES_MAX):
            if url is None:
                break
            try:
                page, following = self._json(url, name)
            except ModelNotFound:
                return {}  # a mirror without trees: less can be verified, and the record says so
            for entry in page if isinstance(page, list) else []:
                if isinstance(entry, dict) and entry.get("path") == path:
                    return entry
            url = following
        return {}

    def _json(self, path: str, what: str) -> tuple[object, str | None]:
        """GET an API path. Returns the decoded body and the path of the next page."""
        body, link = self._retried(
            "GET",
            self.settings.endpoint + path,
            what,
            lambda answer: (answer.read_all(HUB_JSON_BYTES_MAX), answer.header("link")),
        )
        try:
            return json.loads(body), self._next_page(link)
        except (ValueError, RecursionError) as error:
            raise DownloadFailed(
                f"{self.settings.endpoint} does not speak a model hub's API (no JSON): check "
                "HF_ENDPOINT"
            ) from error

    def _next_page(self, link: str | None) -> str | None:
        found = re.search(r'<([^<>\s]+)>\s*;\s*rel="next"', link or "")
        if found is None or not found[1].startswith(self.settings.endpoint + "/api/"):
            return None
        return found[1].removeprefix(self.settings.endpoint)

    def _retried(
        self,
        method: str,
        url: str,
        what: str,
        read: Callable[[Answer], T],
        follow: Callable[[Hop], bool] = lambda _: True,
    ) -> T:
        """Send a request until it is answered, and return what `read` makes of the answer."""
        retrier = Retrier(self._patience, what)
        while True:
            try:
                with self._transport.open(method, url, follow=follow) as answer:
                    self._check(answer, what)
                    return read(answer)
            except Transient as error:
                retrier.failed(error)

    def _check(self, answer: Answer, what: str) -> None:
        """Raise what an answer's status means, unless it is a good one."""
        status, reason = answer.status, shown(answer.header("x-error-message"))
        if status in (200, 206) or (status in REDIRECTS and not _says_too_little(answer.hops[-1])):
            return
        if status in TRANSIENT_STATUSES:
            wait_s = retry_after_s(answer.header("retry-after"), self._patience.now())
            raise Transient(f"the hub answers with status {status}", retry_after_s=wait_s)
        raise self._refusal(status, answer.first("x-error-code"), what, reason)

    def _refusal(self, status: int, code: str | None, what: str, reason: str) -> KwaaiError:
        endpoint = self.settings.endpoint
        if code == "RevisionNotFound":
            return ModelNotFound(
                f"{what} does not exist at {endpoint}: the model is there, the revision is not. "
                "Leave it out for the newest",
                param="model",
            )
        if status == 404 or code in ("RepoNotFound", "EntryNotFound"):
            private = "" if self._transport.has_token else ", or is private: then set HF_TOKEN"
            return ModelNotFound(
                f"{what} does not exist at {endpoint}{private}. Check the spelling", param="model"
            )
        if status in (401, 403):
            token = (
                "the token that is set does not give access"
                if self._transport.has_token
                else "set HF_TOKEN to a token of yours"
            )
            return AccessDenied(
                f"{what} is gated at {endpoint} (status {status}): accept its licence on its page "
                f"there, and {token}",
                param="model",
            )
        return DownloadFailed(
            f"{what}: {endpoint} answers with status {status}{': ' if reason else ''}{reason}"
        )


def _says_too_little(hop: Hop) -> bool:
    """Answer whether a redirect has to be followed to learn a file's size and content."""
    return not ("x-linked-etag" in hop.headers and "x-linked-size" in hop.headers)


def _described(answer: Answer) -> tuple[bool, str, int | None]:
    """Return (whether the hub names the content itself, that name, the size) from the answer to a
    HEAD.
    """
    linked, size = answer.first("x-linked-etag"), answer.first("x-linked-size")
    return (
        linked is not None,
        _bare(linked or answer.header("etag")),
        _size(size) if size else answer.length(),
    )


def _check_same(file: RemoteFile, answer: Answer) -> None:
    """Raise FileChanged when an answer to a GET is about other content than `file`."""
    now = answer.first("x-linked-etag") if file.etag_is_linked else answer.header("etag")
    if now is not None and file.etag and _bare(now) != file.etag:
        raise FileChanged(f"{file.path} changed on the hub while it was fetched")


def _bare(etag: str | None) -> str:
    return (etag or "").strip().removeprefix("W/").strip('"')[:200]


def _size(value: object) -> int | None:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,18}", value):
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return None
    if not 0 <= value <= HUB_FILE_BYTES_MAX:
        raise DownloadFailed(f"the hub says that a file has {value} bytes: refused")
    return value


def _listed_sha256(entry: dict[str, object]) -> str | None:
    lfs = entry.get("lfs")
    oid = lfs.get("oid") if isinstance(lfs, dict) else None
    oid = oid.removeprefix("sha256:") if isinstance(oid, str) else ""
    return oid if _SHA256.fullmatch(oid) else None


def _quoted(revision: str) -> str:
    return urllib.parse.quote(revision, safe="")
