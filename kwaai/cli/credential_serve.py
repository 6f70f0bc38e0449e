"""`kwaainet credential serve`: the credential routes of the API alone, for conformance suites and
other programs, until it is told to stop.

Wires this home's office to `kwaai.api.vc_server`; neither verifies nor listens.
"""

from __future__ import annotations

import argparse
import contextlib
import secrets
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kwaai.cli.identity_passphrase import add_passphrase
from kwaai.cli.parser import Commands, UsageError, add_command, whole_number

if TYPE_CHECKING:
    import ssl

    from kwaai.store.home import Home

_KEY_BYTES = 24
_KEY_FILE = "credential-serve.key"
_MORE = """\
Issues, verifies, proves and resolves in the shapes of the VC-API (W3C CCG), with this node's
identity. Who may ask: programs that send the API key. Without --api-key-file a key is made for
this run, in a file that only you can read. --no-auth asks for no key and answers programs of this
machine only.

examples:
  kwaainet credential serve
  kwaainet credential serve --no-auth --port 8765
  kwaainet credential serve --no-auth --self-signed
"""


def add_parser(commands: Commands) -> None:
    """Add `serve` to the commands of `kwaainet credential`."""
    parser = add_command(
        commands, "serve", run, help="serve the VC-API over HTTP", more=_MORE, json=False
    )
    parser.add_argument(
        "--host", metavar="ADDRESS", default="127.0.0.1", help="the address to listen on"
    )
    parser.add_argument(
        "--port",
        metavar="PORT",
        type=whole_number,
        default=8765,
        help="the port to listen on (8765); 0: a free one",
    )
    parser.add_argument(
        "--api-key-file", metavar="PATH", type=Path, help="the file with the key for requests"
    )
    parser.add_argument(
        "--no-auth", action="store_true", help="ask nobody for a key: programs of this machine only"
    )
    parser.add_argument(
        "--open-to-network",
        action="store_true",
        help="with --no-auth: let every machine that reaches the port issue as this node",
    )
    parser.add_argument(
        "--self-signed",
        action="store_true",
        help="speak HTTPS, with a certificate made for this run",
    )
    parser.add_argument(
        "--status-base",
        metavar="URL",
        help="where others reach this server: put into what it issues, for its status lists",
    )
    add_passphrase(parser)


def run(arguments: argparse.Namespace) -> int:
    from kwaai.api.auth import is_loopback
    from kwaai.cli.session import open_home, run_async

    if arguments.open_to_network and not arguments.no_auth:
        raise UsageError("--open-to-network is for --no-auth; with a key it is not needed")
    if arguments.no_auth and arguments.api_key_file:
        raise UsageError("--no-auth asks for no key; leave out --api-key-file")
    if arguments.no_auth and not arguments.open_to_network and not is_loopback(arguments.host):
        raise UsageError(
            f"--no-auth on {arguments.host} would let other machines issue as this node: use a "
            "key, or say so with --open-to-network"
        )
    home, config = open_home(arguments)
    _make_identity(config.identity_key or home.identity_key)
    with _api_key(arguments, home, config.api_key_file) as api_key:
        return run_async(_serve(arguments, api_key))


def _make_identity(path: Path) -> None:
    """Make a key where there is none, as `kwaainet start` does: who serves has to be somebody."""
    from kwaai.cli.output import note
    from kwaai.store.identity_file import ensure_identity

    if not path.exists():
        ensure_identity(path)
        note(f"made an identity: {path}")


@contextlib.contextmanager
def _api_key(
    arguments: argparse.Namespace, home: Home, configured: Path | None
) -> Iterator[str | None]:
    """Give the key for requests: the one in a file, or one for this run in a file of its own."""
    from kwaai.atomic import write_atomic
    from kwaai.store.secret_file import read_api_key

    if arguments.no_auth:
        yield None
        return
    named = arguments.api_key_file or configured
    if named is not None:
        yield read_api_key(named)
        return
    key = secrets.token_urlsafe(_KEY_BYTES)
    path = home.run / _KEY_FILE
    write_atomic(path, f"{key}\n".encode("ascii"), mode=0o600)
    print(f"requests need the key in {path}: Authorization: Bearer KEY")
    try:
        yield key
    finally:
        path.unlink(missing_ok=True)


async def _serve(arguments: argparse.Namespace, api_key: str | None) -> int:
    import asyncio

    from kwaai.api.vc_server import create_vc_app, listening
    from kwaai.cli.credential_session import office

    tls = _tls(arguments)
    with office(arguments) as opened:
        app = create_vc_app(opened, api_key=api_key, open_to_all=arguments.open_to_network)
        try:
            async with listening(
                app,
                arguments.host,
                arguments.port,
                api_key=api_key,
                open_to_all=arguments.open_to_network,
                tls=tls,
            ) as (host, port):
                base = _url(host, port, tls is not None)
                if arguments.status_base or tls is not None:
                    opened.publish_at(arguments.status_base or base)
                _say_listening(opened.did, base, tls is not None)
                await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            print("stopped", flush=True)
    return 0


def _tls(arguments: argparse.Namespace) -> ssl.SSLContext | None:
    if not arguments.self_signed:
        return None
    from kwaai.net.certificate import self_signed_context

    return self_signed_context(arguments.host, now_s=time.time())


def _url(host: str, port: int, is_tls: bool) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if is_tls else 'http'}://{shown}:{port}"


def _say_listening(did: str, base: str, is_tls: bool) -> None:
    print(f"kwaainet serves credentials on {base} as {did}")
    for suite in ("eddsa-rdfc-2022", "eddsa-jcs-2022"):
        print(f"  issue with {suite}: {base}/issuers/{suite}/credentials/issue")
    print(f"  verify: {base}/credentials/verify and {base}/presentations/verify")
    if is_tls:
        print("the certificate was made for this run: clients must be told to accept it")
    print("Ctrl-C ends it", flush=True)
