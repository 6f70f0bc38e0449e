"""Asks the running node of this home, over its Unix socket `run/kwaai.sock`.

Standard library only, so that a command answers at once; blocking, every wait with a deadline. The
other side is `kwaai.api.control`, the routes are in docs/protocol/control.md.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from kwaai.errors import (
    KwaaiError,
    NodeNotRunning,
    PeerError,
    ResourceError,
    UserError,
    error_from_code,
)
from kwaai.limits import (
    CIRCUIT_CONTROL_TIMEOUT_S,
    CONTROL_LINE_BYTES_MAX,
    CONTROL_TIMEOUT_S,
    CREDENTIAL_CONTROL_TIMEOUT_S,
    INTENT_CONTROL_TIMEOUT_S,
    P2P_TIMEOUT_S,
)
from kwaai.store.home import Home
from kwaai.store.unix_socket import connect_unix, control_socket

Json = dict[str, Any]

_START = "start one with: kwaainet start --daemon"


class ControlClient:
    """The running node of a home. Every method raises NodeNotRunning where there is none, and what
    the node answered with otherwise.
    """

    def __init__(self, home: Home) -> None:
        self._path = control_socket(home)
        self._home = home.path

    def is_running(self) -> bool:
        """Say whether a node listens."""
        try:
            connect_unix(self._path, CONTROL_TIMEOUT_S).close()
        except OSError:
            return False
        return True

    def status(self, timeout_s: float = CONTROL_TIMEOUT_S) -> Json:
        """Return a NodeStatus."""
        return self._ask("GET", "status", None, timeout_s)

    def p2p_info(self) -> Json:
        """Return a P2pInfo."""
        return self._ask("GET", "p2p", None)

    def peers(self) -> list[Json]:
        """Return PeerRows."""
        return list(self._ask("GET", "peers", None)["peers"])

    def ping(self, peer: str, timeout_s: float = P2P_TIMEOUT_S) -> float:
        """Return the seconds of one round trip to a peer."""
        body = {"peer": peer, "timeout_s": timeout_s}
        return float(self._ask("POST", "ping", body, timeout_s + CONTROL_TIMEOUT_S)["rtt_s"])

    def connect(self, address: str, timeout_s: float = P2P_TIMEOUT_S) -> str:
        """Connect to a multiaddress; return the PeerId there."""
        body = {"address": address, "timeout_s": timeout_s}
        return str(self._ask("POST", "connect", body, timeout_s + CONTROL_TIMEOUT_S)["peer"])

    def chain(self, model: str = "", *, refresh: bool = True) -> Json:
        """Return a ChainView."""
        return self._ask("POST", "chain", {"model": model, "refresh": refresh})

    def serve(self, model: str, start: int | None, stop: int | None) -> Generator[Json, None, None]:
        """Yield notes, then `served`: a ServedRow. Without a range the node chooses."""
        return self._stream("serve", {"model": model, "start": start, "stop": stop}, "served")

    def unserve(
        self, model: str, start: int | None, stop: int | None
    ) -> Generator[Json, None, None]:
        """Yield `withdrawn` with the ranges, once their sessions have ended."""
        return self._stream("unserve", {"model": model, "start": start, "stop": stop}, "withdrawn")

    def answer(
        self, chat: Json, *, route: str | None, privacy: str | None
    ) -> Generator[Json, None, None]:
        """Yield `model`, `path`, `delta`, and last `finished`. Closing it ends the answer."""
        return self._stream(
            "answer", {"chat": chat, "route": route, "privacy": privacy}, "finished"
        )

    def drain(self, grace_s: float) -> Generator[Json, None, None]:
        """Yield `drained` once no session is left, or the time is over."""
        return self._stream("drain", {"grace_s": grace_s}, "drained")

    def stop(self, grace_s: float) -> None:
        """Tell the node to stop; it does so after this has returned."""
        self._ask("POST", "stop", {"grace_s": grace_s})

    def credential_requests(self) -> list[Json]:
        """Return RequestViews, ours and those of peers."""
        return list(self._ask("GET", "credentials/requests", None)["requests"])

    def credential_request(self, peer: str, kind: str, claims: Json, note: str) -> Json:
        """Ask a peer for a credential; return a RequestView."""
        body = {"peer": peer, "kind": kind, "claims": claims, "note": note}
        return self._ask("POST", "credentials/request", body, CREDENTIAL_CONTROL_TIMEOUT_S)

    def credential_offer(self, peer: str, credential: str, note: str) -> Json:
        """Offer a peer a credential; return a RequestView."""
        body = {"peer": peer, "credential": credential, "note": note}
        return self._ask("POST", "credentials/offer", body, CREDENTIAL_CONTROL_TIMEOUT_S)

    def credential_approve(self, request_id: str, claims: Json | None) -> Json:
        """Issue what a peer asked for, or keep what it offered; return a RequestView."""
        body = {"id": request_id, "claims": claims}
        return self._ask("POST", "credentials/approve", body, CREDENTIAL_CONTROL_TIMEOUT_S)

    def credential_refuse(self, request_id: str, reason: str) -> Json:
        """Refuse a peer's request or offer; return a RequestView."""
        body = {"id": request_id, "reason": reason}
        return self._ask("POST", "credentials/refuse", body, CREDENTIAL_CONTROL_TIMEOUT_S)

    def credential_fetch(self, peer: str, kinds: list[str], *, keep: bool) -> Json:
        """Ask a peer what it holds about itself; return ShownCredentials."""
        body = {"peer": peer, "kinds": kinds, "keep": keep}
        return self._ask("POST", "credentials/fetch", body, CREDENTIAL_CONTROL_TIMEOUT_S)

    def status_list(self, url: str) -> str:
        """Return a status list as JSON text."""
        answer = self._ask("POST", "credentials/status", {"url": url}, CREDENTIAL_CONTROL_TIMEOUT_S)
        return str(answer["credential"])

    def trust_peers(self) -> Json:
        """Return TrustRows."""
        return self._ask("GET", "trust/peers", None)

    def trust_policy(self) -> Json:
        """Return a PolicyView."""
        return self._ask("GET", "trust/policy", None)

    def trust_show(self, peer: str) -> Json:
        """Return the TrustDetail of a peer."""
        return self._ask("POST", "trust/show", {"peer": peer})

    def trust_explain(self, peer: str) -> Json:
        """Return the ExplanationView of a peer."""
        return self._ask("POST", "trust/explain", {"peer": peer})

    def trust_set_roots(self, roots: list[str]) -> Json:
        """Have the node trust exactly these DIDs as roots; return a PolicyView."""
        return self._ask("POST", "trust/roots", {"roots": roots})

    def trust_endorse(self, peer: str, statement: str, interactions: int | None) -> Json:
        """Endorse a peer and offer it the credential; return a RequestView."""
        body = {"peer": peer, "statement": statement, "interactions": interactions}
        return self._ask("POST", "trust/endorse", body, CREDENTIAL_CONTROL_TIMEOUT_S)

    def trust_graph(self, depth: int) -> Json:
        """Return a GraphView."""
        return self._ask("POST", "trust/graph", {"depth": depth})

    def trust_receipts(self, peer: str = "") -> list[Json]:
        """Return ReceiptRows of a peer, or of all."""
        return list(self._ask("POST", "trust/receipts", {"peer": peer})["receipts"])

    def trust_refresh(self, peer: str = "") -> int:
        """Ask a peer, or all, what it holds; return how many credentials hold now."""
        body = {"peer": peer}
        answer = self._ask("POST", "trust/refresh", body, CREDENTIAL_CONTROL_TIMEOUT_S)
        return int(answer["credentials"])

    def intent_explain(self, body: Json) -> Json:
        """Say which path meets a demand, or why none does; return an IntentView."""
        return self._ask("POST", "intent/explain", body, INTENT_CONTROL_TIMEOUT_S)

    def intent_cast(self, body: Json) -> Json:
        """Ask peers what they would do for a demand; return a CastView."""
        return self._ask("POST", "intent/cast", body, INTENT_CONTROL_TIMEOUT_S)

    def circuit_create(self, body: Json) -> Json:
        """Have the node pin a path; return a CircuitView."""
        return self._ask("POST", "circuits/create", body, CIRCUIT_CONTROL_TIMEOUT_S)

    def circuits(self) -> list[Json]:
        """Return CircuitViews."""
        return list(self._ask("GET", "circuits", None)["circuits"])

    def circuit_show(self, circuit: str) -> Json:
        """Return the CircuitView of one."""
        return self._ask("POST", "circuits/show", {"circuit": circuit})

    def circuit_close(self, circuit: str) -> Json:
        """End a circuit; return what it was, a CircuitView."""
        return self._ask("POST", "circuits/close", {"circuit": circuit})

    def _ask(
        self, method: str, route: str, body: Json | None, timeout_s: float = CONTROL_TIMEOUT_S
    ) -> Json:
        with self._request(method, route, body, timeout_s) as response:
            data = response.read(CONTROL_LINE_BYTES_MAX + 1)
            return _object(data)

    def _stream(self, route: str, body: Json, last: str) -> Generator[Json, None, None]:
        """Yield events up to the one called `last`. Raises what an `error` event tells."""
        with self._request("POST", route, body, CONTROL_TIMEOUT_S) as response:
            while line := response.readline(CONTROL_LINE_BYTES_MAX + 1):
                if line == b"\n":
                    continue
                event = _object(line)
                kind = event.get("event")
                if kind == "error":
                    raise _error_of(event)
                yield event
                if kind == last:
                    return
        raise ResourceError("the node ended in the middle of its answer; see: kwaainet logs")

    @contextlib.contextmanager
    def _request(
        self, method: str, route: str, body: Json | None, timeout_s: float
    ) -> Iterator[http.client.HTTPResponse]:
        connection = _Connection(self._path, timeout_s)
        try:
            connection.connect()
        except OSError:
            raise self._not_running() from None
        try:
            data = None if body is None else json.dumps(body).encode()
            headers = {} if data is None else {"Content-Type": "application/json"}
            connection.request(method, f"/control/{route}", data, headers)
            response = connection.getresponse()
            if response.status >= 300:
                raise _error_of(_object(response.read(CONTROL_LINE_BYTES_MAX + 1)))
            yield response
        except TimeoutError:
            raise ResourceError(
                f"the node of {self._home} has not answered for {timeout_s:g} s; see: kwaainet "
                "logs, and kwaainet restart"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise ResourceError(
                f"the node of {self._home} ended before it had answered; see: kwaainet logs"
            ) from error
        finally:
            connection.close()

    def _not_running(self) -> NodeNotRunning:
        return NodeNotRunning(f"no node runs in {self._home}; {_START}")


class _Connection(http.client.HTTPConnection):
    """HTTP to a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path, self._timeout_s = path, timeout_s

    def connect(self) -> None:
        self.sock: socket.socket = connect_unix(self._path, self._timeout_s)


def _object(data: bytes) -> Json:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise ResourceError("the node's answer cannot be read: is it of another version?")
    return value


def _error_of(answer: Json) -> KwaaiError:
    told = answer.get("error")
    told = told if isinstance(told, dict) else {}
    error = error_from_code(
        str(told.get("code")),
        str(told.get("message", "the node gave no reason")),
        told.get("param"),
    )
    if isinstance(error, UserError) and error.code == "route_not_found":
        return ResourceError("the running node is of another version; run: kwaainet restart")
    error.retry_after_s = told.get("retry_after_s")
    if isinstance(error, PeerError):
        error.peer = told.get("peer")
    return error
