"""JSON-LD expansion by PyLD, with its doors shut.

PyLD downloads contexts, gives relative names a made-up base, drops what no context defines, caches
contexts of strangers for the whole process (and lets `@import` change cached ones), and knows no
bounds. None of that happens here: contexts come from `schemas` alone, what would be dropped is an
error, work is counted, and only what follows from pinned contexts is kept between documents.
JSON-LD 1.1 Processing Algorithms and API, sections 4 and 5. Written against PyLD 3.3's insides.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any, Final, NoReturn

from pyld.jsonld import KEYWORDS, JsonLdError, JsonLdProcessor

from credentials.document import Document, check_document
from credentials.errors import (
    ContextUnknown,
    CredentialsError,
    DocumentInvalid,
    GraphTooComplex,
    TermUndefined,
)
from credentials.limits import CONTEXT_WORK_MAX, RDFC_VALUES_MAX, TERM_CHARS_MAX
from schemas import context_bytes

_KEPT_MAX: Final = 512  # processed contexts, of some 10 kB; a kind of credential needs 3 to 10
_CONTEXTS_KEPT_MAX: Final = 8  # of one @context; more are processed again each time
_MODE: Final = "json-ld-1.1"
_RESERVED: Final = re.compile("@[a-zA-Z]+$")  # PyLD's pattern, a last line break included
_PRESENTED = "verifiableCredential"
_ABSOLUTE: Final = re.compile("[A-Za-z][A-Za-z0-9+.-]*:")
_KEYWORDS: Final = frozenset(KEYWORDS)
_LIBRARY_ERRORS: Final = (
    JsonLdError,
    ArithmeticError,
    AttributeError,
    LookupError,
    RecursionError,
    TypeError,
    ValueError,
)
"""What PyLD raises on bad input: its own error, and accidents."""


def expand_document(document: Document) -> list[Any]:
    """Return the expanded form of a JSON-LD document. The document is not changed.

    Raises ContextUnknown, TermUndefined for what expansion would drop, GraphTooComplex, and
    DocumentInvalid for what is no JSON-LD.
    """
    check_document(document, values_max=RDFC_VALUES_MAX)
    processor = _Processor()
    options = {
        "base": None,
        "contextResolver": _Resolver(),
        "isFrame": False,
        "keepFreeFloatingNodes": False,
        "processingMode": _MODE,
    }
    try:
        expanded = processor._expand(_initial_context(), None, document, options)
    except _LIBRARY_ERRORS as error:
        raise _own_error(error) from error
    if isinstance(expanded, dict) and expanded.keys() == {"@graph"}:
        expanded = expanded["@graph"]
    return expanded if isinstance(expanded, list) else [expanded]


class _PinnedContext(dict[str, Any]):
    """An object of a pinned context: it lives as long as the process, and nobody changes it."""


@cache
def _load_pinned(url: str) -> tuple[_Resolved, ...]:
    document = json.loads(context_bytes(url), object_pairs_hook=_PinnedContext)
    return _Resolver().resolve(None, document["@context"], None)


@cache
def _initial_context() -> Any:
    return JsonLdProcessor()._get_initial_context({"processingMode": _MODE})


class _Resolved:
    """One context object, as PyLD wants it. It keeps no processed form: `_Processor` does."""

    __slots__ = ("document",)

    def __init__(self, document: Any) -> None:
        self.document = document

    def get_processed(self, active_context: Any) -> None:
        return None

    def set_processed(self, active_context: Any, processed: Any) -> None:
        return None


class _Resolver:
    """Turns an @context into context objects. In the place of PyLD's ContextResolver."""

    def resolve(
        self, active_context: Any, context: Any, base: Any, cycles: Any = None
    ) -> tuple[_Resolved, ...]:
        resolved: list[_Resolved] = []
        for given in context if isinstance(context, list) else [context]:
            entry = _unwrapped(given)
            if isinstance(entry, str):
                resolved.extend(_pinned(entry))
            elif entry is None or entry is False:
                resolved.append(_Resolved(False))
            elif not isinstance(entry, dict):
                raise DocumentInvalid("a @context is neither a URL nor an object")
            elif "@import" in entry or "@context" in entry:
                raise DocumentInvalid("a @context with @import or @context in it is not supported")
            else:
                resolved.append(_Resolved(entry))
        return tuple(resolved)


def _unwrapped(entry: Any) -> Any:
    """Return the context in `{"@context": {...}}`: other libraries read that as they read a file of
    contexts, and the W3C's suite has documents with it.
    """
    inner = entry.get("@context") if isinstance(entry, dict) and len(entry) == 1 else None
    return inner if isinstance(inner, dict) else entry


