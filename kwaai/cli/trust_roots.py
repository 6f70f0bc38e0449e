"""`kwaainet trust roots`: whose word counts fully.

Writes the setting `trust_roots`, and tells the running node. Stores DIDs only: a name may be
somebody else's tomorrow.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from kwaai.cli.parser import Commands, UsageError, add_command, add_group
from kwaai.cli.trust_values import PEER_HELP

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kwaai.cli.control import ControlClient
    from kwaai.store.home import Home

_KEY = "trust_roots"
_MORE = """\
A root's credentials and endorsements count fully, and all paths of the trust graph begin at roots.
This node and its owner always are roots and are not listed.
"""


def add_parser(commands: Commands) -> None:
    group = add_group(commands, "roots", help="whose word counts fully")
    add_command(group, "list", _list, help="list the trust roots of the settings", more=_MORE)
    for name, run, text in (
        ("add", _add, "make somebody a trust root, in config.yaml and in the running node"),
        ("remove", _remove, "take back that somebody is a trust root"),
    ):
        parser = add_command(group, name, run, help=text, more=_MORE)
        parser.add_argument("peers", metavar="PEER", nargs="+", help=PEER_HELP)


def _list(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import one_line, print_json, print_table
    from kwaai.cli.session import load_settings

    home, loaded = load_settings(arguments)
    rows = [
        {"did": did, "peer": _peer_of(did), "name": name}
        for did, name in _named(home, loaded.config.trust_roots)
    ]
    if arguments.json:
        print_json({"roots": rows})
        return 0
    if not rows:
        print("no trust roots but this node and its owner; add one: kwaainet trust roots add PEER")
        return 0
    table = [(one_line(row["name"]) or "-", row["peer"] or "-", row["did"]) for row in rows]
    print_table(("Name", "Peer", "DID"), table, ids=("Peer",))
    return 0


def _add(arguments: argparse.Namespace) -> int:
    return _change(arguments, adds=True)


def _remove(arguments: argparse.Namespace) -> int:
    return _change(arguments, adds=False)


def _change(arguments: argparse.Namespace, *, adds: bool) -> int:
    from kwaai import atomic
    from kwaai.cli.control import ControlClient
    from kwaai.cli.session import open_home
    from kwaai.config.load import load_config, set_value

    home, _ = open_home(arguments)
    client = ControlClient(home)
    dids = list(dict.fromkeys(_did(client, peer) for peer in arguments.peers))
    with atomic.exclusive_lock(home.run / f"{_KEY}.lock"):  # two at once: neither is lost
        written = load_config(home.config_yaml, environment={}).config.trust_roots
        before = tuple(dict.fromkeys(_same(did) for did in written))
        if adds:
            after = tuple(dict.fromkeys((*before, *dids)))
        else:
            _check_listed(dids, before)
            after = tuple(did for did in before if did not in dids)
        set_value(home.config_yaml, _KEY, ",".join(after) or "none")
    is_told = _tell(client, after)
    _report(arguments, home, dids, before, after, is_told=is_told)
    return 0


def _tell(client: ControlClient, roots: Sequence[str]) -> bool:
    """Have the running node take the roots over; False where none runs."""
    from kwaai.errors import KwaaiError, NodeNotRunning

    try:
        client.trust_set_roots(list(roots))
    except NodeNotRunning:
        return False
    except KwaaiError as error:
        error.message = (
            f"{_KEY} is written, but the running node did not take it: {error.message}; run: "
            "kwaainet restart"
        )
        raise
    return True


def _report(
    arguments: argparse.Namespace,
    home: Home,
    dids: Sequence[str],
    before: Sequence[str],
    after: Sequence[str],
    *,
    is_told: bool,
) -> None:
    import os

    from kwaai.cli.output import note, print_json
    from kwaai.config.load import ENVIRONMENT_PREFIX

    if arguments.json:
        told = {"roots": list(after), "path": str(home.config_yaml), "node_told": is_told}
        print_json({**told, "added": [d for d in after if d not in before]})
    else:
        for did in dids:
            if did in after:
                print(f"{did} is a trust root{' already' if did in before else ''}")
            else:
                print(f"{did} is no trust root any more")
        if not is_told:
            note("no node runs: it counts from the next start on")
    variable = f"{ENVIRONMENT_PREFIX}{_KEY.upper()}"
    if os.environ.get(variable):
        note(f"note: {variable} is set in the environment and wins over the file")


def _check_listed(dids: Sequence[str], roots: Sequence[str]) -> None:
    missing = [did for did in dids if did not in roots]
    if missing:
        raise UsageError(
            f"{missing[0]} is none of the trust roots (see: kwaainet trust roots list)"
        )


def _did(client: ControlClient, text: str) -> str:
    """Return the DID of what a person wrote; the running node knows names."""
    from credentials.did import did_key
    from credentials.errors import CredentialsError
    from credentials.keys import parse_peer_id
    from kwaai.errors import NodeNotRunning

    if text.startswith("did:"):
        try:
            return _canonical(text)
        except CredentialsError as error:
            raise UsageError(f"{error}; write a DID such as did:key:z6Mk...") from None
    try:
        return did_key(parse_peer_id(text))
    except CredentialsError:
        pass  # a name, or the end of a PeerId
    try:
        return str(client.trust_show(text)["row"]["did"])
    except NodeNotRunning:
        raise UsageError(
            f"{text!r:.80} is neither a DID nor a PeerId, and no node runs that may know the name"
        ) from None


def _canonical(did: str) -> str:
    """Return the did:key of a DID that is one key, another as it is. Raises CredentialsError."""
    from credentials.did import check_did, did_key, parse_did

    is_one_key = did.startswith(("did:key:", "did:peer:0", "did:peer:12D3KooW"))
    return did_key(parse_did(did)) if is_one_key else check_did(did)


def _same(did: str) -> str:
    """Return a DID of the settings in its canonical form, one that has none as it is."""
    from credentials.errors import CredentialsError

    try:
        return _canonical(did)
    except CredentialsError:
        return did


def _peer_of(did: str) -> str:
    """Return the PeerId of a DID's key; empty for a DID that holds none."""
    from credentials.did import parse_did
    from credentials.errors import CredentialsError
    from credentials.keys import peer_id

    try:
        return peer_id(parse_did(did))
    except CredentialsError:
        return ""


def _named(home: Home, dids: Sequence[str]) -> list[tuple[str, str]]:
    """Return DIDs with what the running node calls them, empty where it does not know."""
    from kwaai.cli.control import ControlClient
    from kwaai.errors import KwaaiError

    client = ControlClient(home)
    names: dict[str, str] = {}
    if dids and client.is_running():
        try:
            names = {row["did"]: row["name"] for row in client.trust_policy()["roots"]}
        except KwaaiError:
            names = {}  # the list is the settings'; names are an extra
    return [(did, names.get(did, "")) for did in dids]
