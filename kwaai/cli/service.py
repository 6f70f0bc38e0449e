"""`kwaainet service`: the node as a systemd user service."""

from __future__ import annotations

import argparse

from kwaai.cli.parser import Commands, add_command, add_group

_MORE = """\
A user's services end with the user's last session, unless: loginctl enable-linger
"""


def add_parser(commands: Commands) -> None:
    group = add_group(commands, "service", help="the node as a systemd user service")
    add_command(
        group, "install", install, help="install the service and start it", more=_MORE, json=False
    )
    add_command(group, "uninstall", uninstall, help="stop the service and remove it", json=False)
    add_command(group, "status", status, help="print what systemd says of the service")


def install(arguments: argparse.Namespace) -> int:
    from kwaai.cli.session import open_home
    from kwaai.errors import NodeRunning
    from kwaai.node import systemd
    from kwaai.node.daemon import find_running, program

    home, _ = open_home(arguments)
    running = find_running(home)
    if running is not None and systemd.state().active != "active":
        raise NodeRunning(
            f"a node runs in {home.path} already (process {running.pid}), not as a service; end "
            "it first: kwaainet stop"
        )
    path = systemd.install(program(), home.path)
    print(f"installed and started: {path}")
    print("`kwaainet status` says how the node is, `kwaainet service uninstall` removes it")
    return 0


def uninstall(arguments: argparse.Namespace) -> int:
    from kwaai.node import systemd

    there = systemd.uninstall()
    print(f"removed {systemd.unit_path()}" if there else "there is no such service")
    return 0


def status(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import print_json, print_pairs
    from kwaai.node import systemd

    state = systemd.state()
    if arguments.json:
        print_json(
            {
                "unit": str(state.path),
                "installed": state.is_installed,
                "enabled": state.enabled,
                "active": state.active,
            }
        )
        return 0
    installed = str(state.path) if state.is_installed else "not installed"
    print_pairs([("Unit", installed), ("Enabled", state.enabled), ("Active", state.active)])
    return 0
