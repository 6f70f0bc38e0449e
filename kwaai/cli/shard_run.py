"""`kwaainet shard run PROMPT`: answer one prompt, by the running node of this home where there is
one (`shard_run_node`), else by a chain of slices that lives as long as the command.

Standard output is the answer and nothing else; path, notes and statistics go to standard error.
Generates nothing itself: `kwaai.node.runtime` does.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from typing import TYPE_CHECKING, Any

from kwaai.cli.parser import Commands, UsageError, add_command, number, whole_number

if TYPE_CHECKING:
    from kwaai.config import Config
    from kwaai.node.generate import Finished, GenerationRequest, ModelCard
    from kwaai.store.home import Home

MAX_TOKENS_DEFAULT = 200
_DEMO_NAME = "kwaai-demo"
_DEMO_NOTE = (
    "note: kwaai-demo is a small demonstration model; `kwaainet setup` says how to get a real one"
)
_MORE = """\
Where a node of this home runs, it answers, over the swarm where that is faster or asked for.
--slices, --context and --local, and a model that the node does not have, load the model for this
answer alone.

examples:
  kwaainet shard run "What is the capital of France?"
  kwaainet shard run --route split --stats "What is the capital of France?"
  kwaainet shard run --min-tier verified --max-latency-ms 80 "Summarise this for me: ..."
  kwaainet shard run --slices 4 --stats "Tell me about kwaainet."
  cat question.txt | kwaainet shard run -
