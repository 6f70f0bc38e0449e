"""What "trusted contexts" promises, held against the pinned files themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from credential_scene import HOLDER

from credentials.contexts import PRESENTED, TRUSTED_EXTENSIONS, distrust_reason, rewriting_reason
from credentials.model import CONTEXT_V1, CONTEXT_V2
from schemas import load_context

# IRIs that verification reads by their usual names in JSON.
READ = {
    f"https://www.w3.org/2018/credentials#{name}"
    for name in (
        "issuer",
        "credentialSubject",
        "credentialStatus",
        "credentialSchema",
        "validFrom",
        "validUntil",
        "issuanceDate",
        "expirationDate",
        "relatedResource",
        "holder",
        "verifiableCredential",
    )
}
TRUSTED = sorted({CONTEXT_V1, CONTEXT_V2} | TRUSTED_EXTENSIONS)


def scopes(value: Any) -> Iterator[dict[str, Any]]:
    """Yield a context and the contexts inside its terms."""
    for context in value if isinstance(value, list) else [value]:
        if isinstance(context, dict):
            yield context
            for definition in context.values():
                if isinstance(definition, dict) and "@context" in definition:
                    yield from scopes(definition["@context"])


@pytest.mark.parametrize("url", TRUSTED)
def test_terms_are_defined_once_and_for_all(url: str) -> None:
    found = list(scopes(load_context(url)["@context"]))
    for scope in found:
        assert scope.get("@protected") is True or not scope.keys() - {"@vocab"}, scope
        assert scope.get("@vocab") is None
        assert not scope.keys() & {"@import", "@base", "@propagate"}


@pytest.mark.parametrize("url", TRUSTED)
def test_what_is_read_has_one_name(url: str) -> None:
    names: dict[str, set[str]] = {}
    for scope in scopes(load_context(url)["@context"]):
        prefixes = {name: iri for name, iri in scope.items() if isinstance(iri, str)}
        for name, definition in scope.items():
            iri = definition.get("@id", "") if isinstance(definition, dict) else definition
            if not isinstance(iri, str):
                continue
            prefix, colon, rest = iri.partition(":")
            if colon and prefix in prefixes and not rest.startswith("//"):
                iri = prefixes[prefix] + rest
            if iri in READ:
                names.setdefault(iri, set()).add(name)
    for iri, found in names.items():
        assert found == {iri.rpartition("#")[2]}


def document(**changes: Any) -> dict[str, Any]:
    return {"@context": [CONTEXT_V2], "credentialSubject": {"id": HOLDER.did}, **changes}


@pytest.mark.parametrize(
    "found",
    [
        document(),
        document(**{"@context": [CONTEXT_V1]}),
        document(**{"@context": [CONTEXT_V2, *sorted(TRUSTED_EXTENSIONS)]}),
        document(name={"@value": "A", "@language": "en", "@direction": "ltr"}),
        document(proof={"@context": [CONTEXT_V2], "type": "DataIntegrityProof"}),
        document(list=[[{"a": [1, "x", None, {"b": True}]}]]),
    ],
)
def test_trusted(found: dict[str, Any]) -> None:
    assert distrust_reason(found) == ""


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (document(**{"@context": [CONTEXT_V2, {"a": "https://example.org/a"}]}), "inline"),
        (document(**{"@context": [CONTEXT_V2, {}]}), "inline"),
        (document(**{"@context": [CONTEXT_V2, CONTEXT_V1]}), "not among"),
        (
            document(**{"@context": [CONTEXT_V2, "https://www.w3.org/ns/credentials/examples/v2"]}),
            "ex",
        ),
        (
            document(**{"@context": ["https://w3id.org/security/data-integrity/v2"]}),
            "no credentials",
        ),
        (document(**{"@graph": []}), "@graph"),
        (document(**{"https://example.org/a": 1}), "IRI"),
        (document(**{"cred:validUntil": "x"}), "IRI"),
        (document(a={"@context": {"b": "https://example.org/b"}}), "inside"),
        (document(a={"@id": "https://example.org/b"}), "@id"),
        (document(a=[{"b": {"@type": "https://example.org/b"}}]), "@type"),
        (document(a=[[{"@list": []}]]), "@list"),
        (document(a={"@value": "x", "@index": "y"}), "@index"),
        (document(a=[{"b:c": 1}]), "IRI"),
        (document(verifiableCredential={"@context": {}}), "inside"),
        (document(a={"proof": {"@id": "x"}}), "@id"),
    ],
)
def test_not_trusted(found: dict[str, Any], why: str) -> None:
    assert why in distrust_reason(found)


def test_credentials_in_a_presentation_are_documents_of_their_own() -> None:
    inner = document(**{"@context": [CONTEXT_V2, {}]})
    assert distrust_reason(document(verifiableCredential=inner), skipped=PRESENTED) == ""


def test_a_list_is_trusted_as_a_whole() -> None:
    lists = frozenset({(CONTEXT_V2, "https://example.org/c")})
    assert (
        distrust_reason(document(**{"@context": [CONTEXT_V2, "https://example.org/c"]}), lists)
        == ""
    )
    for context in (
        [CONTEXT_V2, "https://example.org/c", "https://example.org/d"],
        [CONTEXT_V2, "https://example.org/c", {}],
        ["https://example.org/c", CONTEXT_V2],
    ):
        assert distrust_reason(document(**{"@context": context}), lists)
    # What stands in the document is looked at all the same.
    found = document(**{"@context": [CONTEXT_V2, "https://example.org/c"], "a:b": 1})
    assert "IRI" in distrust_reason(found, lists)


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (document(), ""),
        (document(id="urn:x:1", evidence=[{"id": "urn:x:2"}, {"id": "urn:x:3"}]), ""),
        (document(type=["VerifiableCredential", "Any"], a={"type": "Any"}), ""),
        (document(proof={"id": HOLDER.did, "type": "a:b"}), ""),
        (document(id=HOLDER.did), "two places"),
        (document(evidence=[{"id": "urn:x:2"}, {"a": [[{"id": "urn:x:2"}]]}]), "two places"),
        (document(type=["VerifiableCredential", "https://example.org/Any"]), "as an IRI"),
        (document(a={"b": {"type": "cred:Any"}}), "as an IRI"),
    ],
)
def test_a_graph_that_is_another_document_too(found: dict[str, Any], why: str) -> None:
    reason = rewriting_reason(found)
    assert why in reason
    assert bool(reason) == bool(why)
