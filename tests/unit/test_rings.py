"""The rings hold (import-linter over the real packages), and the contracts bite (over a small tree
with one forbidden import each).
"""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PYPROJECT = ROOT / "pyproject.toml"
PRODUCT = ("kwaai", "credentials", "schemas")
RULES = ("kwaai.wire", "kwaai.trust", "kwaai.intent", "kwaai.placement", "credentials")

LINT = "from importlinter.cli import lint_imports_command as run; run()"


def lint(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache"],
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )


def pyproject() -> dict[str, Any]:
    return tomllib.loads(PYPROJECT.read_text("utf-8"))


def contract(name: str) -> dict[str, Any]:
    contracts = pyproject()["tool"]["importlinter"]["contracts"]
    return next(entry for entry in contracts if entry["id"] == name)


def module_path(module: str) -> Path:
    return ROOT.joinpath(*module.split("."))


def test_the_rings_hold() -> None:
    result = lint(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_package_of_rules_is_held_to_purity() -> None:
    here = {module for module in RULES if (module_path(module) / "__init__.py").exists()}
    assert set(contract("pure-rules")["source_modules"]) == here


@pytest.fixture
def small_tree(tmp_path: Path) -> Path:
    """A package for every name in the contracts, each with nothing in it."""
    shutil.copy(PYPROJECT, tmp_path)
    layers = contract("rings")["layers"]
    names = [f"kwaai.{name}" for name in re.findall(r"\w+", " ".join(layers))]
    for name in ("kwaai", "credentials", "schemas", *names):
        package = tmp_path.joinpath(*name.split("."))
        package.mkdir(parents=True)
        (package / "__init__.py").touch()
        if name != "kwaai":
            (package / "part.py").touch()
    return tmp_path


def test_a_tree_without_imports_passes(small_tree: Path) -> None:
    result = lint(small_tree)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize(
    ("module", "imported", "broken"),
    [
        ("kwaai.models", "kwaai.inference", "rings"),
        ("kwaai.store", "kwaai.models", "rings"),
        ("kwaai.placement", "kwaai.models", "rings"),
        ("kwaai.inference", "kwaai.node", "rings"),
        ("kwaai.node", "kwaai.api", "rings"),
        ("kwaai.cli", "kwaai.testing", "rings"),
        ("kwaai.errors", "kwaai.log", "rings"),
        ("credentials", "kwaai.errors", "data"),
        ("schemas", "credentials", "data"),
        ("kwaai.placement", "random", "pure-rules"),
        ("kwaai.placement", "kwaai.log", "pure-rules"),
        ("credentials", "socket", "pure-rules"),
        ("kwaai.node", "llama_cpp", "home-of-llama-cpp"),
        ("kwaai.models", "aiohttp", "home-of-aiohttp"),
        ("kwaai.node", "pydantic", "home-of-pydantic"),
        ("kwaai.api", "yaml", "homes-of-the-rest"),
        ("kwaai.models", "gguf", "no-test-tools"),
    ],
)
def test_a_forbidden_import_is_found(
    small_tree: Path, module: str, imported: str, broken: str
) -> None:
    part = small_tree.joinpath(*module.split("."), "part.py")
    part.write_text(f"import {imported}\n", "utf-8")
    result = lint(small_tree)
    assert result.returncode == 1
    listed = " ".join(result.stdout.split())  # the report is wrapped to the terminal's width
    assert f"{contract(broken)['name']} BROKEN" in listed
    assert "1 broken" in listed


def test_a_package_without_a_ring_is_found(small_tree: Path) -> None:
    (small_tree / "kwaai" / "novelty.py").touch()
    result = lint(small_tree)
    assert result.returncode == 1
    assert "kwaai.novelty" in result.stdout


def imported_names(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.partition(".")[0])
    return names


IMPORTED_AS = {
    "apsw-sqlite3mc": "apsw",
    "faiss-cpu": "faiss",
    "llama-cpp-python": "llama_cpp",
    "noiseprotocol": "noise",
    "protobuf": "google",
    "prometheus-client": "prometheus_client",
    "pynacl": "nacl",
    "python-docx": "docx",
    "pyyaml": "yaml",
}


def test_every_dependency_has_a_role_and_a_lower_bound() -> None:
    imported: set[str] = set()
    for package in PRODUCT:
        for path in (ROOT / package).rglob("*.py"):
            imported |= imported_names(path)
    for requirement in pyproject()["project"]["dependencies"]:
        match = re.fullmatch(r"([a-z0-9-]+)>=[\d.]+(,<[\d.]+)?", requirement)
        assert match, f"{requirement} has no lower bound"
        name = match.group(1)
        assert IMPORTED_AS.get(name, name) in imported, f"nothing in the product imports {name}"
