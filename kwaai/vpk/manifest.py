"""The manifest of a base: what is alive in it, sealed, signed and counted up.

A host sees who signed it, for which base, its number and a digest, and can check that much; the
rest is sealed. Whoever has the keys sees omission (what is listed is missing) and rollback (a lower
number). Pure but for the nonce. docs/vpk.md, "The manifest".
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import Final

from credentials.errors import CredentialsError
from credentials.keys import SIGNATURE_BYTES, PublicKey, SecretKey
from kwaai.errors import ManifestInvalid
from kwaai.limits import (
    VPK_BASE_NAME_CHARS_MAX,
    VPK_DIMENSION_MAX,
    VPK_HOSTS_MAX,
    VPK_INDEX_PARAMS_BYTES_MAX,
    VPK_MANIFEST_BYTES_MAX,
    VPK_REMOVED_RUNS_MAX,
    VPK_SEALED_BYTES_MAX,
    VPK_SEGMENTS_MAX,
    VPK_WRITERS_MAX,
)
from kwaai.vpk import merkle
from kwaai.vpk.keys import EPOCH_MAX, MANIFEST, BaseKeys
from kwaai.vpk.seal import open_sealed, seal
from kwaai.vpk.types import ID_BYTES, BaseMode, EmbedderSpec
from kwaai.wire.codec import Reader, WireError, Writer

DIGEST_BYTES: Final = 32
NO_DIGEST: Final = bytes(DIGEST_BYTES)
HEADER_BYTES: Final = 1 + 32 + ID_BYTES + 8 + 4 + DIGEST_BYTES
SEQUENCE_MAX: Final = 2**63 - 1  # what SQLite counts to

_VERSION: Final = 1
_DOMAIN: Final = b"kwaai-vpk-manifest-1\0"
_MODES: Final[tuple[BaseMode, ...]] = ("sealed", "oblivious")
_CODING: Final = re.compile(r"whole|[1-9][0-9]?/[1-9][0-9]?")
_ROWS_MAX: Final = 2**32 - 1


@dataclass(frozen=True, slots=True)
class SegmentRef:
    """A segment that is alive."""

    id: bytes
    rows: int
    size_bytes: int
    """Of the sealed segment."""
    digest: bytes
    """BLAKE2b-256 of the sealed segment (`digest`)."""
    root: bytes = NO_DIGEST
    """Merkle root over its records (`merkle.record_leaf`), in row order; zeros: not recorded."""
    coding: str = "whole"
    """`whole`, or data fragments/fragments: `4/8`."""
    epoch: int = 1
    """Whose keys sealed it and its records."""


@dataclass(frozen=True, slots=True)
class RowRun:
    """Rows of one writer, numbers half-open."""

    writer: int
    start: int
    stop: int


@dataclass(frozen=True, slots=True)
class HostRef:
    """A host of the base, as placement counts it."""

    peer: str
    """Its PeerId, or `here`."""
    owner: str
    weight: float
    trusted: bool
    """At or above the floor: strangers are never the only holders."""


@dataclass(frozen=True, slots=True)
class WriterRef:
    """A copy of the base that writes."""

    id: int
    next_number: int
    """Rows below it are taken."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that a device with the keys needs to have the base back."""

    base: bytes
    name: str
    sequence: int
    """1: the first."""
    previous: bytes
    """`digest` of the manifest before, as it was published; zeros for the first."""
    epoch: int
    mode: BaseMode
    embedder: EmbedderSpec | None
    """None: full text only."""
    params: bytes
    """Of the index (`kwaai.vpk.codes`)."""
    segments: tuple[SegmentRef, ...]
    removed: tuple[RowRun, ...]
    """Rows of live segments that are deleted."""
    hosts: tuple[HostRef, ...]
    generation: int
    """Of the hosts: counts up when they change."""
    replicas: int
    created_s: float
    """Of the base. Unix time."""
    published_s: float
    writers: tuple[WriterRef, ...]
    text_bytes: int = 0
    """Of every sealed TEXT in mode oblivious; 0: size classes."""
    thin: bytes = b""
    """What a thin client needs besides (`kwaai.vpk.thin`)."""

    @property
    def merkle_root(self) -> bytes:
        """Over the segments, in their order: 32 bytes, which a host sees."""
        return merkle.root([_segment_leaf(segment) for segment in self.segments])


