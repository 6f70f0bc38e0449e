"""A Jinja environment for templates from strangers: no way out, and a bound on what they make.

Jinja's own sandbox guards attributes; it does not bound memory. Here every operation that makes a
value pays from a budget of characters and every turn of a loop from a budget of steps, and only
what a chat template needs is there at all. Time itself is not bounded: whoever renders does so in a
process that may be ended (`limits.WORKER_TEXT_TIMEOUT_S`).

One environment serves one rendering. Chat templates and messages are `templates.py`'s business. The
dialect (trim_blocks, lstrip_blocks, break and continue, `tojson` without HTML escapes, generation
blocks) is that of the Transformers library, for which model authors write their templates.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import islice
from types import CodeType
from typing import Any, cast

import markupsafe
from jinja2 import Undefined, nodes
from jinja2.exceptions import SecurityError, TemplateRuntimeError, TemplateSyntaxError
from jinja2.ext import Extension
from jinja2.filters import FILTERS, do_indent, do_title, make_attrgetter
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

from kwaai import limits

STEPS_FILTER, SLICE_FILTER = "kwaai steps", "kwaai slice"  # no template can write such a name

TEXT_METHODS = frozenset(
    """
    capitalize count endswith find format index isalnum isalpha isascii isdecimal isdigit islower
    isnumeric isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace
    rfind rindex rpartition rsplit rstrip split splitlines startswith strip title upper
    """.split()  # noqa: SIM905
)
VALUE_FILTERS = frozenset(
    """
    abs count d default dictsort first float groupby int items last length list map max min reject
    rejectattr reverse select selectattr sort sum unique
    """.split()  # noqa: SIM905
)
_PERCENT = re.compile(r"%(?:\(\w+\))?[-+ #0]*\d{0,2}(?:\.\d{1,2})?[sridfgx]|%%")
_BRACES = re.compile(
    r"\{\w*(?:\[\w+\]|\.\w+)*(?:![rs])?(?::[<>^+]?\d{0,2}(?:\.\d{1,2})?[sdfgx]?)?\}|\{\{|\}\}"
)
_SPACES = " \t\n\r\v\f"
_CALL_STEPS = 10  # a call takes about ten times as long as an empty turn of a loop
_FIELD_CHARS_MAX = 128  # of padding and digits, by the two patterns above


class LimitExceeded(TemplateRuntimeError):
    """The template asked for more than a bound in `limits` allows."""


class GenerationBlock(Extension):
    """`{% generation %}` marks the assistant's words for training; here it is only a scope."""

    tags = {"generation"}  # noqa: RUF012  # Jinja's own attribute

    def parse(self, parser: Parser) -> nodes.Node:
        lineno = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=lineno)


