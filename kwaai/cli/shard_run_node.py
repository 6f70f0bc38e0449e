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
_COLUMNS = ("Part", "Where", "Peer", "Type", "Compute ms", "p99", "Queue ms", "Send ms", "p99")
_TIMES = _COLUMNS[4:]
_ACCURATE = 0.1


@dataclass(slots=True)
class _Answer:
    """What the node has said so far."""

    model: Json = field(default_factory=dict)
    path: Json | None = None
    text: list[str] = field(default_factory=list)
    finished: Json | None = None


def answer_by_node(
    arguments: argparse.Namespace,
    client: ControlClient,
    messages: list[Json],
    sampling: Json,
    demand: Json | None = None,
) -> int:
    """Answer with the running node. `demand`: the `kwaai` object of the request. Before anything is
    said: NodeNotRunning, ModelNotFound.
    """
    from kwaai.cli.output import Spinner, is_terminal, print_json
    from kwaai.errors import KwaaiError

    chat = {
        "model": arguments.model or "",
        "messages": messages,
        "max_tokens": arguments.max_tokens,
        **sampling,
    }
    if demand:
        chat["kwaai"] = demand
    answer = _Answer()
    stream = client.answer(chat, route=arguments.route, privacy=arguments.privacy)
    with (
        Spinner("choosing a path, loading what it needs here") as spinner,
        contextlib.closing(stream) as events,
    ):
        try:
            _write(events, answer, spinner, arguments)
        except KwaaiError:
            if answer.text and not arguments.json and is_terminal(sys.stdout):
                sys.stdout.write("\n")  # the error begins its own line
                sys.stdout.flush()
            raise
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
        timings["queue_s"],
    )
    path = finished["path"]
    if path is not None:
        rows = [_hop_row(hop) for hop in path["hops"]]
        print_table(_COLUMNS, rows, right=_TIMES, ids=("Peer",), stream=sys.stderr)
        for line in (_where_it_went(path), accuracy(path, achieved_tokens_s(finished))):
            if line:
                print(line, file=sys.stderr)


def _where_it_went(path: Json) -> str:
    """Say what a token took, and how much of that is not computing."""
    if path["token_ms"] is None or path["added_ms"] is None:
        return ""
    token_ms, added_ms = path["token_ms"][0], path["added_ms"][0]
    links_ms = path["links_ms"][0] if path["links_ms"] else 0.0
    return (
        f"a token: {token_ms:.2f} ms (median): {token_ms - added_ms:.2f} computing, "
        f"{links_ms:.2f} on links, {max(0.0, added_ms - links_ms):.2f} waiting"
    )


def achieved_tokens_s(finished: Json) -> float | None:
    """Return what `predicted_tokens_s` predicts; None for an answer of one token."""
    decoded, decode_s = finished["completion_tokens"] - 1, finished["timings"]["decode_s"]
    return decoded / decode_s if decoded > 0 and decode_s > 0 else None


def accuracy(path: Json, achieved: float | None) -> str:
    """Say how far off the prediction was; empty where there is nothing to compare."""
    predicted = path["predicted_tokens_s"].get(path["route"])
    if not predicted or not achieved:
        return ""
    factor = max(predicted, achieved) / min(predicted, achieved)
    how = "slower" if achieved < predicted else "faster"
    verdict = "as predicted" if factor <= 1 + _ACCURATE else f"{factor:.1f} times {how}"
    return f"predicted {predicted:.1f} tokens/s, came to {achieved:.1f}: {verdict}"


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
        "achieved_tokens_s": achieved_tokens_s(finished),
        "hops": path.get("hops", []),
        "tried": path.get("tried", []),
    }
