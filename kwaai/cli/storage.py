"""`kwaainet storage`: the disk that this node lends, and the store of this machine's own programs.

Works with and without a running node. What is hosted for peers, and for whom, is the node's
business (`kwaainet vpk`); here its file is made, looked at, checked and removed. docs/storage.md.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from kwaai import limits
from kwaai.cli.parser import Commands, add_command, add_group, positive_number, whole_number_in
from kwaai.cli.storage_show import check, open_storage, status

if TYPE_CHECKING:
    from kwaai.config import Config
    from kwaai.node.storage_home import StorageHome
    from kwaai.store.home import Home

_PORT_MAX = 65_535
_INIT_MORE = """\
Makes the directory, a token for programs of this machine and the key of their vectors. What is
given here is kept in the settings: storage_capacity_gb, storage_port, storage_dir.

examples:
  kwaainet storage init --capacity-gb 20
  kwaainet storage start
  kwaainet vpk enable --mode both
"""
_SERVE_MORE = """\
Programs of this machine keep plain vectors here, by the routes of the reference network
(/api/health, /api/tenants, .../vectors, .../search). All but /api/health need the token:
Authorization: Bearer TOKEN. Peers do not come this way: what they keep here is sealed, and comes
over encrypted links to a running node (`kwaainet vpk enable`).
"""
_EVICT_MORE = """\
Tenants are listed by `kwaainet storage status`. Works beside a running node. Whose it was makes new
copies elsewhere from the others that there are, and may ask for a tenant here again.
"""
_DESTROY_MORE = """\
Deletes the vectors of this machine's programs and all sealed objects that peers keep here, for
good. Their owners make new copies elsewhere from the others that they have.
"""


def add_parser(commands: Commands) -> None:
    group = add_group(commands, "storage", help="the disk that this node lends")
    init = add_command(group, "init", _init, help="make the storage", more=_INIT_MORE)
    init.add_argument(
        "--capacity-gb",
        type=positive_number(limits.STORAGE_CAPACITY_GB_MAX),
        metavar="GB",
        help="how much to lend, in 10^9 bytes (default: a tenth of what is free)",
    )
    _add_port(init)
    init.add_argument("--data-dir", metavar="PATH", help="where (default: in the node's home)")
    serve = add_command(
        group, "serve", _serve, help="serve this machine's programs", more=_SERVE_MORE, json=False
    )
    _add_port(serve)
    start = add_command(group, "start", _start, help="serve, apart from this terminal")
    _add_port(start)
    add_command(group, "stop", _stop, help="end a server that was started", json=False)
    add_command(group, "status", status, help="print what is lent, and what is taken of it")
    evict = add_command(
        group, "evict", _evict, help="delete a peer's tenant and all it keeps", more=_EVICT_MORE
    )
    evict.add_argument("tenant", metavar="TENANT", help="its key, or the beginning of it")
    evict.add_argument("-y", "--yes", action="store_true", help="do not ask")
    add_command(group, "check", check, help="read all that is stored and see whether it is whole")
    destroy = add_command(
        group, "destroy", _destroy, help="delete all that is stored", more=_DESTROY_MORE
    )
    destroy.add_argument("-y", "--yes", action="store_true", help="do not ask")


def _add_port(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--port",
        type=whole_number_in(0, _PORT_MAX),
        metavar="PORT",
        help="of 127.0.0.1 (default: storage_port, 7432); 0: a free one",
    )


def _init(arguments: argparse.Namespace) -> int:
    from pathlib import Path

    from kwaai.cli.output import print_json, print_pairs, show_bytes
    from kwaai.cli.session import open_home
    from kwaai.config.load import set_value
    from kwaai.node.storage_home import make_storage, storage_home, storage_rules

    home, config = open_home(arguments)
    given = {"storage_capacity_gb": arguments.capacity_gb, "storage_port": arguments.port}
    if arguments.data_dir is not None:
        given["storage_dir"] = Path(arguments.data_dir).expanduser().absolute()
    settings = {key: value for key, value in given.items() if value is not None}
    for key, value in settings.items():
        set_value(home.config_yaml, key, _shown(value))
    config = config.model_copy(update=settings)
    storage = storage_home(config, home)
    make_storage(storage)
    rules = storage_rules(config, storage)
    if arguments.json:
        print_json(
            {
                "path": str(storage.path),
                "capacity_bytes": rules.capacity_bytes,
                "port": config.storage_port,
                "token_file": str(storage.token),
            }
        )
        return 0
    print_pairs(
        [
            ("Storage", str(storage.path)),
            ("Lends", show_bytes(rules.capacity_bytes)),
            ("Token", str(storage.token)),
        ]
    )
    print("for programs of this machine: kwaainet storage start")
    print("for peers, who keep sealed objects: kwaainet vpk enable")
    return 0


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _serve(arguments: argparse.Namespace) -> int:
    from kwaai.cli.session import run_async
    from kwaai.node.storage_home import make_storage
    from kwaai.node.storage_process import claim_storage

    home, config, storage = open_storage(arguments)
    make_storage(storage)
    with claim_storage(home) as tell:
        return run_async(_listen(arguments, home, config, storage, tell))


async def _listen(
    arguments: argparse.Namespace, home: Home, config: Config, storage: StorageHome, tell: Any
) -> int:
    import asyncio

    from kwaai.api.storage_http import create_storage_app, storage_listening
    from kwaai.node.storage_home import load_key, load_token, storage_rules
    from kwaai.vpk.plain_store import PlainStore

    capacity_bytes = storage_rules(config, storage).capacity_bytes
    token, key = load_token(storage), load_key(storage)
    store = await asyncio.to_thread(PlainStore.open, storage.vectors, key, capacity_bytes)
    try:
        app = create_storage_app(
            store,
            token,
            peer=_own_peer(home, config),
            capacity_bytes=capacity_bytes,
            used_elsewhere=lambda: _size_of(storage.objects),
        )
        port = config.storage_port if arguments.port is None else arguments.port
        async with storage_listening(app, port) as (host, bound):
            url = f"http://{host}:{bound}"
            tell(url)
            print(f"kwaainet serves storage on {url}")
            print(f"  the token is in {storage.token}: Authorization: Bearer TOKEN")
            print("Ctrl-C ends it", flush=True)
            await asyncio.get_running_loop().create_future()
    except asyncio.CancelledError:
        print("stopped", flush=True)
    finally:
        await asyncio.to_thread(store.close)
    return 0


def _own_peer(home: Home, config: Config) -> str:
    """Return who this node is; empty where its key is not there, or sealed."""
    from credentials.keys import peer_id
    from kwaai.errors import KwaaiError
    from kwaai.store.identity_file import is_identity_sealed, load_identity

    path = config.identity_key or home.identity_key
    try:
        return "" if is_identity_sealed(path) else peer_id(load_identity(path).public)
    except KwaaiError:
        return ""


def _size_of(path: Any) -> int:
    try:
        size: int = path.stat().st_size
    except OSError:
        return 0
    return size


def _start(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import print_json
    from kwaai.node.storage_process import start_served

    home, _, _ = open_storage(arguments)
    port = [] if arguments.port is None else [f"--port={arguments.port}"]
    served = start_served(home, port)
    if arguments.json:
        print_json({"url": served.url, "pid": served.process.pid})
    else:
        print(f"storage is served on {served.url} (process {served.process.pid})")
    return 0


def _stop(arguments: argparse.Namespace) -> int:
    from kwaai.node.storage_process import find_served, stop_served

    home, _, _ = open_storage(arguments)
    served = find_served(home)
    if served is None:
        print(f"no storage is served in {home.path}")
        return 0
    stop_served(served)
    print(f"stopped process {served.process.pid}")
    return 0


def _evict(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import print_json
    from kwaai.cli.rag_values import confirm
    from kwaai.errors import TenantMissing, UserError
    from kwaai.node.storage_home import storage_rules
    from kwaai.vpk.host_store import HostStore

    _, config, storage = open_storage(arguments)
    if not storage.objects.exists():
        raise TenantMissing("no peer has a tenant here")
    host = HostStore.open(storage.objects, storage_rules(config, storage).capacity_bytes)
    try:
        wanted = arguments.tenant.lower()
        found = [tenant for tenant in host.tenants() if tenant.key.hex().startswith(wanted)]
        if not found:
            raise TenantMissing(f"there is no tenant {wanted:.80} here; see: storage status")
        if len(found) > 1:
            raise UserError(f"{len(found)} tenants begin with {wanted:.80}; give more of it")
        if not arguments.yes:
            confirm(f"The {found[0].objects} objects of {found[0].key.hex()} are deleted for good.")
        host.delete_tenant(found[0].key)
        while host.tidy():
            pass
    finally:
        host.close()
    if arguments.json:
        print_json({"tenant": found[0].key.hex(), "deleted": True})
    else:
        print(f"deleted {found[0].objects} objects of {found[0].key.hex()}")
    return 0


def _destroy(arguments: argparse.Namespace) -> int:
    from kwaai.cli.rag_values import confirm
    from kwaai.errors import NodeRunning
    from kwaai.node.daemon import find_running
    from kwaai.node.storage_home import delete_storage
    from kwaai.node.storage_process import find_served

    home, _, storage = open_storage(arguments)
    if not storage.path.exists():
        _say_destroyed(arguments, str(storage.path), False)
        return 0
    served, running = find_served(home), find_running(home)
    if served is not None:
        raise NodeRunning(f"storage is served on {served.url}; end it: kwaainet storage stop")
    if running is not None:
        raise NodeRunning(
            f"a node runs (process {running.pid}) that may host with it; end it: kwaainet stop"
        )
    if not arguments.yes:
        confirm(f"All that is stored in {storage.path} is deleted for good.")
    delete_storage(storage)
    _say_destroyed(arguments, str(storage.path), True)
    return 0


def _say_destroyed(arguments: argparse.Namespace, path: str, deleted: bool) -> None:
    from kwaai.cli.output import print_json

    if arguments.json:
        print_json({"path": path, "deleted": deleted})
    else:
        print(f"deleted {path}" if deleted else f"there is no {path}")
