"""`kwaainet serve`: the OpenAI-compatible API of this node, until it is told to stop.

Wires the settings to `kwaai.node.runtime` and `kwaai.api.server`; neither generates nor listens.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kwaai.cli.parser import Commands, UsageError, add_command

if TYPE_CHECKING:
    from kwaai.config import Config
    from kwaai.store.home import Home

_MORE = """\
The server listens on 127.0.0.1:11435 unless told otherwise. Any address that other machines
reach needs --api-key-file. SIGINT (Ctrl-C) and SIGTERM end it after the answers under way.

examples:
  kwaainet serve
  kwaainet serve --host 0.0.0.0 --api-key-file ~/api.key
"""


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "serve", run, help="serve an OpenAI-compatible API", more=_MORE, json=False
    )
    options = [
        (("--host", "--api-host"), "api_host", "ADDRESS", "the address to listen on"),
        (("--port", "--api-port"), "api_port", "PORT", "the port to listen on; 0: a free one"),
        (("--model",), "model", "NAME", "a model of `kwaainet models list`"),
        (("--slices",), "slices", "K", "cut the model into K layer ranges"),
        (("--api-key-file",), "api_key_file", "PATH", "the file with the key for requests"),
        (("--max-sessions",), "max_sessions", "N", "answers that are made at the same time"),
        (("--context", "--context-tokens"), "context_tokens", "N", "tokens of prompt and answer"),
    ]
    for names, key, metavar, text in options:
        parser.add_argument(*names, dest=key, metavar=metavar, help=text)
    parser.add_argument(
        "--local", action="store_true", help="run the whole model in one process, not in slices"
    )


def run(arguments: argparse.Namespace) -> int:
    from kwaai.api.auth import check_bind
    from kwaai.cli.session import open_home, run_async
    from kwaai.store.secret_file import read_api_key

    if arguments.local and arguments.slices not in (None, "1", "auto"):
        raise UsageError("--local runs the model in one piece; leave out --slices")
    home, config = open_home(arguments)
    api_key = read_api_key(config.api_key_file) if config.api_key_file else None
    check_bind(config.api_host, api_key)
    return run_async(_serve(arguments, home, config, api_key))


async def _serve(
    arguments: argparse.Namespace, home: Home, config: Config, api_key: str | None
) -> int:
    import asyncio

    from kwaai.api.app import create_app
    from kwaai.api.server import listening
    from kwaai.node.runtime import Runtime

    runtime = Runtime(config, home, config.model)
    app = create_app(runtime.generator, api_key=api_key)
    try:
        # The port first: whoever asks meanwhile is told that the model is being loaded.
        async with listening(app, config.api_host, config.api_port) as (host, port):
            _say_listening(host, port, api_key is not None)
            await runtime.load(
                slices=config.slices,
                local=arguments.local,
                sessions=config.max_sessions,
                say=_say_loading,
            )
            print(f"ready: {config.model}, {runtime.path_text}", flush=True)
            await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        print("stopped", flush=True)
    finally:
        await runtime.close()
    return 0


def _say_loading(text: str) -> None:
    print(f"{text} ...", flush=True)


def _say_listening(host: str, port: int, has_key: bool) -> None:
    shown = f"[{host}]" if ":" in host else host
    print(f"kwaainet serves on http://{shown}:{port}/v1")
    if host in ("0.0.0.0", "::"):
        shown = "<an address of this machine>"
    url = f"http://{shown}:{port}/v1"
    print("point any OpenAI client at it:")
    print(f"  export OPENAI_BASE_URL={url}")
    print(f"  export OPENAI_API_KEY={'<the key of --api-key-file>' if has_key else 'none'}")
    print("Ctrl-C ends it", flush=True)
