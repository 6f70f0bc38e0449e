"""The handshake of a link, without I/O: prove both PeerIds, agree on a version, make two keys.

Noise_XX_25519_AESGCM_SHA256 with libp2p's identity payload. Does not wait, seal records or decide
whether a peer is welcome. docs/protocol/link.md has the bytes; Noise specification, revision 34;
libp2p's noise specification.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from noise.connection import Keypair, NoiseConnection  # type: ignore[import-untyped]
from noise.exceptions import (  # type: ignore[import-untyped]
    NoiseHandshakeError,
    NoiseInvalidMessage,
    NoiseValueError,
)

from credentials.errors import CredentialsError
from credentials.keys import PeerId, PublicKey, SecretKey, peer_id
from kwaai import limits
from kwaai.wire.codec import Reader, WireError

NAME = b"Noise_XX_25519_AESGCM_SHA256"
PROLOGUE = b"kwaainet link handshake 1"
VERSIONS = (1, 1)
"""The least and the most version of the frames that this program speaks."""
INSTANCE_BYTES = 16

_SIGNED = b"noise-libp2p-static-key:"
_KEY_HEAD = bytes.fromhex("0a2408011220")  # field 1, 36 bytes: {Type = Ed25519, Data = 32 bytes}
_SIGNATURE_HEAD = bytes.fromhex("1240")  # field 2, 64 bytes
_LENGTH = struct.Struct(">H")
_EPHEMERAL_BYTES = 32


class WrongPeer(WireError):
    """Somebody else answers where a peer was expected."""

    code = "peer_wrong"


class VersionMismatch(WireError):
    """The two programs have no version of the protocol in common."""

    code = "version_mismatch"


@dataclass(frozen=True, slots=True)
class Hello:
    """What a peer proves and says of itself in a handshake."""

    peer: PeerId
    version_least: int
    version_most: int
    instance: bytes
    """16 random bytes of this run of the program: a peer that restarts has others."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """What a handshake ends with."""

    hello: Hello
    version: int
    send_key: bytes
    receive_key: bytes


class LinkIdentity:
    """What one node shows in all its handshakes: a static key made for this run, and its proof."""

    def __init__(
        self, secret: SecretKey, instance: bytes, versions: tuple[int, int] = VERSIONS
    ) -> None:
        if len(instance) != INSTANCE_BYTES:
            raise ValueError(f"an instance has {INSTANCE_BYTES} bytes")
        static = X25519PrivateKey.generate()
        self.static_bytes = static.private_bytes_raw()
        self.peer = peer_id(secret.public)
        self.versions = versions
        self.payload = (
            _KEY_HEAD
            + secret.public.raw
            + _SIGNATURE_HEAD
            + secret.sign(_SIGNED + static.public_key().public_bytes_raw())
            + _LENGTH.pack(versions[0])
            + _LENGTH.pack(versions[1])
            + instance
        )


def parse_hello(payload: bytes, static: bytes) -> Hello:
    """Check an identity payload against the static key that it came with. Raises WireError."""
    reader = Reader(payload)
    if reader.fixed(len(_KEY_HEAD)) != _KEY_HEAD:
        raise WireError("its identity is no Ed25519 key")
    key = PublicKey(reader.fixed(32))
    if reader.fixed(len(_SIGNATURE_HEAD)) != _SIGNATURE_HEAD:
        raise WireError("its identity is not signed")
    signature = reader.fixed(64)
    try:
        key.verify(_SIGNED + static, signature)
    except CredentialsError:
        raise WireError("its identity is signed by another key") from None
    least = reader.uint(2, least=1)
    most = reader.uint(2, least=least)
    return Hello(peer_id(key), least, most, reader.fixed(INSTANCE_BYTES))


class Handshake:
    """One end of one handshake. Give it bytes in any pieces; it says what to send."""

    def __init__(self, identity: LinkIdentity, expected: PeerId | None) -> None:
        """`expected` is the peer that is dialled; None on the end that accepts."""
        self._identity = identity
        self._expected = expected
        self._noise = NoiseConnection.from_name(NAME)
        self._noise.set_prologue(PROLOGUE)
        self._noise.set_keypair_from_private_bytes(Keypair.STATIC, identity.static_bytes)
        if expected is not None:
            self._noise.set_as_initiator()
        else:
            self._noise.set_as_responder()
        self._noise.start_handshake()
        # The library drops its state with the handshake's last message.
        self._state = self._noise.noise_protocol.handshake_state
        self._is_first = True
        self.hello: Hello | None = None
        """Who the other end is, once it has proven that."""

    def first_message(self) -> bytes:
        """Return what the dialling end begins with."""
        return self._write(b"")

    def message_size(self, head: bytes | bytearray | memoryview) -> int:
        """Return the size of the message that begins with these two bytes. Raises WireError."""
        (size,) = _LENGTH.unpack_from(head)
        if self._expected is None and self._is_first:
            if size != _EPHEMERAL_BYTES:
                raise WireError("it does not begin a link's handshake")
        elif not _EPHEMERAL_BYTES < size <= limits.LINK_HANDSHAKE_BYTES_MAX:
            raise WireError(f"a handshake message has {size} bytes")
        return int(size)

    def receive(self, message: bytes) -> None:
        """Take a whole message of the other end. Raises WireError."""
        self._is_first = False
        try:
            payload = bytes(self._noise.read_message(message))
        except (InvalidTag, NoiseHandshakeError, NoiseInvalidMessage, NoiseValueError):
            raise WireError("a handshake message is forged, changed or replayed") from None
        except ValueError:  # the shared secret is zero: its key has a small order
            raise WireError("its handshake key is unfit") from None
        if self._state.rs and hasattr(self._state.rs, "public_bytes"):
            self.hello = parse_hello(payload, self._state.rs.public_bytes)
            self._check_peer(self.hello)
        elif payload:
            raise WireError("its first handshake message says too much")

    def _check_peer(self, hello: Hello) -> None:
        if self._expected is not None and hello.peer != self._expected:
            raise WrongPeer(f"{hello.peer} answers there, not {self._expected}", peer=hello.peer)
        if hello.peer == self._identity.peer:
            raise WrongPeer("this node itself answers there", peer=hello.peer)

    def reply(self) -> bytes:
        """Return the message that this end sends next: who it is."""
        return self._write(self._identity.payload)

    def _write(self, payload: bytes) -> bytes:
        try:
            message = bytes(self._noise.write_message(payload))
        except ValueError:  # as in `receive`: the library mixes keys while it writes, too
            raise WireError("its handshake key is unfit") from None
        return _LENGTH.pack(len(message)) + message

    @property
    def is_finished(self) -> bool:
        """Whether both ends have said everything."""
        return bool(self._noise.handshake_finished)

    def agree(self) -> Agreement:
        """Return the result of a finished handshake. Raises VersionMismatch."""
        assert self.hello is not None
        least, most = self._identity.versions
        version = min(most, self.hello.version_most)
        if version < max(least, self.hello.version_least):
            raise VersionMismatch(
                f"it speaks link versions {self.hello.version_least} to {self.hello.version_most},"
                f" this node {least} to {most}; update the older of the two",
                peer=self.hello.peer,
            )
        protocol = self._noise.noise_protocol
        return Agreement(
            self.hello, version, protocol.cipher_state_encrypt.k, protocol.cipher_state_decrypt.k
        )
