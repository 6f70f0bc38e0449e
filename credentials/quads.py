"""From expanded JSON-LD to RDF: every value becomes a quad, or an error.

The standard's conversion drops what has no RDF form (relative IRIs, free values, indexes); a
signature would not cover that, so it is refused here. JSON-LD 1.1 Processing Algorithms and API,
section 8, with `rdfDirection: i18n-datatype` as the Data Integrity libraries of others use it.
"""

from __future__ import annotations

import re
from typing import Any, Final, NoReturn

from credentials.errors import DocumentInvalid, GraphTooComplex, TermUndefined
from credentials.jcs import canonicalize_jcs
from credentials.limits import RDFC_CHARS_MAX
from credentials.rdfc10 import Quad

_RDF: Final = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
_XSD: Final = "http://www.w3.org/2001/XMLSchema#"
_DOUBLE: Final = _XSD + "double"
_STRING: Final = _XSD + "string"
_LANGUAGE_TEXT: Final = _RDF + "langString"
_TYPE: Final = f"<{_RDF}type>"
_FIRST: Final = f"<{_RDF}first>"
_REST: Final = f"<{_RDF}rest>"
_NIL: Final = f"<{_RDF}nil>"
_INTEGER_LIMIT: Final = 1e21  # beyond it JSON-LD writes a double

# RFC 3987 in the large; N-Quads has no escape for the characters left out.
_IRI: Final = re.compile(r'[A-Za-z][A-Za-z0-9+.-]*:[^\x00-\x20<>"{}|^`\\]*')
_NODE: Final = re.compile(r"_:[A-Za-z0-9_][A-Za-z0-9_.-]*")
_LANGUAGE: Final = re.compile(r"[a-zA-Z]{1,8}(?:-[a-zA-Z0-9]{1,8})*")
_DOUBLE_TEXT: Final = re.compile(
    r"[+-]?(?:\d{1,40}(?:\.\d{0,40})?|\.\d{1,40})(?:[eE][+-]?\d{1,3})?"
)
_DOUBLE_ZEROS: Final = re.compile(r"(\d)0*E\+?(-)?0*(\d)")
_ESCAPED: Final = re.compile(r'[\x00-\x1f\x7f"\\]')
_ESCAPES: Final = {
    "\b": "\\b",
    "\t": "\\t",
    "\n": "\\n",
    "\f": "\\f",
    "\r": "\\r",
    '"': '\\"',
    "\\": "\\\\",
}
_VALUE_KEYWORDS: Final = frozenset(("@value", "@type", "@language", "@direction"))


def quads_of(expanded: list[Any]) -> list[Quad]:
    """Return the dataset of an expanded JSON-LD document. Duplicates are left in.

    Raises TermUndefined for what has no RDF form, DocumentInvalid for what is no JSON-LD,
    GraphTooComplex beyond RDFC_CHARS_MAX.
    """
    writer = _Writer()
    for item in expanded:
        writer.write_member(item, "")
    if not writer.quads:
        raise TermUndefined("the document says nothing that a signature could cover")
    return writer.quads


class _Writer:
    def __init__(self) -> None:
        self.quads: list[Quad] = []
        self._count = 0
        self._chars = 0

    def write_member(self, item: Any, graph: str) -> None:
        """Write a node of a graph that no other node refers to from here."""
        if not isinstance(item, dict) or "@value" in item or "@list" in item:
            raise TermUndefined("the document has a value that belongs to no property")
        if not item.keys() - {"@id"}:
            raise TermUndefined("the document has an object in a graph that says nothing")
        self._write_node(item, graph)

    def _write_node(self, node: dict[str, Any], graph: str) -> str:
        """Write a node object's statements, and return its term."""
        subject = _resource(node["@id"], "id") if "@id" in node else self._new_node()
        for name, values in node.items():
            if name == "@id":
                continue
            if name == "@type":
                for value in values:
                    self._write(subject, _TYPE, _resource(value, "type"), graph)
            elif name[0] == "@":
                self._write_keyword(name, values, subject, graph)
            else:
                predicate = _predicate(name)
                for value in values:
                    self._write(subject, predicate, self._object(value, graph), graph)
        return subject

    def _write_keyword(self, name: str, values: Any, subject: str, graph: str) -> None:
        if name == "@graph":
            for value in values:
                self.write_member(value, subject)
        elif name == "@included":
            for value in values:
                self.write_member(value, graph)
        elif name == "@reverse":
            for inverse, items in values.items():
                predicate = _predicate(inverse)
                for item in items:
                    self._write(self._object(item, graph), predicate, subject, graph)
        else:
            _refuse_keyword(name)

    def _object(self, value: Any, graph: str) -> str:
        if not isinstance(value, dict):
            raise DocumentInvalid("the document is not JSON-LD: a property has no value")
        if "@value" in value:
            return _literal(value)
        if "@list" in value:
            if len(value) > 1:
                _refuse_keyword("@index")
            return self._list(value["@list"], graph)
        return self._write_node(value, graph)

    def _list(self, items: list[Any], graph: str) -> str:
        head = _NIL
        for item in reversed(items):
            cell = self._new_node()
            self._write(cell, _FIRST, self._object(item, graph), graph)
            self._write(cell, _REST, head, graph)
            head = cell
        return head

    def _write(self, subject: str, predicate: str, object_: str, graph: str) -> None:
        self._chars += len(subject) + len(predicate) + len(object_) + len(graph)
        if self._chars > RDFC_CHARS_MAX:
            raise GraphTooComplex(f"the graph is longer than {RDFC_CHARS_MAX} characters")
        self.quads.append((subject, predicate, object_, graph))

    def _new_node(self) -> str:
        self._count += 1
        return f"_:.{self._count}"  # no label of a document begins with a dot


