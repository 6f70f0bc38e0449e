"""One HTTP exchange at a time, bounded in every direction: redirects, bodies, waiting, retries.

Does not know what a model is, does not cache, and keeps no connection open between exchanges.
Proxies and certificate authorities come from the process's environment, as urllib and ssl read
them.
Source: RFC 9110 (redirects 15.4, Retry-After 10.2.3).
"""

from __future__ import annotations

import email.utils
import errno
import http.client
import random
import re
import socket
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import cast

from kwaai import __version__
from kwaai.errors import DownloadFailed
from kwaai.limits import (
    HUB_ANSWER_TIMEOUT_S,
    HUB_ATTEMPTS_MAX,
    HUB_BACKOFF_S_MAX,
    HUB_READ_BYTES,
    HUB_RECONNECTS_MAX,
    HUB_REDIRECTS_MAX,
    HUB_RETRY_AFTER_S_MAX,
    HUB_TIMEOUT_S,
)

REDIRECTS = frozenset({301, 302, 303, 307, 308})
TRANSIENT_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})
_BACKOFF_FIRST_S = 0.5
_LOCAL_HOSTS = frozenset({"localhost", "127.0.0.1", "::1"})


class Transient(Exception):
    """This attempt failed, another may not. A Retrier turns the last one into DownloadFailed."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


def shown(text: str | None, limit: int = 120) -> str:
    """Return a stranger's text fit for one line of a message: printable, and short."""
    printable = re.sub(r"[^\x20-\x7e]", "?", text or "")
    return printable if len(printable) <= limit else printable[:limit] + "..."


def origin(url: str) -> tuple[str, str, int]:
    """Return (scheme, host, port) of an http(s) URL. Raises ValueError for anything else."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an http or https address: {shown(url)}")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address with a user name or password in it is refused")
    return parts.scheme, parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long to try, and the clocks to try with. Tests give their own `sleep`, `clock`, `now`
    and `jitter`.
    """

    attempts: int = HUB_ATTEMPTS_MAX
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    jitter: Callable[[], float] = random.random
    """In [0, 1): spreads the waiting of many clients."""


@dataclass(slots=True)
class Retrier:
    """Counts the failures of a task and waits between its attempts: the one place that retries."""

    patience: Patience
    what: str
    _in_a_row: int = 0
    _total: int = 0

    def progressed(self) -> None:
        self._in_a_row = 0

    def failed(self, error: Transient) -> None:
        """Wait before the next attempt. Raises DownloadFailed when there is to be none."""
        self._in_a_row += 1
        self._total += 1
        asked_s = error.retry_after_s or 0.0
        if asked_s > HUB_RETRY_AFTER_S_MAX:
            raise DownloadFailed(
                f"{self.what}: {error}; the hub asks to wait {asked_s:.0f} s: try again then",
                retry_after_s=asked_s,
            ) from error
        if self._in_a_row >= self.patience.attempts or self._total >= HUB_RECONNECTS_MAX:
            raise DownloadFailed(
                f"{self.what}: {error}; gave up after {self._in_a_row} attempts: run the same "
                "command again to continue from here"
            ) from error
        backoff_s = min(_BACKOFF_FIRST_S * 2.0 ** (self._in_a_row - 1), HUB_BACKOFF_S_MAX)
        self.patience.sleep(max(asked_s, backoff_s * (0.5 + 0.5 * self.patience.jitter())))


@dataclass(frozen=True, slots=True)
class Hop:
    url: str
    status: int
    headers: Mapping[str, str]
    """Names in lower case."""


