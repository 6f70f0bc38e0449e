"""`kwaainet trust`: who is trusted how far, why, and what follows from it.

Registers the commands, and has the short ones. Asks the running node; scores nothing itself.
"""

from __future__ import annotations

import argparse
from typing import Any

from kwaai.cli import trust_explain, trust_graph, trust_roots, trust_show
from kwaai.cli.parser import Commands, add_command, add_group, whole_number_in
from kwaai.cli.trust_values import PEER_HELP, TIERS, client_of, show_moment, show_score, tier_name
from kwaai.limits import TRUST_INTERACTIONS_MAX

_HANDLE_CHARS = len("sha256:") + 8
_LIST_MORE = """\
Score: 0 to 1, by verified credentials, what this node saw, and who vouches for whom. Unsure: 1
where nothing is known. VCs: credentials that it presented and that hold. Seen: this node's dealings
with it. Endorsed: by how many others. A root is somebody whose word counts fully.
`kwaainet trust explain PEER` says why.
"""
_ENDORSE_MORE = """\
Issues a PeerEndorsementVC that says how this node's dealings with the peer went, and offers it to
the peer. Once the peer's owner has accepted it (`kwaainet credential approve`), the peer shows it
to whoever asks what it holds. `kwaainet credential revoke` takes it back.
"""


def add_parser(commands: Commands) -> None:
    group = add_group(commands, "trust", help="whom this node trusts how far, and why")
    listing = add_command(
        group, "list", _list, help="list peers with score and tier", more=_LIST_MORE
    )
    listing.add_argument(
        "--min-tier",
        type=tier_name,
        default=TIERS[0],
        metavar="TIER",
        help="only those of this tier or a higher one: Unknown, Known, Verified or Trusted",
    )
    trust_show.add_show(group)
    trust_explain.add_parser(group)
    trust_roots.add_parser(group)
    trust_show.add_policy(group)
    endorse = add_command(
        group, "endorse", _endorse, help="vouch for a peer, and offer it that", more=_ENDORSE_MORE
    )
    endorse.add_argument("peer", metavar="PEER", help=PEER_HELP)
    endorse.add_argument(
        "--statement", default="", metavar="TEXT", help="what else it says, in one line"
    )
    endorse.add_argument(
        "--interactions",
        type=whole_number_in(1, TRUST_INTERACTIONS_MAX),
        metavar="N",
        help="how many dealings it rests on (default: as many as this node has seen)",
    )
    trust_graph.add_parser(group)
    receipts = add_command(
        group, "receipts", _receipts, help="list signed receipts, and whether both halves are here"
    )
    receipts.add_argument("peer", metavar="PEER", nargs="?", default="", help=PEER_HELP)
    refresh = add_command(
        group, "refresh", _refresh, help="ask peers anew what they hold, and compute the scores"
    )
    refresh.add_argument("peer", metavar="PEER", nargs="?", default="", help=PEER_HELP)


def _list(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import note, one_line, print_json, print_table

    answer = client_of(arguments).trust_peers()
    least = TIERS.index(arguments.min_tier)
    rows = [row for row in answer["rows"] if TIERS.index(row["tier"]) >= least]
    if arguments.json:
        print_json({"peers": rows, "left_out": answer["left_out"]})
        return 0
    if not rows:
        of = f" that is {arguments.min_tier} or more" if least else ""
        print(f"no peer{of} yet; `kwaainet p2p peers` lists those that this node sees")
        return 0
    numbers = ("Score", "Unsure", "VCs", "Seen", "Endorsed")
    columns = ("Name", "Peer", "Tier", *numbers, "State")
    table = [
        (
            one_line(row["name"]) or "-",
            row["peer"] or row["did"],
            row["tier"],
            show_score(row["score"]),
            f"{row['uncertainty']:.2f}",
            str(row["credentials"]),
            str(row["observations"]),
            str(row["endorsements"]),
            _state(row),
        )
        for row in rows
    ]
    print_table(columns, table, right=numbers, ids=("Peer",))
    if answer["left_out"]:
        note(f"{answer['left_out']} more with lower scores are left out")
    return 0


def _state(row: dict[str, Any]) -> str:
    words = ["root"] if row["is_root"] else []
    words += ["connected"] if row["connected"] else []
    return ", ".join(words) or "-"


def _endorse(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_peer import report_request
    from kwaai.cli.output import Spinner

    client = client_of(arguments)
    with Spinner(f"asking {arguments.peer}"):
        row = client.trust_endorse(arguments.peer, arguments.statement, arguments.interactions)
    return report_request(arguments, row)


def _receipts(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import note, one_line, print_json, print_table
    from kwaai.cli.shard_chain import show_range

    rows = client_of(arguments).trust_receipts(arguments.peer)
    if arguments.json:
        print_json({"receipts": rows})
        return 0
    if not rows:
        print("no receipts yet: they are made after answers over peers")
        return 0
    table = [
        (
            show_moment(row["started_s"]),
            one_line(row["name"]) or row["peer"],
            row["role"],
            _model(row["model"]),
            "-" if row["layers"] is None else show_range(row["layers"]),
            f"{row['prompt_tokens']} + {row['completion_tokens']}",
            f"{row['elapsed_s']:.2f} s",
            one_line(row["outcome"]),
            row["counterpart"],
        )
        for row in rows
    ]
    work = ("Model", "Layers", "Tokens", "Took", "Outcome")
    columns = ("Time (UTC)", "Peer", "Role here", *work, "Other half")
    print_table(columns, table, right=("Tokens", "Took"), ids=("Peer",))
    for row in rows:
        if row["detail"]:
            note(one_line(f"{row['nonce']}: {row['detail']}"))
    return 0


def _model(text: str) -> str:
    """Return a model's name; of a handle, which a node has no name for, the beginning."""
    from kwaai.cli.output import one_line

    return f"{text[:_HANDLE_CHARS]}…" if text.startswith("sha256:") else one_line(text)


def _refresh(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, print_json

    client = client_of(arguments)
    with Spinner(f"asking {arguments.peer or 'all peers'}"):
        count = client.trust_refresh(arguments.peer)
    if arguments.json:
        print_json({"credentials": count})
    else:
        print(f"{count} credential{' holds' if count == 1 else 's hold'} now")
    return 0