@dataclass(frozen=True, slots=True)
class ManifestHeader:
    """What a host can read of a manifest, and check."""

    tenant: bytes
    base: bytes
    sequence: int
    epoch: int
    merkle_root: bytes


def digest(data: bytes) -> bytes:
    """Return BLAKE2b-256: of a sealed object, of a manifest as it was published."""
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def sign_manifest(manifest: Manifest, tenant: SecretKey, keys: BaseKeys) -> bytes:
    """Return the manifest sealed and signed, as it is published.

    Raises ValueError for what is out of bounds, or for keys of another base or epoch.
    """
    if (keys.base, keys.epoch) != (manifest.base, manifest.epoch):
        raise ValueError(f"{keys!r} does not seal epoch {manifest.epoch} of this base")
    if not 1 <= manifest.sequence <= SEQUENCE_MAX:
        raise ValueError(f"a manifest's number is 1 to {SEQUENCE_MAX}, not {manifest.sequence}")
    public = tenant.public.raw
    header = _encode_header(
        ManifestHeader(
            public, manifest.base, manifest.sequence, manifest.epoch, manifest.merkle_root
        )
    )
    try:
        plain = _encode(manifest)
    except OverflowError as error:
        raise ValueError(f"a manifest's number does not fit: {error}") from error
    _decode(plain, manifest.sequence)  # never publish what no reader takes
    sealed = seal(keys, public, MANIFEST, _object_id(keys, manifest.sequence), plain)
    data = header + sealed + tenant.sign(_signed(header, sealed))
    if len(data) > VPK_MANIFEST_BYTES_MAX:
        raise ValueError(f"a manifest of {len(data)} bytes is too large; compact the base")
    return data


def read_manifest_header(data: bytes) -> ManifestHeader:
    """Read what a manifest says of itself; nothing is verified. Raises ManifestInvalid."""
    if not HEADER_BYTES + SIGNATURE_BYTES < len(data) <= VPK_MANIFEST_BYTES_MAX:
        raise ManifestInvalid(f"a manifest does not have {len(data)} bytes")
    reader = Reader(data)
    try:
        if reader.uint(1) != _VERSION:
            raise ManifestInvalid("a manifest of another version; update kwaainet to read it")
        return ManifestHeader(
            reader.fixed(32),
            reader.fixed(ID_BYTES),
            reader.uint(8, least=1, most=SEQUENCE_MAX),
            reader.uint(4, least=1, most=EPOCH_MAX),
            reader.fixed(DIGEST_BYTES),
        )
    except WireError as error:
        raise ManifestInvalid(f"a manifest's header is wrong: {error.message}") from error


def check_manifest_header(data: bytes, tenant: bytes, base: bytes) -> int:
    """Check, as a host can, that this tenant signed this manifest of this base; return its sequence
    number. Raises ManifestInvalid.
    """
    header = read_manifest_header(data)
    if header.tenant != tenant or header.base != base:
        raise ManifestInvalid("a manifest of another tenant or another base")
    sealed = data[HEADER_BYTES:-SIGNATURE_BYTES]
    try:
        PublicKey(tenant).verify(_signed(data[:HEADER_BYTES], sealed), data[-SIGNATURE_BYTES:])
    except CredentialsError as error:
        raise ManifestInvalid("a manifest that its tenant did not sign") from error
    return header.sequence


