"""Chat templates: the shapes of real families, the system message's ways, and hostile programs."""

from __future__ import annotations

import contextlib
from datetime import datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaai import limits
from kwaai.errors import ModelUnsupported, UserError
from kwaai.inference import templates
from kwaai.inference.templates import ConversationRejected, render_chat

NOW = datetime(2025, 3, 9, 12, 30)
SYSTEM = {"role": "system", "content": "Be brief."}
ASK = {"role": "user", "content": " Capital of France? "}
SAY = {"role": "assistant", "content": "Paris."}
THANK = {"role": "user", "content": "Thanks"}

LLAMA3 = """\
{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") if strftime_now is defined else "26 Jul 2024" %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}{{- "Environment: ipython\\n" }}{%- endif %}
{{- "Today: " + date_string + "\\n\\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role not in ['user', 'assistant'] %}
        {{- raise_exception('Unknown role ' ~ message.role) }}
    {%- endif %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'}}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""
QWEN = """\
{%- if tools %}
    {{- '<tools>' }}{%- for tool in tools %}{{- tool | tojson }}{%- endfor %}{{- '</tools>' }}
{%- endif %}
{%- if messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- else %}
    {{- '<|im_start|>system\\nYou are a model.<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=-1) %}
{%- for message in messages %}
    {%- if message.role == "user" %}{%- set ns.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if loop.first and message.role == 'system' %}{%- continue %}{%- endif %}
    {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}
    {{- '<|im_start|>' + message.role + ('*' if loop.index0 == ns.last else '') + '\\n' }}
    {{- content + '<|im_end|>' + '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""
GEMMA = """\
{{ bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {{- raise_exception('System role not supported') }}
{%- endif %}
{%- for message in messages %}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
        {{- raise_exception('Roles must alternate user/assistant/user/assistant/...') }}
    {%- endif %}
    {%- set role = 'model' if message['role'] == 'assistant' else message['role'] %}
    {{- '<start_of_turn>' + role + '\\n' + message['content'] | trim + '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\\n' }}{%- endif %}
"""
MISTRAL = """\
{{ bos_token }}{% for message in messages -%}
{% if message.role == 'user' -%}
[INST] {{ message.content }} [/INST]
{%- elif message.role == 'assistant' %} {{ message.content ~ eos_token }}
{%- endif %}
{%- endfor %}
"""  # leaves a system message out without a word
PHI3 = """\
{% for message in messages %}
{% if message['role'] in ('system', 'user') %}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' -}}
{% elif message['role'] == 'assistant' %}
{% generation %}
{{ '<|assistant|>\\n' + message['content'] + '<|end|>\\n' -}}
{% endgeneration %}
{% endif %}
{% endfor %}
{{ '<|assistant|>\\n' if add_generation_prompt else eos_token -}}
"""


def _render(template: str | None, *messages: dict[str, str], **options: Any) -> str:
    return render_chat(template, messages, bos="<s>", eos="</s>", now=NOW, **options)


def _llama(role: str, content: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}"


def _chatml(role: str, content: str) -> str:
    return f"<|im_start|>{role}\n{content}<|im_end|>\n"


@pytest.mark.parametrize("template", [None, "", " \n"])
def test_a_model_without_a_template_gets_chatml(template: str | None) -> None:
    expected = (
        _chatml("system", "Be brief.")
        + _chatml("user", ASK["content"])
        + _chatml("assistant", "Paris.")
    )
    assert _render(template, SYSTEM, ASK, SAY, add_generation_prompt=False) == expected
    assert _render(template, SYSTEM, ASK, SAY) == expected + "<|im_start|>assistant\n"


@pytest.mark.parametrize(
    ("template", "messages", "expected"),
    [
        (
            LLAMA3,
            [SYSTEM, ASK, SAY, THANK],
            "<s>"
            + _llama("system", "Today: 09 Mar 2025\n\nBe brief.<|eot_id|>")
            + _llama("user", "Capital of France?<|eot_id|>")
            + _llama("assistant", "Paris.<|eot_id|>")
            + _llama("user", "Thanks<|eot_id|>")
            + _llama("assistant", ""),
        ),
        (
            LLAMA3,
            [THANK],
            "<s>"
            + _llama("system", "Today: 09 Mar 2025\n\n<|eot_id|>")
            + _llama("user", "Thanks<|eot_id|>")
            + _llama("assistant", ""),
        ),
        (
            QWEN,
            [ASK, {"role": "assistant", "content": "<think>hm</think>\nParis."}, THANK],
            _chatml("system", "You are a model.")
            + _chatml("user", ASK["content"])
            + _chatml("assistant", "Paris.")
            + _chatml("user*", "Thanks")
            + "<|im_start|>assistant\n",
        ),
        (
            QWEN,
            [SYSTEM, THANK],
            _chatml("system", "Be brief.") + _chatml("user*", "Thanks") + "<|im_start|>assistant\n",
        ),
        (
            GEMMA,
            [ASK, SAY, THANK],
            "<s><start_of_turn>user\nCapital of France?<end_of_turn>\n<start_of_turn>model\nParis."
            "<end_of_turn>\n<start_of_turn>user\nThanks<end_of_turn>\n<start_of_turn>model\n",
        ),
        (
            MISTRAL,
            [THANK, SAY, THANK],
            "<s>[INST] Thanks [/INST] Paris.</s>[INST] Thanks [/INST]",
        ),
        (
            PHI3,
            [SYSTEM, THANK, SAY],
            "<|system|>\nBe brief.<|end|>\n<|user|>\nThanks<|end|>\n"
            "<|assistant|>\nParis.<|end|>\n<|assistant|>\n",
        ),
    ],
)
def test_a_familys_conversation(
    template: str, messages: list[dict[str, str]], expected: str
) -> None:
    assert _render(template, *messages) == expected


def test_more_variables_reach_the_template_and_ours_win() -> None:
    extra = {"enable_thinking": False, "tools": [{"name": "é<"}], "bos_token": "no"}
    text = _render(QWEN, THANK, extra=extra)
    assert text.startswith('<tools>{"name": "é<"}</tools>')
    assert text.endswith("<think>\n\n</think>\n\n")
    assert _render("{{ bos_token }}", THANK, extra=extra) == "<s>"


# A system message that the template does not take.


def test_a_refused_system_message_goes_before_the_first_question() -> None:
    assert _render(GEMMA, SYSTEM, THANK) == (
        "<s><start_of_turn>user\nBe brief.\n\nThanks<end_of_turn>\n<start_of_turn>model\n"
    )


def test_a_system_message_left_out_goes_before_the_first_question() -> None:
    assert _render(MISTRAL, SYSTEM, THANK) == "<s>[INST] Be brief.\n\nThanks [/INST]"


def test_a_later_system_message_goes_before_the_next_question_or_becomes_one() -> None:
    text = _render(MISTRAL, THANK, SAY, SYSTEM, ASK)
    assert text.endswith("[INST] Be brief.\n\n Capital of France?  [/INST]")
    assert _render(MISTRAL, THANK, SAY, SYSTEM).endswith("[INST] Be brief. [/INST]")


def test_an_empty_system_message_is_dropped_where_refused() -> None:
    empty = {"role": "system", "content": ""}
    assert _render(GEMMA, empty, THANK) == _render(GEMMA, THANK)


def test_a_template_that_writes_no_content_stays_as_it_is() -> None:
    assert _render("{{ messages|length }}", SYSTEM, THANK) == "2"


def test_a_template_refuses_for_another_reason_in_its_own_words() -> None:
    with pytest.raises(ConversationRejected, match="Roles must alternate") as refused:
        _render(GEMMA, SYSTEM, ASK, THANK)
    assert refused.value.param == "messages"
    assert refused.value.http_status == 400
    with pytest.raises(UserError, match="Unknown role tool"):
        _render(LLAMA3, {"role": "tool", "content": "x"})


def test_a_templates_words_are_bounded_and_on_one_line() -> None:
    with pytest.raises(UserError) as refused:
        _render("{{ raise_exception('a\n\x1b[31m' + 'x' * 100000) }}", THANK)
    assert len(refused.value.message) < limits.TEMPLATE_ERROR_CHARS_MAX + 100
    assert refused.value.message.isprintable()


def test_an_empty_conversation_is_refused() -> None:
    with pytest.raises(UserError, match="empty") as refused:
        _render(None)
    assert refused.value.param == "messages"


# What templates may use.


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (
            "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}",
            "role=user;content=Thanks;",
        ),
        ("{% for k, v in messages[0]|items %}{{ k }},{% endfor %}", "role,content,"),
        ("{{ messages|map(attribute='role')|join('-') }}", "user"),
        ("{{ messages|selectattr('role', 'equalto', 'user')|list|length }}", "1"),
        ("{{ messages|rejectattr('role', 'equalto', 'user')|list }}", "[]"),
        ("{{ {'a': ['é', none, true, 1.5]}|tojson }}", '{"a": ["é", null, true, 1.5]}'),
        ("{{ {'a': 1}|tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{{ {'a': ['b', 1]} }}", "{'a': ['b', 1]}"),
        ("{{ 'a' ~ 1 ~ none ~ nothing }}", "a1None"),
        ("{{ '%s has %d, %.2f, 100%%' % ('x', 2, 0.5) }}", "x has 2, 0.50, 100%"),
        ("{{ '%s-%s'|format('a', 1) }}{{ '{}-{a}'.format('b', a=2) }}", "a-1b-2"),
        ("{{ 'x\ny'|indent(2) }}|{{ 'aXb'|replace('X', '+') }}", "x\n  y|a+b"),
        ("{{ 'a b'|title }}{{ ' c '|trim }}{{ 'D'|lower }}{{ '<'|e }}", "A Bcd&lt;"),
        ("{{ 'abc'[::-1] }}{{ messages[-1:][0].content[:2] }}", "cbaTh"),
        ("{{ ', '.join(['a', 'b']).replace('a', 'c').upper() }}", "C, B"),
        ("{{ 7 // 2 + 2 ** 3 * 2 % 5 }}{{ 2.345|round(1) }}{{ [3, 1]|sort|first }}", "42.31"),
        ("{% macro f(x) %}<{{ x }}>{% endmacro %}{{ f('a') }}{{ f(2) }}", "<a><2>"),
        (
            "{% for i in range(9) if i % 2 %}{% if i > 5 %}{% break %}{% endif %}{{ i }}"
            "{% endfor %}",
            "135",
        ),
        ("{% for i in nothing %}{% else %}none{% endfor %}{{ nothing|default('d') }}", "noned"),
        ("{% set x %}a{{ 1 }}{% endset %}{{ x|length }}", "2"),
        (
            "{% for m in messages %}{{ loop.last }}{{ loop.length }}{{ loop.index }}{% endfor %}",
            "True11",
        ),
        ("{{ strftime_now('%Y-%m-%d') }}", "2025-03-09"),
        ("a\n    {% if true %}\nb\n    {% endif %}\nc", "a\nb\nc"),
    ],
)
def test_what_templates_may_use(template: str, expected: str) -> None:
    assert _render(template, THANK) == expected


# Hostile templates.

GROW = (
    "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(60) %}{% set n.x = GROWN %}{% endfor %}"
)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__ }}",
        "{{ messages.__class__ }}",
        "{{ ''['__class__'] }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__closure__ }}",
        "{{ self._TemplateReference__context }}",
        "{{ ''|attr('__class__') }}",
        "{{ '{0.__class__.__mro__}'.format('') }}",
        "{{ (''|string).format_map({'a': 1}).__class__ }}",
        "{{ [''.__class__]|map(attribute='__mro__')|list }}",
        "{% include 'x' %}",
        "{% import 'x' as y %}",
        "{% from 'x' import y %}",
        "{% extends 'x' %}",
        "{% autoescape true %}{% endautoescape %}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ messages[0].clear() }}",
        "{{ lipsum(99999) }}",
        "{{ range }}",
        "{{ self }}",
        "{{ messages|pprint }}",
        "{{ 'x'.center(10 ** 9) }}",
        "{{ 'x'|center(10 ** 9) }}",
        "{{ 'x'.encode() }}",
        "{{ (1).to_bytes(10 ** 9) }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ '%999999999d'|format(1) }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ '{:{}}'.format(1, 999999999) }}",
        "{{ {}|tojson(indent=1000000000) }}",
        "{% if %}",
        "{{ 'unfinished",
        "{% for %}{% endfor %}",
        "{{ 1|nofilter }}",
        "{{ 1 is notest }}",
        "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
        "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
        "{% for i in [1] %}" * 30 + "{% endfor %}" * 30,
        "x" * (limits.TEMPLATE_CHARS_MAX + 1),
        "{{ strftime_now('\ud800') }}",
    ],
)
def test_no_way_out_and_no_program_that_cannot_be_used(template: str) -> None:
    with pytest.raises(UserError) as refused:
        _render(template, THANK)
    assert "chat template" in refused.value.message
    assert refused.value.message.isprintable()


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(10 ** 9) %}x{% endfor %}",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 'x' * 10 ** 9 }}",
        "{{ 10 ** 9 * 'x' }}",
        "{{ [0] * 10 ** 9 }}",
        "{{ 9 ** 99999 }}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% macro f(n) %}{{ f(n - 1) ~ f(n - 1) if n }}{% endmacro %}{{ f(40) }}",
        "{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}",
        "{% set x %}{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}{% endset %}",
        "{% filter upper %}{% for i in range(99999) %}{{ 'x' * 1000 }}{% endfor %}{% endfilter %}",
        GROW.replace("GROWN", "n.x + n.x"),
        GROW.replace("GROWN", "n.x ~ n.x"),
        GROW.replace("GROWN", "n.x|replace('a', 'aa')"),
        GROW.replace("GROWN", "n.x.replace('', n.x)"),
        GROW.replace("GROWN", "n.x.join(n.x)"),
        GROW.replace("GROWN", "[n.x, n.x]|join"),
        GROW.replace("GROWN", "[n.x, n.x]|join(n.x)"),
        GROW.replace("GROWN", "'%s%s' % (n.x, n.x)"),
        GROW.replace("GROWN", "'{0}{0}'.format(n.x)"),
        GROW.replace("GROWN", "n.x|indent(n.x, true)"),
        GROW.replace("GROWN", "(n.x|list + n.x|list)|join"),
        GROW.replace("GROWN", "[n.x, n.x]|string"),
        GROW.replace("GROWN", "[n.x, n.x]") + "{{ n.x }}",
        GROW.replace("GROWN", "[n.x, n.x]") + "{{ n.x|tojson }}",
        GROW.replace("GROWN", "[n.x, n.x]") + "{{ n.x|upper }}",
        GROW.replace("GROWN", "[n.x, n.x]") + "{{ '%s' % n.x }}",
        GROW.replace("GROWN", "[n.x]").replace("60", "99") + "{{ n.x ~ '' }}",
        "{% set n = namespace(x=9) %}{% for i in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
        "{{ strftime_now('%Y' * 1000) }}",
    ],
)
def test_every_growth_meets_a_bound(template: str) -> None:
    with pytest.raises(UserError, match=r"chat template (asked for|fails)"):
        _render(template, THANK)


