"""Trust over the control socket, over the API, beside peers in tables, and in /metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from kwaai import limits
from kwaai.api.app import create_app
from kwaai.api.metrics import GENERATOR_STATS, LABELLED_STATS, TRUST_STATS, Metrics
from kwaai.api.server import listening
from kwaai.cli.control import ControlClient
from kwaai.errors import ResourceError, UserError
from kwaai.node.trust_control import PeerTrust
from kwaai.node.view import View
from kwaai.store.home import ensure_home
from kwaai.store.unix_socket import control_socket
from kwaai.testing.control import PEERS, FakeNode, serving
from kwaai.testing.generator import FakeGenerator
from kwaai.testing.trust_control import AMBER, OWN, ROOT, FakeTrust
from kwaai.trust.tiers import Tier

KEY = "0123456789abcdef"


@pytest.fixture
def node() -> FakeNode:
    return FakeNode()


@pytest.fixture
def client(node: FakeNode, kwaainet_home: Path) -> Iterator[ControlClient]:
    home = ensure_home(kwaainet_home)
    with serving(node, control_socket(home)):
        yield ControlClient(home)


# The control socket.


def test_every_question_reaches_the_node(client: ControlClient, node: FakeNode) -> None:
    peers = client.trust_peers()
    assert [row["tier"] for row in peers["rows"]] == ["Trusted", "Verified", "Known", "Unknown"]
    assert peers["left_out"] == 0
    assert client.trust_show("amber")["behaviour"]["outcomes"] == {
        "served": 405,
        "stalled": 5,
        "failed": 2,
    }
    view = client.trust_explain(AMBER)
    assert view["reasons"][0]["children"][2]["kind"] == "ignored"
    assert view["paths"][1]["weights"] == [0.6, 0.55]
    assert client.trust_policy()["own"] == OWN
    assert client.trust_set_roots([AMBER])["roots"][0]["did"] == AMBER
    assert client.trust_endorse("amber", "reliable", 3)["kind"] == "offer"
    assert client.trust_endorse("amber", "", None)["type"] == "PeerEndorsementVC"
    assert len(client.trust_graph(2)["edges"]) == 3
    assert client.trust_receipts()[0]["layers"] == {"start": 1, "stop": 4}
    assert client.trust_refresh("amber") == 4
    assert node.calls == [
        ("trust_peers",),
        ("trust_show", "amber"),
        ("trust_explain", AMBER),
        ("trust_policy",),
        ("trust_set_roots", (AMBER,)),
        ("trust_endorse", "amber", "reliable", 3),
        ("trust_endorse", "amber", "", None),
        ("trust_graph", 2),
        ("trust_receipts", ""),
        ("trust_refresh", "amber"),
    ]


@pytest.mark.parametrize(
    ("ask", "words"),
    [
        (lambda c: c.trust_show(""), "'peer'"),
        (lambda c: c.trust_explain("x" * 2000), "'peer'"),
        (lambda c: c.trust_show("nobody"), "no peer 'nobody'"),
        (lambda c: c.trust_set_roots(["x"] * 300), "'roots'"),
        (lambda c: c.trust_set_roots([""]), "'roots.0'"),
        (lambda c: c.trust_endorse("amber", "x" * 501, None), "'statement'"),
        (lambda c: c.trust_endorse("amber", "", 0), "'interactions'"),
        (lambda c: c.trust_graph(0), "'depth'"),
        (lambda c: c.trust_graph(99), "'depth'"),
    ],
)
def test_refused_with_the_parameters_name(
    ask: Callable[[ControlClient], object], words: str, client: ControlClient
) -> None:
    with pytest.raises(UserError, match=words):
        ask(client)


def test_while_the_evidence_is_not_open(client: ControlClient, node: FakeNode) -> None:
    node.refusal = ResourceError("the evidence is not open yet", retry_after_s=2.0)
    with pytest.raises(ResourceError, match="not open yet") as caught:
        client.trust_peers()
    assert caught.value.retry_after_s == 2.0


# The API.


async def get(app: Any, path: str, key: str | None = KEY) -> tuple[int, Any]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with (
        listening(app, "127.0.0.1", 0) as (host, port),
        aiohttp.ClientSession(headers=headers) as session,
        session.get(f"http://{host}:{port}{path}") as response,
    ):
        return response.status, await response.json()


@pytest.mark.parametrize(
    ("path", "call"),
    [
        ("peers", ("trust_peers",)),
        ("peers/amber", ("trust_show", "amber")),
        (f"peers/{AMBER}/explanation", ("trust_explain", AMBER)),
        ("policy", ("trust_policy",)),
        ("graph", ("trust_graph", limits.TRUST_GRAPH_DEPTH_DEFAULT)),
        ("graph?depth=8", ("trust_graph", 8)),
        ("receipts", ("trust_receipts", "")),
        ("receipts?peer=amber", ("trust_receipts", "amber")),
    ],
)
async def test_the_api_reads_the_same(path: str, call: tuple[object, ...], node: FakeNode) -> None:
    app = create_app(FakeGenerator(), api_key=KEY, trust=lambda: node.trust)
    status, body = await get(app, f"/v1/kwaai/trust/{path}")
    assert status == 200, body
    assert node.calls == [call]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("peers?limit=3", 400),
        ("peers/nobody", 400),
        (f"peers/{'x' * 1500}", 400),
        ("graph?depth=0", 400),
        ("graph?depth=9", 400),
        ("graph?depth=-1", 400),
        ("graph?depth=%C2%B2", 400),
        ("graph?depth=99999999999999", 400),
        (f"receipts?peer={'x' * 1500}", 400),
        ("nothing", 404),
    ],
)
async def test_what_the_api_refuses(path: str, status: int, node: FakeNode) -> None:
    app = create_app(FakeGenerator(), api_key=KEY, trust=lambda: node.trust)
    got, body = await get(app, f"/v1/kwaai/trust/{path}")
    assert got == status
    assert body["error"]["message"]


async def test_without_a_key_nobody_reads_it_over_the_api(node: FakeNode) -> None:
    app = create_app(FakeGenerator(), trust=lambda: node.trust)
    status, body = await get(app, "/v1/kwaai/trust/peers", key=None)
    assert (status, body["error"]["code"]) == (401, "invalid_api_key")
    assert "kwaainet trust list" in body["error"]["message"]
    app = create_app(FakeGenerator(), api_key=KEY, trust=lambda: node.trust)
    assert (await get(app, "/v1/kwaai/trust/policy", key=None))[0] == 401
    assert node.calls == []


async def test_the_api_while_the_evidence_is_not_open() -> None:
    def closed() -> FakeTrust:
        raise ResourceError("the evidence is not open yet", retry_after_s=2.0)

    app = create_app(FakeGenerator(), api_key=KEY, trust=closed)
    status, body = await get(app, "/v1/kwaai/trust/peers")
    assert (status, body["error"]["code"]) == (503, "resource_exhausted")


# Beside peers in tables.


def test_peers_are_shown_with_their_standing() -> None:
    record = SimpleNamespace(peer=PEERS[0], name="amber", version="0.1.0", served=())
    network = SimpleNamespace(peer_id=PEERS[2], connections=lambda: [])
    node: Any = SimpleNamespace(
        network=network,
        directory=SimpleNamespace(records=lambda: [record]),
        avoided=SimpleNamespace(explain=lambda: []),
        links=SimpleNamespace(link=lambda peer: None),
    )
    view = View(node)
    assert view.peers()[0].trust is None
    view.standing = FakeNode().trust.standing
    assert view.peers()[0].trust == PeerTrust(0.522, 0.18, "Verified")


# /metrics.


class _Generator(FakeGenerator):
    def __init__(self, stats: dict[str, float]) -> None:
        super().__init__()
        self._stats = stats

    def stats(self) -> dict[str, float]:
        return self._stats


def test_metrics_name_tiers_as_labels() -> None:
    text = Metrics(_Generator(dict(FakeNode().trust.stats()))).render().decode()
    assert 'kwaai_trust_peers{tier="verified"} 1.0' in text
    assert 'kwaai_trust_peers{tier="trusted"} 0.0' in text
    assert "kwaai_trust_roots 1.0" in text
    assert "trust_denials" not in text


def test_no_metric_has_two_meanings() -> None:
    assert not set(GENERATOR_STATS) & set(TRUST_STATS)
    assert not set(LABELLED_STATS) & (set(GENERATOR_STATS) | set(TRUST_STATS))
    assert LABELLED_STATS["trust_peers"][3] == tuple(tier.label.lower() for tier in Tier)


def test_the_fake_finds_peers_by_every_name() -> None:
    trust = FakeNode().trust
    assert trust.standing(PEERS[0]).tier == "Verified"  # type: ignore[arg-type]
    assert trust.standing("12D3KooWNobody") == PeerTrust(0.0, 1.0, "Unknown")  # type: ignore[arg-type]
    assert trust.roots == [ROOT]
