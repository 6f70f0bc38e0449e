"""`kwaainet rag query|chat`: questions to a knowledge base, answered with sources by the node's own
model.

Asks the running node: it searches, and its model answers. docs/knowledge.md.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING, Any

from kwaai import limits
from kwaai.cli.parser import Commands, Parser, add_command, whole_number, whole_number_in
from kwaai.cli.rag_values import add_base, cell, cited, client_of

if TYPE_CHECKING:
    from kwaai.cli.control_knowledge import KnowledgeClient

Json = dict[str, Any]

_MAX_TOKENS = 300
_QUERY_MORE = """\
The answer names its sources as [1], [2]; they are listed below it. `--passages` asks no model.
`--explain` shows how each passage was found, and what was fetched from whom.

examples:
  kwaainet rag query "When does the lease end?"
  kwaainet rag query --passages --explain "notice period"
"""
_TURNS_KEPT = 8
"""Messages of a conversation that the model is shown again."""


def add_parsers(group: Commands) -> None:
    """Add the commands that ask."""
    query = add_command(
        group, "query", _query, help="answer a question from a base, with sources", more=_QUERY_MORE
    )
    query.add_argument("question", metavar="QUESTION", help="the question; `-` reads it from stdin")
    query.add_argument("--passages", action="store_true", help="show what was found, no answer")
    query.add_argument("--explain", action="store_true", help="say how it was found")
    _add_options(query)
    chat = add_command(
        group, "chat", _chat, help="ask a base one question after another", json=False
    )
    _add_options(chat)


def _add_options(parser: Parser) -> None:
    add_base(parser)
    parser.add_argument(
        "-k",
        "--top-k",
        dest="count",
        type=whole_number_in(1, limits.HITS_MAX),
        default=limits.HITS_DEFAULT,
        metavar="N",
        help=f"passages to find (default: {limits.HITS_DEFAULT})",
    )
    parser.add_argument(
        "--max-tokens",
        type=whole_number,
        default=_MAX_TOKENS,
        metavar="N",
        help=f"end the answer after N tokens (default: {_MAX_TOKENS})",
    )


def _query(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, print_json
    from kwaai.cli.shard_run import read_prompt

    question = read_prompt(arguments.question)
    client = client_of(arguments)
    found: Json = {}
    if arguments.passages or arguments.explain:
        with Spinner("searching"):
            found = client.search(
                arguments.base, question, arguments.count, explain=arguments.explain
            )
    if arguments.passages:
        if arguments.json:
            print_json(found)
        else:
            _show_passages(found)
        return 0
    said = _answer(arguments, client, [{"role": "user", "content": question}])
    if arguments.json:
        print_json({**said, **({"search": found} if found else {})})
    elif found:
        _show_explained(found)
    return 0


def _answer(arguments: argparse.Namespace, client: KnowledgeClient, messages: list[Json]) -> Json:
    """Have the node answer, writing it as it comes; return the text and its sources."""
    from kwaai.cli.output import Spinner, is_terminal, note, one_line, safe_for_terminal

    chat = {
        "model": f"kwaai-rag/{arguments.base}",
        "messages": messages,
        "max_tokens": arguments.max_tokens,
        "kwaai": {"passages": arguments.count},
    }
    quiet = getattr(arguments, "json", False)
    clean = safe_for_terminal if is_terminal(sys.stdout) else str
    text: list[str] = []
    finished: Json = {}
    stream = client.answer(chat, route=None, privacy=None)
    with Spinner("searching") as spinner, contextlib.closing(stream) as events:
        for event in events:
            if event["event"] == "delta":
                text.append(event["text"])
                if not quiet:
                    spinner.stop()
                    sys.stdout.write(clean(event["text"]))
                    sys.stdout.flush()
            elif event["event"] == "finished":
                finished = event
    sources = finished.get("sources") or []
    if not quiet:
        sys.stdout.write("\n")
        _show_sources(sources)
        sys.stdout.flush()
        for problem in (finished.get("degraded") or []) if sources else []:
            note(one_line(f"note: {problem}"))
    return {
        "base": arguments.base,
        "answer": "".join(text),
        "sources": sources,
        "degraded": finished.get("degraded") or [],
        "finish_reason": finished.get("finish_reason"),
    }


def _show_sources(sources: list[Json]) -> None:
    from kwaai.cli.output import one_line

    if sources:  # else the answer says that there are none
        print()
    for hit in sources:
        print(one_line(f"[{hit['number']}] {cited(hit)}"))


def _show_passages(found: Json) -> None:
    from kwaai.cli.output import note, one_line, safe_for_terminal

    for hit in found["hits"]:
        print(one_line(f"[{hit['number']}] {cited(hit)}"))
        for line in safe_for_terminal(hit["text"]).splitlines():
            print(f"    {line}")
    if not found["hits"]:
        why = " now, for the reasons below" if found["degraded"] else ""
        print(f"nothing that fits the question was found{why}")
    for text in found["degraded"]:
        note(one_line(f"note: {text}"))
    _show_explained(found)


def _show_explained(found: Json) -> None:
    """Print which passages, scores, bytes and hosts there were, where that was asked for."""
    from kwaai.cli.output import one_line, print_table, show_bytes

    told = found.get("explained")
    if told is None:
        return
    numbers = ("Score", "Vector", "Cosine", "Text")
    print()
    rows = [
        (
            f"[{hit['number']}]",
            f"{hit['score']:.4f}",
            _rank(hit["vector_rank"]),
            "-" if hit["similarity"] is None else f"{hit['similarity']:.3f}",
            _rank(hit["text_rank"]),
            one_line(hit["host"]) or "-",
            one_line(cited(hit)),
        )
        for hit in found["hits"]
    ]
    print_table(("", *numbers, "From", "Source"), rows, right=numbers)
    print()
    figures = ("Objects", "Bytes", "ms")
    fetches = [
        (
            one_line(row["host"]),
            str(row["objects"]),
            show_bytes(row["bytes"]),
            f"{row['ms']:.1f}",
            cell(row["failed"]) or "-",
        )
        for row in told["fetches"]
    ]
    if fetches:
        print_table(("Host", *figures, "Failed"), fetches, right=figures)
    stages = ", ".join(f"{name} {ms:.1f} ms" for name, ms in told["stages_ms"])
    print(f"{told['candidates']} candidates, {show_bytes(told['bytes'])} fetched; {stages}")


def _rank(rank: int | None) -> str:
    return "-" if rank is None else str(rank)


def _chat(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import is_terminal, note, one_line
    from kwaai.errors import PeerError, UserError

    client = client_of(arguments)
    messages: list[Json] = []
    prompts = is_terminal(sys.stdin)
    if prompts:
        print("ask; an empty line or Ctrl-D ends", file=sys.stderr)
    while True:
        if prompts:
            print("> ", end="", file=sys.stderr, flush=True)
        question = sys.stdin.readline(limits.QUESTION_CHARS_MAX).strip()
        if not question:
            return 0
        messages = [*messages[-_TURNS_KEPT:], {"role": "user", "content": question}]
        try:
            said = _answer(arguments, client, messages)
        except (UserError, PeerError) as error:
            if not prompts:
                raise
            note(one_line(f"kwaainet: error: {error.message}"))  # the next question may fare better
            continue
        messages.append({"role": "assistant", "content": said["answer"]})
