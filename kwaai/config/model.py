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
        description="The address that `serve` listens on. Any other than a loopback address needs "
        "`api_key_file`.",
    )
    api_port: Annotated[int, Field(ge=0, le=65_535), WHOLE] = Field(
        default=11435, description="The TCP port that `serve` listens on. 0: a free one."
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


KEYS: tuple[str, ...] = tuple(Config.model_fields)


@functools.cache
def optional_keys() -> frozenset[str]:
    """Return the keys that may have no value, written `auto` (numbers) or `none` (paths)."""
    return frozenset(
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
    return str(value)
