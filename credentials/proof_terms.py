"""The canonical N-Quads of proof options: a fixed text per list of contexts, filled in.

Does not canonicalise in general (`credentials.rdfc`). JSON-LD is asked once, with a specimen, what
the contexts make of each field; a context that gives a field another meaning than the standard one
is refused, so that `challenge` is the challenge whatever the document's author wrote. Filling in
takes microseconds where JSON-LD takes half a millisecond. Data Integrity EdDSA Cryptosuites 1.0,
section 3.2.5; N-Quads canonical form, RDF Dataset Canonicalization 1.0.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple, TypeAlias

from credentials.errors import ProofInvalid
from credentials.proof_fields import ParsedProof
from credentials.rdfc import canonicalize_rdfc

_SECURITY = "https://w3id.org/security#"
_TYPE = "http://www.w3.org/1999/02/22-rdf-syntax-ns#type"
_PURPOSES: Final[Mapping[str, str]] = {
    "assertionMethod": _SECURITY + "assertionMethod",
    "authentication": _SECURITY + "authenticationMethod",
    "capabilityDelegation": _SECURITY + "capabilityDelegationMethod",
    "capabilityInvocation": _SECURITY + "capabilityInvocationMethod",
}
_PREDICATES: Final[Mapping[str, str]] = {
    "type": _TYPE,
    "cryptosuite": _SECURITY + "cryptosuite",
    "created": "http://purl.org/dc/terms/created",
    "expires": _SECURITY + "expiration",
    "verificationMethod": _SECURITY + "verificationMethod",
    "proofPurpose": _SECURITY + "proofPurpose",
    "challenge": _SECURITY + "challenge",
    "domain": _SECURITY + "domain",
    "nonce": _SECURITY + "nonce",
    "previousProof": _SECURITY + "previousProof",
}
_IRIS = frozenset({"verificationMethod", "previousProof"})
_CONSTANTS = frozenset({"type", "cryptosuite", "proofPurpose"})
_FIELDS = frozenset(_PREDICATES)
_FIELD_OF = {f"<{predicate}>": field for field, predicate in _PREDICATES.items()}
# The end of a line, after the value: a literal's datatype or language, and no graph.
_END = re.compile(r'(?:"(?:\^\^<[^>]*>|@[A-Za-z0-9-]+)?|>) \.\n')
_TEMPLATES_CACHED = 256

Shape: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]
"""The fields of a proof, each with what the contexts' answer may depend on: the value of a constant
field, the schemes of IRIs (a context may define `did` as a prefix), else nothing.
"""


class _Template(NamedTuple):
    """Lines without their subject, which is first in each."""

    constant: tuple[str, ...]
    filled: tuple[tuple[str, str, str], ...]
    """A field, what stands before its value, what stands after."""


def canonical_options(proof: ParsedProof, context: Any) -> str:
    """Return the canonical N-Quads of a proof's options under a document's @context.

    Raises ProofInvalid where the contexts give a field another meaning, TermUndefined where none,
    ContextUnknown.
    """
    raw = proof.raw
    shape = tuple((field, _kind(field, raw[field])) for field in sorted(_FIELDS & raw.keys()))
    scheme = None if proof.id is None else proof.id.partition(":")[0]
    contexts = context if isinstance(context, list) else [context]
    if all(type(entry) is str for entry in contexts):
        template = _pinned_template(tuple(contexts), shape, scheme)
    else:
        template = _make_template(context, shape, scheme)
    subject = "_:c14n0" if proof.id is None else f"<{proof.id}>"
    lines = [subject + line for line in template.constant]
    for field, before, after in template.filled:
        for text in _values(raw[field]):
            literal = text if field in _IRIS else text.replace("\\", "\\\\").replace('"', '\\"')
            lines.append(f"{subject}{before}{literal}{after}")
    lines.sort()
    return "".join(lines)


def _values(value: Any) -> Sequence[str]:
    return value if isinstance(value, list) else (value,)


def _kind(field: str, value: Any) -> tuple[str, ...]:
    if field in _CONSTANTS:
        return (value,)
    if field in _IRIS:
        return tuple(sorted({entry.partition(":")[0] for entry in _values(value)}))
    return ()


@lru_cache(maxsize=_TEMPLATES_CACHED)
def _pinned_template(contexts: tuple[str, ...], shape: Shape, scheme: str | None) -> _Template:
    return _make_template(list(contexts), shape, scheme)


def _make_template(context: Any, shape: Shape, scheme: str | None) -> _Template:
    """Let JSON-LD canonicalise a specimen, and read what it made of each field."""
    specimen: dict[str, Any] = {"@context": context}
    if scheme is not None:
        specimen["id"] = f"{scheme}:specimen"
    for field, kind in shape:
        specimen[field] = _specimen(field, kind)
    subject = "_:c14n0" if scheme is None else f"<{scheme}:specimen>"
    constant, filled, found = [], {}, set()
    for line in canonicalize_rdfc(specimen).splitlines(keepends=True):
        about, predicate, rest = line.split(" ", 2)
        field = _FIELD_OF.get(predicate, "")
        if about != subject or field not in specimen:
            raise ProofInvalid("the contexts make something else of the proof than a proof")
        text, after = _read(field, specimen[field], rest)
        found.add((field, text))
        if field in _CONSTANTS:
            constant.append(f" {predicate} {rest}")
        else:
            opening = "<" if field in _IRIS else '"'
            filled[field] = (field, f" {predicate} {opening}", after)
    if found != {(field, text) for field, _ in shape for text in _values(specimen[field])}:
        raise ProofInvalid("the contexts make nothing of a field of the proof")
    return _Template(tuple(constant), tuple(filled.values()))


def _specimen(field: str, kind: tuple[str, ...]) -> str | list[str]:
    if field in _CONSTANTS:
        return kind[0]
    if field in _IRIS:
        return [f"{scheme}:specimen" for scheme in kind]
    return f"specimen of {field}"


def _read(field: str, value: Any, rest: str) -> tuple[str, str]:
    """Return which of a field's specimen values the object `rest` of a line is, and what follows.

    Raises ProofInvalid for anything else.
    """
    for text in _values(value):
        if field == "type":
            written = f"<{_SECURITY}{text}>"
        elif field == "proofPurpose":
            written = f"<{_PURPOSES[text]}>"
        else:
            written = f"<{text}>" if field in _IRIS else f'"{text}"'
        after = rest[len(written) - 1 :]
        if rest.startswith(written) and _END.fullmatch(after):
            return text, after
    raise ProofInvalid(f"the contexts give the proof's {field} another meaning")
