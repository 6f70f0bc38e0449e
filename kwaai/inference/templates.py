"""Write a conversation the way a model was trained to read it, by the Jinja template it came with.

Does not tokenize. The template is a stranger's program: it runs in `sandbox.BoundedEnvironment`,
and a caller runs this in a process that may be ended at a deadline, as time is not bounded here.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import CodeType
from typing import NoReturn

from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError

from kwaai import limits
from kwaai.errors import ModelUnsupported, UserError
from kwaai.inference.sandbox import BoundedEnvironment, LimitExceeded

DEFAULT_TEMPLATE = """\
{% for message in messages %}
{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|im_start|>assistant\\n' }}
{%- endif %}
"""
"""ChatML, for a model that came without a template."""

Message = dict[str, str]

# What a template can run into by its own fault, beside Jinja's errors: it is a program.
_PROGRAM_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NameError,
    RecursionError,
    RuntimeError,
    TypeError,
    ValueError,
)


class ConversationRejected(UserError):
    """The model's chat template refused, or could not write, this conversation."""


def render_chat(
    template: str | None,
    messages: Sequence[Mapping[str, str]],
    *,
    bos: str,
    eos: str,
    now: datetime,
    add_generation_prompt: bool = True,
    extra: Mapping[str, object] | None = None,
) -> str:
    """Write `messages` (each with "role" and "content") as one prompt.

    A system message that the template refuses, or leaves out, is put before the next user message.
    `bos`, `eos`: the texts of the special tokens; `now`: what `strftime_now` tells; `extra`: more
    variables, `tools` for instance. Without a template, ChatML.

    Raises ConversationRejected (a UserError) with the template's own words, UserError for an empty
    conversation or one past a bound, ModelUnsupported for a template that cannot be used at all.
    """
    if not messages:
        raise UserError("messages is empty: send at least one message", param="messages")
    code = _compiled(template) if template and template.strip() else _compiled(DEFAULT_TEMPLATE)
    variables = {
        "tools": None,
        "documents": None,
        **(extra or {}),
        "bos_token": bos,
        "eos_token": eos,
        "add_generation_prompt": add_generation_prompt,
        "raise_exception": _raise_exception,
        "strftime_now": lambda pattern: _strftime(now, pattern),
    }
    conversation = [dict(message) for message in messages]
    if not any(message["role"] == "system" for message in conversation):
        return _render(code, conversation, variables)
    return _render_with_system(code, conversation, variables)


def _render_with_system(
    code: CodeType, conversation: list[Message], variables: Mapping[str, object]
) -> str:
    folded = _folded(conversation)
    try:
        text = _render(code, conversation, variables)
    except ConversationRejected:
        return _render(code, folded, variables)
    if _has_system_texts(text, conversation):
        return text
    try:
        with_system = _render(code, folded, variables)
    except ConversationRejected:
        return text
    return with_system if _has_system_texts(with_system, conversation) else text


def _folded(conversation: Sequence[Message]) -> list[Message]:
    """Return the conversation with each system text before the next user's, or as a user's own."""
    folded: list[Message] = []
    waiting: list[str] = []
    for message in conversation:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif message["role"] == "user":
            content = "\n\n".join([text for text in waiting if text] + [message["content"]])
            folded.append({**message, "content": content})
            waiting = []
        else:
            folded.append(message)
    if waiting:
        folded.append({"role": "user", "content": "\n\n".join(waiting)})
    return folded


def _has_system_texts(text: str, conversation: Sequence[Message]) -> bool:
    return all(m["content"].strip() in text for m in conversation if m["role"] == "system")


@functools.lru_cache(maxsize=8)
def _compiled(template: str) -> CodeType:
    """Compile a template. Raises ModelUnsupported where that fails."""
    if len(template) > limits.TEMPLATE_CHARS_MAX:
        raise ModelUnsupported(
            f"the model's chat template has {len(template)} characters; "
            f"at most {limits.TEMPLATE_CHARS_MAX} are allowed"
        )
    try:
        return BoundedEnvironment().compile(template)
    except TemplateSyntaxError as error:
        where = f" in line {error.lineno}"
        raise ModelUnsupported(_unusable(error.message or "", where)) from error
    except (TemplateError, SyntaxError, *_PROGRAM_ERRORS) as error:
        raise ModelUnsupported(_unusable(str(error))) from error


def _render(code: CodeType, messages: list[Message], variables: Mapping[str, object]) -> str:
    try:
        return BoundedEnvironment().render(code, {**variables, "messages": messages})
    except SecurityError as error:
        raise ModelUnsupported(_unusable(str(error))) from error
    except LimitExceeded as error:
        raise UserError(
            f"the model's chat template asked for {error}: "
            "send less text, or use a model with another template",
            param="messages",
        ) from error
    except TemplateError as error:
        raise ConversationRejected(
            f"the model's chat template refuses these messages: {_bounded(str(error))}",
            param="messages",
        ) from error
    except _PROGRAM_ERRORS as error:
        words = f"{type(error).__name__}: {error}"
        raise ConversationRejected(
            f"the model's chat template fails on these messages: {_bounded(words)}",
            param="messages",
        ) from error


def _unusable(words: str, where: str = "") -> str:
    return (
        f"the model's chat template cannot be used{where}: {_bounded(words)}; "
        "use another model file, or send a plain prompt to completions"
    )


def _bounded(words: str) -> str:
    """Return a stranger's words on one line, without control characters, and not too many."""
    line = " ".join(words[: 4 * limits.TEMPLATE_ERROR_CHARS_MAX].split())
    line = "".join(character for character in line if character.isprintable())
    most = limits.TEMPLATE_ERROR_CHARS_MAX
    return line if len(line) <= most else line[: most - 3] + "..."


def _raise_exception(message: object = "no reason given") -> NoReturn:
    raise TemplateError(message if isinstance(message, str) else type(message).__name__)


def _strftime(now: datetime, pattern: str) -> str:
    if len(pattern) > 64:
        raise LimitExceeded("a date format of more than 64 characters")
    return now.strftime(pattern)
