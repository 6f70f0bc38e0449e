"""The Nix files parse, and package what pyproject.toml declares. Nothing is built or fetched."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = [ROOT / "flake.nix", *sorted((ROOT / "nix").glob("*.nix"))]


def requirements() -> dict[str, str]:
    """Name and version specifier of each dependency."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    pairs = (re.fullmatch(r"([A-Za-z0-9-]+)(.*)", entry) for entry in project["dependencies"])
    return {match.group(1): match.group(2) for match in pairs if match}


def test_there_is_a_package_and_a_shell() -> None:
    assert {path.name for path in FILES} >= {"flake.nix", "package.nix", "shell.nix"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_nix_parses(path: Path) -> None:
    program = shutil.which("nix-instantiate")
    if program is None:
        pytest.skip("nix-instantiate is not installed (Debian and Ubuntu: apt-get install nix-bin)")
    result = subprocess.run(
        [program, "--parse", str(path)], capture_output=True, text=True, check=False, timeout=60
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_that_nix_names_exist(path: Path) -> None:
    text = re.sub(r"#.*", "", path.read_text("utf-8"))
    for named in re.findall(r"(?<![\w.])(\.{1,2}/[\w./-]+)", text):
        assert (path.parent / named).exists(), f"{path.name} names {named}"


def test_the_package_has_the_dependencies_of_the_project() -> None:
    text = (ROOT / "nix" / "package.nix").read_text("utf-8")
    listed = re.search(r"dependencies = with python3Packages; \[(.*?)\];", text, re.DOTALL)
    assert listed
    names = re.sub(r"\(callPackage \./([\w-]+)\.nix \{ \}\)", r"\1", listed.group(1)).split()
    assert names == sorted(names, key=str.lower)
    assert set(names) == set(requirements())


@pytest.mark.parametrize("name", ["apsw-sqlite3mc", "libp2p", "llama-cpp-python"])
def test_what_is_packaged_here_is_of_the_declared_release(name: str) -> None:
    text = (ROOT / "nix" / f"{name}.nix").read_text("utf-8")
    versions = re.findall(r'version = "([\d.]+)"', text)
    lower = re.match(r">=([\d.]+)", requirements()[name])
    assert lower
    assert lower.group(1) in versions