def _resource(value: Any, what: str) -> str:
    if isinstance(value, str):
        if _IRI.fullmatch(value):
            return f"<{value}>"
        if _NODE.fullmatch(value):
            return value
    raise TermUndefined(
        f"the {what} {value!r:.200} is neither a URL nor a term that the @context defines"
    )


def _predicate(value: str) -> str:
    if not _IRI.fullmatch(value):
        raise TermUndefined(f"the property {value!r:.200} is not a URL")
    return f"<{value}>"


def _refuse_keyword(name: str) -> NoReturn:
    raise TermUndefined(f"the document uses {name}, which has no RDF form: it would not be signed")


def _literal(item: dict[str, Any]) -> str:
    """Return a value object's literal."""
    value = item["@value"]
    datatype = item.get("@type")
    if item.keys() - _VALUE_KEYWORDS:
        _refuse_keyword("@index")
    if datatype == "@json":
        return literal_text(canonicalize_jcs(value).decode("utf-8")) + f"^^<{_RDF}JSON>"
    if datatype is not None and not (isinstance(datatype, str) and _IRI.fullmatch(datatype)):
        raise TermUndefined(f"the type {datatype!r:.200} of a value is not a URL")
    if isinstance(value, str):
        return _text_literal(value, datatype, item.get("@language"), item.get("@direction"))
    if "@direction" in item:
        raise DocumentInvalid("the document is not JSON-LD: only text has a @direction")
    if isinstance(value, bool):
        return _typed("true" if value else "false", datatype or _XSD + "boolean")
    if isinstance(value, (int, float)):
        return _number_literal(value, datatype)
    raise DocumentInvalid("the document is not JSON-LD: a @value is neither text nor a number")


def _text_literal(value: str, datatype: str | None, language: Any, direction: Any) -> str:
    if language is not None and not (isinstance(language, str) and _LANGUAGE.fullmatch(language)):
        raise TermUndefined(f"{language!r:.80} is no language tag")
    if direction is not None:
        if direction not in ("ltr", "rtl"):
            raise TermUndefined(f"{direction!r:.80} is no @direction")
        return _typed(value, f"https://www.w3.org/ns/i18n#{language or ''}_{direction}")
    if language is not None:
        return f"{literal_text(value)}@{language}"
    if datatype == _LANGUAGE_TEXT:
        raise TermUndefined("the document has a language-tagged text without its language")
    if datatype == _DOUBLE:
        # Libraries differ on text; where it is no plain number, they sign different things.
        if not _DOUBLE_TEXT.fullmatch(value):
            raise TermUndefined(f"{value!r:.80} is no number, and its type is xsd:double")
        return _typed(_double(float(value)), _DOUBLE)
    return _typed(value, datatype or _STRING)


def _number_literal(value: float, datatype: str | None) -> str:
    if isinstance(value, float) and (not value.is_integer() or abs(value) >= _INTEGER_LIMIT):
        return _typed(_double(value), datatype or _DOUBLE)
    if datatype == _DOUBLE:
        return _typed(_double(float(value)), _DOUBLE)
    return _typed(str(int(value)), datatype or _XSD + "integer")


def _double(value: float) -> str:
    """Return the canonical xsd:double, as JSON-LD wants it: 15 digits after the point."""
    return _DOUBLE_ZEROS.sub(r"\1E\2\3", f"{value + 0.0:1.15E}")


def _typed(text: str, datatype: str) -> str:
    return literal_text(text) if datatype == _STRING else f"{literal_text(text)}^^<{datatype}>"


def literal_text(text: str) -> str:
    """Return a text as a literal of canonical N-Quads, quoted and escaped."""
    if _ESCAPED.search(text):
        text = _ESCAPED.sub(_escape, text)
    return f'"{text}"'


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    return _ESCAPES.get(character) or f"\\u{ord(character):04X}"