def verify_manifest(
    data: bytes, tenant: bytes, keys: BaseKeys, *, least_sequence: int = 1
) -> Manifest:
    """Return a manifest that came from a host, verified, in this order: the tenant's signature over
    this base; the sequence number is not below `least_sequence` (what was seen before); it opens;
    its inside is in bounds and agrees with its header.

    Raises ManifestInvalid, SealBroken. Keys of another epoch do not open it: `read_manifest_header`
    tells which are needed.
    """
    sequence = check_manifest_header(data, tenant, keys.base)
    if sequence < least_sequence:
        raise ManifestInvalid(
            f"rollback: a host gives manifest {sequence}; number {least_sequence} was seen before"
        )
    header = read_manifest_header(data)
    if header.epoch != keys.epoch:
        raise ManifestInvalid(
            f"a manifest of epoch {header.epoch}; the keys at hand are of epoch {keys.epoch}"
        )
    sealed = data[HEADER_BYTES:-SIGNATURE_BYTES]
    plain = open_sealed(keys, tenant, MANIFEST, _object_id(keys, sequence), sealed)
    try:
        manifest = _decode(plain, sequence)
    except ValueError as error:
        raise ManifestInvalid(f"a manifest's inside is wrong: {error}") from error
    inside = (manifest.base, manifest.epoch, manifest.merkle_root)
    if inside != (header.base, header.epoch, header.merkle_root):
        raise ManifestInvalid("a manifest's inside and its header differ")
    return manifest


def _object_id(keys: BaseKeys, sequence: int) -> bytes:
    return keys.object_id(MANIFEST, sequence.to_bytes(8, "big"))


def _signed(header: bytes, sealed: bytes) -> bytes:
    return _DOMAIN + header + digest(sealed)


def _encode_header(header: ManifestHeader) -> bytes:
    return (
        Writer()
        .uint(_VERSION, 1)
        .fixed(header.tenant, 32)
        .fixed(header.base, ID_BYTES)
        .uint(header.sequence, 8)
        .uint(header.epoch, 4)
        .fixed(header.merkle_root, DIGEST_BYTES)
        .finish()
    )


def _encode(manifest: Manifest) -> bytes:
    writer = Writer()
    writer.fixed(manifest.base, ID_BYTES).text(manifest.name).uint(manifest.sequence, 8)
    writer.fixed(manifest.previous, DIGEST_BYTES).uint(manifest.epoch, 4)
    writer.uint(_MODES.index(manifest.mode), 1).uint(manifest.text_bytes, 4)
    _write_embedder(writer, manifest.embedder)
    writer.blob(manifest.params, 4).blob(manifest.thin, 4)
    writer.uint(manifest.generation, 4).uint(manifest.replicas, 1)
    writer.time(manifest.created_s).time(manifest.published_s)
    writer.uint(len(manifest.segments), 2)
    for segment in manifest.segments:
        _write_segment(writer, segment)
    writer.uint(len(manifest.removed), 2)
    for run in manifest.removed:
        writer.uint(run.writer, 8).uint(run.start, 8).uint(run.stop, 8)
    writer.uint(len(manifest.hosts), 1)
    for host in manifest.hosts:
        writer.text(host.peer).text(host.owner).f32(host.weight).uint(host.trusted, 1)
    writer.uint(len(manifest.writers), 2)
    for device in manifest.writers:
        writer.uint(device.id, 8).uint(device.next_number, 8)
    return writer.finish()


def _decode(plain: bytes, sequence: int) -> Manifest:
    """Raises ValueError."""
    try:
        return _read(Reader(plain), sequence)
    except WireError as error:
        raise ValueError(error.message) from error


