"""`kwaainet reputation list`, `show` and `reset`: what this node itself saw of its peers.

Reads the evidence log; needs no running node, and does not disturb one. Where one runs, it has
what peers call themselves.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kwaai.cli.identity_passphrase import add_passphrase
from kwaai.cli.parser import Commands, UsageError, add_command, add_group, whole_number

if TYPE_CHECKING:
    from kwaai.node.reputation import Reputation, Reputations
    from kwaai.trust.evidence import Observation

_LIMIT = 100
_LIMIT_MAX = 10_000
_SHOWN = 20
_PEER_HELP = "a PeerId, its last characters, a DID, or a name that the running node knows"
_LIST_MORE = """\
Behaviour: 0 to 1, by what this node saw alone, newer dealings counting more; 0.50 is neutral.
Served: answers in which the peer did its part. Failed: it broke off, stalled, or was not reached.
Wrong: it broke the protocol, or a spot check found against it. Scores and tiers, which credentials
count in too: `kwaainet trust list`.
"""
_RESET_MORE = """\
The peer is a stranger then: good and bad are forgotten, and no backup of this moment has them.
Credentials that it presented stay. A running node goes by it within a few seconds.
"""


def add_parser(commands: Commands) -> None:
    group = add_group(commands, "reputation", help="how peers behaved towards this node")
    parser = add_command(
        group, "list", _list, help="list the peers that this node has dealt with", more=_LIST_MORE
    )
    parser.add_argument(
        "--limit",
        type=whole_number,
        default=_LIMIT,
        metavar="N",
        help=f"at most so many, those dealt with last (default {_LIMIT})",
    )
    add_passphrase(parser)
    parser = add_command(group, "show", _show, help="show what this node saw of a peer")
    parser.add_argument("peer", metavar="PEER", help=_PEER_HELP)
    add_passphrase(parser)
    parser = add_command(
        group, "reset", _reset, help="forget what this node saw of a peer", more=_RESET_MORE
    )
    parser.add_argument("peer", metavar="PEER", help=_PEER_HELP)
    add_passphrase(parser)


@contextlib.contextmanager
def _opened(arguments: argparse.Namespace) -> Iterator[Reputations]:
    import time

    from kwaai.cli.identity_passphrase import unlocker
    from kwaai.cli.session import load_settings
    from kwaai.node.reputation import open_reputations

    home, loaded = load_settings(arguments)
    with open_reputations(
        home, loaded.config, time.time, unlock=unlocker(arguments)
    ) as reputations:
        yield reputations


def _names(arguments: argparse.Namespace) -> dict[str, str]:
    """Return what peers call themselves, by DID; nothing where no node runs that could say."""
    from kwaai.cli.control import ControlClient
    from kwaai.cli.session import load_settings
    from kwaai.errors import KwaaiError

    client = ControlClient(load_settings(arguments)[0])
    if not client.is_running():
        return {}
    try:
        return {row["did"]: row["name"] for row in client.trust_peers()["rows"]}
    except KwaaiError:
        return {}  # names are an extra


def _did(arguments: argparse.Namespace, names: dict[str, str]) -> str:
    """Return whom a person means: the DID of the one peer of that name, else what was written."""
    found = [did for did, name in names.items() if name == arguments.peer]
    if len(found) > 1:
        raise UsageError(f"{len(found)} peers are called {arguments.peer!r:.80}; give the PeerId")
    return found[0] if found else str(arguments.peer)


def _list(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import note, one_line, print_json, print_table

    if not 1 <= arguments.limit <= _LIMIT_MAX:
        raise UsageError(f"--limit: 1 to {_LIMIT_MAX} are printed at once")
    with _opened(arguments) as reputations:
        found = reputations.peers()
    rows, names = found[: arguments.limit], _names(arguments)
    if arguments.json:
        described = [_describe(row, names) for row in rows]
        print_json({"peers": described, "left_out": len(found) - len(rows)})
        return 0
    if not rows:
        print("this node has not dealt with any peer yet")
        return 0
    numbers = ("Behaviour", "Seen", "Served", "Failed", "Wrong", "Refused")
    table = [
        (
            one_line(names.get(row.evidence.principal, "")) or "-",
            one_line(row.name),
            f"{row.conduct.value:.2f}",
            *_counts(row),
            _day(row),
        )
        for row in rows
    ]
    columns = ("Name", "Peer", *numbers, "Last")
    print_table(columns, table, right=numbers, ids=("Peer",))
    if len(found) > len(rows):
        note(f"only the last {len(rows)} of {len(found)}; --limit prints more")
    return 0


def _counts(row: Reputation) -> tuple[str, ...]:
    from kwaai.trust.evidence import Outcome

    groups = (
        (Outcome.SERVED,),
        (Outcome.FAILED, Outcome.STALLED, Outcome.UNREACHABLE),
        (Outcome.MISBEHAVED, Outcome.WRONG, Outcome.DISPUTED),
        (Outcome.REFUSED,),
    )
    counted = (sum(map(row.tally.count, group)) for group in groups)
    return str(row.tally.observations), *map(str, counted)


def _day(row: Reputation) -> str:
    from kwaai.cli.credential_values import show_time

    return show_time(row.evidence.last_s)


def _show(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import note, one_line, print_json, print_pairs, print_table

    with _opened(arguments) as reputations:
        row, observations = reputations.find(_did(arguments, names := _names(arguments)))
    newest = observations[:_SHOWN]
    if arguments.json:
        print_json({**_describe(row, names), "newest": [_describe_one(one) for one in newest]})
        return 0
    conduct, evidence = row.conduct, row.evidence
    print_pairs(
        [
            ("Name", one_line(names.get(evidence.principal, "")) or "-"),
            ("Peer ID", one_line(row.name)),
            ("DID", one_line(evidence.principal)),
            ("Behaviour", f"{conduct.value:.2f} (neutral: 0.50)"),
            ("In its score", f"adds {conduct.points:.3f}, leaves {conduct.penalty:.3f} of all"),
            ("Seen", f"{evidence.kept} kept of {evidence.seen}"),
            ("First and last", f"{_moment(evidence.first_s)}, {_moment(evidence.last_s)}"),
        ]
    )
    print()
    print_table(
        ("Facet", "Mean", "For", "Against", "Leaves"),
        [
            (
                name.capitalize(),
                f"{conduct.means[name]:.2f}",
                f"{facet.good:.1f}",
                f"{facet.bad:.1f}",
                f"{conduct.factors[name]:.2f}",
            )
            for name, facet in conduct.facets.items()
        ],
        right=("Mean", "For", "Against", "Leaves"),
    )
    print()
    print_table(
        ("When", "Outcome", "Why", "Step", "Expected", "Tokens/s", "Claimed"),
        [_observed(one) for one in newest],
        right=("Step", "Expected", "Tokens/s", "Claimed"),
    )
    if len(observations) > len(newest):
        note(f"the last {len(newest)} of {len(observations)} dealings")
    return 0


def _observed(one: Observation) -> tuple[str, ...]:
    from kwaai.cli.output import one_line

    return (
        _moment(one.at_s),
        one.outcome.value,
        one_line(one.code) or "-",
        *("-" if s is None else f"{1000 * s:.1f} ms" for s in (one.latency_s, one.expected_s)),
        *("-" if s is None else f"{s:.1f}" for s in (one.tokens_s, one.claimed_tokens_s)),
    )


def _reset(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import one_line, print_json
    from kwaai.trust.words import counted

    with _opened(arguments) as reputations:
        name, count = reputations.reset(_did(arguments, _names(arguments)))
    if arguments.json:
        print_json({"peer": name, "forgotten": count})
    else:
        dealings = counted(count, "dealing")
        print(one_line(f"forgot {dealings} with {name}: it is a stranger again"))
    return 0


def _moment(seconds: float) -> str:
    from credentials.document import encode_time

    return encode_time(float(int(seconds)))


def _describe(row: Reputation, names: dict[str, str]) -> dict[str, Any]:
    from kwaai.trust.evidence import Outcome

    conduct, evidence = row.conduct, row.evidence
    return {
        "peer": row.name,
        "name": names.get(evidence.principal, ""),
        "did": evidence.principal,
        "behaviour": conduct.value,
        "penalty": conduct.penalty,
        "points": conduct.points,
        "integrity": conduct.integrity,
        "failure": conduct.failure,
        "observations": conduct.observations,
        "facets": {
            name: {
                "mean": conduct.means[name],
                "good": facet.good,
                "bad": facet.bad,
                "factor": conduct.factors[name],
            }
            for name, facet in conduct.facets.items()
        },
        "outcomes": {outcome.value: row.tally.count(outcome) for outcome in Outcome},
        "kept": evidence.kept,
        "seen": evidence.seen,
        "first": _moment(evidence.first_s),
        "last": _moment(evidence.last_s),
    }


def _describe_one(one: Observation) -> dict[str, Any]:
    return {
        "at": _moment(one.at_s),
        "outcome": one.outcome.value,
        "code": one.code,
        "latency_s": one.latency_s,
        "expected_s": one.expected_s,
        "tokens_s": one.tokens_s,
        "claimed_tokens_s": one.claimed_tokens_s,
        "tokens": one.tokens,
    }
