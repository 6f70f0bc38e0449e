"""Multiaddrs of TCP: text and bytes, for peers that are reached by an IP address or a name.

Only `/ip4|ip6|dns|dns4|dns6/.../tcp/PORT` with an optional `/p2p/ID`; everything else (QUIC,
relays, WebSocket) is refused. Does not resolve names. docs/protocol/discovery.md;
multiformats/multiaddr.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass

import credentials.keys
from credentials.errors import CredentialsError
from credentials.keys import PeerId
from kwaai import limits
from kwaai.errors import UserError

_IP4, _TCP, _IP6, _DNS, _DNS4, _DNS6, _P2P = 4, 6, 41, 53, 54, 55, 421
_NAMES = {"dns": _DNS, "dns4": _DNS4, "dns6": _DNS6}
_NAME = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")


@dataclass(frozen=True, slots=True)
class Address:
    """Where a peer listens: TCP at an address or a name."""

    kind: str
    """ip4, ip6, dns, dns4 or dns6."""
    host: str
    port: int

    def __str__(self) -> str:
        return f"/{self.kind}/{self.host}/tcp/{self.port}"

    @property
    def is_ip(self) -> bool:
        return self.kind in ("ip4", "ip6")

    @property
    def is_loopback(self) -> bool:
        return self.is_ip and ipaddress.ip_address(self.host).is_loopback

    @property
    def is_unspecified(self) -> bool:
        return self.is_ip and ipaddress.ip_address(self.host).is_unspecified


def ip_address(host: str, port: int) -> Address:
    """Make the address of an IP; an IPv4 address mapped into IPv6 becomes IPv4."""
    ip = ipaddress.ip_address(host.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped:
        ip = ip.ipv4_mapped
    return Address(f"ip{ip.version}", str(ip), port)


def parse_multiaddr(text: str) -> tuple[Address, PeerId | None]:
    """Parse a multiaddr. Raises UserError, which says what is wrong with it."""
    if len(text) > limits.P2P_ADDRESS_CHARS_MAX:
        raise UserError(f"the address {text:.60}... is too long")
    parts = text.split("/")
    if len(parts) not in (5, 7) or parts[0] or parts[3] != "tcp":
        raise _refused(text)
    kind, host = parts[1], parts[2]
    try:
        if kind == "ip4":
            host = str(ipaddress.IPv4Address(host))
        elif kind == "ip6":
            host = str(ipaddress.IPv6Address(host))
        elif kind not in _NAMES or len(host) > 253 or not _NAME.fullmatch(host):
            raise ValueError
    except ValueError:
        raise _refused(text) from None
    if not (parts[4].isascii() and parts[4].isdigit()) or not 0 <= int(parts[4][:6]) <= 65_535:
        raise UserError(f"{text}: the TCP port is a number from 0 to 65535")
    if len(parts) == 5:
        return Address(kind, host, int(parts[4])), None
    if parts[5] not in ("p2p", "ipfs"):
        raise _refused(text)
    return Address(kind, host, int(parts[4])), _parse_id(parts[6], text)


def parse_peer_multiaddr(text: str) -> tuple[Address, PeerId]:
    """Parse a multiaddr that must name its peer and a port. Raises UserError."""
    address, peer = parse_multiaddr(text)
    if peer is None or not address.port:
        raise UserError(f"{text}: a peer's address has a port and ends in /p2p/<its PeerId>")
    return address, peer


def keep_addresses(texts: Iterable[str], peer: PeerId | None = None) -> tuple[Address, ...]:
    """Keep what can be dialled of a stranger's addresses: parsed, each once, bounded, of `peer`."""
    kept: dict[Address, None] = {}
    for text in texts:
        try:
            address, named = parse_multiaddr(text)
        except UserError:
            continue
        if _is_useful(address) and (named is None or named == peer):
            kept[address] = None
        if len(kept) >= limits.P2P_ADDRESSES_PER_PEER_MAX:
            break
    return tuple(kept)


