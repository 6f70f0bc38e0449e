"""The settings that exist: name, type, default, range and meaning. docs/config.md is made from it.

Does not read files or the environment (`kwaai.config.load`). A key is here when something reads it.
"""

from __future__ import annotations

import functools
import getpass
import platform
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
from kwaai.config.checks import (
    NOTHING,
    check_absolute,
    check_addresses,
    check_dids,
    check_hosts,
    check_issuers,
    check_links,
    check_listen_host,
    check_one_line,
    check_served,
    check_thresholds,
    check_types,
    check_weights,
    check_whole_number,
    expand,
    lower,
    none_or,
    words,
)

__all__ = [
    "KEYS",
    "LIST_KEYS",
    "NOTHING",
    "Config",
    "default_public_name",
    "optional_keys",
    "show_value",
]


def default_public_name() -> str:
    """Return `<user>-<os>-<architecture>`, as the reference network names a node."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user id without an account
        user = "node"
    return f"{user}-{platform.system()}-{platform.machine()}".lower()[:64]


Text = Annotated[
    str, StringConstraints(strip_whitespace=True, min_length=1), AfterValidator(check_one_line)
]
WHOLE = BeforeValidator(check_whole_number)
OR_NONE = BeforeValidator(none_or)
FilePath = Annotated[Path, AfterValidator(expand)]
TierName = Annotated[Literal["unknown", "known", "verified", "trusted"], BeforeValidator(lower)]


class Config(BaseModel):
    """Every setting of a node, validated."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    model: Annotated[Text, Field(max_length=limits.MODEL_NAME_CHARS_MAX)] = Field(
        default="kwaai-demo",
        description="The model that answers: a name from `kwaainet models list`, a handle, or the "
        "path of a GGUF file. `kwaai-demo` is the packaged demonstration model.",
    )
    slices: Annotated[
        Annotated[int, Field(ge=1, le=limits.BLOCKS_MAX), WHOLE] | None, BeforeValidator(none_or)
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
        Annotated[int, Field(ge=16, le=1_000_000_000), WHOLE] | None, BeforeValidator(none_or)
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
    identity_key: Annotated[Annotated[FilePath, AfterValidator(check_absolute)] | None, OR_NONE] = (
        Field(
            default=None,
            description="The identity key file. `none`: `identity.key` in the node's home.",
        )
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
        BeforeValidator(words),
        AfterValidator(check_links),
    ] = Field(
        default=(),
        description="Where others reach `link_port`, as `203.0.113.7:8081` with commas between "
        "them, if that is no address of this machine: behind a router that forwards a port. Names "
        "are not dialled.",
    )
    listen_host: Annotated[Text, AfterValidator(check_listen_host)] = Field(
        default="0.0.0.0",
        description="The address on which `port` and `link_port` listen; `127.0.0.1` keeps the "
        "node to this machine.",
    )
    bootstrap_peers: Annotated[
        tuple[str, ...],
        Field(max_length=limits.BOOTSTRAP_PEERS_MAX),
        BeforeValidator(words),
        AfterValidator(check_addresses),
    ] = Field(
        default=(),
        description="Addresses of nodes to connect to first, which know the others: "
        "`/ip4/<address>/tcp/<port>/p2p/<peer id>`, with commas between them, or as a YAML list.",
    )
    mdns: bool = Field(
        default=True,
        description="Find other nodes on the local network, and be found there (multicast DNS).",
    )
    serve: Annotated[Text, AfterValidator(check_served)] = Field(
        default="none",
        description="Which layers of `model` this node runs for others: `none`, `START:STOP` "
        "(START included, STOP not), or `auto`: what the swarm lacks most and this machine can "
        "hold.",
    )
    parts_on_demand: Annotated[int, Field(ge=0, le=limits.SERVING_PARTS_MAX), WHOLE] = Field(
        default=0,
        description="How many parts of the ranges that it serves this node loads besides, when a "
        "peer asks for one: layers that others have too can then be shared out better. They take "
        "memory of their own. 0: none.",
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
        BeforeValidator(words),
        AfterValidator(check_types),
    ] = Field(
        default=(),
        description="Types of credentials that this node issues to any peer that asks, with the "
        "claims that the peer asks for: `MembershipVC`, with commas between them, or as a YAML "
        "list. Other requests wait for `kwaainet credential approve`.",
    )
    web_hosts: Annotated[
        tuple[str, ...],
        Field(max_length=limits.WEB_HOSTS_MAX),
        BeforeValidator(words),
        AfterValidator(check_hosts),
    ] = Field(
        default=(),
        description="Hosts that are asked over HTTPS for `did:web` documents and status lists: "
        "`example.org`, with commas between them, or as a YAML list. No other host is ever asked.",
    )
    trust_roots: Annotated[
        tuple[str, ...],
        Field(max_length=limits.TRUST_ROOTS_MAX),
        BeforeValidator(words),
        AfterValidator(check_dids),
    ] = Field(
        default=(),
        description="Whose word counts fully: DIDs whose credentials and endorsements this node "
        "believes, with commas between them, or as a YAML list. This node and its owner always are "
        "(`kwaainet trust roots`).",
    )
    trust_issuers: Annotated[
        tuple[str, ...],
        Field(max_length=limits.TRUST_ROOTS_MAX),
        BeforeValidator(words),
        AfterValidator(check_issuers),
    ] = Field(
        default=(),
        description="Whose credentials count in part: `DID=WEIGHT`, a weight from 0 to 1. Their "
        "endorsements do not begin a walk through the trust graph, as those of roots do.",
    )
    trust_weights: Annotated[
        tuple[str, ...],
        Field(max_length=limits.CREDENTIAL_KINDS_MAX),
        BeforeValidator(words),
        AfterValidator(check_weights),
    ] = Field(
        default=(),
        description="What a credential of a type adds to a score, where it is not the default: "
        "`TYPE=WEIGHT` with a weight from 0 to 1, such as `MembershipVC=0.1`.",
    )
    trust_half_life_days: Annotated[int, Field(ge=1, le=36_500), WHOLE] = Field(
        default=365, description="After how many days a credential counts half."
    )
    trust_thresholds: Annotated[
        tuple[str, ...],
        Field(min_length=3, max_length=3),
        BeforeValidator(words),
        AfterValidator(check_thresholds),
    ] = Field(
        default=("0.10", "0.40", "0.70"),
        description="From what score on a peer is Known, Verified and Trusted.",
    )
    trust_evidence_days: Annotated[int, Field(ge=1, le=3650), WHOLE] = Field(
        default=365,
        description="How long this node remembers what it saw of peers, and its receipts.",
    )
    tier_serve: TierName = Field(
        default="unknown",
        description="The lowest tier of peers that may run layers of this node's answers: "
        "`unknown`, `known`, `verified` or `trusted`. A request may ask for more, not for less.",
    )
    tier_early_layers: TierName = Field(
        default="known",
        description="The same for the early layers, whose activations say most about the prompt.",
    )
    early_layers_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.1,
        description="Which share of a model's layers counts as early, rounded down.",
    )
    tier_compute: TierName = Field(
        default="unknown",
        description="The lowest tier of peers that may use this node's compute. Those of higher "
        "tiers wait less.",
    )
    tier_prefix: TierName = Field(
        default="verified",
        description="The lowest tier of peers with whom cached prefixes of prompts are exchanged.",
    )
    tier_host: TierName = Field(
        default="verified",
        description="The lowest tier of peers that may host this node's sealed knowledge.",
    )
    integrity_floor: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.3,
        description="The lowest integrity, from 0 to 1, of peers that may do anything but use this "
        "node's compute: it falls with wrong answers that spot checks found, and recovers as they "
        "age. 0: nobody is refused for that.",
    )
    owner_hops_max: Annotated[
        Annotated[int, Field(ge=1, le=limits.HOPS_MAX), WHOLE] | None, OR_NONE
    ] = Field(
        default=None,
        description="How many parts of one answer peers of one owner may run. `auto`: any number.",
    )
    spot_check_share: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.1,
        description="The share of answers over peers after which a part is computed again by "
        "another owner's peer, and compared. 0: never.",
    )
    witness: bool = Field(
        default=False,
        description="Issue UptimeVC and ThroughputVC to peers for what this node measured of them, "
        "and offer these.",
    )
    vpk_mode: Annotated[Literal["off", "bob", "eve", "both"], BeforeValidator(lower)] = Field(
        default="bob",
        description="What this node does for sealed knowledge: `bob` keeps its own at other nodes "
        "too, `eve` hosts that of others, `both` does both; `off`: its own stays on this disk.",
    )
    storage_capacity_gb: Annotated[
        Annotated[float, Field(ge=0.001, le=limits.STORAGE_CAPACITY_GB_MAX)] | None,
        BeforeValidator(none_or),
    ] = Field(
        default=None,
        description="GB (10^9 bytes) of disk that this node gives to hosted objects. `auto`: a "
        "tenth of what is free, at least 1.",
    )
    storage_dir: Annotated[Annotated[FilePath, AfterValidator(check_absolute)] | None, OR_NONE] = (
        Field(
            default=None,
            description="Where hosted objects are kept. `none`: `storage` in the node's home.",
        )
    )
    storage_port: Annotated[int, Field(ge=0, le=65_535), WHOLE] = Field(
        default=7432,
        description="The TCP port of `kwaainet storage serve`, on 127.0.0.1 only. 0: a free one.",
    )
    storage_tenant_tier: TierName = Field(
        default="known",
        description="The lowest tier of nodes whose sealed objects this node hosts; nodes of its "
        "own owner may always. Strangers' too: `unknown`.",
    )
    storage_quota_mb: Annotated[int, Field(ge=1, le=limits.STORAGE_QUOTA_MB_MAX), WHOLE] = Field(
        default=1024,
        description="MB (10^6 bytes) that each tenant may keep here.",
    )
    storage_replicas: Annotated[int, Field(ge=1, le=limits.STORAGE_REPLICAS_MAX), WHOLE] = Field(
        default=2,
        description="At how many hosts each sealed object of this node's knowledge is kept, where "
        "there are so many.",
    )
    knowledge_dir: Annotated[
        Annotated[FilePath, AfterValidator(check_absolute)] | None, OR_NONE
    ] = Field(
        default=None,
        description="Where the indexes of this node's knowledge bases are kept, encrypted. `none`: "
        "`knowledge` in the node's home.",
    )
    knowledge_embedder: Text = Field(
        default="all-MiniLM-L6-v2",
        description="What turns texts into vectors: `all-MiniLM-L6-v2`, the name or path of a GGUF "
        "embedding model, or the model's name at `knowledge_embedder_url`. `none`: full-text "
        "search alone.",
    )
    knowledge_embedder_url: Annotated[Text | None, OR_NONE] = Field(
        default=None,
        description="The base URL of an OpenAI-compatible API that serves embeddings, up to `/v1`. "
        "It sees all texts. `none`: embeddings are made here.",
    )
    knowledge_embedder_key_file: Annotated[FilePath | None, OR_NONE] = Field(
        default=None,
        description="A file, readable by you only, with the key for `knowledge_embedder_url`.",
    )


KEYS: tuple[str, ...] = tuple(Config.model_fields)
LIST_KEYS: frozenset[str] = frozenset(
    {"bootstrap_peers", "announce_links", "auto_issue", "web_hosts"}
    | {"trust_roots", "trust_issuers", "trust_weights", "trust_thresholds"}
)
"""The keys that config.yaml may give as a list too."""
NONE_KEYS: frozenset[str] = frozenset(
    {"api_key_file", "identity_key", "storage_dir", "knowledge_dir"}
    | {"knowledge_embedder_url", "knowledge_embedder_key_file"}
)
"""The keys whose missing value is written `none`, others' `auto`."""


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
        return "none" if key in NONE_KEYS else "auto"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(value) or "none"
    return str(value)
