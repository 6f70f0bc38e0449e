"""`kwaainet vpk`: whether this node hosts others' sealed knowledge, and who hosts its own.

Asks the running node; writes the setting `vpk_mode`, and the key file of this node's knowledge.
docs/vpk.md.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kwaai import limits
from kwaai.cli import rag_thin, vpk_bench, vpk_key
from kwaai.cli.parser import Commands, Parser, UsageError, add_command, add_group, whole_number_in
from kwaai.cli.rag_values import cell, client_of, confirm

if TYPE_CHECKING:
    from collections.abc import Sequence

Json = dict[str, Any]

_ENABLE_MORE = """\
bob: this node's knowledge is kept at other nodes, sealed. eve: this node keeps that of others.
both: both. Hosts cannot read what they keep; docs/vpk.md says what they do learn.
"""
_DISCOVER_MORE = """\
Usable says whether this node would keep its knowledge there, by its settings `tier_host` and
`integrity_floor`; sizes are what the hosts claim.
"""
_AUDIT_MORE = """\
Reads back a sample of what each host should have, which proves itself by opening, and has hosts
prove that they hold all of the large objects. What is found adds to the hosts' trust scores.
"""
_REPAIR_MORE = """\
Makes the copies that are missing, at hosts of now, and deletes those that are one too many. The
node does the same by itself, more slowly.
"""
_PEER_HELP = "the host: a PeerId, or a name of `kwaainet vpk discover`"


def add_parser(commands: Commands) -> None:
    group = add_group(commands, "vpk", help="private knowledge on other people's disks")
    enable = add_command(
        group, "enable", _enable, help="say what this node does", more=_ENABLE_MORE
    )
    enable.add_argument(
        "--mode", choices=("bob", "eve", "both"), default="both", help="which (default: both)"
    )
    enable.add_argument("--port", metavar="PORT", help="of `kwaainet storage serve`")
    add_command(group, "disable", _disable, help="keep knowledge on this disk, and host nothing")
    add_command(group, "status", _status, help="print how this node takes part")
    add_command(
        group, "discover", _discover, help="list nodes that offer to host", more=_DISCOVER_MORE
    )
    _add_tenant(group)
    shard = add_command(group, "shard", _shard, help="spread a base over this many hosts")
    _add_base(shard)
    shard.add_argument(
        "--eve-count",
        type=whole_number_in(1, limits.HOSTS_PER_BASE_MAX),
        required=True,
        metavar="K",
        help="hosts of different owners where there are such",
    )
    for name, run, text, more in (
        ("resolve", _resolve, "list who hosts a base", ""),
        ("audit", _audit, "see whether the hosts of a base still have it", _AUDIT_MORE),
        ("repair", _repair, "make the copies that hosts have lost", _REPAIR_MORE),
    ):
        _add_base(add_command(group, name, run, help=text, more=more))
    vpk_key.add_parsers(group)
    vpk_bench.add_bench(group)


def _add_base(parser: Parser) -> None:
    parser.add_argument("base", metavar="NAME", nargs="?", help="a base of `kwaainet rag list`")
    parser.add_argument("--kb-id", metavar="NAME", dest="base_option", help=argparse.SUPPRESS)


def _base_of(arguments: argparse.Namespace) -> str:
    return str(arguments.base or arguments.base_option or "default")


def _add_tenant(group: Commands) -> None:
    tenant = add_group(group, "tenant", help="what this node has at which host")
    create = add_command(tenant, "create", _create_tenant, help="ask a host for room")
    create.add_argument("peer", metavar="PEER", nargs="?", help=_PEER_HELP)
    create.add_argument("--eve-peer-id", metavar="PEER", help=argparse.SUPPRESS)
    create.add_argument(
        "--capacity-mb",
        type=whole_number_in(1, limits.STORAGE_QUOTA_MB_MAX),
        default=1024,
        metavar="N",
        help="MB to ask for (default: 1024)",
    )
    add_command(tenant, "list", _tenants, help="list the hosts that this node has something at")
    info = add_command(tenant, "info", _tenant, help="print what this node has at one host")
    info.add_argument("peer", metavar="PEER", help=_PEER_HELP)
    delete = add_command(
        tenant, "delete", _delete_tenant, help="delete all that this node has at a host"
    )
    delete.add_argument("peer", metavar="PEER", help=_PEER_HELP)
    delete.add_argument("--yes", "-y", action="store_true", help="do not ask")


def _enable(arguments: argparse.Namespace) -> int:
    settings = {"vpk_mode": arguments.mode}
    if arguments.port is not None:
        settings["storage_port"] = arguments.port
    return _set(arguments, settings)


def _disable(arguments: argparse.Namespace) -> int:
    return _set(arguments, {"vpk_mode": "off"})


def _set(arguments: argparse.Namespace, settings: dict[str, str]) -> int:
    from kwaai.cli.control import ControlClient
    from kwaai.cli.output import note, print_json
    from kwaai.cli.session import open_home
    from kwaai.config.load import set_value

    home, _ = open_home(arguments)
    for key, value in settings.items():
        set_value(home.config_yaml, key, value)
    running = ControlClient(home).is_running()
    if arguments.json:
        print_json({**settings, "restart_needed": running})
        return 0
    print("\n".join(f"{key}: {value}" for key, value in settings.items()))
    if running:
        note("the running node takes it over with: kwaainet restart")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import note, one_line, print_json, print_pairs, show_bytes

    told = client_of(arguments).vpk_status()
    if arguments.json:
        print_json(told)
        return 0
    hosting = "nothing"
    if told["hosting"]:
        of = f"{show_bytes(told['used_bytes'])} of {show_bytes(told['capacity_bytes'])}"
        hosting = f"{told['objects']} objects of {told['tenants']} tenants, {of}"
    print_pairs(
        [
            ("Mode", told["mode"]),
            ("Tenant", told["tenant"] or "none yet: no base was made"),
            ("Bases", str(told["bases"])),
            ("Keeps for others", hosting),
            ("Announced", "yes" if told["announced"] else "no"),
        ]
    )
    if told["problem"]:
        note(one_line(f"note: {told['problem']}"))
    return 0


def _discover(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, note, one_line, print_json, print_table

    with Spinner("asking nodes"):
        rows = client_of(arguments).discover()
    if arguments.json:
        print_json(rows)
        return 0
    if not rows:
        print("no node that is known offers to host; one does so with: kwaainet vpk enable")
        return 0
    numbers = ("Free GB", "of GB", "Tenants", "ms")
    table = [
        (
            one_line(row["public_name"]) or "-",
            row["peer_id"],
            row["mode"],
            f"{row['free_gb']:.1f}",
            f"{row['capacity_gb']:.1f}",
            str(row["tenant_count"]),
            "-" if row["rtt_ms"] is None else f"{row['rtt_ms']:.1f}",
            row["tier"],
            one_line(row["usable"]) or "yes",
        )
        for row in rows
    ]
    columns = ("Name", "Peer", "Mode", *numbers, "Tier", "Usable")
    print_table(columns, table, right=numbers, ids=("Peer",))
    if all(row["usable"] for row in rows):
        note(
            "note: none can be used yet; `kwaainet trust roots add DID` trusts an owner, and the "
            "setting tier_host says how far a host has to be trusted"
        )
    return 0


def _create_tenant(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, print_json

    peer = arguments.peer or arguments.eve_peer_id
    if peer is None:
        raise UsageError("name a host; `kwaainet vpk discover` lists them")
    with Spinner("asking the host"):
        row = client_of(arguments).create_tenant(peer, arguments.capacity_mb)
    if arguments.json:
        print_json(row)
    else:
        _print_tenants([row])
    return 0


def _tenants(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, print_json

    with Spinner("asking hosts"):
        rows = client_of(arguments).tenants()
    if arguments.json:
        print_json({"tenants": rows})
    elif not rows:
        print("this node has nothing at any host")
    else:
        _print_tenants(rows)
    return 0


def _tenant(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, print_json
    from kwaai.errors import UserError

    with Spinner("asking hosts"):
        rows = client_of(arguments).tenants()
    found = [row for row in rows if arguments.peer in (row["peer"], row["name"])]
    if len(found) != 1:
        raise UserError(f"this node has nothing at {arguments.peer!r:.80}", param="peer")
    if arguments.json:
        print_json(found[0])
    else:
        _print_tenants(found)
    return 0


def _print_tenants(rows: Sequence[Json]) -> None:
    from kwaai.cli.output import note, one_line, print_table, show_bytes

    numbers = ("Used", "Quota", "Free there", "Objects", "Bases")
    table = [
        (
            one_line(row["name"]) or "-",
            row["peer"],
            *(show_bytes(row[key]) for key in ("used_bytes", "quota_bytes", "free_bytes")),
            str(row["objects"]),
            str(row["bases"]),
        )
        for row in rows
    ]
    print_table(("Host", "Peer", *numbers), table, right=numbers, ids=("Peer",))
    for row in rows:
        if row["problem"]:
            note(one_line(f"note: {row['name'] or row['peer']}: {row['problem']}"))


def _delete_tenant(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, one_line, print_json

    client = client_of(arguments)
    if not arguments.yes:
        confirm(f"Delete all that this node has at {arguments.peer}?")
    with Spinner("deleting"):
        client.delete_tenant(arguments.peer)
    if arguments.json:
        print_json({"peer": arguments.peer, "deleted": True})
    else:
        print(one_line(f"deleted what was at {arguments.peer}; `kwaainet vpk repair` replaces it"))
    return 0


def _shard(arguments: argparse.Namespace) -> int:
    return _repaired(arguments, arguments.eve_count)


def _repair(arguments: argparse.Namespace) -> int:
    return _repaired(arguments, 0)


def _repaired(arguments: argparse.Namespace, hosts: int) -> int:
    from kwaai.cli.output import Spinner, note, one_line, print_json, show_bytes

    with Spinner("comparing hosts with what they should have"):
        done = client_of(arguments).repair(_base_of(arguments), hosts)
    if arguments.json:
        print_json(done)
        return 1 if done["left"] else 0
    _print_hosts(done["hosts"])
    copied = f"{done['copied']} objects put ({show_bytes(done['copied_bytes'])})"
    print(f"{copied}, {done['swept']} that were too many deleted, {done['left']} copies missing")
    for text in done["notes"]:
        note(one_line(f"note: {text}"))
    found = sum(host["peer"] != "here" for host in done["hosts"])
    if found < hosts:
        note(f"note: at {found} of {hosts} hosts: `kwaainet vpk discover` says who can be used")
    return 1 if done["left"] or found < hosts else 0


def _resolve(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import print_json

    client, base = client_of(arguments), _base_of(arguments)
    hosts = client.resolve(base)
    row = next((row for row in client.bases() if row["name"] == base), None)
    thin = None if row is None else row["thin"]
    if arguments.json:
        print_json({"base": base, "hosts": hosts, "thin": thin})
        return 0
    _print_hosts(hosts)
    if row is not None and thin is not None:
        print(rag_thin.described(row))
    return 0


def _print_hosts(hosts: Sequence[Json]) -> None:
    from kwaai.cli.credential_tree import short_did
    from kwaai.cli.output import one_line, print_table

    table = [
        (
            one_line(host["name"]) or "-",
            host["peer"],
            host["tier"] or "-",
            short_did(host["owner"]) if host["owner"] else "-",
            host["state"],
        )
        for host in hosts
    ]
    print_table(("Host", "Peer", "Tier", "Owner", "State"), table, ids=("Peer",))


def _audit(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import Spinner, one_line, print_json, print_table

    with Spinner("reading back a sample"):
        rows = client_of(arguments).audit(_base_of(arguments))
    if arguments.json:
        print_json({"base": _base_of(arguments), "hosts": rows})
        return _audited(rows)
    numbers = ("Read", "Missing", "Wrong", "Proofs")
    table = [
        (
            one_line(row["name"]) or "-",
            row["peer"],
            *(str(row[key]) for key in ("read", "missing", "wrong", "proofs")),
            cell(row["failed"]) or "-",
        )
        for row in rows
    ]
    print_table(("Host", "Peer", *numbers, "Failed"), table, right=numbers, ids=("Peer",))
    return _audited(rows)


def _audited(rows: Sequence[Json]) -> int:
    return 1 if any(row["missing"] or row["wrong"] or row["failed"] for row in rows) else 0