@dataclass(slots=True)
class Answer:
    """The last response of a chain of redirects, and the headers of all. A context manager that
    closes it.
    """

    hops: tuple[Hop, ...]
    _response: http.client.HTTPResponse = field(repr=False)
    _clock: Callable[[], float] = field(repr=False)

    @property
    def status(self) -> int:
        return self.hops[-1].status

    @property
    def url(self) -> str:
        return self.hops[-1].url

    def header(self, name: str) -> str | None:
        return self.hops[-1].headers.get(name)

    def first(self, name: str) -> str | None:
        """Return the header from the first hop that has it on the origin that was asked."""
        asked = origin(self.hops[0].url)
        return next(
            (h.headers[name] for h in self.hops if name in h.headers and origin(h.url) == asked),
            None,
        )

    def length(self) -> int | None:
        value = self.header("content-length")
        return int(value) if value and re.fullmatch(r"[0-9]{1,18}", value) else None

    def chunks(self) -> Iterator[bytes]:
        """Yield the body as it comes. Ends early when the server does: the caller knows the length.

        Raises Transient when the connection breaks.
        """
        while True:
            try:
                data = self._response.read1(HUB_READ_BYTES)
            except (OSError, http.client.HTTPException) as error:
                raise Transient(
                    f"the connection broke ({shown(str(error)) or type(error).__name__})"
                ) from error
            if not data:
                return
            yield data

    def read_all(self, limit_bytes: int) -> bytes:
        """Read a body of at most `limit_bytes`. Raises DownloadFailed for more, Transient for less
        than announced.
        """
        deadline = self._clock() + HUB_ANSWER_TIMEOUT_S
        body = bytearray()
        for data in self.chunks():
            body += data
            if len(body) > limit_bytes:
                raise DownloadFailed(
                    f"{shown(self.url)} sent more than the {limit_bytes} bytes allowed here"
                )
            if self._clock() > deadline:
                raise Transient(
                    f"{shown(self.url)} takes longer than {HUB_ANSWER_TIMEOUT_S:.0f} s to answer"
                )
        announced = self.length()
        if announced is not None and len(body) < announced:
            raise Transient(f"{shown(self.url)} sent {len(body)} of {announced} bytes")
        return bytes(body)

    def close(self) -> None:
        self._response.close()

    def __enter__(self) -> Answer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Transport:
    """Sends requests to one endpoint and follows it elsewhere without taking the credentials
    along.
    """

    def __init__(self, endpoint: str, token: str | None, patience: Patience) -> None:
        self._home = origin(endpoint)
        self._endpoint = endpoint
        self._token = token if self._may_send_token() else None
        self._patience = patience
        self._openers: dict[str, urllib.request.OpenerDirector] = {}
        self._reached = False

    def _may_send_token(self) -> bool:
        scheme, host, _ = self._home
        return scheme == "https" or host in _LOCAL_HOSTS  # never in clear over a network

    @property
    def has_token(self) -> bool:
        return self._token is not None

    def open(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        follow: Callable[[Hop], bool] = lambda _: True,
    ) -> Answer:
        """Send one request and follow its redirects while `follow` says so.

        Returns the last response, whatever its status is. Raises Transient when there was none,
        and DownloadFailed when the endpoint cannot be reached at all or redirects to where nobody
        may be sent.
        """
        hops: list[Hop] = []
        while True:
            response = self._send(method, url, headers or {})
            hop = Hop(url, response.status, _lower(response.headers.items()))
            hops.append(hop)
            location = hop.headers.get("location")
            if response.status not in REDIRECTS or not location or not follow(hop):
                return _plain(Answer(tuple(hops), response, self._patience.clock))
            response.close()
            if len(hops) > HUB_REDIRECTS_MAX:
                raise DownloadFailed(
                    f"{shown(hops[0].url)} redirects more than {HUB_REDIRECTS_MAX} times; check "
                    "HF_ENDPOINT"
                )
            url = redirect_target(url, location)

    def _send(self, method: str, url: str, headers: Mapping[str, str]) -> http.client.HTTPResponse:
        request = urllib.request.Request(url, method=method, headers=dict(headers))
        request.add_header("Accept-Encoding", "identity")
        there = origin(url)
        if self._token is not None and there == self._home:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            response = self._opener(there[0]).open(request, timeout=HUB_TIMEOUT_S)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise self._explained(error, there) from error
        self._reached = True
        return cast(http.client.HTTPResponse, response)

    def _opener(self, scheme: str) -> urllib.request.OpenerDirector:
        if scheme not in self._openers:
            opener = urllib.request.OpenerDirector()
            opener.addheaders = [("User-Agent", f"kwaainet/{__version__}")]
            opener.add_handler(urllib.request.ProxyHandler())
            opener.add_handler(
                urllib.request.HTTPSHandler(context=ssl.create_default_context())
                if scheme == "https"
                else urllib.request.HTTPHandler()
            )
            self._openers[scheme] = opener
        return self._openers[scheme]

    def _explained(self, error: Exception, there: tuple[str, str, int]) -> Exception:
        """Return what to raise for a request that got no response."""
        cause = error.reason if isinstance(error, urllib.error.URLError) else error
        where = f"{there[0]}://{there[1]}:{there[2]}"
        if isinstance(cause, ssl.SSLCertVerificationError):
            return DownloadFailed(
                f"the certificate of {where} is not trusted ({shown(cause.verify_message)}): if "
                "your network has "
                "a certificate authority of its own, name its file in SSL_CERT_FILE"
            )
        if isinstance(cause, http.client.RemoteDisconnected):
            return Transient(f"{where} closed the connection without an answer")
        if isinstance(cause, (http.client.HTTPException, ValueError)):
            return DownloadFailed(
                f"{where} does not answer in proper HTTP "
                f"({shown(str(cause)) or type(cause).__name__}): "
                "check HF_ENDPOINT and the proxy settings"
            )
        reason = _unreachable_reason(cause)
        if not self._reached:
            return DownloadFailed(
                f"cannot reach the model hub {self._endpoint}: {reason}. Check the network and "
                "the proxy "
                "settings, or set HF_ENDPOINT to another hub"
            )
        return Transient(f"{where}: {reason}")


def _unreachable_reason(cause: object) -> str:
    if isinstance(cause, socket.gaierror):
        return "its name is not known here (DNS)"
    if isinstance(cause, TimeoutError):
        return f"no answer within {HUB_TIMEOUT_S:.0f} s"
    if isinstance(cause, OSError) and cause.errno == errno.ECONNREFUSED:
        return "the connection is refused"
    return shown(str(cause)) or type(cause).__name__


def _plain(answer: Answer) -> Answer:
    """Refuse a compressed body: we ask for none, and a length of it would mean nothing."""
    if (answer.header("content-encoding") or "identity").lower() != "identity":
        answer.close()
        raise DownloadFailed(
            f"{shown(answer.url)} answers compressed although it was asked not to: check the proxy"
        )
    return answer


def _lower(items: list[tuple[str, str]]) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in items:
        headers.setdefault(name.lower(), value)
    return headers


def redirect_target(url: str, location: str) -> str:
    target = urllib.parse.urljoin(url, location)
    try:
        scheme = origin(target)[0]
    except ValueError as error:
        raise DownloadFailed(f"{shown(url)} redirects to {shown(location)}: {error}") from error
    if origin(url)[0] == "https" and scheme == "http":
        raise DownloadFailed(
            f"{shown(url)} redirects from https to plain http: refused, check HF_ENDPOINT"
        )
    return target


def retry_after_s(value: str | None, now: float) -> float | None:
    """Parse a Retry-After header (seconds, or a date) into seconds from `now`; None when it says
    nothing usable.
    """
    if not value:
        return None
    if re.fullmatch(r"[0-9]{1,9}", value.strip()):
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - now)
    except (TypeError, ValueError, OverflowError):
        return None
