"""`kwaainet storage status` and `check`: what is stored, for whom, and whether it is whole.

Opens the files themselves: works with and without a running node. Changes nothing.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kwaai.config import Config
    from kwaai.node.storage_home import StorageHome
    from kwaai.store.home import Home

Json = dict[str, Any]

_TENANT_SHOWN_CHARS = 16


def open_storage(arguments: argparse.Namespace) -> tuple[Home, Config, StorageHome]:
    """Read the settings and tell where they say that storage is."""
    from kwaai.cli.session import open_home
    from kwaai.node.storage_home import storage_home

    home, config = open_home(arguments)
    return home, config, storage_home(config, home)


def status(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import print_json, print_pairs, show_bytes

    home, config, storage = open_storage(arguments)
    told = _figures(home, config, storage, check=False)
    if arguments.json:
        print_json(told)
        return 0
    peers, programs = told["peers"], told["programs"]
    hosting = f"{peers['objects']} objects of {peers['tenants']} tenants" if peers else "nothing"
    if peers:
        hosting += f", {show_bytes(peers['used_bytes'])} of {show_bytes(told['capacity_bytes'])}"
    own = f"{programs['vectors']} vectors of {programs['tenants']}" if programs else "nothing"
    takes_more = config.vpk_mode in ("eve", "both")
    print_pairs(
        [
            ("Storage", f"{storage.path}" if storage.is_made else "none: kwaainet storage init"),
            ("Lends", show_bytes(told["capacity_bytes"])),
            ("For peers", hosting),
            ("Takes more", "yes" if takes_more else "no: kwaainet vpk enable"),
            ("For programs", own),
            ("Served", told["url"] or "no: kwaainet storage start"),
        ]
    )
    if peers and peers["list"]:
        print()
        _show_tenants(peers["list"])
    return 0


def _show_tenants(tenants: list[Json]) -> None:
    from kwaai.cli.output import one_line, print_table, show_bytes

    print_table(
        ("Tenant", "Name", "Made by", "Objects", "Used", "Quota"),
        [
            (
                tenant["tenant"][:_TENANT_SHOWN_CHARS],
                one_line(tenant["name"]),
                tenant["peer"],
                str(tenant["objects"]),
                show_bytes(tenant["used_bytes"]),
                show_bytes(tenant["quota_bytes"]),
            )
            for tenant in tenants
        ],
        right=("Objects", "Used", "Quota"),
        ids=("Made by",),
    )


def check(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import print_json

    home, config, storage = open_storage(arguments)
    told = _figures(home, config, storage, check=True)
    if arguments.json:
        print_json(told)
        return 0
    for name, found in (("objects of peers", told["peers"]), ("vectors", told["programs"])):
        if found:
            print(f"{name}: {found.get('objects', found.get('vectors'))}, all whole")
        else:
            print(f"{name}: none are stored")
    return 0


def _figures(home: Home, config: Config, storage: StorageHome, *, check: bool) -> Json:
    """Return what is stored. `check`: read all of it. Raises FileCorrupt."""
    from kwaai.node.storage_home import load_key, storage_rules
    from kwaai.node.storage_process import find_served
    from kwaai.vpk.host_store import HostStore
    from kwaai.vpk.plain_store import PlainStore

    capacity_bytes = storage_rules(config, storage).capacity_bytes
    served = find_served(home)
    told: Json = {
        "path": str(storage.path),
        "made": storage.is_made,
        "mode": config.vpk_mode,
        "capacity_bytes": capacity_bytes,
        "url": None if served is None else served.url,
        "pid": None if served is None else served.process.pid,
        "peers": None,
        "programs": None,
    }
    if storage.objects.exists():
        host = HostStore.open(storage.objects, capacity_bytes)
        try:
            totals = host.check() if check else host.totals()
            tenants = host.tenants()
        finally:
            host.close()
        told["peers"] = {
            "tenants": totals.tenants,
            "objects": totals.objects,
            "used_bytes": totals.used_bytes,
            "free_bytes": totals.free_bytes,
            "list": [
                {
                    "tenant": tenant.key.hex(),
                    "name": tenant.name,
                    "peer": tenant.owner,
                    "objects": tenant.objects,
                    "used_bytes": tenant.used_bytes,
                    "quota_bytes": tenant.quota_bytes,
                }
                for tenant in tenants
            ],
        }
    if storage.vectors.exists():
        plain = PlainStore.open(storage.vectors, load_key(storage), capacity_bytes)
        try:
            found = plain.check() if check else plain.totals()
        finally:
            plain.close()
        told["programs"] = {
            "tenants": found.tenants,
            "vectors": found.vectors,
            "used_bytes": found.used_bytes,
        }
    return told
