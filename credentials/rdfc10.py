"""RDFC-1.0: canonical labels for the blank nodes of a dataset, and its canonical N-Quads.

Does not know JSON-LD. W3C RDF Dataset Canonicalization 1.0, section 4; its section 7.1 says what
poison is: graphs whose blank nodes look alike cost exponentially. Here work is counted, and too
much of it is an error.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from itertools import permutations
from typing import Literal, TypeAlias

from credentials.errors import GraphTooComplex
from credentials.limits import RDFC_DEPTH_MAX, RDFC_WORK_MAX

Quad: TypeAlias = tuple[str, str, str, str]
"""Subject, predicate, object, graph (empty: the default graph), each as its canonical N-Quads text:
`<iri>`, `"text"^^<iri>`, or `_:label` for a blank node."""
HashName: TypeAlias = Literal["sha256", "sha384"]

_Issuer: TypeAlias = dict[str, str]  # label to issued label, in the order of issue


def canonicalize_quads(
    quads: Iterable[Quad], *, work_max: int = RDFC_WORK_MAX, hash_name: HashName = "sha256"
) -> str:
    """Return the canonical N-Quads of a dataset. Raises GraphTooComplex beyond `work_max`."""
    dataset = set(quads)
    labels = canonical_labels(dataset, work_max=work_max, hash_name=hash_name)
    return "".join(
        sorted(
            _line(
                labels.get(subject, subject),
                predicate,
                labels.get(object_, object_),
                labels.get(graph, graph),
            )
            for subject, predicate, object_, graph in dataset
        )
    )


def canonical_labels(
    quads: Iterable[Quad], *, work_max: int = RDFC_WORK_MAX, hash_name: HashName = "sha256"
) -> dict[str, str]:
    """Return the canonical label (`_:c14n0`) of every blank node. Raises GraphTooComplex.

    `work_max` bounds the related nodes hashed and the permutation members tried.
    """
    mentions: dict[str, list[Quad]] = {}
    for quad in set(quads):
        nodes = {quad[0], quad[2], quad[3]}
        for node in nodes:
            if node.startswith("_:"):
                mentions.setdefault(node, []).append(quad)
    try:
        return _Labels(mentions, work_max, hash_name).issue()
    except RecursionError as error:
        raise GraphTooComplex("the graph has a too long chain of blank nodes") from error


class _Labels:
    """The canonicalization state of section 4.3."""

    def __init__(self, mentions: dict[str, list[Quad]], work_max: int, hash_name: HashName) -> None:
        self._mentions = mentions
        self._work = work_max
        self._new_hash = hashlib.sha384 if hash_name == "sha384" else hashlib.sha256
        self._first: dict[str, str] = {}
        self._issued: _Issuer = {}

    def issue(self) -> _Issuer:
        """Section 4.4.3, the canonicalization algorithm."""
        groups: dict[str, list[str]] = {}
        for node in self._mentions:
            digest = self._first[node] = self._first_degree(node)
            groups.setdefault(digest, []).append(node)
        alike = []
        for _, nodes in sorted(groups.items()):
            if len(nodes) == 1:
                self._issue(nodes[0])
            else:
                alike.append(nodes)
        for nodes in alike:
            found = [
                self._n_degree(node, {node: "_:b0"}, 0)
                for node in nodes
                if node not in self._issued
            ]
            for _, issuer in sorted(found, key=lambda pair: pair[0]):
                for node in issuer:
                    self._issue(node)
        return self._issued

    def _issue(self, node: str) -> None:
        if node not in self._issued:
            self._issued[node] = f"_:c14n{len(self._issued)}"

    def _first_degree(self, node: str) -> str:
        """Section 4.6.3, Hash First Degree Quads."""

        def mask(term: str) -> str:
            return ("_:a" if term == node else "_:z") if term.startswith("_:") else term

        lines = sorted(
            _line(mask(subject), predicate, mask(object_), mask(graph))
            for subject, predicate, object_, graph in self._mentions[node]
        )
        return self._digest("".join(lines))

    def _related(self, node: str, issuer: _Issuer) -> dict[str, list[str]]:
        """Section 4.8.3 steps 1 to 3: the other blank nodes of its quads by their hash (4.7.3)."""
        related: dict[str, list[str]] = {}
        for subject, predicate, object_, graph in self._mentions[node]:
            for position, other in (("s", subject), ("o", object_), ("g", graph)):
                if other == node or not other.startswith("_:"):
                    continue
                self._spend(1 + len(predicate) // 256)
                name = self._issued.get(other) or issuer.get(other) or self._first[other]
                link = "g" if position == "g" else position + predicate
                related.setdefault(self._digest(link + name), []).append(other)
        return related

    def _n_degree(self, node: str, issuer: _Issuer, depth: int) -> tuple[str, _Issuer]:
        """Section 4.8.3, Hash N-Degree Quads: a hash, and the labels issued on the way."""
        if depth > RDFC_DEPTH_MAX:
            raise GraphTooComplex(
                f"the graph has a chain of more than {RDFC_DEPTH_MAX} blank nodes that look alike"
            )
        data = []
        for digest, nodes in sorted(self._related(node, issuer).items()):
            best: tuple[str, _Issuer] | None = None
            for order in _orders(nodes):
                self._spend(len(order) + len(issuer) // 64)
                path = self._path(order, issuer, best[0] if best else "", depth)
                if path is not None and (best is None or path[0] < best[0]):
                    best = path
            if best is not None:  # a permutation is skipped only for a better one
                issuer = best[1]
                data += [digest, best[0]]
        return self._digest("".join(data)), issuer

    def _path(
        self, order: tuple[str, ...], issuer: _Issuer, best: str, depth: int
    ) -> tuple[str, _Issuer] | None:
        """Section 4.8.3 steps 5.4.1 to 5.4.5: the path of one permutation, None when it loses."""
        issuer = dict(issuer)
        path = ""
        new = []
        for node in order:
            if node in self._issued:
                path += self._issued[node]
            else:
                if node not in issuer:
                    new.append(node)
                    issuer[node] = f"_:b{len(issuer)}"
                path += issuer[node]
            if best and len(path) >= len(best) and path > best:
                return None
        for node in new:
            digest, inner = self._n_degree(node, issuer, depth + 1)
            path += f"{issuer[node]}<{digest}>"
            issuer = inner
            if best and len(path) >= len(best) and path > best:
                return None
        return path, issuer

    def _spend(self, amount: int) -> None:
        self._work -= amount
        if self._work < 0:
            raise GraphTooComplex(
                "the graph has too many blank nodes that look alike; give list items an id, or "
                "write a count"
            )

    def _digest(self, text: str) -> str:
        return self._new_hash(text.encode("utf-8")).hexdigest()


def _orders(nodes: list[str]) -> Iterator[tuple[str, ...]]:
    """Yield the permutations, equal ones once: the name of a graph is in it again and again."""
    if len(set(nodes)) == len(nodes):
        yield from permutations(nodes)
        return
    order = sorted(nodes)
    while True:
        yield tuple(order)
        rises = [place for place in range(1, len(order)) if order[place - 1] < order[place]]
        if not rises:
            return
        pivot = rises[-1] - 1
        other = max(place for place in range(pivot, len(order)) if order[place] > order[pivot])
        order[pivot], order[other] = order[other], order[pivot]
        order[pivot + 1 :] = reversed(order[pivot + 1 :])


def _line(subject: str, predicate: str, object_: str, graph: str) -> str:
    if graph:
        return f"{subject} {predicate} {object_} {graph} .\n"
    return f"{subject} {predicate} {object_} .\n"
