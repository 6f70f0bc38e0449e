"""`kwaainet credential schema list|show`: the credential types, their claims, units and bounds."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kwaai.cli.parser import Commands, add_command, add_group

if TYPE_CHECKING:
    from credentials.kinds import Kind


def add_parser(commands: Commands) -> None:
    group = add_group(commands, "schema", help="the types of credentials and their claims")
    add_command(group, "list", list_kinds, help="print the types that are known here")
    parser = add_command(group, "show", show_kind, help="print a type's claims and their bounds")
    parser.add_argument("kind", metavar="TYPE", help="a type of `kwaainet credential schema list`")


def list_kinds(arguments: argparse.Namespace) -> int:
    from credentials.kinds import KINDS
    from kwaai.cli.output import print_json, print_table

    if arguments.json:
        print_json({"types": [describe(kind) for kind in KINDS.values()]})
        return 0
    rows = [(kind.name, show_validity(kind), kind.summary) for kind in KINDS.values()]
    print_table(("Type", "Valid for", "Says"), rows)
    return 0


def show_kind(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_values import is_needed, read_kind
    from kwaai.cli.output import print_json, print_pairs, print_table

    kind = read_kind(arguments.kind)
    if arguments.json:
        print_json(describe(kind))
        return 0
    aliases = [("Also read as", ", ".join(kind.aliases))] if kind.aliases else []
    print_pairs(
        [
            ("Type", kind.name),
            *aliases,
            ("Says", kind.summary),
            ("Issued by", kind.issuer_note),
            ("Valid for", show_validity(kind)),
        ]
    )
    print()
    rows = [
        (claim.name, "yes" if is_needed(claim) else "no", claim.bounds, claim.description)
        for claim in kind.claims
    ]
    print_table(("Claim", "Needed", "Value", "Meaning"), rows)
    return 0


def describe(kind: Kind) -> dict[str, Any]:
    """Return what `--json` prints of a type: the claims, and the JSON Schema itself."""
    from schemas import load_schema

    return {
        "type": kind.name,
        "aliases": list(kind.aliases),
        "summary": kind.summary,
        "issuer": kind.issuer_note,
        "validity_s": kind.validity_s,
        "claims": [
            {
                "name": claim.name,
                "type": claim.type,
                "required": claim.required,
                "unit": claim.unit,
                "minimum": claim.minimum,
                "maximum": claim.maximum,
                "choices": list(claim.choices),
                "description": claim.description,
            }
            for claim in kind.claims
        ],
        "schema": load_schema(kind.schema),
    }


def show_validity(kind: Kind) -> str:
    """Return how long a type is valid by default, in days as far as it goes."""
    if kind.validity_s is None:
        return "no end"
    days, rest = divmod(kind.validity_s, 86400)
    return f"{days} days" if not rest else f"{kind.validity_s / 3600:g} hours"
