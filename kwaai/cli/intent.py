"""`kwaainet intent cast|explain`: who would answer a request that asks this of its peers, and why
nobody else.

Asks the running node. The options that say what is asked are shared with whatever else takes a
demand. docs/intents.md.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kwaai import limits
from kwaai.cli.parser import (
    Commands,
    UsageError,
    add_command,
    add_group,
    hint,
    positive_number,
    whole_number_in,
)
from kwaai.cli.trust_values import tier_name

if TYPE_CHECKING:
    from kwaai.cli.control import ControlClient

Json = dict[str, Any]

_WHO_HELP = "a PeerId, a DID of a peer or an owner, or a name of `kwaainet p2p peers`; repeatable"
_EXPLAIN_MORE = """\
Nothing is opened and no peer is asked for an offer. Where no path meets what is asked, the smallest
changes that would give one are listed, and the exit code is 75.
"""
_CAST_MORE = """\
The intent is signed and sent to every peer that may take part. Offers reserve nothing, and say what
the peers claim; the path below them is chosen by what this node has measured and verified.
"""


def add_parser(commands: Commands) -> None:
    group = add_group(commands, "intent", help="who would answer a request, and on what terms")
    explain = add_command(
        group,
        "explain",
        _explain,
        help="say which path meets a demand, or why none does",
        more=_EXPLAIN_MORE,
    )
    cast = add_command(
        group, "cast", _cast, help="ask peers what they would do for a demand", more=_CAST_MORE
    )
    for parser in (explain, cast):
        parser.add_argument(
            "--model",
            metavar="NAME",
            help="a model of `kwaainet models list`, or a handle; the node's own if left out",
        )
        add_path_options(parser)
        parser.add_argument(
            "--prompt-tokens",
            type=whole_number_in(1, limits.INTENT_PROMPT_TOKENS_MAX),
            default=1,
            metavar="N",
            help="length of the prompt, which the time to the first token depends on (default: 1)",
        )
        add_demand_options(parser)


def add_path_options(parser: argparse.ArgumentParser) -> None:
    """Add which kind of path a request takes, and what peers see of it."""
    parser.add_argument(
        "--route",
        choices=("auto", "alone", "peer", "split"),
        help="who answers, as of `kwaainet shard run`; the node's setting if left out",
    )
    parser.add_argument(
        "--privacy",
        choices=("private", "fast"),
        help="what peers see, as of `kwaainet shard run`; the node's setting if left out",
    )


def add_demand_options(parser: argparse.ArgumentParser) -> None:
    """Add what a request may ask of the peers that answer it."""
    add = parser.add_argument
    add(
        "--min-tier",
        type=tier_name,
        metavar="TIER",
        help="least tier of every peer: Unknown, Known, Verified or Trusted",
    )
    milliseconds = positive_number(limits.DEMAND_MS_MAX)
    add(
        "--max-latency-ms",
        type=milliseconds,
        metavar="MS",
        help="most time for one token, as predicted",
    )
    add(
        "--max-first-token-ms",
        type=milliseconds,
        metavar="MS",
        help="most time to the first token, as predicted",
    )
    add(
        "--credential",
        dest="credentials",
        action="append",
        default=[],
        metavar="TYPE[=DID]",
        help="what every peer must hold, by that issuer or any that counts; repeatable",
    )
    add("--allow", action="append", default=[], metavar="WHO", help=f"nobody else: {_WHO_HELP}")
    add("--deny", action="append", default=[], metavar="WHO", help=f"never: {_WHO_HELP}")
    add(
        "--max-hops-per-owner",
        type=whole_number_in(1, limits.DEMAND_OWNER_HOPS_MAX),
        metavar="N",
        help="most parts of one path that may be of one owner",
    )
    add("--region", metavar="NAME", help="a hint that peers are told; no path is chosen by it yet")
    add(
        "--budget",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="passed on to settlement plug-ins, not understood here; repeatable",
    )


def demand_of(arguments: argparse.Namespace, client: ControlClient) -> Json:
    """Return what `add_demand_options` took as the `kwaai` object of a request; empty where nothing
    is asked. Raises UsageError for what cannot be read; the node checks the rest.
    """
    asked = {
        "min_tier": arguments.min_tier,
        "max_latency_ms": arguments.max_latency_ms,
        "max_first_token_ms": arguments.max_first_token_ms,
        "credentials": _credentials(arguments.credentials),
        "allow": [_who(text, client) for text in arguments.allow],
        "deny": [_who(text, client) for text in arguments.deny],
        "max_hops_per_owner": arguments.max_hops_per_owner,
        "region": arguments.region,
        "budget": dict(_pair(text, "--budget") for text in arguments.budget),
    }
    return {name: value for name, value in asked.items() if value not in (None, [], {})}


def asks_of_peers(arguments: argparse.Namespace) -> bool:
    """Say whether an option of `add_demand_options` was given."""
    given = vars(arguments)
    return any(given[name] not in (None, []) for name in _DEMAND)


_DEMAND = (
    "min_tier", "max_latency_ms", "max_first_token_ms", "credentials", "allow", "deny",
    "max_hops_per_owner", "region", "budget",
)  # fmt: skip


def _credentials(given: list[str]) -> list[Json]:
    """`TYPE=DID` twice asks for either issuer, other types for all of them."""
    issuers: dict[str, list[str]] = {}
    for text in given:
        name, _, issuer = text.partition("=")
        issuers.setdefault(name, []).extend([issuer] if issuer else [])
    return [{"type": name, "issuers": dids} for name, dids in issuers.items()]


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise UsageError(f"{option} takes NAME=VALUE, not {text!r:.80}")
    return name, value


def _who(text: str, client: ControlClient) -> str:
    """Return a PeerId or DID as it is, and the PeerId of the one peer that has this name or end."""
    if text.startswith("did:") or (text.startswith("12D3KooW") and len(text) == 52):
        return text
    rows, text = client.peers(), text.removeprefix("…")
    found = {r["peer"] for r in rows if r["name"] == text} or {
        r["peer"] for r in rows if len(text) >= _PEER_END_CHARS_MIN and r["peer"].endswith(text)
    }
    if len(found) != 1:
        what = "several peers are called" if found else "there is no peer"
        near = "" if found else hint(text[:80], [r["name"] for r in rows if r["name"]])
        raise UsageError(
            f"{what} {text!r:.80}{near}; give a PeerId of `kwaainet p2p peers`, or a DID"
        )
    peer: str = found.pop()
    return peer


_PEER_END_CHARS_MIN = 6


def _explain(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, print_json

    client = _client(arguments)
    body = _body(arguments, client)
    with Spinner("asking the swarm"):
        view = client.intent_explain(body)
    if arguments.json:
        print_json(view)
        return _exit_code(view)
    _print_asked(view)
    _print_candidates(view)
    _print_path(view)
    return _exit_code(view)


def _cast(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, print_json

    client = _client(arguments)
    body = _body(arguments, client)
    with Spinner("asking peers for offers"):
        view = client.intent_cast(body)
    plan: Json = view["plan"]
    if arguments.json:
        print_json(view)
        return _exit_code(plan)
    _print_asked(plan)
    _print_offers(view)
    _print_path(plan)
    return _exit_code(plan)


def _body(arguments: argparse.Namespace, client: ControlClient) -> Json:
    asked = demand_of(arguments, client)
    chosen = {"route": arguments.route, "privacy": arguments.privacy}
    asked |= {name: value for name, value in chosen.items() if value is not None}
    return {
        "model": arguments.model or "",
        "kwaai": asked,
        "prompt_tokens": arguments.prompt_tokens,
    }


def _exit_code(plan: Json) -> int:
    from kwaai.errors import PathMissing

    return 0 if plan["path"] is not None else PathMissing.exit_code


def _print_asked(plan: Json) -> None:
    from kwaai.cli.output import one_line

    asks = f"asks: {'; '.join(plan['asks'])}" if plan["asks"] else "asks nothing of its peers"
    asks = _with_names(asks, plan["candidates"])
    print(one_line(f"{plan['model']}, route {plan['route']}, {plan['privacy']}; {asks}"))


def _with_names(text: str, candidates: list[Json]) -> str:
    """Put the names that peers have in the table before their DIDs, which are shortened."""
    from credentials.did import did_key
    from credentials.errors import CredentialsError
    from credentials.keys import parse_peer_id
    from kwaai.cli.credential_tree import short_did

    for row in candidates:
        try:
            did = did_key(parse_peer_id(row["peer"]))
        except CredentialsError:
            continue  # no name then
        text = text.replace(did, f"{row['name']} ({short_did(did)})") if row["name"] else text
    return text


def _print_candidates(plan: Json) -> None:
    from kwaai.cli.output import one_line, print_table
    from kwaai.cli.p2p import show_ms

    rows = [
        (
            _range(row["layers"]),
            one_line(row["name"]) or "-",
            row["peer"],
            row["tier"],
            f"{row['score']:.2f}",
            f"{row['decode_ms']:.1f}" if row["decode_ms"] else "-",
            show_ms(None if row["rtt_ms"] is None else row["rtt_ms"] / 1000),
            one_line("; ".join(m["text"] for m in row["mismatches"])) or "meets it",
        )
        for row in sorted(plan["candidates"], key=_by_layers)
    ]
    if plan["route"] == "alone":
        return
    if not rows:
        print("no peer serves this model")
        return
    columns = ("Layers", "Name", "Peer", "Tier", "Score", "ms/token", "Round trip", "Demand")
    print_table(columns, rows, right=columns[4:7], ids=("Peer",))


def _by_layers(row: Json) -> tuple[int, int, str]:
    return row["layers"]["start"], row["layers"]["stop"], row["peer"]


def _print_offers(view: Json) -> None:
    from kwaai.cli.output import note, one_line, print_table
    from kwaai.trust.words import counted

    rows = [
        (
            _range(row["layers"]),
            one_line(row["name"]) or "-",
            row["peer"],
            str(row["sessions_free"]),
            f"{row['decode_ms']:.1f}" if row["decode_ms"] else "-",
            f"{row['prefill_tokens_s']:.0f}" if row["prefill_tokens_s"] else "-",
            one_line(", ".join(f"{k}={v}" for k, v in row["terms"].items())) or "-",
        )
        for row in view["offers"]
    ]
    if view["asked"]:
        offers, peers = counted(len(rows), "offer"), counted(view["asked"], "peer")
        print(f"intent {view['intent']}\n{offers} of {peers}")
    else:
        print("no peer was asked: none may take part")
    if rows:
        columns = ("Layers", "Name", "Peer", "Free", "ms/token", "Prompt tokens/s", "Terms")
        print_table(columns, rows, right=columns[3:6], ids=("Peer",))
    for row in view["declined"]:
        who = one_line(row["name"]) or row["peer"]
        note(one_line(f"{who} declined ({row['rule']}): {row['text']}"))


def _print_path(plan: Json) -> None:
    from kwaai.cli.output import one_line

    path = plan["path"]
    if path is not None:
        print(one_line(f"path: {_path_text(path)}"))
        first = path["first_token_ms"]
        to_first = "" if first is None else f", {first:.0f} ms to the first"
        print(f"predicted: {path['token_ms']:.1f} ms a token{to_first} ({path['route']})")
        return
    if not plan["relaxations"]:
        print(one_line(f"no path: {plan['problem']}"))
        return
    print("no path meets what is asked; the least that would help:")  # the problem lists it too
    for row in plan["relaxations"]:
        way = "" if row["path"] is None else f": {_path_text(row['path'])}"
        print(f"  {one_line(row['text'] + way)}")


def _path_text(path: Json) -> str:
    return " -> ".join(
        f"{hop['name']} {_range(hop['layers'])}" + (f" ({hop['tier']})" if hop["tier"] else "")
        for hop in path["hops"]
    )


def _range(layers: dict[str, int]) -> str:
    return f"[{layers['start']},{layers['stop']})"


def _client(arguments: argparse.Namespace) -> ControlClient:
    from kwaai.cli.control import ControlClient
    from kwaai.cli.session import load_settings

    return ControlClient(load_settings(arguments)[0])
