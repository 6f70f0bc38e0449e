"""`kwaainet shard run PROMPT`: answer one prompt through a chain of slices.

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
examples:
  kwaainet shard run "What is the capital of France?"
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
    parser.add_argument("--stats", action="store_true", help="print where the time went")


def run(arguments: argparse.Namespace) -> int:
    from kwaai.cli.session import open_home, run_async

    if arguments.local and arguments.slices not in (None, "1", "auto"):
        raise UsageError("--local runs the model in one piece; leave out --slices")
    prompt = _read_prompt(arguments.prompt)
    request = _request(arguments, prompt)
    home, config = open_home(arguments)
    return run_async(_answer(arguments, home, config, request))


def _read_prompt(argument: str) -> str:
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


def _request(arguments: argparse.Namespace, prompt: str) -> GenerationRequest:
    from kwaai.errors import UserError
    from kwaai.inference.sampling import SamplingParams
    from kwaai.limits import MAX_TOKENS_MAX
    from kwaai.node.generate import ChatMessage, GenerationRequest

    if not 1 <= arguments.max_tokens <= MAX_TOKENS_MAX:
        raise UserError(f"--max-tokens must be 1 to {MAX_TOKENS_MAX}, not {arguments.max_tokens}")
    draws = any(v is not None for v in (arguments.top_p, arguments.top_k, arguments.seed))
    given = {
        "temperature": arguments.temperature,
        "top_p": arguments.top_p,
        "top_k": arguments.top_k,
        "seed": arguments.seed,
    }
    chosen: dict[str, Any] = {"temperature": 1.0 if draws else 0.0}
    chosen |= {name: value for name, value in given.items() if value is not None}
    messages: tuple[ChatMessage, ...] = (ChatMessage("user", prompt),)
    if arguments.system:
        messages = (ChatMessage("system", arguments.system), *messages)
    return GenerationRequest(
        model="",
        prompt=messages,
        sampling=SamplingParams(**chosen),
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
    decoded = max(0, finished.completion_tokens - 1)  # the first comes with the prefill
    rows = [
        _stage("prefill", finished.prompt_tokens, timings.prefill_s),
        _stage("decode", decoded, timings.decode_s),
    ]
    stages = ("Stage", "Tokens", "ms", "ms/token", "tokens/s")
    print_table(stages, rows, right=stages[1:], stream=sys.stderr)
    print(f"first token after {timings.first_token_s * 1000:.0f} ms", file=sys.stderr)
    columns = ("Slice", "Worker", "Prefill ms", "Decode ms p50", "Decode ms p99")
    keys = ("range", "worker", "prefill_ms", "decode_ms_p50", "decode_ms_p99")
    table = [tuple(_cell(row.get(key)) for key in keys) for row in slices]
    if table:
        print_table(columns, table, right=columns[2:], stream=sys.stderr)


def _stage(name: str, tokens: int, seconds: float) -> tuple[str, str, str, str, str]:
    each = f"{seconds * 1000 / tokens:.2f}" if tokens else "-"
    speed = f"{tokens / seconds:.1f}" if tokens and seconds > 0 else "-"
    return name, str(tokens), f"{seconds * 1000:.1f}", each, speed


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else str(value)
