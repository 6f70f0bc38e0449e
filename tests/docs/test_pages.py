"""Pages that people read first do not lie: their links lead somewhere, their commands exist, their
programs compile.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from kwaai.cli.main import build_parser

ROOT = Path(__file__).parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "tools/README.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
COMMAND = re.compile(r"^(?:\w+=\S+ )*(kwaainet [a-z].*)$", re.MULTILINE)


def blocks(page: str, language: str) -> list[str]:
    text = (ROOT / page).read_text("utf-8")
    found: list[str] = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"```.*?```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            continue
        assert (page.parent / target.partition("#")[0]).exists(), f"{page.name}: {target}"


def test_commands_in_the_readme_exist() -> None:
    commands = [line for block in blocks("README.md", "sh") for line in COMMAND.findall(block)]
    assert len(commands) >= 5
    for command in commands:
        build_parser().parse_args(shlex.split(command)[1:])


def test_programs_in_the_readme_compile() -> None:
    programs = blocks("README.md", "python")
    assert programs
    for program in programs:
        compile(program, "README.md", "exec")


def test_the_two_commands_of_the_readme_are_those_of_the_script() -> None:
    shell = "".join(blocks("README.md", "sh"))
    assert 'python3 tools/bootstrap.py run "What is the capital of France?"' in shell
    assert "python3 tools/bootstrap.py test" in shell
