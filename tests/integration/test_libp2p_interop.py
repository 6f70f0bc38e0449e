"""Our nodes and the other implementations: js-libp2p and go-libp2p, both ways.

Skipped where these cannot be had (interop_tools).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from interop_tools import GoNode, JsNode

from credentials.keys import PeerId, SecretKey
from kwaai.errors import PeerMisbehaved, PeerRefused
from kwaai.net.libp2p_network import Libp2pNetwork
from kwaai.net.multiaddrs import peer_id_bytes, peer_id_of_bytes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ECHO = "/test/echo/1"
KEY = b"/kwaai/interop"


def check_value(key: bytes, value: bytes) -> int:
    """Values are `<sequence>:<key>`; js_node.mjs checks the same."""
    sequence, _, rest = value.partition(b":")
    if rest != key or not sequence.isdigit():
        raise PeerMisbehaved("a wrong value")
    return int(sequence)


async def until(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.fixture
async def ours() -> AsyncIterator[Libp2pNetwork]:
    network = Libp2pNetwork(SecretKey(secrets.token_bytes(32)), ["/ip4/127.0.0.1/tcp/0"])

    async def echo(peer: PeerId, body: bytes) -> bytes:
        return body

    network.handle_requests(ECHO, echo)
    network.add_validator("kwaai", check_value)
    await network.start()
    yield network
    await network.stop()


@pytest.fixture
async def js() -> AsyncIterator[JsNode]:
    node = await JsNode.start()
    yield node
    await node.stop()


@pytest.fixture
async def go(tmp_path: Path) -> AsyncIterator[GoNode]:
    node = await GoNode.start(tmp_path)
    yield node
    await node.stop()


def speaks_kad(network: Libp2pNetwork, peer: PeerId) -> bool:
    assert network._node
    return peer in network._node.kad.table


# --- js-libp2p


@pytest.mark.parametrize("dialer", ["ours", "js"])
async def test_js_connect_identify_ping_request(
    ours: Libp2pNetwork, js: JsNode, dialer: str
) -> None:
    if dialer == "ours":
        await ours.connect(js.address)
    else:
        await js("connect", address=ours.addresses()[0])
    await until(lambda: ours.connections() and ours.connections()[0].agent)
    assert ours.connections()[0].peer == js.peer
    assert "js-libp2p" in ours.connections()[0].agent
    assert 0 < await ours.ping(js.peer) < 5
    assert 0 <= await js("ping", peer=ours.peer_id) < 5_000
    seen = await js("identify", peer=ours.peer_id)
    assert seen["agent"].startswith("kwaainet/")
    assert ECHO in seen["protocols"]
    assert any(address in ours.addresses()[0] for address in seen["addresses"])
    for size in (0, 100, 200_000):
        body = secrets.token_bytes(size)
        framed = size.to_bytes(4, "big") + body
        assert (
            await js("request", peer=ours.peer_id, protocol=ECHO, data=framed.hex())
            == (b"\0" + framed).hex()
        )
        assert await ours.request(js.peer, "/test/js-echo/1", body) == body
    with pytest.raises(PeerRefused, match="does not speak /nobody/1"):
        await ours.request(js.peer, "/nobody/1", b"")


async def test_js_dht(ours: Libp2pNetwork, js: JsNode) -> None:
    await ours.connect(js.address)
    await until(lambda: speaks_kad(ours, js.peer))
    assert await ours.put_value(KEY, b"1:" + KEY) == 1
    assert await js("get", key=KEY.hex()) == (b"1:" + KEY).hex()
    assert await js("put", key=KEY.hex(), value=(b"2:" + KEY).hex()) == [ours.peer_id]
    assert await ours.get_value(KEY) == b"2:" + KEY
    assert await js("put", key=KEY.hex(), value=b"3:wrong".hex()) == []
    assert ours.counters["dht_values_refused"] == 1
    assert await ours.get_value(KEY) == b"2:" + KEY
    digest = secrets.token_bytes(32)
    await ours.provide(digest)
    assert await js("providers", digest=digest.hex()) == [ours.peer_id]
    other = secrets.token_bytes(32)
    await js("provide", digest=other.hex())
    assert [peer for peer, _ in await ours.find_providers(other)] == [js.peer]
    assert await js("findPeer", peer=ours.peer_id)


async def test_js_finds_our_peers_through_us(ours: Libp2pNetwork, js: JsNode) -> None:
    third = Libp2pNetwork(SecretKey(secrets.token_bytes(32)), ["/ip4/127.0.0.1/tcp/0"])
    await third.start()
    try:
        await third.connect(ours.addresses()[0])
        await js("connect", address=ours.addresses()[0])
        await until(lambda: speaks_kad(ours, js.peer) and speaks_kad(ours, third.peer_id))
        found = await js("findPeer", peer=third.peer_id)
        assert any(address in third.addresses()[0] for address in found)
        await third.connect_peer(js.peer)
        assert js.peer in {connection.peer for connection in third.connections()}
    finally:
        await third.stop()


# --- go-libp2p


@pytest.mark.parametrize("dialer", ["ours", "go"])
async def test_go_connect_identify_ping_request(
    ours: Libp2pNetwork, go: GoNode, dialer: str, tmp_path: Path
) -> None:
    if dialer == "ours":
        await ours.connect(go.address)
    else:
        await go.connect(ours.addresses()[0])
    await until(lambda: ours.connections() and ours.connections()[0].agent)
    assert ours.connections()[0].peer == go.peer
    assert "p2pd" in ours.connections()[0].agent or "go" in ours.connections()[0].agent
    assert await go.peers() == {ours.peer_id}
    assert 0 < await ours.ping(go.peer) < 5
    body = secrets.token_bytes(200_000)
    framed = len(body).to_bytes(4, "big") + body
    assert await go.exchange(ours.peer_id, ECHO, framed, 1 + len(framed)) == b"\0" + framed
    got = await go.serve_once("/test/go-echo/1", tmp_path)
    assert await ours.request(go.peer, "/test/go-echo/1", body) == body
    assert await got == body


async def test_go_dht(ours: Libp2pNetwork, go: GoNode) -> None:
    """Its DHT takes no values but public keys and IPNS; providers and peers it does."""
    await ours.connect(go.address)
    await until(lambda: speaks_kad(ours, go.peer))
    assert await ours.put_value(KEY, b"1:" + KEY) == 0
    assert await ours.get_value(KEY) == b"1:" + KEY
    digest = secrets.token_bytes(32)
    await ours.provide(digest)
    cid = b"\x01\x55\x12\x20"
    found = await go.dht(type="FIND_PROVIDERS", cid=cid + digest, count=5)
    assert [peer_id_of_bytes(answer.peer.id) for answer in found] == [ours.peer_id]
    other = secrets.token_bytes(32)
    await go.dht(type="PROVIDE", cid=cid + other)
    assert [peer for peer, _ in await ours.find_providers(other)] == [go.peer]
    [answer] = await go.dht(type="FIND_PEER", peer=peer_id_bytes(ours.peer_id))
    assert peer_id_of_bytes(answer.peer.id) == ours.peer_id