class BoundedEnvironment(ImmutableSandboxedEnvironment):
    """See the module. Raises LimitExceeded and Jinja's own errors while rendering."""

    intercepted_binops = frozenset({"+", "*", "**", "%"})

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=["jinja2.ext.loopcontrols", GenerationBlock],
            cache_size=0,
        )
        self._chars = 0
        self._steps = 0
        self.finalize = self.text
        self.concat = self._joined  # type: ignore[method-assign]  # of macros and {% set %} blocks
        self.globals.pop("lipsum")
        self.filters = self._allowed_filters()

    def render(self, code: CodeType, variables: Mapping[str, object]) -> str:
        """Run a compiled template. Raises LimitExceeded, or whatever the template runs into."""
        template = self.template_class.from_code(self, code, self.make_globals(None))
        parts: list[str] = []
        size = 0
        for part in template.generate(dict(variables)):
            size += len(part)
            if size > limits.TEMPLATE_OUTPUT_CHARS_MAX:
                raise LimitExceeded(f"more than {limits.TEMPLATE_OUTPUT_CHARS_MAX} characters")
            parts.append(part)
        return "".join(parts)

    # Budgets.

    def charge(self, chars: int) -> None:
        """Pay for a value of `chars` characters (or as many bytes of list) before it is made."""
        self._chars += max(chars, 0)
        if chars > limits.TEMPLATE_OUTPUT_CHARS_MAX or self._chars > limits.TEMPLATE_WORK_CHARS_MAX:
            raise LimitExceeded("values larger than any prompt")

    def step(self, steps: int = 1) -> None:
        self._steps += steps
        if self._steps > limits.TEMPLATE_STEPS_MAX:
            raise LimitExceeded(f"more than {limits.TEMPLATE_STEPS_MAX} steps")

    def text(self, value: object) -> str:
        """Return what a value prints as; SecurityError for what is not made of plain data."""
        if isinstance(value, str):
            return value
        self.charge(_measure(value))
        return str(value)

    # What the sandbox asks.

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        if isinstance(obj, str):
            return attr in TEXT_METHODS
        if isinstance(obj, (int, float, bytes)):
            return False
        return super().is_safe_attribute(obj, attr, value)

    def unsafe_undefined(self, obj: Any, attribute: str) -> Undefined:
        raise SecurityError(f"the attribute {attribute!r} of {type(obj).__name__} is out of bounds")

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        inner, pattern = wrapped, str(value.__self__)

        def bounded(*args: Any, **kwargs: Any) -> str:
            self._charge_fields(pattern, _BRACES, "{}", [*args, *kwargs.values()])
            return inner(*args, **kwargs)

        return bounded

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        self.step(_CALL_STEPS)
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str):
            args = self._charge_method(owner, obj.__name__, args)
        return super().call(context, obj, *args, **kwargs)

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        sequences = (str, list, tuple)
        if operator == "+" and isinstance(left, sequences) and isinstance(right, sequences):
            self.charge((len(left) + len(right)) * (1 if isinstance(left, str) else 8))
        elif operator == "*":
            self._charge_product(left, right)
        elif operator == "**" and isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() * abs(right))
        elif operator == "%" and isinstance(left, str):
            return self._percent(left, right)
        return super().call_binop(context, operator, left, right)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        guarded: nodes.Template = _Guard().visit(tree)
        guarded.set_environment(self)
        return guarded

    # Operations with a price.

    def _charge_product(self, left: Any, right: Any) -> None:
        if isinstance(right, (str, list, tuple)):
            left, right = right, left
        if isinstance(left, (str, list, tuple)) and isinstance(right, int):
            self.charge(len(left) * right * (1 if isinstance(left, str) else 8))
        elif isinstance(left, int) and isinstance(right, int):
            _check_bits(left.bit_length() + right.bit_length())

    def _charge_method(self, owner: str, name: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
        """Pay for a call of a string's method; returns the arguments, an iterable made a list."""
        if name == "replace" and len(args) >= 2:
            old, new = self.text(args[0]), self.text(args[1])
            self.charge(len(owner) + owner.count(old) * len(new))
        elif name == "join" and args:
            pieces = list(islice(args[0], limits.TEMPLATE_STEPS_MAX))
            sizes = sum(len(piece) for piece in pieces if isinstance(piece, str))
            self.charge(sizes + len(owner) * len(pieces))
            return (pieces, *args[1:])
        elif "split" in name:
            marks = [args[0]] if args and isinstance(args[0], str) else _SPACES
            self.charge(len(owner) + 8 * sum(owner.count(mark) for mark in marks))
        else:
            self.charge(len(owner))
        return args

    def _charge_fields(
        self, pattern: str, fields: re.Pattern[str], special: str, values: list[object]
    ) -> None:
        """Pay for a formatted string; refuses fields that pad beyond two digits' width."""
        rest, count = fields.subn("", pattern)
        if any(character in rest for character in special):
            raise SecurityError(f"the format {pattern!r:.60} is out of bounds")
        size = sum(len(v) if isinstance(v, str) else _measure(v) for v in values)
        self.charge(len(pattern) + count * (size + _FIELD_CHARS_MAX))

    def _percent(self, pattern: str, values: object) -> str:
        parts = list(values) if isinstance(values, tuple) else [values]
        self._charge_fields(pattern, _PERCENT, "%", parts)
        return pattern % values

    def _joined(self, parts: Iterable[str]) -> str:
        parts = list(parts)
        self.charge(sum(map(len, parts)))
        return "".join(parts)

    # Filters.

    def _allowed_filters(self) -> dict[str, Callable[..., Any]]:
        return {
            **{name: self._priced(FILTERS[name]) for name in VALUE_FILTERS},
            **{name: self._of_text(method) for name, method in _TEXT_FILTERS.items()},
            "indent": self._indent,
            "format": lambda pattern, *args, **named: self._percent(str(pattern), named or args),
            "join": self._join,
            "replace": self._replace,
            "round": _round,
            "tojson": self._tojson,
            STEPS_FILTER: self._stepwise,
            SLICE_FILTER: self._sliced,
        }

    def _priced(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Let one of Jinja's filters pay for the copy that it may make of its value."""

        @functools.wraps(function)  # with the mark that asks for the context or the environment
        def priced(*args: Any, **kwargs: Any) -> Any:
            self.step()
            for value in args[:2]:
                if isinstance(value, (str, list, tuple, dict)):
                    self.charge(len(value) * (1 if isinstance(value, str) else 8))
            return function(*args, **kwargs)

        return priced

    def _of_text(self, function: Callable[..., str]) -> Callable[..., str]:
        def on_text(value: object, *args: Any) -> str:
            text = self.text(value)
            self.charge(len(text))
            return function(text, *args)

        return on_text

    def _replace(self, value: object, old: object, new: object, count: int | None = None) -> str:
        text, wanted, instead = self.text(value), self.text(old), self.text(new)
        self.charge(len(text) + text.count(wanted) * len(instead))
        return text.replace(wanted, instead, -1 if count is None else count)

    def _indent(
        self, value: object, width: int | str = 4, first: bool = False, blank: bool = False
    ) -> str:
        text = self.text(value)
        size = len(width) if isinstance(width, str) else width
        self.charge(len(text) + (text.count("\n") + 1) * size)
        return do_indent(text, width, first, blank)

    def _join(
        self, value: Iterable[object], between: object = "", attribute: str | int | None = None
    ) -> str:
        items: Iterable[object] = islice(value, limits.TEMPLATE_STEPS_MAX)
        if attribute is not None:
            items = map(make_attrgetter(self, attribute), items)
        texts, separator = [self.text(item) for item in items], self.text(between)
        self.charge(sum(map(len, texts)) + len(separator) * len(texts))
        return separator.join(texts)

    def _tojson(
        self,
        value: object,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        padding = indent or 0
        if not 0 <= padding <= 16 or any(len(mark) > 4 for mark in separators or ()):
            raise SecurityError("tojson indents by 0 to 16 and separates by at most 4 characters")
        self.charge(_measure(value) * (1 + padding))
        return json.dumps(
            value,
            ensure_ascii=ensure_ascii,
            indent=indent,
            separators=separators,
            sort_keys=sort_keys,
        )

    def _stepwise(self, value: Iterable[object]) -> Iterator[object]:
        for item in value:
            self.step()
            yield item

    def _sliced(self, value: object) -> object:
        if isinstance(value, (str, list, tuple)):
            self.charge(len(value))
        return value


class _Guard(NodeTransformer):
    """Route what no hook of Jinja's sandbox sees (loops, slices, `~`) through priced filters."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        self.generic_visit(node)
        node.iter = _filter(node.iter, STEPS_FILTER)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter(node, SLICE_FILTER) if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        joined: nodes.Expr = _filter(node.nodes[0], "string")
        for part in node.nodes[1:]:
            joined = nodes.Add(joined, _filter(part, "string"), lineno=node.lineno)
        return joined

    def _refuse(self, node: nodes.Node) -> nodes.Node:
        what = type(node).__name__.lower()
        raise TemplateSyntaxError(f"{what} is not available to a chat template", node.lineno)

    visit_Include = visit_Import = visit_FromImport = visit_Extends = _refuse
    visit_ScopedEvalContextModifier = visit_EvalContextModifier = _refuse


_TEXT_FILTERS: Mapping[str, Callable[..., str]] = {
    "capitalize": str.capitalize,
    "e": lambda text: str(markupsafe.escape(text)),
    "escape": lambda text: str(markupsafe.escape(text)),
    "lower": str.lower,
    "safe": str,
    "string": str,
    "title": do_title,
    "trim": str.strip,
    "upper": str.upper,
}


def _filter(node: nodes.Node, name: str) -> nodes.Filter:
    return nodes.Filter(cast(nodes.Expr, node), name, [], [], None, None, lineno=node.lineno)


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    result: float = FILTERS["round"](value, max(-20, min(precision, 20)), method)
    return result


def _check_bits(bits: int) -> None:
    if bits > limits.TEMPLATE_INTEGER_BITS_MAX:
        raise LimitExceeded(f"an integer of more than {limits.TEMPLATE_INTEGER_BITS_MAX} bits")


def _measure(value: object) -> int:
    """Return an upper bound of what a plain value prints as, in characters, without printing it.

    Ends early for the trees that grow while they are written: a list of twice itself, forty times.
    """
    size, stack = 0, [(value, 0)]
    while stack:
        item, depth = stack.pop()
        size += 32
        if isinstance(item, str):
            size += 6 * len(item)
        elif isinstance(item, int):
            size += item.bit_length() // 3
        elif isinstance(item, (list, tuple)):
            stack.extend((part, depth + 1) for part in item)
        elif isinstance(item, dict):
            stack.extend((part, depth + 1) for pair in item.items() for part in pair)
        elif item is not None and not isinstance(item, (float, Undefined)):
            raise SecurityError(f"a {type(item).__name__} cannot be printed")
        if size > limits.TEMPLATE_OUTPUT_CHARS_MAX or depth > limits.TEMPLATE_DEPTH_MAX:
            raise LimitExceeded("a value larger than any prompt")
    return size