def _read(reader: Reader, sequence: int) -> Manifest:
    base = reader.fixed(ID_BYTES)
    name = reader.text(most=4 * VPK_BASE_NAME_CHARS_MAX)
    if not 1 <= len(name) <= VPK_BASE_NAME_CHARS_MAX:
        raise ValueError(f"a base's name has 1 to {VPK_BASE_NAME_CHARS_MAX} characters")
    if reader.uint(8) != sequence:
        raise ValueError("its number is not its header's")
    previous = reader.fixed(DIGEST_BYTES)
    epoch = reader.uint(4, least=1)
    mode = _MODES[reader.uint(1, most=len(_MODES) - 1)]
    text_bytes = reader.uint(4, most=VPK_SEALED_BYTES_MAX)
    embedder = _read_embedder(reader)
    params = reader.blob(4, most=VPK_INDEX_PARAMS_BYTES_MAX)
    thin = reader.blob(4, most=VPK_INDEX_PARAMS_BYTES_MAX)
    generation, replicas = reader.uint(4), reader.uint(1, least=1)
    created_s, published_s = reader.time(), reader.time()
    segments = tuple(_read_segment(reader) for _ in range(reader.uint(2, most=VPK_SEGMENTS_MAX)))
    removed = tuple(_read_run(reader) for _ in range(reader.uint(2, most=VPK_REMOVED_RUNS_MAX)))
    hosts = tuple(_read_host(reader) for _ in range(reader.uint(1, most=VPK_HOSTS_MAX)))
    writers = tuple(
        WriterRef(reader.uint(8), reader.uint(8))
        for _ in range(reader.uint(2, most=VPK_WRITERS_MAX))
    )
    reader.finish()
    if len({segment.id for segment in segments}) != len(segments):
        raise ValueError("a segment is listed twice")
    return Manifest(
        base,
        name,
        sequence,
        previous,
        epoch,
        mode,
        embedder,
        params,
        segments,
        removed,
        hosts,
        generation,
        replicas,
        created_s,
        published_s,
        writers,
        text_bytes,
        thin,
    )


def _write_embedder(writer: Writer, spec: EmbedderSpec | None) -> None:
    writer.uint(spec is not None, 1)
    if spec is not None:
        writer.text(spec.model).text(spec.sha256).uint(spec.dimension, 2)
        writer.uint(spec.normalised, 1)


def _read_embedder(reader: Reader) -> EmbedderSpec | None:
    if not reader.uint(1, most=1):
        return None
    return EmbedderSpec(
        reader.text(most=255),
        reader.text(most=64),
        reader.uint(2, least=1, most=VPK_DIMENSION_MAX),
        bool(reader.uint(1, most=1)),
    )


def _write_segment(writer: Writer, segment: SegmentRef) -> None:
    writer.fixed(segment.id, ID_BYTES).uint(segment.rows, 4).uint(segment.size_bytes, 4)
    writer.fixed(segment.digest, DIGEST_BYTES).fixed(segment.root, DIGEST_BYTES)
    writer.text(segment.coding).uint(segment.epoch, 4)


def _read_segment(reader: Reader) -> SegmentRef:
    segment = SegmentRef(
        reader.fixed(ID_BYTES),
        reader.uint(4, most=_ROWS_MAX),
        reader.uint(4, most=VPK_SEALED_BYTES_MAX),
        reader.fixed(DIGEST_BYTES),
        reader.fixed(DIGEST_BYTES),
        reader.text(most=5),
        reader.uint(4, least=1),
    )
    if _CODING.fullmatch(segment.coding) is None:
        raise ValueError(f"a segment's coding is {segment.coding!r}, not whole or 4/8")
    return segment


def _read_run(reader: Reader) -> RowRun:
    run = RowRun(*(reader.uint(8, most=SEQUENCE_MAX) for _ in range(3)))
    if run.start >= run.stop:
        raise ValueError("a run of removed rows is empty")
    return run


def _read_host(reader: Reader) -> HostRef:
    host = HostRef(
        reader.text(most=128), reader.text(most=255), reader.f32(), bool(reader.uint(1, most=1))
    )
    if host.weight < 0:
        raise ValueError("a host's weight is below 0")
    return host


def _segment_leaf(segment: SegmentRef) -> bytes:
    return merkle.leaf(segment.id + segment.digest + segment.root)
