"""`kwaainet credential request|offer|requests|approve|refuse|fetch`: credentials between nodes.

Asks the running node, which deals with the peers; verifies nothing itself.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kwaai.cli.parser import Commands, add_command

if TYPE_CHECKING:
    from kwaai.cli.control import ControlClient

_PEER_HELP = "a PeerId, its last characters, or a name of `kwaainet p2p peers`"
_ID_CHARS = 12


def add_parser(commands: Commands) -> None:
    """Add the commands to the group `credential`."""
    request = add_command(
        commands, "request", _request, help="ask a peer to issue a credential about this node"
    )
    request.add_argument("type", metavar="TYPE", help="a type of `kwaainet credential schema list`")
    request.add_argument("--from", dest="peer", metavar="PEER", required=True, help=_PEER_HELP)
    _add_claims(request)
    _add_note(request)
    offer = add_command(commands, "offer", _offer, help="offer a peer a credential about it")
    offer.add_argument("credential", metavar="FILE|ID", help="a file, `-`, or one issued here")
    offer.add_argument("--to", dest="peer", metavar="PEER", required=True, help=_PEER_HELP)
    _add_note(offer)
    listing = add_command(
        commands, "requests", _list, help="list requests and offers, of peers and our own"
    )
    listing.add_argument(
        "--pending", action="store_true", help="only those that wait for this node's owner"
    )
    approve = add_command(
        commands, "approve", _approve, help="issue what a peer asked for, or keep what it offered"
    )
    approve.add_argument("id", metavar="ID", help="of `kwaainet credential requests`, or its start")
    _add_claims(approve)
    refuse = add_command(commands, "refuse", _refuse, help="refuse a peer's request or offer")
    refuse.add_argument("id", metavar="ID", help="of `kwaainet credential requests`, or its start")
    refuse.add_argument("--reason", default="", metavar="TEXT", help="what the peer is told")
    fetch = add_command(
        commands, "fetch", _fetch, help="ask a peer what it holds about itself, and verify that"
    )
    fetch.add_argument("peer", metavar="PEER", help=_PEER_HELP)
    fetch.add_argument(
        "--type",
        dest="types",
        action="append",
        default=[],
        metavar="TYPE",
        help="only of this type",
    )
    fetch.add_argument("--keep", action="store_true", help="store what holds in the wallet")


def _add_claims(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--claim",
        dest="claims",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one thing it says; may be given several times",
    )
    parser.add_argument(
        "--from-file", metavar="FILE", help="a JSON object of claims, `-` for standard input"
    )


def _add_note(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--note", default="", metavar="TEXT", help="a word to the peer's owner")


def _request(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_values import read_claims, read_kind

    kind = read_kind(arguments.type)
    claims = read_claims(kind, arguments.claims, arguments.from_file)
    row = _waiting(
        f"asking {arguments.peer}",
        _client(arguments).credential_request,
        arguments.peer,
        kind.name,
        claims,
        arguments.note,
    )
    return report_request(arguments, row)


def _offer(arguments: argparse.Namespace) -> int:
    text = _credential_text(arguments)
    row = _waiting(
        f"asking {arguments.peer}",
        _client(arguments).credential_offer,
        arguments.peer,
        text,
        arguments.note,
    )
    return report_request(arguments, row)


def _credential_text(arguments: argparse.Namespace) -> str:
    """Return the JSON of a file, or of a credential that this home issued."""
    from pathlib import Path

    from kwaai.cli.credential_session import office
    from kwaai.cli.credential_status import issued_id
    from kwaai.cli.credential_values import read_input
    from kwaai.cli.parser import UsageError

    name: str = arguments.credential
    if name == "-" or Path(name).is_file():
        try:
            return read_input(name).decode("utf-8")
        except UnicodeDecodeError:
            raise UsageError(f"{name} is no credential: it is not UTF-8") from None
    with office(arguments) as opened:
        issued = opened.issued.get(issued_id(opened, name))
        if issued is None:
            raise UsageError(
                f"{name!r:.80} is neither a file nor the id of a credential issued here (see: "
                "kwaainet credential list --issued)"
            )
        return issued.original.decode()


def _list(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_values import show_time
    from kwaai.cli.output import one_line, print_json, print_table

    rows = _client(arguments).credential_requests()
    if arguments.pending:
        rows = [r for r in rows if (r["direction"], r["state"]) == ("in", "pending")]
    if arguments.json:
        print_json({"requests": rows})
        return 0
    if not rows:
        print("no requests and no offers")
        return 0
    table = [
        (
            row["id"][:_ID_CHARS],
            _what(row),
            one_line(row["name"]) or row["peer"],
            one_line(row["type"]),
            row["state"],
            one_line(", ".join(f"{k}={v}" for k, v in row["claims"].items() if k != "id"))[:60],
            one_line(row["note"] or row["detail"]),
            show_time(row["created_s"]),
        )
        for row in rows
    ]
    columns = ("ID", "What", "Peer", "Type", "State", "Claims", "Note", "Since")
    print_table(columns, table, ids=("Peer",))
    return 0


def _what(row: dict[str, Any]) -> str:
    whose = "theirs" if row["direction"] == "in" else "ours"
    return f"{row['kind']}, {whose}"


def _approve(arguments: argparse.Namespace) -> int:
    from kwaai.errors import CredentialRefused

    client = _client(arguments)
    claims = None
    if arguments.claims or arguments.from_file:
        claims = _other_claims(arguments, client)
    try:
        row = _waiting("approving", client.credential_approve, arguments.id, claims)
    except CredentialRefused as error:
        if "claim" in error.message or "missing" in error.message:
            error.message += "; give what it lacks with --claim NAME=VALUE"
        raise
    return report_request(arguments, row)


def _other_claims(arguments: argparse.Namespace, client: ControlClient) -> dict[str, Any]:
    """Return what was asked for, with the claims that are given here over it."""
    from kwaai.cli.credential_values import read_claims, read_kind
    from kwaai.cli.parser import UsageError

    rows = [r for r in client.credential_requests() if r["id"].startswith(arguments.id.lower())]
    if len(rows) != 1 or rows[0]["kind"] != "request":
        raise UsageError("--claim and --from-file go with the id of one peer's request")
    given = read_claims(read_kind(rows[0]["type"]), arguments.claims, arguments.from_file)
    return {**rows[0]["claims"], **given}


def _refuse(arguments: argparse.Namespace) -> int:
    return report_request(
        arguments, _client(arguments).credential_refuse(arguments.id, arguments.reason)
    )


def _fetch(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_values import read_kind, show_time
    from kwaai.cli.output import note, one_line, print_json, print_table

    kinds = [read_kind(name).name for name in arguments.types]
    shown = _waiting(
        f"asking {arguments.peer}",
        lambda: _client(arguments).credential_fetch(arguments.peer, kinds, keep=arguments.keep),
    )
    code = _fetched_code(shown["credentials"])
    if arguments.json:
        print_json(shown)
        return code
    if not shown["credentials"]:
        print("it shows no credentials")
        return 0
    rows = [
        (
            one_line(", ".join(t for t in row["types"] if t != "VerifiableCredential")),
            one_line(row["issuer"]),
            show_time(row["valid_until_s"]),
            "yes" if row["contexts_trusted"] else "no",
            row["state"].removeprefix("credential_").replace("_", " "),
        )
        for row in shown["credentials"]
    ]
    columns = ("Type", "Issuer", "Valid until", "Contexts trusted", "State")
    print_table(columns, rows, ids=("Issuer",))
    for row in shown["credentials"]:
        if row["detail"]:
            note(one_line(f"{row['types'][-1]}: {row['detail']}"))
    if arguments.keep:
        note(f"{shown['kept']} of {len(rows)} are new in the wallet")
    return code


def _fetched_code(rows: list[dict[str, Any]]) -> int:
    """Return 0 where all count, 1 where one does not hold, 69 where one cannot be judged."""
    from kwaai.errors import CredentialRefused, CredentialUnknown

    states = {row["state"] for row in rows} - {"valid"}
    if not states:
        return 0
    unknown = states == {"status_unknown"}
    return CredentialUnknown.exit_code if unknown else CredentialRefused.exit_code


def report_request(arguments: argparse.Namespace, row: dict[str, Any]) -> int:
    """Say how a request or an offer stands; failed and refused ones end the command so."""
    from kwaai.cli.output import one_line, print_json
    from kwaai.errors import PeerRefused, PeerUnreachable

    if arguments.json:
        print_json(row)
    who = one_line(row["name"]) or row["peer"]
    if row["direction"] == "out" and row["state"] in ("failed", "refused"):
        kind = PeerRefused if row["state"] == "refused" else PeerUnreachable
        if arguments.json:
            return kind.exit_code
        raise kind(f"the {row['kind']} {row['state']}: {one_line(row['detail'])}", peer=row["peer"])
    if not arguments.json:
        print(_SENTENCES[row["direction"], row["state"]].format(**row, who=who))
    return 0


_SENTENCES: dict[tuple[str, str], str] = {
    ("out", "pending"): "{kind} {id} waits for the owner of {who}",
    ("out", "delivered"): "{who}: {type} {detail}",
    ("in", "approved"): "issued {detail}; it is delivered when {who} is there",
    ("in", "delivered"): "done: {type} {detail}",
    ("in", "refused"): "refused the {kind} of {who}",
}


def _client(arguments: argparse.Namespace) -> ControlClient:
    from kwaai.cli.control import ControlClient
    from kwaai.cli.session import load_settings

    return ControlClient(load_settings(arguments)[0])


def _waiting(text: str, ask: Callable[..., Any], *arguments: object) -> Any:
    from kwaai.cli.output import Spinner

    with Spinner(text):
        return ask(*arguments)
