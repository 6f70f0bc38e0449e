"""Multiaddrs: what can be dialled is parsed, the rest refused; bytes of strangers never crash."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from credentials.keys import SecretKey, peer_id
from kwaai import limits
from kwaai.errors import UserError
from kwaai.net.multiaddrs import (
    Address,
    decode_multiaddrs,
    decode_varint,
    encode_multiaddr,
    encode_varint,
    ip_address,
    keep_addresses,
    parse_multiaddr,
    parse_peer_multiaddr,
    peer_id_bytes,
    peer_id_of_bytes,
)

PEER = peer_id(SecretKey(bytes(32)).public)
OTHER = peer_id(SecretKey(bytes(31) + b"\1").public)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("/ip4/10.0.0.1/tcp/4001", Address("ip4", "10.0.0.1", 4001)),
        ("/ip6/::1/tcp/65535", Address("ip6", "::1", 65535)),
        ("/ip6/2001:0db8::0001/tcp/1", Address("ip6", "2001:db8::1", 1)),
        ("/dns4/node.example.org/tcp/443", Address("dns4", "node.example.org", 443)),
        ("/dns/localhost/tcp/0", Address("dns", "localhost", 0)),
    ],
)
def test_parse(text: str, address: Address) -> None:
    assert parse_multiaddr(text) == (address, None)
    assert parse_multiaddr(f"{text}/p2p/{PEER}") == (address, PEER)
    assert parse_multiaddr(f"{text}/ipfs/{PEER}")[1] == PEER
    assert parse_multiaddr(str(address))[0] == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "10.0.0.1:4001",
        "ip4/10.0.0.1/tcp/4001",
        "/ip4/10.0.0.1",
        "/ip4/10.0.0.1/tcp",
        "/ip4/10.0.0.1/tcp/",
        "/ip4/10.0.0.1/tcp/-1",
        "/ip4/10.0.0.1/tcp/65536",
        "/ip4/10.0.0.1/tcp/4001/",
        "/ip4/10.0.0.1/tcp/\u0661",
        "/ip4/10.0.0.256/tcp/4001",
        "/ip4/::1/tcp/4001",
        "/ip6/10.0.0.1/tcp/4001",
        "/ip4/10.0.0.1/udp/4001/quic-v1",
        "/ip4/10.0.0.1/tcp/4001/ws",
        "/dns4/-x/tcp/1",
        "/dns4/" + "a" * 300 + "/tcp/1",
        "/dns4/a b/tcp/1",
        f"/ip4/10.0.0.1/tcp/4001/p2p/{PEER}/p2p-circuit",
        "/ip4/10.0.0.1/tcp/4001/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N",
        "/ip4/10.0.0.1/tcp/4001/p2p/",
        "/ip4/10.0.0.1/tcp/4001/x/" + PEER,
        "/" * 600,
    ],
)
def test_refuse(text: str) -> None:
    with pytest.raises(UserError):
        parse_multiaddr(text)


def test_a_peers_address_names_it_and_has_a_port() -> None:
    assert parse_peer_multiaddr(f"/ip4/1.2.3.4/tcp/5/p2p/{PEER}")[1] == PEER
    for text in ("/ip4/1.2.3.4/tcp/5", f"/ip4/1.2.3.4/tcp/0/p2p/{PEER}"):
        with pytest.raises(UserError, match="PeerId"):
            parse_peer_multiaddr(text)


def test_of_a_strangers_addresses_only_useful_ones_are_kept() -> None:
    texts = [
        "nonsense",
        f"/ip4/1.2.3.4/tcp/5/p2p/{OTHER}",
        "/ip4/0.0.0.0/tcp/5",
        "/ip4/224.0.0.251/tcp/5",
        "/ip4/255.255.255.255/tcp/5",
        "/ip4/1.2.3.4/tcp/0",
        "/ip4/1.2.3.4/tcp/5",
        f"/ip4/1.2.3.4/tcp/5/p2p/{PEER}",
    ]
    assert keep_addresses(texts, PEER) == (Address("ip4", "1.2.3.4", 5),)
    many = [f"/ip4/1.2.3.4/tcp/{port}" for port in range(1, 1000)]
    assert len(keep_addresses(many)) == limits.P2P_ADDRESSES_PER_PEER_MAX


def test_known_bytes() -> None:
    """As other implementations write them."""
    address = Address("ip4", "127.0.0.1", 4001)
    assert encode_multiaddr(address).hex() == "047f000001060fa1"
    assert encode_multiaddr(Address("dns4", "a.b", 1)).hex() == "3603612e62060001"
    with_peer = encode_multiaddr(address, PEER)
    assert with_peer.hex() == "047f000001060fa1a50326" + peer_id_bytes(PEER).hex()
    assert decode_multiaddrs([with_peer], PEER) == (address,)
    assert decode_multiaddrs([with_peer], OTHER) == ()
    assert ip_address("::ffff:10.1.2.3", 7) == Address("ip4", "10.1.2.3", 7)


addresses = st.one_of(
    st.builds(
        lambda ip, port: ip_address(str(ip), port), st.ip_addresses(v=4), st.integers(1, 65535)
    ),
    st.builds(
        lambda ip, port: Address("ip6", str(ip), port), st.ip_addresses(v=6), st.integers(1, 65535)
    ),
)


@given(addresses)
def test_text_and_bytes_are_the_same_address(address: Address) -> None:
    assert parse_multiaddr(str(address)) == (address, None)
    decoded = decode_multiaddrs([encode_multiaddr(address)], PEER)
    assert decoded in ((address,), ())  # () for what nobody can dial


@given(st.lists(st.binary(max_size=80), max_size=20))
def test_no_bytes_crash(items: list[bytes]) -> None:
    for address in decode_multiaddrs(items, PEER):
        assert address.is_ip
    for item in items:
        peer = peer_id_of_bytes(item)
        assert peer is None or peer_id_bytes(peer) == item


@given(st.integers(0, 2**32 - 1), st.binary(max_size=4))
def test_varints(value: int, rest: bytes) -> None:
    data = encode_varint(value)
    assert decode_varint(data + rest) == (value, len(data))
    assert decode_varint(data[:-1]) is None


def test_an_endless_varint_is_none() -> None:
    assert decode_varint(b"\xff" * 20) is None


def test_peer_ids_of_other_keys_are_none() -> None:
    assert peer_id_of_bytes(peer_id_bytes(PEER)) == PEER
    assert peer_id_of_bytes(b"\x12\x20" + bytes(32)) is None
    assert peer_id_of_bytes(b"") is None
