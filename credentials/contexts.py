"""Whether the contexts of a document are trusted: a finding beside its proofs, not part of them.

A proof over RDF says that somebody signed what these contexts make of the document. It does not say
that the names mean what a reader thinks: whoever may add a context of their own can swap two terms,
or write `validUntil` under another name, and the signature still holds. Here "trusted" means: every
context is pinned, defines its terms once and for all (@protected) and no fallback for others
(@vocab), and every name in the document is such a term. Checks no signature. VC Data Integrity 1.0
section 4.6 ("context validation"); VC Data Model 2.0 appendix B.
"""

from __future__ import annotations

from typing import Any, Final, TypeAlias

from credentials.document import Document
from credentials.model import CONTEXT_V1, CONTEXT_V2

ContextLists: TypeAlias = frozenset[tuple[str, ...]]
"""Lists of context URLs that a verifier trusts besides: its own decision."""

TRUSTED_EXTENSIONS: Final = frozenset(
    {
        "https://kwaai.ai/credentials/v2",
        "https://w3id.org/security/data-integrity/v1",
        "https://w3id.org/security/data-integrity/v2",
        "https://w3id.org/security/suites/ed25519-2020/v1",
        "https://w3id.org/security/multikey/v1",
        "https://www.w3.org/ns/cid/v1",
    }
)
"""Pinned contexts that may follow a credentials context, in any order; a test holds them to the
words above."""

SKIPPED: Final = frozenset({"@context", "proof"})
PRESENTED: Final = SKIPPED | {"verifiableCredential"}

_VALUE_KEYWORDS: Final = frozenset({"@value", "@language", "@direction", "@type"})


def distrust_reason(
    document: Document, lists: ContextLists = frozenset(), *, skipped: frozenset[str] = SKIPPED
) -> str:
    """Return why the contexts of a checked document are not trusted; "" if they are.

    `skipped` are members that are not looked through: proofs, whose members `proof` knows one by
    one, and the credentials in a presentation (`PRESENTED`), which are documents of their own.
    """
    context = document["@context"]
    reason = "" if lists and _as_tuple(context) in lists else _list_reason(context)
    if reason:
        return reason
    for name, value in document.items():
        if ":" in name or (name.startswith("@") and name != "@context"):
            return f"{name!r:.80} is written as an IRI or a keyword, not as a term"
        if isinstance(value, dict | list) and name not in skipped:
            reason = _names_reason(value)
            if reason:
                return reason
    return ""


def rewriting_reason(document: Document, *, skipped: frozenset[str] = SKIPPED) -> str:
    """Return why a graph that was signed may have been another document; "" if not.

    Over RDF, what is said of one id is the same wherever it stands: of two objects with that id,
    `validUntil` can be moved from the one where it is read to the other, where it is not. And a
    type is the same by its term and by its IRI, by which no reader of JSON knows it.
    """
    seen: set[str] = set()
    left: list[Any] = [{name: each for name, each in document.items() if name not in skipped}]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            found, types = value.get("id"), value.get("type")
            if isinstance(found, str):
                if found in seen:
                    return f"it describes {found:.120} in two places"
                seen.add(found)
            for each in types if isinstance(types, list) else [types]:
                if isinstance(each, str) and ":" in each:
                    return f"the type {each!r:.120} is written as an IRI, not as a term"
            value = value.values()
        left.extend(each for each in value if isinstance(each, dict | list))
    return ""


def _as_tuple(context: list[Any]) -> tuple[str, ...] | None:
    return tuple(context) if all(isinstance(entry, str) for entry in context) else None


def _list_reason(context: list[Any]) -> str:
    if context[0] not in (CONTEXT_V1, CONTEXT_V2):
        return f"{context[0]!r:.120} is no credentials context"
    for entry in context[1:]:
        if not isinstance(entry, str):
            return "it carries a context of its own, inline"
        if entry not in TRUSTED_EXTENSIONS:
            return f"the context {entry:.120} is not among the trusted ones"
    return ""


def _names_reason(value: Any) -> str:
    """Look through all names below; depth is bounded by what a Document may have."""
    if isinstance(value, list):
        for each in value:
            if isinstance(each, dict | list):
                reason = _names_reason(each)
                if reason:
                    return reason
        return ""
    for name, each in value.items():
        if name.startswith("@") and not ("@value" in value and name in _VALUE_KEYWORDS):
            if name == "@context":
                return "it has a context inside"
            return f"{name!r:.80} is a keyword, not a term"
        if ":" in name:
            return f"{name!r:.80} is written as an IRI, not as a term"
        if isinstance(each, dict | list):
            reason = _names_reason(each)
            if reason:
                return reason
    return ""
