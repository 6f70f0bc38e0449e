"""`kwaainet credential list`, `show`, `export` and `remove`: what is in the wallet, and what was
issued here.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from kwaai.cli.credential_values import add_out
from kwaai.cli.identity_passphrase import add_passphrase
from kwaai.cli.parser import Commands, UsageError, add_command, whole_number

if TYPE_CHECKING:
    from credentials.wallet import StoredCredential
    from kwaai.node.credential_office import CredentialOffice
    from kwaai.store.issued import IssuedCredential

ID_SHOWN = 12
"""Digits of a wallet id in a table: enough to tell a wallet's credentials apart."""
_LIMIT = 100
_NOT_HERE = "the wallet holds no credential {!r:.80} (see: kwaainet credential list"


def add_parser(commands: Commands) -> None:
    _add_list(commands)
    parser = add_command(commands, "show", show, help="print a credential and what it says")
    parser.add_argument("id", metavar="ID", help="a line of `kwaainet credential list`")
    add_passphrase(parser)
    parser = add_command(
        commands,
        "export",
        export,
        help="print a credential as it was received, to the byte",
        json=False,
    )
    parser.add_argument("id", metavar="ID", help="a line of `kwaainet credential list`")
    add_out(parser)
    add_passphrase(parser)
    parser = add_command(commands, "remove", remove, help="forget a credential of the wallet")
    parser.add_argument("id", metavar="ID", help="a line of `kwaainet credential list`")
    add_passphrase(parser)


def _add_list(commands: Commands) -> None:
    parser = add_command(
        commands,
        "list",
        list_credentials,
        help="print the wallet's credentials, or those issued here",
        more="Nothing is checked again here: `kwaainet credential show` does.",
    )
    parser.add_argument("--type", metavar="TYPE", help="only of this type")
    parser.add_argument("--issuer", metavar="DID", help="only from this issuer")
    parser.add_argument("--subject", metavar="DID", help="only about this subject")
    parser.add_argument("--text", metavar="TEXT", help="only where a type, DID or id has this text")
    parser.add_argument(
        "--valid", action="store_true", help="only those that have begun and not ended"
    )
    parser.add_argument(
        "--quarantined", action="store_true", help="those that were set apart, and why"
    )
    parser.add_argument(
        "--issued", action="store_true", help="those that were issued here, and their status"
    )
    parser.add_argument(
        "--limit",
        type=whole_number,
        default=_LIMIT,
        metavar="N",
        help=f"at most so many, the newest (default {_LIMIT})",
    )
    add_passphrase(parser)


