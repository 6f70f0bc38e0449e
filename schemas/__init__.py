"""JSON Schemas and JSON-LD contexts as package data. Validates nothing itself, never downloads.

A context is pinned: its bytes are the published ones, by SHA-256. Imports nothing of ours. Where
each comes from, and under which licence: `contexts/README.md`.
"""

from __future__ import annotations

import hashlib
import json
from functools import cache
from importlib.resources import files
from typing import Any, Final

_CONTEXTS: Final[dict[str, tuple[str, str]]] = {
    "https://www.w3.org/2018/credentials/v1": (
        "credentials-v1",
        "ab4ddd9a531758807a79a5b450510d61ae8d147eab966cc9a200c07095b0cdcc",
    ),
    "https://www.w3.org/ns/credentials/v2": (
        "credentials-v2",
        "59955ced6697d61e03f2b2556febe5308ab16842846f5b586d7f1f7adec92734",
    ),
    "https://www.w3.org/ns/credentials/examples/v2": (
        "credentials-examples-v2",
        "57393fbc69d6efb9b9b5dc9cb6b9880b0944360abfe2eaf459c9e58cf2279d7c",
    ),
    "https://www.w3.org/ns/credentials/undefined-terms/v2": (
        "credentials-undefined-terms-v2",
        "82dab514ba44eb18f5d1b0f638c5e140c6a556fbfb5089601bdc0fa5eb8b2581",
    ),
    "https://w3id.org/security/data-integrity/v1": (
        "data-integrity-v1",
        "b5d829bd09aa7c42abc6efa0c8ed7635313b5487f37ccfce3ecd149ca9418554",
    ),
    "https://w3id.org/security/data-integrity/v2": (
        "data-integrity-v2",
        "67f21e6e33a6c14e5ccfd2fc7865f7474fb71a04af7e94136cb399dfac8ae8f4",
    ),
    "https://w3id.org/security/multikey/v1": (
        "multikey-v1",
        "ba2c182de2d92f7e47184bcca8fcf0beaee6d3986c527bf664c195bbc7c58597",
    ),
    "https://w3id.org/security/jwk/v1": (
        "jwk-v1",
        "0f14b62f6071aafe00df265770ea0c7508e118247d79b7d861a406d2aa00bece",
    ),
    "https://w3id.org/citizenship/v4rc1": (
        "citizenship-v4rc1",
        "a89b0bc00b1848ac3dfdf956c7dd5de8567e755351c07ec6a1c2b4a08b67953b",
    ),
    "https://w3id.org/security/suites/ed25519-2020/v1": (
        "ed25519-2020-v1",
        "b9e1ab971fd8bf2c7553e0c4a9438e0b9450afde1ea1ca5b2492368b9f549588",
    ),
    "https://w3id.org/security/suites/x25519-2020/v1": (
        "x25519-2020-v1",
        "b234f84fe7cebb0efef37cad82667eeacb6d414f6c51ac37f5dc803a4a0c728a",
    ),
    "https://www.w3.org/ns/cid/v1": (
        "cid-v1",
        "ea216ecc1cb02cd39b693dba2250141e270ba0bf95890be107dd9a9e8e43de85",
    ),
    "https://www.w3.org/ns/did/v1": (
        "did-v1",
        "4f3eae5568c9c5f036a082088f9e192019ee06faa78973c87ff91d5421b88dad",
    ),
    "https://www.w3.org/ns/did/v1.1": (
        "cid-v1",  # of the same bytes: DID Core 1.1 builds on Controlled Identifiers
        "ea216ecc1cb02cd39b693dba2250141e270ba0bf95890be107dd9a9e8e43de85",
    ),
    "https://w3id.org/vc/status-list/2021/v1": (
        "status-list-2021-v1",
        "634d71c159289f068c96012e4511c657fdf82ac4231900081bda3ba24e2e1160",
    ),
    "https://www.w3.org/ns/credentials/status/v1": (
        "bitstring-status-list-v1",
        "fd08cbf28ddd829ab2f1978c48f43ab07a112c1c90245a0cfac7ba721c65170c",
    ),
    "https://kwaai.ai/credentials/v2": (
        "kwaai-credentials-v2",
        "0848a2964864e936e304b3eef20b311fb89c39be8dcd9723bed62df38358b481",
    ),
}
"""URL to file name (without .jsonld) and the SHA-256 of its bytes."""


@cache
def load_schema(name: str) -> dict[str, Any]:
    """Return the schema `name` (`model-manifest` for model-manifest.schema.json). Do not change it.

    Raises FileNotFoundError when there is none of that name.
    """
    text = files(__package__).joinpath(f"{name}.schema.json").read_text("utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


def context_digests() -> dict[str, str]:
    """Return the SHA-256 (hex) of every pinned context by its URL."""
    return {url: digest for url, (_, digest) in _CONTEXTS.items()}


def context_bytes(url: str) -> bytes:
    """Return the bytes of the context `url` as published.

    Raises LookupError for a URL that is not pinned, ValueError when the package's file was changed.
    """
    if url not in _CONTEXTS:
        raise LookupError(f"the context {url!r:.200} is not one of the {len(_CONTEXTS)} known here")
    name, digest = _CONTEXTS[url]
    data = files(__package__).joinpath("contexts", f"{name}.jsonld").read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != digest:
        raise ValueError(
            f"schemas/contexts/{name}.jsonld was changed: its SHA-256 is {found}, not {digest}; "
            "install the package again"
        )
    return data


@cache
def load_context(url: str) -> dict[str, Any]:
    """Return the document of the context `url`, `{"@context": ...}`. Do not change it.

    Raises like context_bytes.
    """
    document: dict[str, Any] = json.loads(context_bytes(url))
    return document
