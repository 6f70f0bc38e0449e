"""Canonical N-Quads of JSON-LD documents: what an RDFC signature covers.

JSON-LD 1.1 expansion, conversion to RDF and RDFC-1.0, with no network, no guesses and an end: what
a signature would not cover is an error, so is what costs too much. It does not say whether the
contexts are trusted: who chooses them chooses what the document means.

RDF has no order of members and array items, no difference between a value and an array of it, and
none between the terms of a property: documents that differ in that alone have the same form.
"""

from __future__ import annotations

from credentials.document import Document
from credentials.limits import RDFC_WORK_MAX
from credentials.quads import quads_of
from credentials.rdfc10 import canonicalize_quads


def canonicalize_rdfc(document: Document, *, work_max: int = RDFC_WORK_MAX) -> str:
    """Return the canonical N-Quads of a JSON-LD document, one quad a line, sorted.

    Raises ContextUnknown for a context that is not pinned, TermUndefined for what no context
    defines or RDF cannot say, GraphTooComplex for a poison graph or contexts that define too much,
    DocumentInvalid for what is no JSON-LD or has more than RDFC_VALUES_MAX values.
    """
    # PyLD and what it brings take 0.1 s and 20 MB: nodes that sign by JCS never need it.
    from credentials.jsonld import expand_document

    return canonicalize_quads(quads_of(expand_document(document)), work_max=work_max)
