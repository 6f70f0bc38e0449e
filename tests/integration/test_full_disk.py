"""A disk that is really full while a slice is cut: one clear error, and nothing half-written."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kwaai.testing.models import tiny_model

CUT = """
import sys
from pathlib import Path
from kwaai.errors import DiskFull
from kwaai.models.library import Library
from kwaai.models.slices import cut_embedding, cut_slice
from kwaai.types import LayerRange

source, models = Path(sys.argv[1]), Path(sys.argv[2])
library = Library(models, packaged=[("tiny", source)])
calls = [
    lambda: cut_slice(source, models / "a.gguf", LayerRange(0, 3), False),
    lambda: library.slices_for(library.find("tiny"), [LayerRange(0, 3), LayerRange(3, 6)]),
]
for call in calls:
    try:
        call()
    except DiskFull as error:
        assert "\\n" not in error.message
        print(error.message)
names = (path.name for path in models.rglob("*") if path.is_file())
print(sorted(name for name in names if name != ".lock" and not name.endswith(".manifest.json")))
"""
LIMITED = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (700_000, 700_000))\n" + CUT
SMALL_DISK = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
MOUNT = 'mount -t tmpfs -o size=1m tmpfs "$1"'


def cut(command: list[str], tmp_path: Path) -> list[str]:
    """Run a command with the model's path and an empty directory; return what it prints."""
    model = tiny_model(tmp_path / "tiny.gguf")
    models = tmp_path / "models"
    models.mkdir()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    arguments = [*command, str(model), str(models)]
    done = subprocess.run(arguments, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_a_file_system_that_is_full(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    mount.mkdir()
    try:
        mounted = subprocess.run([*SMALL_DISK, MOUNT, "sh", str(mount)], capture_output=True)
    except FileNotFoundError:
        pytest.skip("no unshare on this system")
    if mounted.returncode != 0:
        pytest.skip("this user may not mount a small file system")
    script = f'mount -t tmpfs -o size=1m tmpfs "$2" && exec "{sys.executable}" -c "$0" "$@"'
    first, second, left = cut([*SMALL_DISK, script, CUT], tmp_path)
    assert first.startswith("no room left on the disk while writing ")
    assert "a.gguf; free some space" in first
    assert "0-3.gguf; free some space, or set KWAAINET_HOME to another disk" in second
    assert left == "[]"


def test_files_that_may_not_grow(tmp_path: Path) -> None:
    first, second, left = cut([sys.executable, "-c", LIMITED], tmp_path)
    assert first.startswith("the file is larger than this disk's format, or `ulimit -f`, allows")
    assert "0-3.gguf; free some space" in second
    assert left == "[]"
