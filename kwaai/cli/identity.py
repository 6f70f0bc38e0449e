"""`kwaainet identity show`: who this node is."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kwaai.cli.parser import Commands, add_command, add_group

if TYPE_CHECKING:
    from credentials.keys import PublicKey


def add_parser(commands: Commands) -> None:
    group = add_group(commands, "identity", help="who this node is")
    add_command(group, "show", show, help="print the node's DID, Peer ID and key file")


def show(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import print_json, print_pairs
    from kwaai.cli.session import load_settings
    from kwaai.store.identity_file import load_identity

    home, loaded = load_settings(arguments)
    path = loaded.config.identity_key or home.identity_key
    described = describe(load_identity(path).public, str(path))
    if arguments.json:
        print_json(described)
        return 0
    print_pairs(
        [
            ("DID", described["did"]),
            ("Also known as", described["did_peer"]),
            ("Peer ID", described["peer_id"]),
            ("Key file", described["key_file"]),
        ]
    )
    return 0


def describe(public: PublicKey, key_file: str) -> dict[str, str]:
    """Return the names of a public key, as `--json` prints them."""
    from credentials.did import did_key, did_peer
    from credentials.keys import peer_id

    return {
        "did": did_key(public),
        "did_peer": did_peer(public),
        "peer_id": peer_id(public),
        "key_file": key_file,
    }
