"""What the text of a setting must look like: one function a form. Raises ValueError with what it
must be.

Knows no key. Used by `kwaai.config.model` through pydantic.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path

from kwaai import limits

NOTHING = frozenset({"", "~", "null", "none", "auto"})
"""How "no value of my own" is written, for the keys that may have none."""


def none_or(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() in NOTHING else value


def check_whole_number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("must be a whole number")
    if isinstance(value, str) and not value.strip().lstrip("-").isdecimal():
        raise ValueError("must be a whole number")
    return value


def check_one_line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be one line of printable characters")
    return value


def expand(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("must be a path")
    return path.expanduser()


def check_absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path, or one that begins with ~")
    return path


_PEER_ADDRESS = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/[^/]+/tcp/\d{1,5}/p2p/[1-9A-HJ-NP-Za-km-z]+")
_PORT = re.compile(r"[0-9]{1,5}")
_CREDENTIAL_TYPE = re.compile(r"[A-Z][A-Za-z0-9]{1,60}VC")
_HOST = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]*[A-Za-z0-9])+(:[0-9]{1,5})?"
)
_SERVED = re.compile(r"none|auto|(\d{1,4}):(\d{1,4})")


def words(value: object) -> object:
    """Split `a, b`, which a YAML list has become too; `none` is no address."""
    if not isinstance(value, str):
        return () if value is None else value
    words = value.replace(",", " ").split()
    return () if len(words) == 1 and words[0].lower() in NOTHING else tuple(words)


def check_addresses(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _PEER_ADDRESS.fullmatch(value):
            raise ValueError(
                "must be addresses such as /ip4/192.0.2.1/tcp/8080/p2p/12D3... (see: kwaainet "
                "p2p info)"
            )
    return tuple(dict.fromkeys(values))


def _is_ip(host: str) -> bool:
    """Whether it is an IPv4 address, or an IPv6 address in brackets."""
    is_v6 = host.startswith("[") and host.endswith("]") and "%" not in host
    try:
        ipaddress.IPv6Address(host[1:-1]) if is_v6 else ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def check_links(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        host, _, port = value.rpartition(":")
        number = int(port) if _PORT.fullmatch(port) else 0
        if not _is_ip(host) or not 0 < number < 65_536:
            raise ValueError("must be addresses such as 203.0.113.7:8081 or [2001:db8::7]:8081")
    return tuple(dict.fromkeys(values))


def check_types(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _CREDENTIAL_TYPE.fullmatch(value):
            raise ValueError(
                "must be credential types such as MembershipVC (see: kwaainet credential schema "
                "list)"
            )
    return tuple(dict.fromkeys(values))


def check_hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _HOST.fullmatch(value) or len(value) > limits.HOST_CHARS_MAX:
            raise ValueError(
                "must be hosts such as example.org or example.org:8443, without a scheme"
            )
    return tuple(dict.fromkeys(value.lower() for value in values))


def check_listen_host(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise ValueError(
            "must be an IP address of this machine, or 0.0.0.0 for all of them"
        ) from None
    return value


def check_served(value: str) -> str:
    found = _SERVED.fullmatch(value)
    if not found or (found[1] and not int(found[1]) < int(found[2]) <= limits.BLOCKS_MAX):
        raise ValueError("must be none, auto, or START:STOP with START below STOP, such as 8:16")
    return value


_DID = re.compile(r"did:[a-z0-9]{1,30}:[A-Za-z0-9._:%-]{1,4000}")
_TYPE_WEIGHT = re.compile(r"([A-Z][A-Za-z0-9]{1,60}VC)=(.{1,20})")


def check_dids(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _DID.fullmatch(value):
            raise ValueError("must be DIDs such as did:key:z6Mk... (see: kwaainet identity show)")
    return tuple(dict.fromkeys(values))


def _share(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0.0 <= number <= 1.0:
        raise ValueError("must have numbers from 0 to 1")
    return number


def check_issuers(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        did, _, weight = value.rpartition("=")
        if not _DID.fullmatch(did):
            raise ValueError("must be issuers such as did:key:z6Mk...=0.8")
        _share(weight)
    return tuple(dict.fromkeys(values))


def check_weights(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        found = _TYPE_WEIGHT.fullmatch(value)
        if not found:
            raise ValueError("must be types with weights such as VerifiedNodeVC=0.2")
        _share(found[2])
    return tuple(dict.fromkeys(values))


def check_thresholds(values: tuple[str, ...]) -> tuple[str, ...]:
    numbers = [_share(value) for value in values]
    if len(numbers) != 3 or not 0.0 < numbers[0] < numbers[1] < numbers[2]:
        raise ValueError(
            "must be three rising numbers: from what score on a peer is Known, Verified, Trusted"
        )
    return values


def lower(value: object) -> object:
    return value.strip().lower() if isinstance(value, str) else value
