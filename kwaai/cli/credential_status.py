"""`kwaainet credential revoke`, `suspend` and `resume`, and the status lists that say so.

The change is in this node's register at once; others see it when they next ask for the list.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kwaai.cli.credential_values import add_out
from kwaai.cli.identity_passphrase import add_passphrase
from kwaai.cli.parser import Commands, UsageError, add_command, whole_number

if TYPE_CHECKING:
    from kwaai.node.credential_office import CredentialOffice
    from kwaai.store.issued import IssuedCredential

UUID = "urn:uuid:"
_PREFIX_CHARS_MIN = 8
_VERBS = {
    "revoke": ("revocation", True),
    "suspend": ("suspension", True),
    "resume": ("suspension", False),
}
_HELP = {
    "revoke": "take back a credential that was issued here, for good",
    "suspend": "take back a credential that was issued here, until `resume`",
    "resume": "lift a suspension",
}
_MORE = """\
ID is what `issue` printed, or a line of `kwaainet credential list --issued`. Who checks the
credential sees it when they next ask for the status list: within minutes where the list can be
asked for, within a day at the latest, when the copy they have ends.

for example:
  kwaainet credential list --issued
  kwaainet credential {verb} 7f3a90c2-41d
"""


def add_parser(commands: Commands) -> None:
    for verb, text in _HELP.items():
        parser = add_command(commands, verb, change, help=text, more=_MORE.format(verb=verb))
        parser.set_defaults(verb=verb)
        parser.add_argument("id", nargs="?", metavar="ID", help="a credential's id")
        parser.add_argument(
            "--index", type=whole_number, metavar="N", help="by its index in the status list"
        )
        parser.add_argument(
            "--list", metavar="NAME", help="the list of --index (default: the first of its kind)"
        )
        parser.add_argument(
            "--as-owner", action="store_true", help="the list of --index is the owner's"
        )
        add_passphrase(parser)
    parser = add_command(
        commands,
        "status-list",
        status_list,
        help="print a status list of this node, signed: who has no way to ask for it needs it",
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="such as: revocation-1 (default: what there is)"
    )
    add_out(parser)
    add_passphrase(parser)


def change(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_session import office
    from kwaai.cli.output import one_line, print_json

    purpose, on = _VERBS[arguments.verb]
    if (arguments.id is None) == (arguments.index is None):
        raise UsageError(f"{arguments.verb} needs a credential's ID or its --index, one of the two")
    if arguments.id is not None and (arguments.list is not None or arguments.as_owner):
        raise UsageError("--list and --as-owner go with --index, not with an ID")
    with office(arguments) as opened:
        name = arguments.id and issued_id(opened, arguments.id)
        found = opened.set_status(
            purpose,
            on,
            id=name,
            index=arguments.index,
            list_name=arguments.list,
            as_owner=arguments.as_owner,
        )
    if arguments.json:
        described = None if found is None else describe_issued_row(found)
        print_json({"changed": arguments.verb, "credential": described})
        return 0
    what = f"entry {arguments.index}" if found is None else f"{found.kind} about {found.subject}"
    print(one_line(f"{_outcome(arguments.verb, found)}: {what}"))
    return 0


def _outcome(verb: str, found: IssuedCredential | None) -> str:
    """Say how it stands now: what is revoked stays so, whatever is done besides."""
    if verb != "revoke" and found is not None and show_state(found) == "revoked":
        return f"{verb} changes nothing, it was revoked for good"
    return {"revoke": "revoked", "suspend": "suspended", "resume": "in force again"}[verb]


def issued_id(opened: CredentialOffice, text: str) -> str:
    """Return the id of a credential that was issued here. It may be written without `urn:uuid:`, as
    its beginning, or as what the wallet calls the copy that it keeps. Raises UsageError where
    several begin so; what names none is returned as it is.
    """
    from kwaai.errors import UserError

    register = opened.issued
    for name in (text, UUID + text):
        if register.get(name) is not None:
            return name
    if len(text) >= _PREFIX_CHARS_MIN:
        found = register.named(UUID + text.removeprefix(UUID).lower())
        if len(found) > 1:
            raise UsageError(f"{text!r:.80} begins several ids; give more of it")
        if found:
            return found[0].credential_id
    try:
        kept = opened.wallet.resolve(text).entry.credential_id
    except UserError:
        return text
    return kept if kept is not None and register.get(kept) is not None else text


def status_list(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_session import office
    from kwaai.cli.credential_values import check_output, write_output
    from kwaai.cli.output import note, print_json, print_table

    check_output(arguments.out)
    with office(arguments) as opened:
        if arguments.name is None:
            if arguments.out is not None:
                raise UsageError("--out needs the NAME of a list")
            rows = opened.lists.rows()
            if arguments.json:
                keys = ("name", "url", "entries", "used")
                print_json({"lists": [dict(zip(keys, row, strict=True)) for row in rows]})
            else:
                columns = ("List", "URL", "Entries", "Used")
                shown = [(name, url, str(size), str(used)) for name, url, size, used in rows]
                print_table(columns, shown, right=("Entries", "Used"))
            return 0
        data = opened.status_list(arguments.name)
    if arguments.out is not None:
        write_output(arguments.out, data + b"\n")
        if arguments.json:
            print_json({"name": arguments.name, "file": str(arguments.out)})
        else:
            note(f"{arguments.name} is in {arguments.out}, good for a day")
    else:
        print(data.decode("utf-8"))
    return 0


def describe_issued_row(row: IssuedCredential) -> dict[str, Any]:
    """Return what `--json` prints of a credential that was issued here."""
    from credentials.document import encode_time

    return {
        "id": row.credential_id,
        "issuer": row.issuer,
        "subject": row.subject,
        "type": row.kind,
        "issued": encode_time(row.issued_s),
        "valid_until": None if row.valid_until_s is None else encode_time(row.valid_until_s),
        "state": show_state(row),
        "statuses": [
            {
                "list": status.place.list_name,
                "purpose": status.place.purpose,
                "index": status.place.index,
                "on": status.on,
            }
            for status in row.statuses
        ],
    }


def show_state(row: IssuedCredential) -> str:
    """Return `revoked`, `suspended`, `in force`, or that it cannot be taken back."""
    on = {status.place.purpose for status in row.statuses if status.on}
    if "revocation" in on:
        return "revoked"
    if "suspension" in on:
        return "suspended"
    return "in force" if row.statuses else "not revocable"