def list_credentials(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_session import office
    from kwaai.cli.credential_values import now_s, read_did

    if not 1 <= arguments.limit <= 1000:
        raise UsageError("--limit: 1 to 1000 are printed at once")
    if arguments.issued and (arguments.quarantined or arguments.text or arguments.valid):
        raise UsageError("--issued goes with --type, --issuer and --subject only")
    with office(arguments) as opened:
        names = (opened.did, opened.owner_did)
        issuer = arguments.issuer and read_did(arguments.issuer, "--issuer", *names)
        subject = arguments.subject and read_did(arguments.subject, "--subject", *names)
        if arguments.issued:
            rows = opened.issued.find(
                issuer=issuer, subject=subject, kind=arguments.type, limit=arguments.limit
            )
            return _print_issued(arguments, opened, rows)
        found = opened.wallet.find(
            type=arguments.type,
            issuer=issuer,
            subject=subject,
            text=arguments.text,
            valid_at_s=now_s() if arguments.valid else None,
            quarantined=arguments.quarantined,
            limit=arguments.limit,
        )
        return _print_found(arguments, opened, found)


def _print_found(
    arguments: argparse.Namespace, opened: CredentialOffice, found: list[StoredCredential]
) -> int:
    from kwaai.cli.credential_values import name_types, now_s, show_time
    from kwaai.cli.output import note, one_line, print_json, print_table

    if arguments.json:
        print_json({"credentials": [describe_stored(stored) for stored in found]})
        return 0
    if not found:
        like = f" like that{_type_hint(arguments)}" if _is_filtered(arguments) else ""
        note(f"no credentials{like or ' in the wallet yet'}")
        return 0
    rows = [
        (
            stored.id[:ID_SHOWN],
            one_line(name_types(stored.entry.types)),
            _who(opened, stored.entry.issuer),
            _who(opened, stored.entry.subject),
            show_time(stored.entry.valid_until_s),
            one_line(show_period(stored, now_s())),
        )
        for stored in found
    ]
    columns = ("ID", "Type", "Issuer", "Subject", "Valid until", "State")
    print_table(columns, rows, ids=("Issuer", "Subject"))
    if len(found) == arguments.limit:
        note(f"only the {arguments.limit} newest; --limit prints more")
    return 0


def _print_issued(
    arguments: argparse.Namespace, opened: CredentialOffice, rows: list[IssuedCredential]
) -> int:
    from kwaai.cli.credential_status import describe_issued_row, show_state
    from kwaai.cli.credential_values import show_time
    from kwaai.cli.output import note, one_line, print_json, print_table

    if arguments.json:
        print_json({"issued": [describe_issued_row(row) for row in rows]})
        return 0
    if not rows:
        like = f" like that{_type_hint(arguments)}" if _is_filtered(arguments) else " yet"
        note(f"nothing was issued here{like}")
        return 0
    shown = [
        (
            show_issued_id(row),
            one_line(row.kind),
            _who(opened, row.subject),
            show_time(row.issued_s),
            show_time(row.valid_until_s),
            show_state(row),
        )
        for row in rows
    ]
    columns = ("ID", "Type", "Subject", "Issued", "Valid until", "State")
    print_table(columns, shown, ids=("Subject",))
    if len(rows) == arguments.limit:
        note(f"only the {arguments.limit} newest; --limit prints more")
    return 0


def _type_hint(arguments: argparse.Namespace) -> str:
    """Return ` - did you mean ...?` for a `--type` that is nearly one of ours."""
    from credentials.kinds import KINDS
    from kwaai.cli.parser import hint

    name: str | None = arguments.type
    return "" if name is None or name in KINDS else hint(name, KINDS)


def _is_filtered(arguments: argparse.Namespace) -> bool:
    names = ("type", "issuer", "subject", "text", "valid", "quarantined")
    return any(getattr(arguments, name) for name in names)


def _who(opened: CredentialOffice, did: str | None) -> str:
    from kwaai.cli.output import one_line
    from kwaai.node.credential_office import names_of

    if did in names_of(opened.did):
        return "self"
    return {opened.owner_did: "owner", None: "-", "": "-"}.get(did) or one_line(str(did))


def show_issued_id(row: IssuedCredential) -> str:
    """Return as much of an issued credential's id as tells it from others; `revoke` takes it."""
    from kwaai.cli.credential_status import UUID
    from kwaai.cli.output import one_line

    name = row.credential_id
    return name.removeprefix(UUID)[:ID_SHOWN] if name.startswith(UUID) else one_line(name)


def show_period(stored: StoredCredential, now_s: float) -> str:
    """Return what the wallet itself knows of a credential: its period, or its quarantine."""
    entry = stored.entry
    if entry.quarantined:
        return f"quarantined: {entry.reason}"
    if entry.valid_from_s is not None and now_s < entry.valid_from_s:
        return "not yet in date"
    return "in date" if entry.is_valid_at(now_s) else "expired"


def describe_stored(stored: StoredCredential) -> dict[str, Any]:
    """Return what `--json` prints of a credential in the wallet."""
    from credentials.document import encode_time

    entry = stored.entry
    begin, end = entry.valid_from_s, entry.valid_until_s
    return {
        "wallet_id": stored.id,
        "id": entry.credential_id,
        "types": list(entry.types),
        "issuer": entry.issuer,
        "subjects": list(entry.subjects),
        "valid_from": None if begin is None else encode_time(begin),
        "valid_until": None if end is None else encode_time(end),
        "added": encode_time(entry.added_s),
        "quarantined": entry.quarantined,
        "reason": entry.reason,
    }


def show(arguments: argparse.Namespace) -> int:
    from credentials.policy import NODE_POLICY
    from kwaai.cli.credential_report import report_credential
    from kwaai.cli.credential_session import office
    from kwaai.cli.credential_tree import print_tree
    from kwaai.cli.output import print_json, safe_for_terminal

    with office(arguments) as opened:
        original, stored = _find(opened, arguments.id)
        report = report_credential(opened.checker, original, NODE_POLICY)
    try:
        document = json.loads(original)
    except (ValueError, RecursionError):
        document = None  # only in quarantine
    if arguments.json:
        wallet = None if stored is None else describe_stored(stored)
        print_json({"credential": document, "wallet": wallet, "check": report.described})
        return 0
    text = original.decode("utf-8", "replace")
    if document is not None:
        text = json.dumps(document, indent=2, ensure_ascii=False)
    print(safe_for_terminal(text))
    print_tree(report.tree)
    return 0


def _find(opened: CredentialOffice, name: str) -> tuple[bytes, StoredCredential | None]:
    """Return a credential of the wallet, or one that was issued here."""
    from kwaai.cli.credential_status import issued_id
    from kwaai.errors import CredentialMissing

    try:
        stored = opened.wallet.resolve(name)
    except CredentialMissing:
        issued = opened.issued.get(issued_id(opened, name))
        if issued is None:
            raise CredentialMissing(f"{_NOT_HERE.format(name)} [--issued])") from None
        return issued.original, None
    return stored.original, stored


def export(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_session import office
    from kwaai.cli.credential_values import check_output, print_original, write_output

    check_output(arguments.out)
    with office(arguments) as opened:
        original, _ = _find(opened, arguments.id)
    if arguments.out is not None:
        write_output(arguments.out, original)
        return 0
    print_original(original)
    return 0


def remove(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_session import office
    from kwaai.cli.credential_values import name_types
    from kwaai.cli.output import one_line, print_json
    from kwaai.errors import CredentialMissing

    with office(arguments) as opened:
        try:
            stored = opened.wallet.resolve(arguments.id)
        except CredentialMissing:
            raise CredentialMissing(f"{_NOT_HERE.format(arguments.id)})") from None
        opened.wallet.remove(stored.id)
    if arguments.json:
        print_json({"removed": describe_stored(stored)})
    else:
        print(one_line(f"removed {stored.id[:ID_SHOWN]}: {name_types(stored.entry.types)}"))
    return 0