def _pinned(url: str) -> tuple[_Resolved, ...]:
    try:
        return _load_pinned(url)
    except LookupError as error:
        raise ContextUnknown(
            f"the context {url!r:.200} is not one of those known here, and none is downloaded"
        ) from error


class _Kept:
    """Processed contexts that follow from pinned ones alone, for all documents of the process.

    A key names the context it was processed upon, so an entry can only be found on the same way.
    """

    def __init__(self) -> None:
        self.processed: dict[tuple[Any, ...], Any] = {}
        self.names: set[str] = {_initial_context()["_uuid"]}


_kept: list[_Kept] = []


class _Processor(JsonLdProcessor):  # type: ignore[misc]
    """PyLD's processor for one document: counts work, refuses what PyLD would drop."""

    def __init__(self) -> None:
        super().__init__(on_property_dropped=_refuse_property)
        if not _kept:
            _kept.append(_Kept())
        self._kept = _kept[0]
        self._own: dict[tuple[Any, ...], tuple[Any, Any]] = {}
        self._work = CONTEXT_WORK_MAX

    def _expand(
        self,
        active_ctx: Any,
        active_property: Any,
        element: Any,
        options: Any,
        inside_list: bool = False,
        inside_index: bool = False,
        type_scoped_ctx: Any = None,
    ) -> Any:
        if element is None:
            _refuse_empty(active_property, "null")
        if element == [] and not inside_list and not _may_be_empty(active_ctx, active_property):
            _refuse_empty(active_property, "[]")
        if inside_list and isinstance(element, list) and not _is_list(active_ctx, active_property):
            _refuse_nested(active_property, element)
        expanded = super()._expand(
            active_ctx,
            active_property,
            element,
            options,
            inside_list,
            inside_index,
            type_scoped_ctx,
        )
        if expanded is None:
            raise TermUndefined(
                f"{active_property or 'the document'} has a part that says nothing, or belongs to "
                "no property: no signature covers it"
            )
        return expanded

    def _expand_iri(
        self,
        active_ctx: Any,
        value: Any,
        base: Any = None,
        vocab: Any = False,
        local_ctx: Any = None,
        defined: Any = None,
    ) -> Any:
        if vocab and local_ctx is None and isinstance(value, str):  # the short way for a term
            mapping = active_ctx["mappings"].get(value)
            if mapping is not None:
                return mapping["@id"]
        return super()._expand_iri(active_ctx, value, base, vocab, local_ctx, defined)

    def _expand_language_map(self, active_ctx: Any, language_map: Any, direction: Any) -> Any:
        for texts in language_map.values() or [None]:
            if texts is None or texts == [] or (isinstance(texts, list) and None in texts):
                _refuse_empty("a language map", "null or []")
        return super()._expand_language_map(active_ctx, language_map, direction)

    def _expand_index_map(
        self, active_ctx: Any, active_property: Any, value: Any, *args: Any
    ) -> Any:
        if not value:
            _refuse_empty(active_property, "{}")
        return super()._expand_index_map(active_ctx, active_property, value, *args)

    def _expand_object(
        self,
        active_ctx: Any,
        active_property: Any,
        expanded_active_property: Any,
        element: Any,
        *args: Any,
        **nested: Any,
    ) -> None:
        if nested and not element:  # PyLD gives the rest by name for what is below an @nest alone
            _refuse_empty(active_property, "{}")
        values = element.values()
        if [] in values or {} in values:
            for name, value in element.items():
                if value == [] or value == {}:
                    meaning = self._expand_iri(active_ctx, name, vocab=True)
                    if meaning in ("@type", "@nest", "@reverse"):
                        _refuse_empty(name, str(value))
        super()._expand_object(
            active_ctx, active_property, expanded_active_property, element, *args, **nested
        )

    def _process_context(
        self,
        active_ctx: Any,
        local_ctx: Any,
        options: Any,
        override_protected: bool = False,
        propagate: bool = True,
        validate_scoped: bool = True,
        cycles: Any = None,
    ) -> Any:
        pinned = _is_pinned(local_ctx)
        if pinned and cycles is not None:
            return active_ctx  # a look ahead at a scoped context, which its publisher did
        name = active_ctx.get("_uuid") if cycles is None else None
        key = (name, _key(local_ctx), override_protected, propagate)
        if name is not None:
            found = self._kept.processed.get(key) or self._own.get(key)
            if found is not None:
                return found
        processed = super()._process_context(
            active_ctx,
            local_ctx,
            options,
            override_protected,
            propagate,
            validate_scoped,
            cycles,
        )
        if not pinned:
            _check_vocabulary(processed.get("@vocab"))
        if pinned and name in self._kept.names:
            self._keep(key, processed)
        elif name is not None:
            self._own[key] = processed
        return processed

    def _keep(self, key: tuple[Any, ...], processed: Any) -> None:
        """Keep what follows from pinned contexts alone. All old entries go when there are many."""
        if len(self._kept.processed) >= _KEPT_MAX:
            _kept[0] = _Kept()
        elif "_uuid" in processed:
            self._kept.names.add(processed["_uuid"])
            self._kept.processed[key] = processed

    def _clone_active_context(self, active_ctx: Any) -> Any:
        self._spend(1 + len(active_ctx["mappings"]) // 16)
        child = super()._clone_active_context(active_ctx)
        if "@direction" in active_ctx:  # which PyLD forgets
            child["@direction"] = active_ctx["@direction"]
        return child

    def _create_term_definition(
        self, active_ctx: Any, local_ctx: Any, term: str, *args: Any, **named: Any
    ) -> None:
        self._spend(1)
        _refuse_reserved(term)
        definition = local_ctx.get(term)
        if isinstance(definition, str):
            _refuse_reserved(definition)
        elif isinstance(definition, dict):
            _refuse_reserved(definition.get("@id"))
            _refuse_reserved(definition.get("@reverse"), keywords=frozenset())
        super()._create_term_definition(active_ctx, local_ctx, term, *args, **named)
        mapping = active_ctx["mappings"].get(term)
        if mapping is not None:
            _check_length(mapping["@id"])

    def _spend(self, amount: int) -> None:
        self._work -= amount
        if self._work < 0:
            raise GraphTooComplex("the document's contexts define too many terms, too many times")


def _is_pinned(context: Any) -> bool:
    """Whether a context is made of pinned ones alone. Raises ContextUnknown for another URL."""
    if isinstance(context, list):
        return len(context) <= _CONTEXTS_KEPT_MAX and all(
            entry is None or (isinstance(entry, str) and _is_pinned(entry)) for entry in context
        )
    if isinstance(context, str):
        return bool(_pinned(context))
    return context is None or context is False or isinstance(context, _PinnedContext)


def _may_be_empty(active_context: Any, term: str | None) -> bool:
    """Whether `[]` says something: an empty list, and a presentation of no credentials, which the
    W3C's suite signs so. Whoever adds or removes the latter changes nothing that is presented.
    """
    if term == _PRESENTED:  # its own context has cleared the mapping by now
        return True
    return _is_list(active_context, term)


def _is_list(active_context: Any, term: str | None) -> bool:
    mapping = active_context["mappings"].get(term)
    return mapping is not None and "@list" in mapping.get("@container", ())


def _key(context: Any) -> Any:
    """What a context is recognised by. Objects by identity: they live as long as the document."""
    if isinstance(context, list):
        return tuple(map(_key, context))
    return id(context) if isinstance(context, dict) else context or False


def _refuse_property(name: str | None) -> NoReturn:
    raise TermUndefined(
        f"the @context does not define {name!r:.200}: no signature covers it"
        if name
        else "the document has a member that its @context maps to nothing: no signature covers it"
    )


def _refuse_empty(what: str | None, value: str) -> NoReturn:
    raise TermUndefined(
        f"{what or 'the document'!s:.200} has the value {value}, which no signature covers; "
        "leave it out"
    )


def _refuse_nested(term: str | None, items: list[Any]) -> None:
    """Refuse an array in a @list object: PyLD, jsonld.js and the standard differ on its depth."""
    if any(isinstance(item, list) for item in items):
        raise TermUndefined(
            f"the @list of {term!s:.200} has an array in it; write a @list there too"
        )


def _check_vocabulary(iri: str | None) -> None:
    _check_length(iri)
    if iri is not None and not _ABSOLUTE.match(iri):
        raise TermUndefined(f"the @vocab {iri!r:.200} of a @context is not a URL")


def _check_length(iri: str | None) -> None:
    """Of what each use of a term repeats."""
    if iri is not None and len(iri) > TERM_CHARS_MAX:
        raise GraphTooComplex(f"a @context maps a term to more than {TERM_CHARS_MAX} characters")


def _refuse_reserved(term: object, keywords: frozenset[str] = _KEYWORDS) -> None:
    """Refuse what PyLD ignores with a warning."""
    if isinstance(term, str) and (
        (_RESERVED.match(term) and term not in keywords) or term == "_uuid"  # PyLD's own
    ):
        raise DocumentInvalid(f"a @context uses {term:.80}, which JSON-LD reserves")


def _own_error(error: BaseException) -> CredentialsError:
    """Return the error of ours that PyLD wrapped, or one that says what PyLD said."""
    cause: BaseException | None = error
    reason = type(error).__name__
    while cause is not None:
        if isinstance(cause, CredentialsError):
            return cause
        if isinstance(cause, JsonLdError) and cause.args:
            reason = str(cause.args[0])
        cause = cause.__cause__
    return DocumentInvalid(f"the document is not JSON-LD: {reason:.300}")
