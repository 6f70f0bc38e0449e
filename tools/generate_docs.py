"""Writes the pages of docs/ that are made from the code: `python tools/generate_docs.py [--check]`.

Each page has one generator below, in GENERATORS; the tests in tests/docs check that the pages in
the repository are what the generators return. Reads no settings of this machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from credentials.kinds import KINDS, Kind  # noqa: E402
from kwaai import errors  # noqa: E402
from kwaai.cli.main import build_parser  # noqa: E402
from kwaai.cli.parser import Parser  # noqa: E402
from kwaai.config.load import ENVIRONMENT_PREFIX  # noqa: E402
from kwaai.config.model import Config, show_value  # noqa: E402
from kwaai.inference.families import families_markdown  # noqa: E402

_MADE = "<!-- Made by tools/generate_docs.py; edit the code instead. -->\n"


def config_page() -> str:
    """docs/config.md, from the settings' model."""
    properties = Config.model_json_schema()["properties"]
    rows = []
    for key, field in Config.model_fields.items():
        default = "see meaning" if field.default_factory else f"`{show_value(key, field.default)}`"
        rows.append(
            (
                f"`{key}`",
                _values(key, properties[key]),
                default,
                f"`{ENVIRONMENT_PREFIX}{key.upper()}`",
                field.description or "",
            )
        )
    return f"""{_MADE}
# Settings

A node's settings are in `config.yaml` in its home (`~/.kwaainet`, or `KWAAINET_HOME`): one
`key: value` on a line. A flag of the command line wins over the environment, the environment over
the file, the file over the default. `kwaainet config show` prints what is in force and where each
value comes from; `kwaainet config set KEY VALUE` changes the file and keeps its other lines.

An unknown key, a key that is set twice and a value out of range are refused by the file's line, the
variable or the flag. Nested keys, anchors, aliases and tags of YAML are not accepted, nor lists for
keys that take one value.

{_table(("Key", "Values", "Default", "Environment", "Meaning"), rows)}
Other variables: `KWAAINET_HOME` (the node's files), `KWAAINET_LOG_JSON=1` (log as JSON lines),
`NO_COLOR` (no colours), and for downloads `HF_ENDPOINT`, `HF_TOKEN` and `HF_HOME`.
"""


def cli_page() -> str:
    """docs/cli.md, from the argument parser."""
    parts = [
        f"""{_MADE}
# The command line

Results go to standard output; notes, progress and errors to standard error. With `--json`, where a
command has it, standard output is one JSON document, an error too:
`{{"error": {{"code": ..., "message": ...}}}}`. An error is one line that says what to do; its exit
code is in [errors.md](errors.md). 130 means interrupted (Ctrl-C), 143 ended by SIGTERM, 141 that
the reader of the output went away. Every command accepts `--help`, `--log-level LEVEL` and
`--debug`.
"""
    ]
    parts += [_command_section(parser) for parser in _leaves(build_parser())]
    return "\n".join(parts)


def errors_page() -> str:
    """docs/errors.md, from the tree of errors."""
    rows = []
    for kind, parents in _error_tree(errors.KwaaiError, ()):
        fault = parents[1] if len(parents) > 1 else kind.__name__
        meaning = (kind.__doc__ or "").split("\n\n")[0].strip() if "__doc__" in vars(kind) else ""
        rows.append(
            (
                f"`{kind.code}`",
                kind.__name__,
                "" if fault == kind.__name__ else fault,
                str(kind.exit_code),
                str(kind.http_status),
                " ".join(meaning.split()),
            )
        )
    return f"""{_MADE}
# Errors

Every error has a stable code, an exit code for the command line and a status for the HTTP API.
Errors are grouped by who is at fault: the user, another machine (a peer), or what this machine
lacks now (a resource).

{_table(("Code", "Name", "A kind of", "Exit code", "HTTP status", "Meaning"), rows)}"""


def families_page() -> str:
    """docs/families.md, from the table of supported families."""
    return families_markdown()


def credential_types_page() -> str:
    """docs/credential-types.md, from the table of credential types and their schemas."""
    sections = "\n".join(_kind_section(kind) for kind in KINDS.values())
    return f"""{_MADE}
# Credential types

The nine types that `kwaainet credential issue` signs, and what a credential of one of them must
say to hold: with a claim too many, too few or out of bounds it is refused, whoever signed it. How
to get and check them is in [credentials.md](credentials.md). The JSON Schemas are in `schemas/`;
the JSON-LD context is `https://kwaai.ai/credentials/v2`.

"Valid for" is from the day of issue, unless `--expires` says otherwise. A claim that follows from
others (`uptimeRatio`) may be left out when a credential is issued: it is computed then.

{sections}"""


