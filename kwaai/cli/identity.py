"""`kwaainet identity`: who this node is, what is known of it, its key and its owner.

`show` is here; `identity_key` has what is done with the key, `identity_owner` the owner's.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kwaai.cli import identity_key, identity_owner
from kwaai.cli.identity_passphrase import add_passphrase
from kwaai.cli.parser import Commands, add_command, add_group

if TYPE_CHECKING:
    from credentials.keys import PublicKey, SecretKey
    from credentials.wallet import StoredCredential
    from kwaai.config import Config
    from kwaai.store.home import Home


def add_parser(commands: Commands) -> None:
    group = add_group(commands, "identity", help="who this node is, its key and its owner")
    parser = add_command(
        group, "show", show, help="print the node's DID, Peer ID, key file and valid credentials"
    )
    add_passphrase(parser)
    identity_key.add_parser(group)
    identity_owner.add_parser(group)


def show(arguments: argparse.Namespace) -> int:
    from kwaai.cli.identity_passphrase import unlocker
    from kwaai.cli.output import note, one_line, print_json, print_pairs
    from kwaai.cli.session import load_settings
    from kwaai.errors import WalletLocked
    from kwaai.store.identity_file import is_identity_sealed, load_identity

    home, loaded = load_settings(arguments)
    path = loaded.config.identity_key or home.identity_key
    secret = load_identity(path, unlock=unlocker(arguments))
    sealed = is_identity_sealed(path)
    described = describe(secret.public, str(path))
    valid: list[StoredCredential] = []
    owner, shut = None, ""
    try:
        valid, owner = _credentials(home, loaded.config, secret)
    except WalletLocked as error:  # who this node is can be told without
        shut = error.message
    if arguments.json:
        from kwaai.cli.credential_wallet import describe_stored

        names = describe_names(secret.public)
        held = [describe_stored(stored) for stored in valid]
        told = {**described, **names, "sealed": sealed, "owner": owner, "credentials": held}
        print_json({**told, "wallet_problem": shut or None})
        return 0
    print_pairs(
        [
            ("DID", described["did"]),
            ("Also known as", described["did_peer"]),
            ("Peer ID", described["peer_id"]),
            ("Key file", described["key_file"] + (" (sealed)" if sealed else "")),
            ("Owner", owner["did"] if owner else _no_owner(home)),
        ]
    )
    if shut:
        note(f"its credentials cannot be read: {one_line(shut)}")
        return 0
    _print_credentials(valid, {described["did"]: "self", owner["did"] if owner else "": "owner"})
    return 0


def _no_owner(home: Home) -> str:
    from kwaai.errors import KwaaiError
    from kwaai.store.owner_file import load_owner, owner_key

    path = owner_key(home)
    if not path.exists():
        return "none"
    try:
        load_owner(path)
    except KwaaiError:
        return identity_owner.SEALED_OWNER
    return "none"


def _print_credentials(valid: list[StoredCredential], names: dict[str, str]) -> None:
    from kwaai.cli.credential_values import name_types, show_time
    from kwaai.cli.credential_wallet import ID_SHOWN
    from kwaai.cli.output import one_line, print_table

    if not valid:
        print("\nno valid credentials")
        return
    rows = [
        (
            stored.id[:ID_SHOWN],
            one_line(name_types(stored.entry.types)),
            names.get(stored.entry.issuer) or one_line(stored.entry.issuer),
            show_time(stored.entry.valid_until_s),
        )
        for stored in valid
    ]
    print()
    print_table(("ID", "Type", "Issuer", "Valid until"), rows, ids=("Issuer",))


def _credentials(
    home: Home, config: Config, secret: SecretKey
) -> tuple[list[StoredCredential], dict[str, str] | None]:
    """Return the credentials about this node that hold now, and its owner by one of them."""
    from kwaai.node.credential_home import open_office, wallet_exists

    if not wallet_exists(home):
        return [], None
    with open_office(home, config, secret=secret) as office:
        owner = office.owner_binding()
        told = None if owner is None else {"did": owner.owner, "label": owner.label}
        return office.own_credentials(), told


def describe(public: PublicKey, key_file: str) -> dict[str, str]:
    """Return the names of a public key that people use, as `--json` prints them."""
    from credentials.did import did_key, did_peer_alias
    from credentials.keys import peer_id

    return {
        "did": did_key(public),
        "did_peer": did_peer_alias(public),
        "peer_id": peer_id(public),
        "key_file": key_file,
    }


def describe_names(public: PublicKey) -> dict[str, Any]:
    """Return the other names that the same key has: did:peer of three kinds, key agreement."""
    from credentials.did_peer import create_peer_0, create_peer_2, create_peer_4, peer_4_short
    from credentials.multikey import encode_multikey, encode_x25519

    key, agreement = encode_multikey(public), encode_x25519(public.to_x25519())
    peer_2 = create_peer_2(
        [("authentication", key), ("assertionMethod", key), ("keyAgreement", agreement)]
    )
    peer_4 = create_peer_4(_peer_4_input(key, agreement))
    return {
        "did_peer_0": create_peer_0(public),
        "did_peer_2": peer_2,
        "did_peer_4": peer_4_short(peer_4),
        "did_peer_4_long": peer_4,
        "key_agreement": agreement,
    }


def _peer_4_input(key: str, agreement: str) -> dict[str, Any]:
    return {
        "@context": ["https://www.w3.org/ns/did/v1", "https://w3id.org/security/multikey/v1"],
        "verificationMethod": [
            {"id": "#key-1", "type": "Multikey", "publicKeyMultibase": key},
            {"id": "#key-2", "type": "Multikey", "publicKeyMultibase": agreement},
        ],
        "authentication": ["#key-1"],
        "assertionMethod": ["#key-1"],
        "keyAgreement": ["#key-2"],
    }
