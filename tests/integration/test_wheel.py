"""The wheel holds everything the program needs, and nothing of the repository beside it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WHEEL_BYTES_MAX = 12_000_000  # the demonstration model may have 8 MB of it


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The files of a wheel built from the working tree, without network."""
    if importlib.util.find_spec("hatchling") is None:
        pytest.skip("hatchling, which builds the wheel, is not installed (it is in the dev extra)")
    directory = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"]
    result = subprocess.run(
        [*command, "--no-index", "--wheel-dir", str(directory), str(ROOT)],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    [wheel] = directory.glob("kwaainet-*-py3-none-any.whl")
    assert wheel.stat().st_size < WHEEL_BYTES_MAX
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


def test_the_wheel_has_the_three_packages(names: set[str]) -> None:
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "kwaai",
        "credentials",
        "schemas",
    }


@pytest.mark.parametrize("pattern", ["kwaai", "credentials", "schemas"])
def test_the_wheel_has_every_module_and_data_file(names: set[str], pattern: str) -> None:
    files = (path for path in (ROOT / pattern).rglob("*") if path.is_file())
    wanted = {
        path.relative_to(ROOT).as_posix()
        for path in files
        if path.suffix in (".py", ".gguf", ".json", ".jsonld", ".md", ".typed")
    }
    assert wanted <= names


@pytest.mark.parametrize(
    "name",
    [
        "kwaai/models/data/kwaai-demo.gguf",
        "schemas/model-manifest.schema.json",
        "schemas/contexts/credentials-v2.jsonld",
        "schemas/contexts/README.md",
    ],
)
def test_the_wheel_has(names: set[str], name: str) -> None:
    assert name in names


def test_the_wheel_has_the_program_and_the_license(names: set[str]) -> None:
    endings = {name.partition(".dist-info/")[2] for name in names}
    assert {"entry_points.txt", "licenses/LICENSE", "METADATA"} <= endings
