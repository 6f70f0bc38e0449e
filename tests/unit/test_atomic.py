"""Files are whole or absent, whatever goes wrong while they are written."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kwaai.atomic import AtomicFile, exclusive_lock, set_aside, write_atomic
from kwaai.errors import DiskFull, Locked


def test_writes_bytes_and_chunks_with_the_mode(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"one")
    write_atomic(tmp_path / "b", iter([b"one", b"two"]), mode=0o644)
    assert (tmp_path / "a").read_bytes() == b"one"
    assert (tmp_path / "b").read_bytes() == b"onetwo"
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o600


def test_replaces_an_older_file(tmp_path: Path) -> None:
    write_atomic(tmp_path / "a", b"old")
    write_atomic(tmp_path / "a", b"new")
    assert (tmp_path / "a").read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a"]


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    def chunks() -> Iterator[bytes]:
        yield b"half"
        raise RuntimeError("the source broke")

    write_atomic(tmp_path / "a", b"old")
    with pytest.raises(RuntimeError, match="the source broke"):
        write_atomic(tmp_path / "a", chunks())
    assert (tmp_path / "a").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str
) -> None:
    def full(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(f"kwaai.atomic.os.{call}", full)
    with pytest.raises(DiskFull, match=r"no room left on the disk while writing .*model\.gguf"):
        write_atomic(tmp_path / "model.gguf", b"data")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="the system has no /dev/full")
def test_a_file_that_the_disk_cannot_hold_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(*_: object) -> None:
        raise OSError(errno.EFBIG, "File too large")

    monkeypatch.setattr("kwaai.atomic.os.fsync", too_large)
    with pytest.raises(DiskFull, match=r"larger than this disk's format, or `ulimit -f`, allows"):
        write_atomic(tmp_path / "model.gguf", b"x")
    assert list(tmp_path.iterdir()) == []


def test_a_write_to_a_really_full_device(tmp_path: Path) -> None:
    def write() -> None:
        with AtomicFile(tmp_path / "a") as target:
            os.dup2(os.open("/dev/full", os.O_WRONLY), target.file.fileno())
            target.file.write(b"x" * 100_000)

    with pytest.raises(DiskFull):
        write()
    assert os.listdir(tmp_path) == []


def test_other_errors_of_the_disk_pass(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_atomic(tmp_path / "absent" / "a", b"")


def test_set_aside_never_overwrites(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    for n, content in enumerate((b"first", b"second"), 1):
        path.write_bytes(content)
        aside = set_aside(path)
        assert aside == tmp_path / f"m.gguf.corrupt-{n}"
        assert aside.read_bytes() == content
        assert not path.exists()


def test_set_aside_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr("kwaai.atomic.os.link", refuse)
    (tmp_path / "m").write_bytes(b"x")
    (tmp_path / "m.corrupt-1").write_bytes(b"older")
    assert set_aside(tmp_path / "m") == tmp_path / "m.corrupt-2"
    assert (tmp_path / "m.corrupt-1").read_bytes() == b"older"


def test_a_lock_is_exclusive_and_given_back(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with (
        exclusive_lock(lock),
        pytest.raises(Locked, match=f"in use by process {os.getpid()}"),
        exclusive_lock(lock, timeout_s=0),
    ):
        pass
    with exclusive_lock(lock, timeout_s=0):
        pass


def test_the_lock_of_a_process_that_died_is_free(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    code = (
        "import os, sys; from pathlib import Path; from kwaai.atomic import exclusive_lock\n"
        f"with exclusive_lock(Path({str(lock)!r})): print('held', flush=True); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert (done.stdout, done.returncode) == (b"held\n", 9)
    with exclusive_lock(lock, timeout_s=0):
        pass