"""


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "run", run, help="answer a prompt through a chain of model slices", more=_MORE
    )
    parser.add_argument("prompt", metavar="PROMPT", help="the prompt; `-` reads standard input")
    parser.add_argument("--model", metavar="NAME", help="a model of `kwaainet models list`")
    parser.add_argument("--slices", metavar="K", help="cut the model into K layer ranges")
    parser.add_argument(
        "--local", action="store_true", help="run the whole model in one process, not in slices"
    )
    parser.add_argument("--system", metavar="TEXT", help="a system message before the prompt")
    parser.add_argument(
        "--max-tokens",
        type=whole_number,
        default=MAX_TOKENS_DEFAULT,
        metavar="N",
        help=f"end the answer after N tokens (default: {MAX_TOKENS_DEFAULT})",
    )
    parser.add_argument(
        "--temperature",
        type=number,
        metavar="T",
        help="0: always the most likely token, the default; "
        "1, the default with --top-p, --top-k or --seed: as the model says; at most 2",
    )
    parser.add_argument(
        "--top-p", type=number, metavar="P", help="draw from the likeliest tokens that hold P of 1"
    )
    parser.add_argument(
        "--top-k", type=whole_number, metavar="K", help="draw from the K likeliest tokens"
    )
    parser.add_argument("--seed", type=whole_number, metavar="N", help="same seed, same answer")
    parser.add_argument(
        "--context",
        "--context-tokens",
        dest="context_tokens",
        metavar="N",
        help="tokens of prompt and answer together",
    )
    parser.add_argument(
        "--route",
        choices=("auto", "alone", "peer", "split"),
        help="who answers: this machine alone, one peer for the middle layers, several (split), "
        "or the fastest of them (auto)",
    )
    parser.add_argument(
        "--privacy",
        choices=("private", "fast"),
        help="private: no peer sees text or tokens; fast: the last peer picks the tokens",
    )
    from kwaai.cli.intent import add_demand_options

    add_demand_options(parser)
    parser.add_argument(
        "--circuit",
        metavar="ID",
        help="an open circuit, by id or name: `kwaainet shard circuit create` makes one",
    )
    parser.add_argument(
        "--stats", action="store_true", help="print what was predicted and where the time went"
    )


def run(arguments: argparse.Namespace) -> int:
    from kwaai.cli.intent import asks_of_peers
    from kwaai.cli.session import open_home, run_async

    if arguments.local and arguments.slices not in (None, "1", "auto"):
        raise UsageError("--local runs the model in one piece; leave out --slices")
    own = _is_own(arguments)
    if own and arguments.route not in (None, "auto", "alone"):
        raise UsageError(f"--route {arguments.route} needs peers; leave out --local and --slices")
    if own and asks_of_peers(arguments):
        raise UsageError(
            "what is asked of peers needs peers; leave out --local, --slices and --context"
        )
    if own and arguments.circuit is not None:
        raise UsageError("a circuit has its model loaded; leave out --local, --slices, --context")
    prompt = read_prompt(arguments.prompt)
    check_max_tokens(arguments.max_tokens)
    home, config = open_home(arguments)
    if not own and (code := _by_node(arguments, home, prompt)) is not None:
        return code
    request = _request(arguments, prompt)
    return run_async(_answer(arguments, home, config, request))


def _is_own(arguments: argparse.Namespace) -> bool:
    """Say whether an option asks for a model that is loaded for this answer alone."""
    wanted = (arguments.slices, arguments.context_tokens)
    return bool(arguments.local) or any(value is not None for value in wanted)


def _by_node(arguments: argparse.Namespace, home: Home, prompt: str) -> int | None:
    """Answer with the running node; None where there is none, or it does not have the model."""
    from kwaai.cli.control import ControlClient
    from kwaai.cli.intent import asks_of_peers, demand_of
    from kwaai.cli.output import note, one_line
    from kwaai.cli.shard_run_node import answer_by_node
    from kwaai.errors import ModelNotFound, NodeNotRunning

    messages = [{"role": "user", "content": prompt}]
    if arguments.system:
        messages.insert(0, {"role": "system", "content": arguments.system})
    try:
        client = ControlClient(home)
        demand = demand_of(arguments, client)
        if arguments.circuit is not None:
            demand["circuit"] = arguments.circuit
        return answer_by_node(arguments, client, messages, sampling(arguments), demand)
    except NodeNotRunning as error:
        if arguments.circuit is not None:
            raise NodeNotRunning(f"--circuit needs the node that has it, and {error}") from None
        if arguments.route in ("peer", "split"):
            raise NodeNotRunning(f"--route {arguments.route} needs peers, and {error}") from None
        if asks_of_peers(arguments):
            note("note: no node runs, so this machine answers alone; nothing is asked of peers")
    except ModelNotFound as error:
        if arguments.route in ("peer", "split") or not arguments.model:
            raise
        note(one_line(f"note: {error}; loading it for this answer"))
    return None


def read_prompt(argument: str) -> str:
    from kwaai import limits
    from kwaai.errors import UserError

    if argument == "-":
        data = sys.stdin.buffer.read(limits.PROMPT_BYTES_MAX + 1)
        if len(data) > limits.PROMPT_BYTES_MAX:
            raise UserError(
                f"the prompt is longer than {limits.PROMPT_BYTES_MAX} bytes; shorten it"
            )
        try:
            argument = data.decode("utf-8").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise UserError(
                f"the prompt on standard input is not UTF-8 text (byte {error.start})"
            ) from error
    elif any("\udc80" <= c <= "\udcff" for c in argument):
        raise UserError("the prompt is not UTF-8 text")
    if not argument.strip():
        raise UserError("the prompt is empty; give some text")
    return argument


def check_max_tokens(max_tokens: int) -> None:
    from kwaai.errors import UserError
    from kwaai.limits import MAX_TOKENS_MAX

    if not 1 <= max_tokens <= MAX_TOKENS_MAX:
        raise UserError(f"--max-tokens must be 1 to {MAX_TOKENS_MAX}, not {max_tokens}")


def sampling(arguments: argparse.Namespace) -> dict[str, Any]:
    draws = any(v is not None for v in (arguments.top_p, arguments.top_k, arguments.seed))
    given = {
        "temperature": arguments.temperature,
        "top_p": arguments.top_p,
        "top_k": arguments.top_k,
        "seed": arguments.seed,
    }
    chosen: dict[str, Any] = {"temperature": 1.0 if draws else 0.0}
    return chosen | {name: value for name, value in given.items() if value is not None}


def _request(arguments: argparse.Namespace, prompt: str) -> GenerationRequest:
    from kwaai.inference.sampling import SamplingParams
    from kwaai.node.generate import ChatMessage, GenerationRequest

    messages: tuple[ChatMessage, ...] = (ChatMessage("user", prompt),)
    if arguments.system:
        messages = (ChatMessage("system", arguments.system), *messages)
    return GenerationRequest(
        model="",
        prompt=messages,
        sampling=SamplingParams(**sampling(arguments)),
        max_tokens=arguments.max_tokens,
    )


async def _answer(
    arguments: argparse.Namespace, home: Home, config: Config, request: GenerationRequest
) -> int:
    from dataclasses import replace

    from kwaai.cli.output import Spinner, note, one_line, print_json
    from kwaai.node.runtime import open_runtime

    with Spinner("loading the model") as spinner:
        async with open_runtime(
            config,
            home,
            model=config.model,
            slices=config.slices,
            local=arguments.local,
            progress=spinner.update,
        ) as runtime:
            card, path = runtime.generator.models()[0], runtime.path_text
            spinner.update("reading the prompt")
            if not arguments.json:
                spinner.note(one_line(f"path: {path}"))
                if card.name == _DEMO_NAME:
                    spinner.note(_DEMO_NOTE)
            stream = runtime.generator.generate(replace(request, model=card.name))
            async with contextlib.aclosing(stream) as items:
                text, finished = await _write(items, spinner, quiet=arguments.json)
            slices = [dict(row) for row in runtime.slice_stats()]
    if arguments.json:
        print_json(_report(card, path, text, finished, slices))
        return 0
    if finished.finish_reason == "length":
        spent = finished.completion_tokens >= arguments.max_tokens
        why = "--max-tokens" if spent else f"the context of {card.context_tokens} tokens is full"
        note(f"note: the answer was cut after {finished.completion_tokens} tokens ({why})")
    if arguments.stats:
        _print_stats(finished, slices)
    return 0


async def _write(items: Any, spinner: Any, *, quiet: bool) -> tuple[str, Finished]:
    from kwaai.cli.output import is_terminal, safe_for_terminal
    from kwaai.node.generate import Finished

    clean = safe_for_terminal if is_terminal(sys.stdout) else str
    parts: list[str] = []
    async for item in items:
        if isinstance(item, Finished):
            spinner.stop()
            if not quiet:
                sys.stdout.write("\n")
                sys.stdout.flush()
            return "".join(parts), item
        if not item.text:
            continue
        parts.append(item.text)
        if not quiet:
            spinner.stop()
            sys.stdout.write(clean(item.text))
            sys.stdout.flush()
    raise AssertionError("a generation ends with Finished")


def _report(
    card: ModelCard, path: str, text: str, finished: Finished, slices: list[dict[str, object]]
) -> dict[str, object]:
    timings = finished.timings
    return {
        "answer": text,
        "finish_reason": finished.finish_reason,
        "model": card.name,
        "handle": card.handle,
        "backend": card.backend,
        "path": path,
        "prompt_tokens": finished.prompt_tokens,
        "completion_tokens": finished.completion_tokens,
        "timings": {
            "queue_s": timings.queue_s,
            "prefill_s": timings.prefill_s,
            "decode_s": timings.decode_s,
            "first_token_s": timings.first_token_s,
        },
        "slices": slices,
    }


def _print_stats(finished: Finished, slices: list[dict[str, object]]) -> None:
    from kwaai.cli.output import print_table

    timings = finished.timings
    print_stages(
        finished.prompt_tokens,
        finished.completion_tokens,
        timings.prefill_s,
        timings.decode_s,
        timings.first_token_s,
    )
    columns = ("Slice", "Worker", "Prefill ms", "Decode ms p50", "Decode ms p99")
    keys = ("range", "worker", "prefill_ms", "decode_ms_p50", "decode_ms_p99")
    table = [tuple(_cell(row.get(key)) for key in keys) for row in slices]
    if table:
        print_table(columns, table, right=columns[2:], stream=sys.stderr)


def print_stages(
    prompt_tokens: int,
    answer_tokens: int,
    prefill_s: float,
    decode_s: float,
    first_token_s: float,
    queue_s: float = 0.0,
) -> None:
    """Print how long reading the prompt and making the answer took, to standard error."""
    from kwaai.cli.output import print_table

    decoded = max(0, answer_tokens - 1)  # the first comes with the prefill
    rows = [_stage("prefill", prompt_tokens, prefill_s), _stage("decode", decoded, decode_s)]
    stages = ("Stage", "Tokens", "ms", "ms/token", "tokens/s")
    print_table(stages, rows, right=stages[1:], stream=sys.stderr)
    waited = f", {queue_s * 1000:.0f} ms of it before the prompt was read" if queue_s else ""
    print(f"first token after {first_token_s * 1000:.0f} ms{waited}", file=sys.stderr)


def _stage(name: str, tokens: int, seconds: float) -> tuple[str, str, str, str, str]:
    each = f"{seconds * 1000 / tokens:.2f}" if tokens else "-"
    speed = f"{tokens / seconds:.1f}" if tokens and seconds > 0 else "-"
    return name, str(tokens), f"{seconds * 1000:.1f}", each, speed


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
