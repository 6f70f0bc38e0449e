"""`kwaainet shard status`: which ranges are on this disk, and whether a server answers with them.

Starts nothing and loads no model; asks the local server's /health.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kwaai.cli.parser import Commands, add_command

if TYPE_CHECKING:
    from kwaai.config import Config

_HEALTH_TIMEOUT_S = 2.0
_HEALTH_BYTES_MAX = 64 * 1024
_EVERY_ADDRESS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "status", run, help="print what is held here, and whether `serve` is running"
    )
    parser.add_argument("--model", metavar="NAME", help="a model of `kwaainet models list`")


def run(arguments: argparse.Namespace) -> int:
    from kwaai.cli.models import describe, open_library, show_held
    from kwaai.cli.output import one_line, print_json, print_pairs, show_bytes
    from kwaai.cli.session import open_home

    home, config = open_home(arguments)
    library = open_library(home.models)
    entry = library.find(config.model)
    model = describe(library, entry)
    server = ask_health(config)
    if arguments.json:
        print_json({"model": model, "slices": config.slices, "server": server})
        return 0
    address = f"{config.api_host}:{config.api_port}"
    running = f"{server['status']} on {address}" if server else f"not running on {address}"
    unknown = "not hashed yet" if entry.whole else "not known: its parts do not name it"
    incomplete = [] if entry.whole else [("Not whole", one_line(entry.remedy))]
    print_pairs(
        [
            ("Model", one_line(entry.name)),
            ("Handle", str(model["handle"] or unknown)),
            ("Layers", str(model["blocks"])),
            ("Size", f"{show_bytes(entry.nbytes)} ({model['quantisation']})"),
            ("Ranges held", show_held(library, entry)),
            *incomplete,
            ("Slices wanted", "auto" if config.slices is None else str(config.slices)),
            ("Server", one_line(running)),
        ]
    )
    return 0


def ask_health(config: Config) -> dict[str, object] | None:
    """Return what the server on the configured port says of itself, or None where none answers."""
    import http.client
    import json

    host = _EVERY_ADDRESS.get(config.api_host, config.api_host)
    connection = http.client.HTTPConnection(host, config.api_port, timeout=_HEALTH_TIMEOUT_S)
    try:
        connection.request("GET", "/health")
        health = json.loads(connection.getresponse().read(_HEALTH_BYTES_MAX))
    except (OSError, http.client.HTTPException, ValueError, RecursionError):
        return None
    finally:
        connection.close()
    return health if isinstance(health, dict) and "status" in health else None
