"""What people write about credentials on a command line, and files of them: read, with bounds.

Prints nothing and opens no wallet. Raises UsageError that names the option, InputMissing for files.
"""

from __future__ import annotations

import contextlib
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kwaai.cli.parser import Parser, UsageError, hint
from kwaai.errors import InputMissing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from credentials.claims import Claim
    from credentials.kinds import Kind

SUITES = ("eddsa-jcs-2022", "eddsa-rdfc-2022")
SELF = "self"
OWNER = "owner"
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_DURATION = re.compile(r"([0-9]{1,9})([smhdwy])")
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_STDIN = "-"
_DERIVED = frozenset({"uptimeRatio"})
"""Claims that a credential must have, and that follow from its others."""


def add_suite(parser: Parser) -> None:
    parser.add_argument(
        "--suite",
        choices=SUITES,
        default=SUITES[0],
        metavar="SUITE",
        help=f"how it is signed: {SUITES[0]} (default) or {SUITES[1]}",
    )


def add_out(parser: Parser) -> None:
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write it to this new file, not to the screen"
    )


def read_expires(text: str | None, now_s: float) -> float | None:
    """Read `90d`, `2027-01-31` or `2027-01-31T12:00:00Z` as Unix seconds after `now_s`."""
    if text is None:
        return None
    end_s = _end(text.strip(), now_s)
    if end_s <= now_s:
        raise UsageError(f"--expires: {text!r:.80} is over already")
    return end_s


def _end(text: str, now_s: float) -> float:
    from credentials.document import encode_time, parse_time
    from credentials.errors import CredentialsError

    duration = _DURATION.fullmatch(text)
    try:
        if duration:
            end_s = now_s + int(duration[1]) * _UNITS_S[duration[2]]
            encode_time(end_s)  # there are years that cannot be written
            return end_s
        return parse_time(f"{text}T00:00:00Z" if _DATE.fullmatch(text) else text)
    except CredentialsError:
        raise UsageError(
            f"--expires: {text!r:.80} is neither a duration (90d; units s m h d w y), nor a date "
            "(2027-01-31), nor a time with its zone (2027-01-31T12:00:00Z)"
        ) from None


def read_did(text: str, option: str, own: str, owner: str | None = None) -> str:
    """Read `self`, `owner`, a PeerId or a DID; return the DID. A node's alias becomes its did:key.

    `own`, `owner`: the DIDs that the two words stand for.
    """
    from credentials.did import did_key, is_alias, parse_did, parse_did_url
    from credentials.errors import CredentialsError, KeyTypeUnsupported
    from credentials.keys import parse_peer_id

    if text == SELF:
        return own
    if text == OWNER:
        if owner is None:
            raise UsageError(
                f"{option}: there is no owner key here; make one: kwaainet identity owner create"
            )
        return owner
    try:
        if not text.startswith("did:"):
            return did_key(parse_peer_id(text))
        if is_alias(text):
            return did_key(parse_did(text))
        url = parse_did_url(text)
        if text.startswith("did:key:"):
            with contextlib.suppress(KeyTypeUnsupported):  # it may be about one, not signed by one
                parse_did(url.did)
    except CredentialsError as error:
        raise UsageError(
            f"{option}: {error}; write {SELF!r}, a DID (did:key:z6Mk...) or a PeerId"
            f"{hint(text, (SELF, OWNER))}"
        ) from None
    if url.did != text:
        raise UsageError(f"{option}: {text!r:.80} has more than a DID: leave out what follows it")
    return text


def read_kind(name: str) -> Kind:
    """Find one of our credential types. An unknown one is told with the closest there is."""
    from credentials.errors import CredentialsError
    from credentials.kinds import KINDS, find_kind

    try:
        return find_kind(name)
    except CredentialsError:
        known = [*KINDS, *(alias for kind in KINDS.values() for alias in kind.aliases)]
        near = {key.lower(): key for key in known}
        short = {key.lower().removesuffix("vc"): key for key in known}
        close = short.get(name.lower())
        guess = hint(name, known, [close] if close else [])
        if not guess:
            guess = hint(name.lower(), near)
        raise UsageError(
            f"there is no credential type {name!r:.80}{guess} (see: kwaainet credential schema "
            "list)"
        ) from None