def encode_multiaddr(address: Address, peer: PeerId | None = None) -> bytes:
    """Encode the bytes that libp2p's messages carry."""
    if address.kind == "ip4":
        data = bytes([_IP4]) + ipaddress.IPv4Address(address.host).packed
    elif address.kind == "ip6":
        data = bytes([_IP6]) + ipaddress.IPv6Address(address.host).packed
    else:
        name = address.host.encode("ascii")
        data = bytes([_NAMES[address.kind]]) + encode_varint(len(name)) + name
    data += bytes([_TCP]) + address.port.to_bytes(2, "big")
    if peer is not None:
        raw = peer_id_bytes(peer)
        data += encode_varint(_P2P) + encode_varint(len(raw)) + raw
    return data


def decode_multiaddrs(items: Iterable[bytes], peer: PeerId) -> tuple[Address, ...]:
    """Keep what can be dialled of the addresses in a libp2p message; the rest is not an error.

    Names are dropped: a stranger does not choose what we look up.
    """
    kept: dict[Address, None] = {}
    for number, data in enumerate(items):
        if number >= 4 * limits.P2P_ADDRESSES_PER_PEER_MAX:
            break
        decoded = _decode(bytes(data))
        if decoded is None or not decoded[0].is_ip or not _is_useful(decoded[0]):
            continue
        if decoded[1] in (None, peer_id_bytes(peer)):
            kept[decoded[0]] = None
        if len(kept) >= limits.P2P_ADDRESSES_PER_PEER_MAX:
            break
    return tuple(kept)


@functools.lru_cache(4096)  # base58 takes 30 us, and a look-up needs each peer's bytes often
def peer_id_bytes(peer: PeerId) -> bytes:
    """Return the multihash that a PeerId is the text of."""
    return bytes.fromhex("002408011220") + credentials.keys.parse_peer_id(peer).raw


def peer_id_of_bytes(raw: bytes) -> PeerId | None:
    """Return the PeerId of a multihash, or None if it is not that of an Ed25519 key."""
    if len(raw) != 38 or raw[:6] != bytes.fromhex("002408011220"):
        return None
    return credentials.keys.peer_id(credentials.keys.PublicKey(raw[6:]))


def encode_varint(value: int) -> bytes:
    """Encode an unsigned LEB128 number."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def decode_varint(data: bytes, offset: int = 0) -> tuple[int, int] | None:
    """Decode (value, next offset) of at most 32 bits; None for what is cut off or too long."""
    value = 0
    for n in range(5):
        if offset + n >= len(data):
            return None
        byte = data[offset + n]
        value |= (byte & 0x7F) << 7 * n
        if byte < 0x80:
            return value, offset + n + 1
    return None


def _decode(data: bytes) -> tuple[Address, bytes | None] | None:
    if len(data) > limits.P2P_ADDRESS_CHARS_MAX:
        return None
    if data[:1] == bytes([_IP4]) and len(data) >= 5:
        kind, host, rest = "ip4", str(ipaddress.IPv4Address(data[1:5])), data[5:]
    elif data[:1] == bytes([_IP6]) and len(data) >= 17:
        kind, host, rest = "ip6", str(ipaddress.IPv6Address(data[1:17])), data[17:]
    else:
        return None
    if len(rest) < 3 or rest[0] != _TCP:
        return None
    address, rest = Address(kind, host, int.from_bytes(rest[1:3], "big")), rest[3:]
    if not rest:
        return address, None
    code = decode_varint(rest)
    if code is None or code[0] != _P2P:
        return None
    length = decode_varint(rest, code[1])
    if length is None or length[0] != len(rest) - length[1]:
        return None
    return address, rest[length[1] :]


def _is_useful(address: Address) -> bool:
    if not address.port:
        return False
    if not address.is_ip:
        return True
    ip = ipaddress.ip_address(address.host)
    return not (ip.is_unspecified or ip.is_multicast or address.host == "255.255.255.255")


def _parse_id(text: str, whole: str) -> PeerId:
    try:
        credentials.keys.parse_peer_id(text)
    except CredentialsError as error:
        raise UserError(f"{whole:.200}: {error}") from error
    return PeerId(text)


def _refused(text: str) -> UserError:
    return UserError(
        f"{text!r:.200} is no address that can be used: /ip4, /ip6, /dns, /dns4 or /dns6, then"
        " /tcp/PORT, and /p2p/<PeerId> for a peer's"
    )