def test_a_prompt_may_be_as_long_as_a_body() -> None:
    long = {"role": "user", "content": "x" * (limits.BODY_BYTES_MAX - 1000)}
    assert len(_render(QWEN, long)) > limits.BODY_BYTES_MAX - 1000


def test_a_thousand_turns_are_no_growth() -> None:
    text = _render(QWEN, *[THANK, SAY] * (limits.MESSAGES_MAX // 2))
    assert text.count("<|im_start|>") == limits.MESSAGES_MAX + 2


def test_budgets_belong_to_one_rendering() -> None:
    for _ in range(4):
        assert (
            len(_render("{% for i in range(9) %}{{ 'x' * 900000 }}{% endfor %}", THANK))
            == 8_100_000
        )


def test_the_callers_messages_stay_as_they_are() -> None:
    messages = [dict(SYSTEM), dict(ASK)]
    render_chat(GEMMA, messages, bos="", eos="", now=NOW)
    assert messages == [SYSTEM, ASK]


TOKENS = [
    "{{",
    "}}",
    "{%",
    "%}",
    "for",
    "if",
    "end",
    "in",
    "messages",
    "x",
    "|",
    "(",
    ")",
    "'",
    "~",
]
PROGRAMS = st.lists(st.sampled_from(TOKENS) | st.text(max_size=3), max_size=12).map(" ".join)


@given(PROGRAMS)
def test_any_text_renders_or_is_refused(template: str) -> None:
    with contextlib.suppress(UserError):
        assert isinstance(_render(template, SYSTEM, THANK), str)


@given(st.lists(st.text(max_size=30), min_size=1, max_size=4))
def test_contents_are_data_and_come_out_whole(contents: list[str]) -> None:
    messages = [{"role": "user", "content": content} for content in contents]
    text = _render(templates.DEFAULT_TEMPLATE, *messages, add_generation_prompt=False)
    assert text == "".join(_chatml("user", content) for content in contents)


def test_a_template_inside_a_message_is_not_run() -> None:
    content = "{{ raise_exception('no') }}{% include 'x' %}"
    assert content in _render(LLAMA3, {"role": "user", "content": content})


def test_an_unusable_template_is_the_models_fault() -> None:
    with pytest.raises(ModelUnsupported, match="in line 2"):
        _render("\n{% if %}", THANK)
