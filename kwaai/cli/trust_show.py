"""`kwaainet trust show` and `trust policy`: what is known of a peer, and by what it is judged."""

from __future__ import annotations

import argparse
from typing import Any

from kwaai.cli.parser import Commands, add_command
from kwaai.cli.trust_values import (
    PEER_HELP,
    client_of,
    show_days,
    show_moment,
    show_name,
    show_score,
)

_POLICY_MORE = """\
The settings are in `kwaainet config show`: trust_roots, trust_issuers, trust_weights,
trust_half_life_days, trust_thresholds, and tier_serve and its like.
"""


def add_show(commands: Commands) -> None:
    """Add `trust show`."""
    show = add_command(
        commands, "show", _show, help="print what is known of a peer, and what it may do"
    )
    show.add_argument("peer", metavar="PEER", help=PEER_HELP)


def add_policy(commands: Commands) -> None:
    """Add `trust policy`."""
    add_command(
        commands,
        "policy",
        _policy,
        help="print the weights, thresholds, roots, and what each tier may do",
        more=_POLICY_MORE,
    )


def _show(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import one_line, print_json, print_pairs

    view = client_of(arguments).trust_show(arguments.peer)
    if arguments.json:
        print_json(view)
        return 0
    row = view["row"]
    print_pairs(
        [
            ("Name", one_line(row["name"]) or "-"),
            ("DID", row["did"]),
            ("Peer ID", row["peer"] or "none: it is no node's key"),
            ("Owner", row["owner"] or "none that it has shown"),
            ("Score", f"{row['score']:.3f} ({row['tier']}), uncertainty {row['uncertainty']:.2f}"),
            ("Computed", f"{show_moment(view['computed_s'])} UTC"),
            *([("Root", "yes: its word counts fully")] if row["is_root"] else []),
            *_behaviour_pairs(view["behaviour"]),
        ]
    )
    _print_attestations(view["attestations"])
    _print_endorsements("Endorsed by", view["endorsed_by"])
    _print_endorsements("Endorses", view["endorses"])
    _print_actions(view)
    return 0


def _behaviour_pairs(view: dict[str, Any] | None) -> list[tuple[str, str]]:
    if view is None:
        return [("Seen", "nothing yet")]
    counts = sorted(view["outcomes"].items(), key=lambda item: (-item[1], item[0]))
    seen = ", ".join(f"{count} {outcome}" for outcome, count in counts)
    times = dict.fromkeys((show_moment(view["first_s"]), show_moment(view["last_s"])))
    parts = ", ".join(f"{name} {value:.2f}" for name, value in view["parts"].items())
    return [
        ("Seen", f"{seen}; {' to '.join(times)} UTC"),
        (
            "Behaviour",
            f"{view['value']:.2f} (neutral: {view['prior']:.2f}), confidence "
            f"{view['confidence']:.2f}",
        ),
        *([("Facets", parts)] if parts else []),
    ]


def _print_attestations(rows: list[dict[str, Any]]) -> None:
    from kwaai.cli.credential_values import show_time
    from kwaai.cli.output import one_line, print_table

    if not rows:
        print("\nIt has presented no credential that holds.")
        return
    print("\nCredentials that it presented:")
    table = [
        (
            one_line(row["type"]),
            row["issuer"],
            show_time(row["valid_from_s"]),
            show_time(row["valid_until_s"]),
            f"{row['points']:.3f}",
            row["state"].removeprefix("credential_").replace("_", " "),
        )
        for row in rows
    ]
    columns = ("Type", "Issuer", "From", "Until", "Points", "State")
    print_table(columns, table, right=("Points",), ids=("Issuer",))


def _print_endorsements(heading: str, rows: list[dict[str, Any]]) -> None:
    from kwaai.cli.credential_values import show_time
    from kwaai.cli.output import one_line, print_table

    if not rows:
        return
    print(f"\n{heading}:")
    table = [
        (
            one_line(row["name"]) or "-",
            row["other"],
            f"{row['weight']:.2f}",
            show_time(row["at_s"]),
            one_line(row["source"]),
        )
        for row in rows
    ]
    columns = ("Name", "DID", "Weight", "Since", "By what")
    print_table(columns, table, right=("Weight",), ids=("DID",))


def _print_actions(view: dict[str, Any]) -> None:
    from kwaai.cli.output import one_line, print_table

    rows, row = view["actions"], view["row"]
    if not rows:
        return
    print("\nWhat it may do here:")
    table = [
        (
            _ACTIONS.get(action["action"], action["action"]),
            "yes" if action["is_allowed"] else "no",
            action["floor"],
            action["key"],
            _why(action, row["tier"]),
        )
        for action in rows
    ]
    print_table(("Action", "Allowed", "From tier", "Setting", "Why"), table)
    lacks = [action["key"] for action in rows if _lacks_tier(action)]
    if lacks:
        who = one_line(row["name"]) or row["peer"] or row["did"]
        print(f"\nWhat would raise its tier: kwaainet trust explain {who}")
        print(f"To ask for another: kwaainet config set {lacks[0]} TIER")


def _lacks_tier(action: dict[str, Any]) -> bool:
    return not action["is_allowed"] and action["key"].startswith("tier_")


def _why(action: dict[str, Any], tier: str) -> str:
    """Say it in a few words: the detail of a denial by tier says what stands in the row already."""
    from kwaai.cli.output import one_line

    if _lacks_tier(action):
        return f"it is {tier}"
    return one_line(action["detail"]) or "-"


_ACTIONS = {
    "serve": "run layers of our answers",
    "early_layers": "run early layers of them",
    "prefix": "exchange cached prefixes",
    "host": "host our knowledge",
    "compute": "use our compute",
}


def _policy(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import print_json, print_pairs, print_table

    view = client_of(arguments).trust_policy()
    if arguments.json:
        print_json(view)
        return 0
    hops = view["owner_hops_max"]
    tiers = sorted(view["thresholds"].items(), key=lambda item: float(item[1]))
    print_pairs(
        [
            ("This node", view["own"]),
            ("Owner", view["owner"] or "none"),
            ("Tiers", ", ".join(f"{name} from {show_score(least)}" for name, least in tiers)),
            ("Credentials", f"count half after {show_days(view['half_life_s'])}"),
            ("Other issuers", f"add {view['derived_issuer_cap']:.2f} at most, if Verified"),
            (
                "Behaviour",
                f"{_most(view, 'behaviour')}, or takes; counts half after "
                f"{show_days(view['behaviour_half_life_s'])}",
            ),
            ("Graph", _most(view, "graph")),
            ("Same owner", f"at least {view['same_owner_score']:.2f}, unless it misbehaves"),
            ("Early layers", f"the first {view['early_layers_share']:.0%} of a model"),
            ("Hops of one owner", "any number" if hops is None else f"at most {hops} in a path"),
            ("Spot checks", f"after {view['spot_check_share']:.1%} of the answers over peers"),
        ]
    )
    print("\nWhat a fresh credential of a fully trusted issuer adds:")
    weights = sorted(view["weights"].items(), key=lambda item: (-float(item[1]), item[0]))
    print_table(("Type", "Weight"), [(n, f"{w:.2f}") for n, w in weights], right=("Weight",))
    print("\nWhat a peer's tier must be at least:")
    floors = [(_ACTIONS.get(r["action"], r["action"]), r["tier"], r["key"]) for r in view["floors"]]
    print_table(("To", "Tier", "Setting"), floors)
    print("\nRoots, beside this node and its owner, and listed issuers:")
    rows = [*(("root", r) for r in view["roots"]), *(("issuer", r) for r in view["issuers"])]
    if not rows:
        print("none; add a root: kwaainet trust roots add PEER")
        return 0
    table = [(show_name(r), r["did"], kind, f"{r['trust']:.2f}") for kind, r in rows]
    print_table(("Name", "DID", "What", "Weight"), table, right=("Weight",), ids=("DID",))
    return 0


def _most(view: dict[str, Any], what: str) -> str:
    return f"adds {view[f'{what}_points']:.2f} at most"
