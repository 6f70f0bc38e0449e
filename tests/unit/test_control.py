"""The control socket: the real client against the real server; what is refused, and how it ends."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kwaai import limits
from kwaai.api.control import control_listening, create_control_app
from kwaai.cli.control import ControlClient
from kwaai.errors import (
    Busy,
    ConfigError,
    ModelNotFound,
    NodeNotRunning,
    NodeRunning,
    PeerUnreachable,
    ResourceError,
    UserError,
)
from kwaai.node.control import ServeRequest
from kwaai.store.home import Home, ensure_home
from kwaai.store.unix_socket import connect_unix, control_socket, listen_unix
from kwaai.testing.control import PEERS, FakeNode, serving
from kwaai.testing.generator import CARD
from kwaai.types import LayerRange

CHAT = {"model": CARD.name, "messages": [{"role": "user", "content": "What?"}], "max_tokens": 9}


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
def client(node: FakeNode, home: Home) -> Iterator[ControlClient]:
    with serving(node, control_socket(home)):
        yield ControlClient(home)


# Each question.


def test_status_and_network(client: ControlClient) -> None:
    status = client.status()
    assert (status["state"], status["peer"], status["pid"]) == ("online", PEERS[2], 42)
    assert status["services"][1]["problem"] == "port in use"
    assert client.p2p_info()["links"] == ["192.0.2.1:8081"]
    assert [row["name"] for row in client.peers()] == ["amber", "birch\x1b[2J"]
    assert client.is_running()


def test_ping_and_connect(client: ControlClient, node: FakeNode) -> None:
    assert client.ping("amber", 3.0) == 0.002
    assert client.connect("/ip4/192.0.2.7/tcp/1/p2p/x", 4.0) == PEERS[0]
    assert node.calls == [("ping", "amber", 3.0), ("connect", "/ip4/192.0.2.7/tcp/1/p2p/x", 4.0)]


def test_chain_says_what_is_missing_and_what_to_serve(client: ControlClient) -> None:
    view = client.chain("kwaai-demo", refresh=False)
    assert [row["layers"] for row in view["rows"]] == [
        {"start": 1, "stop": 3},
        {"start": 5, "stop": 7},
    ]
    assert view["gaps"] == view["missing"] == [{"start": 3, "stop": 5}]
    assert view["suggestion"] == {"start": 3, "stop": 5}


def test_serve_reports_what_it_does(client: ControlClient, node: FakeNode) -> None:
    events = list(client.serve("", 3, 5))
    assert [event["event"] for event in events] == ["note", "note", "served"]
    assert [event.get("text") for event in events[:2]] == ["cutting 2 layers", "loading 2 layers"]
    assert events[-1]["layers"] == {"start": 3, "stop": 5}
    list(client.serve("m", None, None))
    wanted = [ServeRequest("", LayerRange(3, 5)), ServeRequest("m", None)]
    assert [call[1] for call in node.calls] == wanted


def test_unserve_drain_and_stop(client: ControlClient, node: FakeNode) -> None:
    assert list(client.unserve("m", 1, 3)) == [
        {"event": "withdrawn", "ranges": [{"start": 1, "stop": 3}]}
    ]
    assert list(client.drain(2.5)) == [{"event": "drained", "cut_off": 1}]
    client.stop(1.0)
    assert node.calls[-1] == ("stop", 1.0)


def test_an_answer_comes_in_events(client: ControlClient, node: FakeNode) -> None:
    events = list(client.answer(CHAT, route="split", privacy="fast"))
    kinds = [event["event"] for event in events]
    assert kinds == ["model", "path", *["delta"] * (len(kinds) - 3), "finished"]
    assert events[0]["name"] == "kwaai-demo"
    assert events[1]["text"] == "here [0,1) -> amber [1,4) -> here [4,8)"
    assert events[1]["hops"][1]["dtype"] == "f16"
    assert "".join(e["text"] for e in events if e["event"] == "delta") == "Paris is the capital."
    assert events[-1]["finish_reason"] == "stop"
    assert events[-1]["path"]["predicted_tokens_s"] == {
        "alone": None,
        "peer": 12.34,
        "split": 23.45,
    }
    wanted = node.generator.requests[0]
    assert (wanted.route, wanted.privacy, wanted.max_tokens) == ("split", "fast", 9)


def test_no_model_means_the_nodes_own(client: ControlClient, node: FakeNode) -> None:
    events = list(client.answer({**CHAT, "model": ""}, route=None, privacy=None))
    assert events[0]["name"] == CARD.name
    assert node.generator.requests[0].route is None


# What goes wrong.


def test_the_nodes_errors_arrive_as_they_are(client: ControlClient, node: FakeNode) -> None:
    node.refusal = PeerUnreachable("no address of amber answers", peer=PEERS[0], retry_after_s=2.0)
    with pytest.raises(PeerUnreachable, match="no address of amber") as caught:
        client.ping("amber")
    assert (caught.value.peer, caught.value.retry_after_s) == (PEERS[0], 2.0)
    node.refusal = Busy("all sessions are taken", retry_after_s=1.0)
    with pytest.raises(Busy, match="all sessions"):
        list(client.serve("", 1, 2))
    node.refusal = RuntimeError("a defect")
    with pytest.raises(Exception, match="kwaainet logs") as defect:
        client.status()
    assert "a defect" not in str(defect.value)
    with pytest.raises(Exception, match="kwaainet logs"):
        list(client.drain(1.0))


def test_an_answer_that_breaks_says_so_after_what_came(
    client: ControlClient, node: FakeNode
) -> None:
    node.generator.failure = (2, PeerUnreachable("amber is gone", peer=PEERS[0]))
    texts: list[object] = []
    events = client.answer(CHAT, route=None, privacy=None)
    with pytest.raises(PeerUnreachable, match="amber is gone"):
        texts.extend(event.get("text") for event in events)
    assert texts[2:] == ["Paris", " is"]


def test_what_the_node_does_not_have(client: ControlClient) -> None:
    with pytest.raises(ModelNotFound, match="no model 'other'"):
        list(client.answer({**CHAT, "model": "other"}, route=None, privacy=None))


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda c: c.ping("", 1.0), "'peer'"),
        (lambda c: c.ping("x", -1.0), "'timeout_s'"),
        (lambda c: c.stop(1e9), "'grace_s'"),
        (lambda c: list(c.serve("", 5, 5)), "'start' below 'stop'"),
        (lambda c: list(c.serve("", 5, None)), "'start' below 'stop'"),
        (lambda c: list(c.serve("", -1, 4)), "'start'"),
        (lambda c: list(c.serve("m" * 1000, 0, 4)), "'model'"),
        (lambda c: list(c.answer(CHAT, route="best", privacy=None)), "'route'"),
        (lambda c: list(c.answer({**CHAT, "top_p": 7}, route=None, privacy=None)), "top_p"),
        (lambda c: list(c.answer({**CHAT, "mood": 1}, route=None, privacy=None)), "'mood'"),
    ],
)
def test_refused_with_the_parameters_name(call: object, words: str, client: ControlClient) -> None:
    with pytest.raises(UserError, match=words):
        call(client)  # type: ignore[operator]


def test_a_route_of_another_version(client: ControlClient) -> None:
    with pytest.raises(ResourceError, match="another version"):
        client._ask("GET", "teleport", None)


def test_who_goes_away_ends_the_answer(home: Home, node: FakeNode) -> None:
    node.generator.gate = asyncio.Semaphore(2)
    with serving(node, control_socket(home)) as loop:
        stream = ControlClient(home).answer(CHAT, route=None, privacy=None)
        with contextlib.closing(stream):
            while next(stream)["event"] != "delta":
                pass
        ended = asyncio.run_coroutine_threadsafe(node.generator.ended.get(), loop)
        assert ended.result(10) == "closed"


def test_a_quiet_stream_has_signs_of_life(
    client: ControlClient, node: FakeNode, monkeypatch: pytest.MonkeyPatch, home: Home
) -> None:
    monkeypatch.setattr(limits, "CONTROL_HEARTBEAT_S", 0.01)
    node.gate = asyncio.Event()
    with connect_unix(control_socket(home), 10.0) as connection:
        body = b'{"grace_s": 1}'
        connection.sendall(
            b"POST /control/drain HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
        )
        received = b""
        while received.count(b"1\r\n\n\r\n") < 3:  # chunks of one line break each
            received += connection.recv(4096)
    assert received.startswith(b"HTTP/1.1 200")


# The socket itself.


def test_no_node_is_said_with_what_to_do(home: Home) -> None:
    client = ControlClient(home)
    assert not client.is_running()
    with pytest.raises(NodeNotRunning, match="kwaainet start"):
        client.status()
    with pytest.raises(NodeNotRunning):
        list(client.drain(1.0))


def test_a_dead_nodes_socket_is_no_node_and_is_replaced(home: Home, node: FakeNode) -> None:
    path = control_socket(home)
    listen_unix(path).close()  # as a killed process leaves it
    assert path.is_socket()
    with pytest.raises(NodeNotRunning):
        ControlClient(home).status()
    with serving(node, path):
        assert ControlClient(home).status()["pid"] == 42
    assert not path.exists()


def test_only_the_owner_may_connect(home: Home, node: FakeNode) -> None:
    with serving(node, control_socket(home)):
        assert stat.S_IMODE(control_socket(home).stat().st_mode) == 0o600


def test_two_nodes_do_not_share_a_socket(home: Home, node: FakeNode, client: ControlClient) -> None:
    with (
        pytest.raises(NodeRunning, match="another node"),
        serving(FakeNode(), control_socket(home)),
    ):
        pass
    assert client.status()["pid"] == 42


def test_a_file_in_the_way_is_left_alone(home: Home) -> None:
    control_socket(home).write_text("mine")
    with pytest.raises(ConfigError, match="cannot listen"):
        listen_unix(control_socket(home))
    assert control_socket(home).read_text() == "mine"


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="needs /proc")
def test_a_path_that_is_too_long_for_a_socket(tmp_path: Path, node: FakeNode) -> None:
    home = ensure_home(tmp_path / ("long" * 20) / ("longer" * 15))
    assert len(os.fsencode(control_socket(home))) > 108
    with serving(node, control_socket(home)):
        assert ControlClient(home).status()["pid"] == 42
    assert not control_socket(home).exists()


async def test_a_crowd_is_turned_away(
    home: Home, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CONTROL_CONNECTIONS_MAX", 1)
    path = str(control_socket(home))
    async with control_listening(node, control_socket(home)):
        _, first = await asyncio.open_unix_connection(path)
        reader, second = await asyncio.open_unix_connection(path)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        second.close()
        first.close()


@pytest.mark.parametrize("answer", [b"not json", b"[1]", b"[" * 100_000, b""])
def test_an_answer_that_cannot_be_read(answer: bytes, home: Home) -> None:
    with pytest.raises(ResourceError, match=r"cannot be read|ended before"):
        _ask_somebody_else(
            home, b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer) + answer
        )


@pytest.mark.parametrize(
    "answer", [b"", b"SSH-2.0\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"]
)
def test_a_node_that_ends_before_it_has_answered(answer: bytes, home: Home) -> None:
    with pytest.raises(ResourceError, match=r"ended before|cannot be read"):
        _ask_somebody_else(home, answer)


def _ask_somebody_else(home: Home, answer: bytes) -> None:
    import threading

    with listen_unix(control_socket(home)) as listener:
        listener.setblocking(True)
        listener.settimeout(10)

        def reply() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)
                connection.shutdown(socket.SHUT_WR)

        thread = threading.Thread(target=reply)
        thread.start()
        try:
            ControlClient(home).status()
        finally:
            thread.join()


def test_a_node_that_hangs_is_given_up(home: Home) -> None:
    with listen_unix(control_socket(home)), pytest.raises(ResourceError, match="not answered for"):
        ControlClient(home).status(timeout_s=0.05)


def test_every_route_is_documented(node: FakeNode) -> None:
    page = (Path(__file__).parents[2] / "docs/control.md").read_text("utf-8")
    routes = {
        f"{route.method} {route.resource.canonical}"
        for route in create_control_app(node).router.routes()
        if route.resource is not None and route.method != "HEAD"
    }
    assert len(routes) == 53
    for route in routes:
        assert f"| `{route}` |" in page


def test_events_are_plain_json(client: ControlClient) -> None:
    assert json.loads(json.dumps(client.chain(""))) == client.chain("")


def test_credentials_between_nodes(client: ControlClient, node: FakeNode) -> None:
    assert client.credential_requests()[0]["claims"] == {"swarmName": "lab"}
    asked = client.credential_request("amber", "MembershipVC", {"swarmName": "lab"}, "please")
    assert (asked["direction"], asked["state"]) == ("out", "pending")
    client.credential_offer("amber", "{}", "")
    assert client.credential_approve("0011", {"a": 1})["state"] == "delivered"
    assert client.credential_refuse("0011", "no")["detail"] == "no"
    assert client.credential_fetch("amber", ["UptimeVC"], keep=True)["credentials"] == []
    assert client.status_list("did:key:z6Mk/status/revocation-1") == "{}"
    assert node.calls[1:] == [
        ("request", "amber", "MembershipVC", {"swarmName": "lab"}, "please"),
        ("offer", "amber", "{}", ""),
        ("approve", "0011", {"a": 1}),
        ("refuse", "0011", "no"),
        ("fetch", "amber", ("UptimeVC",), True),
        ("status_list", "did:key:z6Mk/status/revocation-1"),
    ]