GENERATORS: dict[str, Callable[[], str]] = {
    "docs/cli.md": cli_page,
    "docs/config.md": config_page,
    "docs/credential-types.md": credential_types_page,
    "docs/errors.md": errors_page,
    "docs/families.md": families_page,
}


def _kind_section(kind: Kind) -> str:
    valid = "no end" if kind.validity_s is None else f"{kind.validity_s // 86_400} days"
    alias = f"- Also read as it: `{'`, `'.join(kind.aliases)}`\n" if kind.aliases else ""
    rows = [
        (f"`{claim.name}`", "yes" if claim.required else "no", claim.bounds, claim.description)
        for claim in kind.claims
    ]
    return f"""## {kind.name}

- Says: {kind.summary}
- Issued by: {kind.issuer_note}
- Valid for: {valid}
{alias}
{_table(("Claim", "Needed", "Value", "Meaning"), rows)}"""


def _values(key: str, schema: dict[str, Any]) -> str:
    kinds = schema.get("anyOf", [schema])
    named = [_kind(kind) for kind in kinds if kind.get("type") != "null"]
    if len(named) < len(kinds):
        named.append(f"`{show_value(key, None)}`")
    return ", or ".join(named)


def _kind(schema: dict[str, Any]) -> str:
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("format") == "path":
        return "a path"
    if schema["type"] == "integer":
        return f"{schema['minimum']:,} to {schema['maximum']:,}"
    if schema["type"] == "boolean":
        return "`true`, `false`"
    if schema["type"] == "number":
        return f"{schema['minimum']:g} to {schema['maximum']:g}"
    if schema["type"] == "array" and schema.get("minItems") == schema["maxItems"]:
        return f"a list of {schema['maxItems']}"
    if schema["type"] == "array":
        return f"a list of at most {schema['maxItems']}, or `none`"
    longest = f" of at most {schema['maxLength']} characters" if "maxLength" in schema else ""
    return f"text{longest}"


def _leaves(parser: Parser) -> Iterator[Parser]:
    for child in parser.commands().values():
        yield from _leaves(child) if child.commands() else (child,)


def _command_section(parser: Parser) -> str:
    shared = {"--help", "--log-level", "--debug"}
    actions = [a for a in parser.public_actions() if not shared & set(a.option_strings)]
    actions.sort(key=lambda a: bool(a.option_strings))  # what has no name comes first
    arguments = [a for a in actions if not a.option_strings]
    words = [parser.prog, *(_placeholder(a) for a in arguments)]
    if len(arguments) < len(actions):
        words.append("[OPTIONS]")
    rows = [(f"`{_spelling(a)}`", _help_text(a)) for a in actions]
    text = f"## {parser.prog}\n\n{_sentence(parser.description or '')}\n\n"
    text += f"```\n{' '.join(words)}\n```\n"
    if rows:
        text += f"\n{_table(('Argument', 'Meaning'), rows)}"
    if parser.epilog:
        text += f"\n```text\n{parser.epilog.strip()}\n```\n"
    return text


def _placeholder(action: argparse.Action) -> str:
    name = str(action.metavar or action.dest)
    return f"[{name} ...]" if action.nargs == "*" else name


def _spelling(action: argparse.Action) -> str:
    if not action.option_strings:
        return _placeholder(action)
    names = ", ".join(action.option_strings)
    return names if action.nargs == 0 else f"{names} {action.metavar or action.dest.upper()}"


def _help_text(action: argparse.Action) -> str:
    return _sentence((action.help or "").replace("%%", "%"))


def _sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text if text.endswith(".") or not text else f"{text}."


def _error_tree(
    kind: type[errors.KwaaiError], parents: tuple[str, ...]
) -> Iterator[tuple[type[errors.KwaaiError], tuple[str, ...]]]:
    yield kind, parents
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from _error_tree(child, (*parents, kind.__name__))


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    escaped = ([cell.replace("|", "\\|") for cell in row] for row in lines)
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the pages, or with --check say which differ (exit 1)."""
    parser = argparse.ArgumentParser(description="Write the pages of docs/ that the code defines.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if one differs")
    check = parser.parse_args(arguments).check
    stale = []
    for name, generate in GENERATORS.items():
        path, text = ROOT / name, generate()
        if path.is_file() and path.read_text(encoding="utf-8") == text:
            continue
        stale.append(name)
        if not check:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
    if stale:
        print(f"{'differs from the code' if check else 'written'}: {', '.join(stale)}")
    return 1 if stale and check else 0


if __name__ == "__main__":
    sys.exit(main())
