"""`kwaainet shard run` where a node runs: the answer comes from it, over the swarm.

Generates nothing and knows no peers: the node does, and tells what path it took. The same output as
without a node: the answer on standard output, everything else on standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kwaai.cli.control import ControlClient
    from kwaai.cli.output import Spinner

Json = dict[str, Any]

_WAYS = (("alone", "alone"), ("peer", "one peer"), ("split", "split"))
_COLUMNS = ("Part", "Where", "Peer", "Type", "Compute ms p50", "p99", "Queue ms", "Link ms", "p99")


@dataclass(slots=True)
class _Answer:
    """What the node has said so far."""

    model: Json = field(default_factory=dict)
    path: Json | None = None
    text: list[str] = field(default_factory=list)
    finished: Json | None = None


def answer_by_node(
    arguments: argparse.Namespace, client: ControlClient, messages: list[Json], sampling: Json
) -> int:
    """Answer with the running node. Before anything is said: NodeNotRunning, ModelNotFound."""
    from kwaai.cli.output import Spinner, print_json

    chat = {
        "model": arguments.model or "",
        "messages": messages,
        "max_tokens": arguments.max_tokens,
        **sampling,
    }
    answer = _Answer()
    stream = client.answer(chat, route=arguments.route, privacy=arguments.privacy)
    with Spinner("choosing a path") as spinner, contextlib.closing(stream) as events:
        _write(events, answer, spinner, arguments)
    assert answer.finished is not None  # the client raises for a stream that ends without it
    if arguments.json:
        print_json(_report(answer))
        return 0
    _note_cut(answer, arguments.max_tokens)
    if arguments.stats:
        _print_stats(answer.finished)
    return 0


def _write(
    events: Iterator[Json], answer: _Answer, spinner: Spinner, arguments: argparse.Namespace
) -> None:
    from kwaai.cli.output import is_terminal, safe_for_terminal

    clean = safe_for_terminal if is_terminal(sys.stdout) else str
    for event in events:
        kind = event["event"]
        if kind == "model":
            answer.model = event
        elif kind == "note":
            spinner.update(event["text"])
        elif kind == "path":
            answer.path = event
            spinner.update("reading the prompt")
            if not arguments.json:
                _say_path(event, spinner, arguments.stats)
        elif kind == "delta":
            answer.text.append(event["text"])
            if not arguments.json:
                spinner.stop()
                sys.stdout.write(clean(event["text"]))
                sys.stdout.flush()
        elif kind == "finished":
            answer.finished = event
            answer.path = event["path"] or answer.path
    spinner.stop()
    if not arguments.json:
        if answer.path is None and answer.model:
            spinner.note(f"path: {answer.model['path']}")
        sys.stdout.write("\n")
        sys.stdout.flush()


def _say_path(path: Json, spinner: Spinner, stats: bool) -> None:
    from kwaai.cli.output import one_line

    for problem in path["tried"]:
        spinner.note(one_line(f"note: {problem}"))
    if stats:
        spinner.note(one_line(predictions(path)))
    spinner.note(one_line(f"path: {path['text']}"))


def predictions(path: Json) -> str:
    """Say what each way was predicted to give, and which was taken."""
    told = path["predicted_tokens_s"]
    speeds = (f"{name} {_speed(told.get(key))}" for key, name in _WAYS)
    taken = dict(_WAYS).get(path["route"], path["route"])
    return f"predicted tokens/s: {', '.join(speeds)}; taken: {taken}, {path['privacy']}"


def _speed(tokens_s: float | None) -> str:
    return "-" if tokens_s is None else f"{tokens_s:.1f}"


def _note_cut(answer: _Answer, max_tokens: int) -> None:
    from kwaai.cli.output import note

    finished = answer.finished or {}
    if finished.get("finish_reason") != "length":
        return
    tokens = finished["completion_tokens"]
    why = "--max-tokens"
    if tokens < max_tokens:
        why = f"the context of {answer.model.get('context_tokens', '?')} tokens is full"
    note(f"note: the answer was cut after {tokens} tokens ({why})")


def _print_stats(finished: Json) -> None:
    from kwaai.cli.output import print_table
    from kwaai.cli.shard_run import print_stages

    timings = finished["timings"]
    print_stages(
        finished["prompt_tokens"],
        finished["completion_tokens"],
        timings["prefill_s"],
        timings["decode_s"],
        timings["first_token_s"],
    )
    path = finished["path"]
    if path is not None:
        rows = [_hop_row(hop) for hop in path["hops"]]
        print_table(_COLUMNS, rows, right=_COLUMNS[4:], stream=sys.stderr)


def _hop_row(hop: Json) -> tuple[str, ...]:
    from kwaai.cli.output import one_line
    from kwaai.cli.shard_chain import show_range

    compute, queue, link = (
        hop[key] or (None, None) for key in ("compute_ms", "queue_ms", "link_ms")
    )
    return (
        show_range(hop["layers"]),
        one_line(hop["name"]),
        hop["peer"] or "-",
        hop["dtype"] or "-",
        _ms(compute[0]),
        _ms(compute[1]),
        _ms(queue[0]),
        _ms(link[0]),
        _ms(link[1]),
    )


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _report(answer: _Answer) -> Json:
    """The same keys as without a node, and what the path adds."""
    finished = answer.finished or {}
    path = answer.path or {}
    return {
        "answer": "".join(answer.text),
        "finish_reason": finished["finish_reason"],
        "model": answer.model.get("name"),
        "handle": answer.model.get("handle"),
        "backend": answer.model.get("backend"),
        "path": path.get("text", answer.model.get("path")),
        "prompt_tokens": finished["prompt_tokens"],
        "completion_tokens": finished["completion_tokens"],
        "timings": finished["timings"],
        "slices": [],
        "route": path.get("route"),
        "privacy": path.get("privacy"),
        "predicted_tokens_s": path.get("predicted_tokens_s"),
        "hops": path.get("hops", []),
        "tried": path.get("tried", []),
    }
