"""`kwaainet config show` and `config set`: the node's settings and where each comes from."""

from __future__ import annotations

import argparse
from pathlib import Path

from kwaai.cli.parser import Commands, add_command, add_group

_SET_EXAMPLES = """\
examples:
  kwaainet config set model Qwen/Qwen2.5-0.5B-Instruct-GGUF
  kwaainet config set slices 4
  kwaainet config set slices auto      (back to no value of its own)
"""


def add_parser(commands: Commands) -> None:
    group = add_group(commands, "config", help="the node's settings, and where each comes from")
    add_command(
        group,
        "show",
        show,
        help="print every setting, its value and its source",
        more="A flag wins over the environment (KWAAINET_<KEY>), that over config.yaml, "
        "that over\nthe default.",
    )
    setter = add_command(
        group,
        "set",
        set_key,
        help="change a setting in config.yaml, keeping its other lines",
        more=_SET_EXAMPLES,
    )
    setter.add_argument("key", metavar="KEY", help="a name from `kwaainet config show`")
    setter.add_argument(
        "value", metavar="VALUE", help="its new value; `auto` or `none` where it may have none"
    )


def show(arguments: argparse.Namespace) -> int:
    from kwaai.cli.output import print_json, print_table
    from kwaai.cli.session import load_settings

    home, loaded = load_settings(arguments)
    if arguments.json:
        settings = {
            s.key: {
                "value": str(s.value) if isinstance(s.value, Path) else s.value,
                "source": str(s.source),
                "origin": s.origin or None,
            }
            for s in loaded.settings
        }
        print_json({"path": str(home.config_yaml), "settings": settings})
        return 0
    rows = [(s.key, s.text, s.origin or str(s.source)) for s in loaded.settings]
    print_table(("Key", "Value", "From"), rows)
    print(f"\nFile: {home.config_yaml}{'' if home.config_yaml.exists() else ' (not there yet)'}")
    return 0


def set_key(arguments: argparse.Namespace) -> int:
    import os

    from kwaai.cli.control import ControlClient
    from kwaai.cli.output import note, print_json
    from kwaai.config.load import ENVIRONMENT_PREFIX, set_value
    from kwaai.log import configure_logging
    from kwaai.store.home import ensure_home, kwaai_home

    configure_logging()
    home = ensure_home(kwaai_home())
    value = _absolute(arguments.key, arguments.value)
    change = set_value(home.config_yaml, arguments.key, value)
    waits = change.before != change.after and ControlClient(home).is_running()
    if arguments.json:
        print_json(
            {
                "key": change.key,
                "before": change.before,
                "after": change.after,
                "path": str(home.config_yaml),
                "restart_needed": waits,
            }
        )
    elif change.before == change.after:
        print(f"{change.key} is {change.after} already (in {home.config_yaml})")
    else:
        print(f"{change.key}: {change.before} -> {change.after} (in {home.config_yaml})")
    if waits and not arguments.json:
        note("the running node goes by it from its next start on: kwaainet restart")
    variable = f"{ENVIRONMENT_PREFIX}{change.key.upper()}"
    if os.environ.get(variable):
        note(f"note: {variable} is set in the environment and wins over the file")
    return 0


def _absolute(key: str, value: str) -> str:
    """Return a path as it is called from everywhere; any other value as it is."""
    from kwaai.config.model import NOTHING

    is_path = key in ("identity_key", "api_key_file") and value.lower() not in NOTHING
    is_model_file = key == "model" and value.endswith(".gguf") and Path(value).is_file()
    return str(Path(value).expanduser().absolute()) if is_path or is_model_file else value
