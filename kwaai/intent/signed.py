"""What intents and offers share as signed bytes: size, version, times, and why one is refused;
and lists that have one order only, so that one value has one encoding.

Pure: the time is the caller's. Knows neither an intent nor an offer. docs/intents.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal, TypeAlias, TypeVar

from credentials.errors import CredentialsError
from credentials.keys import SIGNATURE_BYTES, PeerId
from kwaai import limits
from kwaai.errors import PeerError
from kwaai.wire.codec import Reader, WireError, Writer
from kwaai.wire.signed import HEAD_BYTES, VERSION_BYTES, read_signed, read_signer, verify_signer

Reason: TypeAlias = Literal[
    "size", "format", "version", "lifetime", "future", "expired", "signature",
    "requester", "replay", "digest", "terms", "state",
]  # fmt: skip
"""Why an intent or an offer is refused: too many bytes; fields missing, left over, out of bounds or
out of order; a version that is not known here; a lifetime that is not allowed; issued in the
future; expired; not signed by the peer that it names; of somebody else than who sent it; seen
before; about another intent; about something else than was asked for; when none is expected.
"""

_T = TypeVar("_T")


class IntentInvalid(PeerError):
    """An intent or an offer that may not be acted upon."""

    code = "intent_invalid"

    def __init__(
        self,
        message: str,
        reason: Reason = "format",
        *,
        param: str | None = None,
        retry_after_s: float | None = None,
        peer: str | None = None,
    ) -> None:
        super().__init__(message, param=param, retry_after_s=retry_after_s, peer=peer)
        self.reason: Reason = reason


def parse_signed(data: bytes, what: str, version: int, parse: Callable[[PeerId, Reader], _T]) -> _T:
    """Return what `parse` makes of the fields. The signature is not looked at. `what` names it in
    errors. Raises IntentInvalid.
    """
    if not HEAD_BYTES + SIGNATURE_BYTES < len(data) <= limits.INTENT_BYTES_MAX:
        raise IntentInvalid(
            f"{what} has {len(data)} bytes; at most {limits.INTENT_BYTES_MAX} are taken", "size"
        )
    reader = read_signed(data)
    found = reader.uint(VERSION_BYTES)
    if found != version:
        raise IntentInvalid(f"{what} has version {found}; {version} is known here", "version")
    try:
        value = parse(read_signer(reader), reader)
        reader.finish()
    except (WireError, ValueError) as error:
        raise IntentInvalid(f"{what} is malformed: {error}", "format") from error
    return value


def check_times(what: str, issued_s: float, expires_s: float, now_s: float) -> None:
    """Raise IntentInvalid unless it holds at `now_s`, and for no longer than allowed."""
    lifetime_s = expires_s - issued_s
    if not 0 < lifetime_s <= limits.INTENT_LIFETIME_S_MAX:
        raise IntentInvalid(
            f"{what} is for {lifetime_s:.0f} s; at most {limits.INTENT_LIFETIME_S_MAX:.0f} are",
            "lifetime",
        )
    if issued_s > now_s + limits.INTENT_FUTURE_S_MAX:
        raise IntentInvalid(
            f"{what} was issued {issued_s - now_s:.0f} s from now: compare the clocks of the two "
            "machines",
            "future",
        )
    if expires_s <= now_s:
        raise IntentInvalid(
            f"{what} expired {now_s - expires_s:.0f} s ago; compare the clocks of the two machines",
            "expired",
        )


def check_signature(what: str, data: bytes, domain: bytes) -> None:
    """Raise IntentInvalid unless the peer that is named in `data` signed it."""
    try:
        verify_signer(data, domain)
    except CredentialsError as error:
        raise IntentInvalid(
            f"{what} is not signed by the peer that it names", "signature"
        ) from error


# Fields.


def write_names(writer: Writer, names: Iterable[str]) -> None:
    """Append names in their order: sorted, each once."""
    ordered = sorted(set(names))
    writer.uint(len(ordered), 1)
    for name in ordered:
        writer.text(name, 2)


def read_names(reader: Reader) -> tuple[str, ...]:
    """Take principals in their order. Raises WireError."""
    count = reader.uint(1, most=limits.DEMAND_NAMES_MAX)
    names = tuple(reader.text(2, most=limits.DEMAND_NAME_CHARS_MAX) for _ in range(count))
    for name in names:
        if not name.startswith("did:"):
            raise WireError(f"{name!r:.80} is not a DID")
    check_order(names)
    return names


def write_pairs(writer: Writer, pairs: Mapping[str, str]) -> None:
    """Append keys and values in the order of the keys."""
    writer.uint(len(pairs), 1)
    for key in sorted(pairs):
        writer.text(key).text(pairs[key])


def read_pairs(reader: Reader) -> Mapping[str, str]:
    """Take keys and values. Raises WireError."""
    most = limits.DEMAND_BUDGET_CHARS_MAX
    count = reader.uint(1, most=limits.DEMAND_BUDGET_PAIRS_MAX)
    pairs = [(reader.text(most=most), reader.text(most=most)) for _ in range(count)]
    check_order([key for key, _ in pairs])
    return dict(pairs)


def check_order(keys: Sequence[Any]) -> None:
    """Raise WireError unless `keys` rise: each value has one encoding, and one digest."""
    if any(not one < two for one, two in pairwise(keys)):
        raise WireError("a list is not in its order, or has something twice")
