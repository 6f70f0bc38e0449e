"""The settings that exist: name, type, default, range and meaning. docs/config.md is made from it.

Does not read files or the environment (`kwaai.config.load`). A key is here when something reads it.
"""

from __future__ import annotations

import functools
import getpass
import ipaddress
import platform
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
)

from kwaai import limits

NOTHING = frozenset({"", "~", "null", "none", "auto"})
"""How "no value of my own" is written, for the keys that may have none."""


def default_public_name() -> str:
    """Return `<user>-<os>-<architecture>`, as the reference network names a node."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without an account
        user = "node"
    return f"{user}-{platform.system()}-{platform.machine()}".lower()[:64]


def _nothing(value: object) -> object:
    return None if isinstance(value, str) and value.strip().lower() in NOTHING else value


def _whole_number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError("must be a whole number")
    if isinstance(value, str) and not value.strip().lstrip("-").isdecimal():
        raise ValueError("must be a whole number")
    return value


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("must be one line of printable characters")
    return value


def _expand(path: Path) -> Path:
    if "\0" in str(path):
        raise ValueError("must be a path")
    return path.expanduser()


Text = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(_one_line)
]
WHOLE = BeforeValidator(_whole_number)
OR_NONE = BeforeValidator(_nothing)


def _absolute(path: Path) -> Path:
    if not path.is_absolute():
        raise ValueError("must be an absolute path, or one that begins with ~")
    return path


FilePath = Annotated[Path, AfterValidator(_expand)]

_PEER_ADDRESS = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/[^/]+/tcp/\d{1,5}/p2p/[1-9A-HJ-NP-Za-km-z]+")
_PORT = re.compile(r"[0-9]{1,5}")
_CREDENTIAL_TYPE = re.compile(r"[A-Z][A-Za-z0-9]{1,60}VC")
_HOST = re.compile(
    r"[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?(\.[A-Za-z0-9-]*[A-Za-z0-9])+(:[0-9]{1,5})?"
)
_SERVED = re.compile(r"none|auto|(\d{1,4}):(\d{1,4})")


def _words(value: object) -> object:
    """Split `a, b`, which a YAML list has become too; `none` is no address."""
    if not isinstance(value, str):
        return () if value is None else value
    words = value.replace(",", " ").split()
    return () if len(words) == 1 and words[0].lower() in NOTHING else tuple(words)


def _check_addresses(values: tuple[str, ...]) -> tuple[str, ...]:
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


def _check_links(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        host, _, port = value.rpartition(":")
        number = int(port) if _PORT.fullmatch(port) else 0
        if not _is_ip(host) or not 0 < number < 65_536:
            raise ValueError("must be addresses such as 203.0.113.7:8081 or [2001:db8::7]:8081")
    return tuple(dict.fromkeys(values))


def _check_types(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _CREDENTIAL_TYPE.fullmatch(value):
            raise ValueError(
                "must be credential types such as MembershipVC (see: kwaainet credential schema "
                "list)"
            )
    return tuple(dict.fromkeys(values))


def _check_hosts(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if not _HOST.fullmatch(value) or len(value) > limits.HOST_CHARS_MAX:
            raise ValueError(
                "must be hosts such as example.org or example.org:8443, without a scheme"
            )
    return tuple(dict.fromkeys(value.lower() for value in values))


def _check_listen_host(value: str) -> str:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        raise ValueError(
            "must be an IP address of this machine, or 0.0.0.0 for all of them"
        ) from None
    return value


def _check_served(value: str) -> str:
    found = _SERVED.fullmatch(value)
    if not found or (found[1] and not int(found[1]) < int(found[2]) <= limits.BLOCKS_MAX):
        raise ValueError("must be none, auto, or START:STOP with START below STOP, such as 8:16")
    return value


class Config(BaseModel):
    """Every setting of a node, validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: Annotated[Text, Field(max_length=limits.MODEL_NAME_CHARS_MAX)] = Field(
        default="kwaai-demo",
        description="The model that answers: a name from `kwaainet models list`, a handle, or the "
        "path of a GGUF file. `kwaai-demo` is the packaged demonstration model.",
    )
    slices: Annotated[
        Annotated[int, Field(ge=1, le=limits.BLOCKS_MAX), WHOLE] | None, BeforeValidator(_nothing)
    ] = Field(
        default=None,
        description="Into how many layer ranges the model is cut, each run by its own process. "
        "`auto`: the node decides (one process, where this machine alone is faster).",
    )
    context_tokens: Annotated[int, Field(ge=64, le=1_048_576), WHOLE] = Field(
        default=limits.CONTEXT_TOKENS_DEFAULT,
        description="Tokens of prompt and answer together that one session may have. Memory for "
        "the KV cache grows with it.",
    )
    max_sessions: Annotated[int, Field(ge=1, le=limits.SESSIONS_PER_WORKER_MAX), WHOLE] = Field(
        default=4,
        description="Answers that are made at the same time; more requests wait. Memory for the KV "
        "cache grows with it.",
    )
    api_host: Text = Field(
        default="127.0.0.1",
        description="The address that the API listens on. Any other than a loopback address needs "
        "`api_key_file`.",
    )
    api_port: Annotated[int, Field(ge=0, le=65_535), WHOLE] = Field(
        default=11435, description="The TCP port that the API listens on. 0: a free one."
    )
    api_key_file: Annotated[FilePath | None, OR_NONE] = Field(
        default=None,
        description="A file, readable by you only, that holds the key which API requests must "
        "bring. `none`: no key.",
    )
    threads: Annotated[Annotated[int, Field(ge=1, le=1024), WHOLE] | None, OR_NONE] = Field(
        default=None,
        description="CPU threads for the model. `auto`: as many as there are cores.",
    )
    use_gpu: bool = Field(
        default=True,
        description="Use a GPU where the installed llama.cpp supports one and one is found.",
    )
    memory_limit_mb: Annotated[
        Annotated[int, Field(ge=16, le=1_000_000_000), WHOLE] | None, BeforeValidator(_nothing)
    ] = Field(
        default=None,
        description="Memory in MB (10^6 bytes) that models may take; what does not fit is refused "
        "before it is loaded. `auto`: what the machine has free.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        default="warning",
        description="The least important events that are written to standard error.",
    )
    public_name: Annotated[Text, Field(max_length=64)] = Field(
        default_factory=default_public_name,
        description="What this node calls itself. Default: user, system and architecture.",
    )
    identity_key: Annotated[Annotated[FilePath, AfterValidator(_absolute)] | None, OR_NONE] = Field(
        default=None,
        description="The identity key file. `none`: `identity.key` in the node's home.",
    )
    port: Annotated[int, Field(ge=0, le=65_535), WHOLE] = Field(
        default=8080,
        description="The TCP port on which other nodes find this one (libp2p). 0: a free one.",
    )
    link_port: Annotated[Annotated[int, Field(ge=0, le=65_535), WHOLE] | None, OR_NONE] = Field(
        default=None,
        description="The TCP port for the encrypted links over which other nodes send work. "
        "`auto`: the one after `port`, or a free one where that is 0.",
    )
    announce_links: Annotated[
        tuple[str, ...],
        Field(max_length=limits.LINK_ADDRESSES_MAX),
        BeforeValidator(_words),
        AfterValidator(_check_links),
    ] = Field(
        default=(),
        description="Where others reach `link_port`, as `203.0.113.7:8081` with commas between "
        "them, if that is no address of this machine: behind a router that forwards a port. Names "
        "are not dialled.",
    )
    listen_host: Annotated[Text, AfterValidator(_check_listen_host)] = Field(
        default="0.0.0.0",
        description="The address on which `port` and `link_port` listen; `127.0.0.1` keeps the "
        "node to this machine.",
    )
    bootstrap_peers: Annotated[
        tuple[str, ...],
        Field(max_length=limits.BOOTSTRAP_PEERS_MAX),
        BeforeValidator(_words),
        AfterValidator(_check_addresses),
    ] = Field(
        default=(),
        description="Addresses of nodes to connect to first, which know the others: "
        "`/ip4/<address>/tcp/<port>/p2p/<peer id>`, with commas between them, or as a YAML list.",
    )
    mdns: bool = Field(
        default=True,
        description="Find other nodes on the local network, and be found there (multicast DNS).",
    )
    serve: Annotated[Text, AfterValidator(_check_served)] = Field(
        default="none",
        description="Which layers of `model` this node runs for others: `none`, `START:STOP` "
        "(START included, STOP not), or `auto`: what the swarm lacks most and this machine can "
        "hold.",
    )
    route: Literal["auto", "alone", "peer", "split"] = Field(
        default="auto",
        description="Who answers this node's prompts: this machine `alone`, one `peer` for all "
        "the middle layers, several (`split`), or whatever is predicted to be fastest (`auto`).",
    )
    home_blocks: Annotated[
        Annotated[int, Field(ge=1, le=limits.BLOCKS_MAX), WHOLE] | None, OR_NONE
    ] = Field(
        default=None,
        description="Layers that this node runs itself in answers over peers, the first and the "
        "last ones together, at most. `auto`: as many as fit and make the answer faster.",
    )
    privacy: Literal["private", "fast"] = Field(
        default="private",
        description="`private`: this machine runs the first and the last layers, so no other sees "
        "text, tokens or logits. `fast`: the last peer samples, and sees the answer.",
    )
    share_credentials: bool = Field(
        default=True,
        description="Show peers that ask what this node holds about itself: its valid credentials, "
        "in a presentation made for them.",
    )
    auto_issue: Annotated[
        tuple[str, ...],
        Field(max_length=limits.CREDENTIAL_KINDS_MAX),
        BeforeValidator(_words),
        AfterValidator(_check_types),
    ] = Field(
        default=(),
        description="Types of credentials that this node issues to any peer that asks, with the "
        "claims that the peer asks for: `MembershipVC`, with commas between them, or as a YAML "
        "list. Other requests wait for `kwaainet credential approve`.",
    )
    web_hosts: Annotated[
        tuple[str, ...],
        Field(max_length=limits.WEB_HOSTS_MAX),
        BeforeValidator(_words),
        AfterValidator(_check_hosts),
    ] = Field(
        default=(),
        description="Hosts that are asked over HTTPS for `did:web` documents and status lists: "
        "`example.org`, with commas between them, or as a YAML list. No other host is ever asked.",
    )


KEYS: tuple[str, ...] = tuple(Config.model_fields)
LIST_KEYS: frozenset[str] = frozenset(
    {"bootstrap_peers", "announce_links", "auto_issue", "web_hosts"}
)
"""The keys that config.yaml may give as a list too."""


@functools.cache
def optional_keys() -> frozenset[str]:
    """Return the keys that may have no value, written `auto` (numbers) or `none` (paths, lists)."""
    return LIST_KEYS | frozenset(
        name
        for name, field in Config.model_fields.items()
        if field.default is None and field.default_factory is None
    )


def show_value(key: str, value: object) -> str:
    """Return a setting's value the way `config.yaml` and `config set` spell it."""
    if value is None:
        return "none" if key in ("api_key_file", "identity_key") else "auto"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value) or "none"
    return str(value)
