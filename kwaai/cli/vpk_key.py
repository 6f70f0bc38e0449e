"""`kwaainet vpk key export|import|status`: the root key of this node's knowledge.

Whoever has it reads every base; without it nobody does. Reads and writes the key file; needs no
node.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from kwaai.cli.parser import Commands, UsageError, add_command, add_group

_EXPORT_MORE = """\
Keep it where this machine is not: whoever has it can read all of this node's knowledge, and without
it nothing that hosts keep can be read again.
"""
_IMPORT_MORE = """\
On a new device: import the key, start the node, and run `kwaainet rag restore`. A key that is here
already is never replaced while it has bases.
"""


def add_parsers(group: Commands) -> None:
    """Add the commands about the key."""
    key = add_group(group, "key", help="the key that opens this node's knowledge")
    export = add_command(
        key, "export", _export, help="write the key, to be kept elsewhere", more=_EXPORT_MORE
    )
    export.add_argument("file", metavar="FILE", help="a new file; `-`: standard output")
    take = add_command(key, "import", _import, help="use a key from elsewhere", more=_IMPORT_MORE)
    take.add_argument("file", metavar="FILE", help="the file; `-`: standard input")
    add_command(key, "status", _status, help="say whether there is a key, and which tenant it is")


def _export(arguments: argparse.Namespace) -> int:
    from kwaai.cli.credential_values import write_output
    from kwaai.cli.output import note, print_json
    from kwaai.cli.session import open_home
    from kwaai.node.knowledge_home import KnowledgeHome

    home, config = open_home(arguments)
    text = KnowledgeHome(home, config).export_key()
    if arguments.file == "-":
        print(text)
        return 0
    path = Path(arguments.file).expanduser()
    write_output(path, f"{text}\n".encode())
    if arguments.json:
        print_json({"file": str(path)})
    else:
        note(f"wrote {path}; whoever has it reads all of this node's knowledge")
    return 0


def _import(arguments: argparse.Namespace) -> int:
    from kwaai.cli.control import ControlClient
    from kwaai.cli.output import note, print_json
    from kwaai.cli.session import open_home
    from kwaai.errors import InputMissing
    from kwaai.limits import SECRET_FILE_BYTES_MAX
    from kwaai.node.knowledge_home import KnowledgeHome

    home, config = open_home(arguments)
    try:
        if arguments.file == "-":
            data = sys.stdin.buffer.read(SECRET_FILE_BYTES_MAX + 1)
        else:
            with open(arguments.file, "rb") as file:
                data = file.read(SECRET_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise InputMissing(f"cannot read {arguments.file}: {error.strerror}") from None
    try:
        text = data.decode("ascii").strip()
    except UnicodeDecodeError:
        raise UsageError(f"{arguments.file} holds no key: it is not text") from None
    tenant = KnowledgeHome(home, config).import_key(text)
    running = ControlClient(home).is_running()
    if arguments.json:
        print_json({"tenant": tenant, "restart_needed": running})
        return 0
    print(f"tenant {tenant}")
    note("now: " + ("kwaainet restart, then " if running else "") + "kwaainet rag restore")
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import print_json
    from kwaai.cli.session import open_home
    from kwaai.node.knowledge_home import KnowledgeHome

    home, config = open_home(arguments)
    knowledge = KnowledgeHome(home, config)
    tenant = knowledge.tenant()
    if arguments.json:
        print_json({"tenant": tenant, "file": str(knowledge.key_file)})
    else:
        print(
            f"tenant {tenant}" if tenant else "no key yet: the first `kwaainet rag init` makes one"
        )
    return 0
