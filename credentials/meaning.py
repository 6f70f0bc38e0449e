"""Whether the JSON of a credential says what its RDF says: for contexts that are not trusted.

A proof over RDF holds for every JSON document with that RDF. With a context of their own, somebody
could write `validUntil` or `credentialStatus` under another name, where no reader of JSON looks for
it: the credential would never expire. Here what was read from the JSON is compared with the graph
that was signed. Says nothing about the claims; for those, demand trusted contexts.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import Final

from credentials.errors import ModelInvalid
from credentials.model import CredentialView
from credentials.model_values import read_objects
from credentials.rdfc import canonicalize_rdfc

_CREDENTIALS: Final = "https://www.w3.org/2018/credentials#"
_TYPE: Final = "<http://www.w3.org/1999/02/22-rdf-syntax-ns#type>"
_BITSTRING_ENTRY: Final = "<https://www.w3.org/ns/credentials/status#BitstringStatusListEntry>"
_QUAD: Final = re.compile(r"(\S+) (\S+) (<[^>]*>|_:\S+|\"(?:[^\"\\]|\\.)*\"\S*)( \S+)? \.")
_TIMES: Final = ("validFrom", "validUntil", "issuanceDate", "expirationDate")


def check_meaning(view: CredentialView) -> None:
    """Compare a credential's JSON with its graph. Raises ModelInvalid where they differ."""
    nodes = _read_graph({k: v for k, v in view.document.items() if k != "proof"})
    roots = [name for name, node in nodes.items() if _iri("VerifiableCredential") in node[_TYPE]]
    if len(roots) != 1:
        raise ModelInvalid(f"the graph describes {len(roots)} credentials, not one")
    root = nodes[roots[0]]
    _same("id", view.id and f"<{view.id}>", None if roots[0].startswith("_:") else roots[0])
    _same("issuer", {f"<{view.issuer}>"}, root[_iri("issuer")])
    _same("type", len(set(view.types)), len(root[_TYPE]))
    for name in _TIMES:
        text = view.document.get(name)
        found = {literal.partition("^^")[0] for literal in root[_iri(name)]}
        _same(name, set() if text is None else {f'"{text}"'}, found)
    for name, ids in (("credentialSubject", view.subjects), ("credentialSchema", None)):
        _same_objects(view, name, root[_iri(name)], ids)
    statuses = root[_iri("credentialStatus")]
    _same_objects(view, "credentialStatus", statuses, None)
    bitstring = sum(_BITSTRING_ENTRY in nodes[node][_TYPE] for node in statuses if node in nodes)
    read = {each.id or place for place, each in enumerate(view.statuses) if each.is_bitstring}
    _same("credentialStatus.type", len(read), bitstring)


def _read_graph(document: dict[str, object]) -> dict[str, dict[str, set[str]]]:
    """Return the default graph: node, predicate, objects."""
    nodes: dict[str, dict[str, set[str]]] = {}
    for line in canonicalize_rdfc(document).splitlines():
        quad = _QUAD.fullmatch(line)
        if quad is None:
            raise ModelInvalid("the graph has a statement that is not understood")
        if quad[4] is None:
            nodes.setdefault(quad[1], defaultdict(set))[quad[2]].add(quad[3])
    return nodes


def _iri(name: str) -> str:
    return f"<{_CREDENTIALS}{name}>"


def _same_objects(
    view: CredentialView, name: str, found: set[str], ids: tuple[str, ...] | None
) -> None:
    objects = read_objects(view.document[name], name) if name in view.document else ()
    read = {each.get("id", place) for place, each in enumerate(objects)}
    _same(name, len(read), len(found))
    if ids is not None:
        _same(name, {f"<{each}>" for each in ids}, {each for each in found if each[0] == "<"})


def _same(name: str, read: object, signed: object) -> None:
    if read != signed:
        raise ModelInvalid(f"{name} is not what was signed: its contexts give it another name")
