"""`kwaainet p2p`: who the running node is to others, whom it knows, and whether they answer.

Asks the running node; connects to nobody itself.
"""

from __future__ import annotations

import argparse
import statistics
from typing import TYPE_CHECKING, Any

from kwaai.cli.parser import Commands, UsageError, add_command, add_group, number, whole_number

if TYPE_CHECKING:
    from kwaai.cli.control import ControlClient

_COUNT_DEFAULT = 4
_COUNT_MAX = 1000
_TIMEOUT_DEFAULT_S = 10.0
_TIMEOUT_MAX_S = 600.0


def add_parser(commands: Commands) -> None:
    group = add_group(commands, "p2p", help="look at the network that the running node sees")
    add_command(group, "info", _info, help="print this node's PeerId and where it is reached")
    add_command(group, "peers", _peers, help="list the peers that the running node knows")
    ping = add_command(group, "ping", _ping, help="measure the round trip to a peer")
    ping.add_argument(
        "peer",
        metavar="PEER",
        help="a PeerId, its last characters, or a name of `kwaainet p2p peers`",
    )
    ping.add_argument(
        "--count",
        type=whole_number,
        default=_COUNT_DEFAULT,
        metavar="N",
        help=f"how many times (default: {_COUNT_DEFAULT})",
    )
    _add_timeout(ping)
    connect = add_command(group, "connect", _connect, help="connect the running node to another")
    connect.add_argument(
        "address",
        metavar="ADDRESS",
        help="as `kwaainet p2p info` prints it there: /ip4/192.0.2.1/tcp/8080/p2p/12D3...",
    )
    _add_timeout(connect)


def _add_timeout(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--timeout",
        dest="timeout_s",
        type=number,
        default=_TIMEOUT_DEFAULT_S,
        metavar="SECONDS",
        help=f"give up after this long (default: {_TIMEOUT_DEFAULT_S:g})",
    )


def _info(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import one_line, print_json, print_pairs

    info = _client(arguments).p2p_info()
    if arguments.json:
        print_json(info)
        return 0
    print_pairs(
        [
            ("Peer ID", info["peer"]),
            ("Name", one_line(info["name"])),
            *(("Address", address) for address in info["listen"] or ["none"]),
            *(("Link", address) for address in info["links"] or ["none"]),
            *(("Bootstrap", text) for text in _bootstrap(info) or ["none"]),
            ("Peers", f"{info['peers']} connected, {info['known']} known"),
        ]
    )
    return 0


def _bootstrap(info: dict[str, Any]) -> list[str]:
    missing = set(info["bootstrap_missing"])
    return [
        f"{address} ({'not connected' if address in missing else 'connected'})"
        for address in info["bootstrap"]
    ]


def _peers(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import one_line, print_json, print_table

    client = _client(arguments)
    peers = client.peers()
    if arguments.json:
        print_json({"peers": peers})
        return 0
    if not peers:
        missing = client.p2p_info()["bootstrap_missing"]
        why = f", and no connection to {' or '.join(missing)}" if missing else ""
        print(one_line(f"no peers yet{why}; `kwaainet p2p connect ADDRESS` connects to one"))
        return 0
    rows = [
        (
            one_line(row["name"]) or "-",
            row["peer"],
            one_line(row["version"]) or "-",
            _state(row),
            show_trust(row),
            row["link"],
            show_ms(row["rtt_s"]),
            one_line(", ".join(row["served"])) or "-",
        )
        for row in peers
    ]
    columns = ("Name", "Peer", "Version", "State", "Trust", "Link", "Round trip", "Serves")
    print_table(columns, rows, right=("Round trip",), ids=("Peer",))
    return 0


def _ping(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import print_json
    from kwaai.errors import PeerError

    if not 1 <= arguments.count <= _COUNT_MAX:
        raise UsageError(f"--count must be 1 to {_COUNT_MAX}, not {arguments.count}")
    timeout_s = _timeout(arguments)
    client = _client(arguments)
    rtts: list[float] = []
    failure: PeerError | None = None
    for turn in range(1, arguments.count + 1):
        try:
            rtts.append(
                _waiting(f"pinging {arguments.peer}", client.ping, arguments.peer, timeout_s)
            )
        except PeerError as error:
            failure = error
        if not arguments.json:
            print(f"{turn}: {'no answer' if failure else show_ms(rtts[-1])}", flush=True)
        if failure:
            break  # the link is gone: the next would be another dial
    if failure is not None and not rtts:
        raise failure
    if arguments.json:
        lost = None if failure is None else failure.message
        print_json({"peer": arguments.peer, "rtt_s": rtts, "lost": lost})
        return 0 if failure is None else failure.exit_code
    least, middle, most = (show_ms(f(rtts)) for f in (min, statistics.median, max))
    print(f"{len(rtts)} of {arguments.count} answered: least {least}, median {middle}, most {most}")
    if failure is not None:
        raise failure
    return 0


def _connect(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import print_json

    timeout_s = _timeout(arguments)
    client = _client(arguments)
    peer = _waiting("connecting", client.connect, arguments.address, timeout_s)
    if arguments.json:
        print_json({"peer": peer})
    else:
        print(f"connected to {peer}")
    return 0


def show_ms(seconds: float | None) -> str:
    """Return a round trip as people say it: `0.4 ms`."""
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.0f} ms" if seconds >= 0.1 else f"{seconds * 1000:.2f} ms"


def show_avoided(row: dict[str, Any]) -> str:
    """Say for how long paths leave out a peer that failed; empty where they do not."""
    return f"avoided for {row['avoided_s']:.0f} s" if row["avoided_s"] > 0 else ""


def show_trust(row: dict[str, Any]) -> str:
    """Return a peer's tier and score: `Verified 0.52`."""
    from kwaai.cli.trust_values import show_score

    trust = row["trust"]
    return "-" if trust is None else f"{trust['tier']} {show_score(trust['score'])}"


def _state(row: dict[str, Any]) -> str:
    return show_avoided(row) or ("connected" if row["connected"] else "known")


def _timeout(arguments: argparse.Namespace) -> float:
    timeout_s: float = arguments.timeout_s
    if not 0 < timeout_s <= _TIMEOUT_MAX_S:
        raise UsageError(f"--timeout must be above 0 and at most {_TIMEOUT_MAX_S:g} seconds")
    return timeout_s


def _client(arguments: argparse.Namespace) -> ControlClient:
    from kwaai.cli.control import ControlClient
    from kwaai.cli.session import load_settings

    return ControlClient(load_settings(arguments)[0])


def _waiting(text: str, ask: Any, *arguments: object) -> Any:
    from kwaai.cli.output import Spinner

    with Spinner(text):
        return ask(*arguments)