def read_claims(kind: Kind, pairs: Sequence[str], file: str | None) -> dict[str, Any]:
    """Return the claims of `--from-file` (a JSON object), and over them those of `--claim`."""
    from credentials.document import parse_document
    from credentials.errors import CredentialsError
    from credentials.kinds import parse_claim

    claims: dict[str, Any] = {}
    try:
        if file is not None:
            claims.update(parse_document(read_input(file)))
    except CredentialsError as error:
        raise UsageError(f"--from-file: {file} is not one JSON object of claims: {error}") from None
    given: set[str] = set()
    for pair in pairs:
        try:
            name, value = parse_claim(kind, pair)
        except CredentialsError as error:
            known = [claim.name for claim in kind.claims]
            name = pair.partition("=")[0]
            near = hint(name, known) if name not in known else ""
            raise UsageError(
                f"--claim: {error}{near} (see: kwaainet credential schema show {kind.name})"
            ) from None
        if name in given:
            raise UsageError(f"--claim: {name} is given twice")
        given.add(name)
        claims[name] = value
    return claims


def is_needed(claim: Claim) -> bool:
    """Say whether whoever issues has to give this claim."""
    return claim.required and claim.name not in _DERIVED


def refuse_missing_claims(kind: Kind, claims: dict[str, Any]) -> None:
    """Name every claim that the type needs and that was not given, at once."""
    missing = [c.name for c in kind.claims if is_needed(c) and c.name not in claims]
    if missing:
        raise UsageError(
            f"{kind.name} needs {', '.join(missing)}; give each with --claim NAME=VALUE (see: "
            f"kwaainet credential schema show {kind.name})"
        )


def read_input(name: str) -> bytes:
    """Read a file, or standard input for `-`, up to what any document may have and one byte."""
    from credentials.limits import PRESENTATION_BYTES_MAX

    return read_bytes(name, PRESENTATION_BYTES_MAX + 1)


def read_bytes(name: str, bytes_max: int) -> bytes:
    """Read up to `bytes_max` bytes of a file, or of standard input for `-`."""
    try:
        if name == _STDIN:
            if sys.stdin is None:
                raise InputMissing("there is no standard input to read")
            return sys.stdin.buffer.read(bytes_max)
        with open(name, "rb") as file:
            return file.read(bytes_max)
    except OSError as error:
        raise InputMissing(f"cannot read {name}: {error.strerror}") from error


def check_output(path: Path | None) -> None:
    """Refuse an `--out` that cannot be a new file, before anything is made for it."""
    if path is None:
        return
    if path.exists() or path.is_symlink():
        raise UsageError(f"{path} is there already; name a new file, or remove it first")
    if not path.parent.is_dir():
        raise UsageError(f"there is no directory {path.parent} to write {path.name} in")


def write_output(path: Path, data: bytes) -> None:
    """Write a new file that only this user can read. What is there is never replaced."""
    from kwaai.atomic import disk_errors
    from kwaai.store.key_file import create_exclusive

    with disk_errors(path):
        created = create_exclusive(path, data, 0o600)
    if not created:
        raise UsageError(f"{path} is there already; name a new file, or remove it first")


def print_original(data: bytes) -> None:
    """Print a credential to the byte; on a terminal with an end of its line."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    if sys.stdout.isatty():
        print()


def now_s() -> float:
    """Return the clock that commands go by, in whole seconds as credentials write them."""
    return float(int(time.time()))


def show_time(seconds: float | None) -> str:
    """Return a day as tables have it, or `-` for none."""
    if seconds is None:
        return "-"
    return time.strftime("%Y-%m-%d", time.gmtime(seconds))


def show_end(text: str | None) -> str:
    """Return how long something is valid, as a sentence has it."""
    return "without an end" if text is None else f"valid until {text}"


def is_presentation(data: bytes) -> bool:
    """Say whether these bytes call themselves a presentation."""
    from credentials.document import parse_document
    from credentials.errors import CredentialsError
    from credentials.limits import PRESENTATION_BYTES_MAX

    try:
        types = parse_document(data, bytes_max=PRESENTATION_BYTES_MAX).get("type")
    except CredentialsError:
        return False  # whoever verifies it says what it is
    return "VerifiablePresentation" in (types if isinstance(types, list) else [types])


def name_types(types: Sequence[str] | str) -> str:
    """Return the types of a credential without the one that all have."""
    types = [types] if isinstance(types, str) else types
    return ", ".join(t for t in types if t != "VerifiableCredential") or "credential"


def read_issuer(text: str, option: str) -> str:
    """Read a DID or a PeerId; return the DID."""
    if text in (SELF, OWNER):
        raise UsageError(f"{option}: {text!r} is not known here; write the DID")
    return read_did(text, option, text)
