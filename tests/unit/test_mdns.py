"""mDNS: what is announced, and what is believed of others' announcements. Without multicast."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from credentials.keys import PeerId, SecretKey, peer_id
from kwaai import limits
from kwaai.errors import PeerUnreachable
from kwaai.net.mdns import Mdns, encode_texts, parse_texts

OWN = peer_id(SecretKey(bytes(32)).public)
PEER = peer_id(SecretKey(bytes(31) + b"\1").public)
OTHER = peer_id(SecretKey(bytes(31) + b"\2").public)


def test_texts() -> None:
    data = encode_texts([f"/ip4/10.0.0.1/tcp/{n}/p2p/{PEER}" for n in (1, 2)])
    assert data.startswith(
        bytes([len("dnsaddr=/ip4/10.0.0.1/tcp/1/p2p/") + len(PEER)]) + b"dnsaddr="
    )
    assert parse_texts(data, OWN) == (PEER, ("/ip4/10.0.0.1/tcp/1", "/ip4/10.0.0.1/tcp/2"))


def test_ourselves_names_and_third_parties_are_left_out() -> None:
    data = encode_texts(
        [
            f"/ip4/10.0.0.1/tcp/1/p2p/{OWN}",
            f"/dns4/somewhere.example/tcp/1/p2p/{PEER}",
            f"/ip4/10.0.0.1/tcp/2/p2p/{PEER}",
            f"/ip4/10.0.0.1/tcp/3/p2p/{OTHER}",
            "/ip4/10.0.0.1/tcp/4",
            "/ip4/10.0.0.1/udp/5/quic-v1",
        ]
    )
    assert parse_texts(b"\x05hello" + data, OWN) == (PEER, ("/ip4/10.0.0.1/tcp/2",))
    assert parse_texts(encode_texts([f"/ip4/10.0.0.1/tcp/1/p2p/{OWN}"]), OWN) == (None, ())


def test_many_addresses_are_cut() -> None:
    data = encode_texts(f"/ip4/10.0.0.1/tcp/{n}/p2p/{PEER}" for n in range(1, 60))
    assert len(parse_texts(data, OWN)[1]) == limits.P2P_ADDRESSES_PER_PEER_MAX


@given(st.binary(max_size=600))
def test_no_bytes_crash(data: bytes) -> None:
    parse_texts(data, OWN)
    parse_texts(b"\xffdnsaddr=" + data, OWN)


async def test_of_two_nodes_the_lower_dials_first() -> None:
    order: list[PeerId] = []
    low, high = sorted((OWN, PEER))

    async def report(own: PeerId, other: PeerId) -> None:
        async def found(peer: PeerId, addresses: Sequence[str]) -> None:
            order.append(own)
            raise PeerUnreachable("it is not there", peer=peer)

        await Mdns(own, found)._report(other, ())

    await asyncio.gather(report(high, low), report(low, high))
    assert order == [low, high]
