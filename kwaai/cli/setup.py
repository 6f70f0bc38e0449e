"""`kwaainet setup`: makes a node's home, identity and settings, and says what the machine offers.

Runs as often as you like: what is there is kept. Fetches and loads nothing.
"""

from __future__ import annotations

import argparse
import platform
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kwaai.cli.parser import Commands, add_command

if TYPE_CHECKING:
    from kwaai.store.home import Home

_REAL_MODEL = "Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q8_0"
_REAL_NAME = "Qwen/Qwen2.5-0.5B-Instruct-GGUF"
_DEMO_NAME = "kwaai-demo"
_DEMO_TEXT = f"""\
The model `{_DEMO_NAME}` that came with this program is a demonstration: a few million parameters
that know capitals, small sums and kwaainet itself. It proves the machinery, not more. A real one:
  kwaainet shard download {_REAL_MODEL}
  kwaainet config set model {_REAL_NAME}"""
_NEXT = 'Now try:  kwaainet shard run "What is the capital of France?"'


def add_parser(commands: Commands) -> None:
    add_command(
        commands,
        "setup",
        run,
        help="make this node's home, identity and settings; say what the machine offers",
        more="Runs as often as you like: a key or a setting that is there is never changed.",
    )


def run(arguments: argparse.Namespace) -> int:
    from kwaai.atomic import exclusive_lock
    from kwaai.cli.identity import describe
    from kwaai.cli.output import Spinner, print_json
    from kwaai.cli.session import load_settings
    from kwaai.store.home import ensure_home, kwaai_home
    from kwaai.store.identity_file import ensure_identity

    home = ensure_home(kwaai_home())
    created = []
    with exclusive_lock(home.run / "setup.lock"):
        _, loaded = load_settings(arguments)  # a broken file is named before anything is made
        config = loaded.config
        key_file = config.identity_key or home.identity_key
        secret, is_new = ensure_identity(key_file)
        created += [str(key_file)] if is_new else []
        created += [str(home.config_yaml)] if _ensure_config(home) else []
    with Spinner("asking llama.cpp for its devices"):
        backend = probe_backend()
    report = {
        "home": str(home.path),
        "config_file": str(home.config_yaml),
        "created": created,
        "identity": describe(secret.public, str(key_file)),
        "public_name": config.public_name,
        "hardware": describe_hardware(home.path),
        "backend": backend,
        "model": {"name": config.model, "is_demonstration": config.model == _DEMO_NAME},
    }
    if arguments.json:
        print_json(report)
    else:
        _print(report, config.use_gpu)
    return 0


def probe_backend() -> dict[str, Any]:
    """Return what the installed llama.cpp can run on, and why; it is asked in another process."""
    from kwaai.inference.backends import probe

    report = probe()
    return {"name": report.name, "devices": list(report.devices), "reason": report.reason}


def describe_hardware(path: Path) -> dict[str, Any]:
    """Return what this machine has: cores, memory, free disk under `path`; sizes in bytes."""
    import psutil

    memory = psutil.virtual_memory()
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": psutil.cpu_count(logical=False) or psutil.cpu_count() or 1,
        "threads": psutil.cpu_count() or 1,
        "memory_bytes": memory.total,
        "memory_available_bytes": memory.available,
        "disk_free_bytes": shutil.disk_usage(path).free,
    }


def _ensure_config(home: Home) -> bool:
    from kwaai.config.template import config_template
    from kwaai.store.identity_file import create_exclusive

    if home.config_yaml.exists():
        return False
    return create_exclusive(home.config_yaml, config_template().encode("utf-8"), 0o600)


def _print(report: dict[str, Any], use_gpu: bool) -> None:
    from kwaai.cli.output import one_line, print_pairs, show_bytes

    identity, hardware = report["identity"], report["hardware"]
    made = ", ".join(Path(path).name for path in report["created"]) or "nothing, all was there"
    memory = show_bytes(hardware["memory_bytes"])
    free = show_bytes(hardware["memory_available_bytes"])
    disk = show_bytes(hardware["disk_free_bytes"])
    cores = f"{hardware['cores']} cores, {hardware['threads']} threads"
    print_pairs(
        [
            ("Home", report["home"]),
            ("Made", made),
            ("Name", report["public_name"]),
            ("DID", identity["did"]),
            ("Peer ID", identity["peer_id"]),
            ("Machine", f"{hardware['system']}, {cores}"),
            ("Memory", f"{memory}, {free} free"),
            ("Disk", f"{disk} free"),
            ("Backend", one_line(_backend_text(report["backend"], use_gpu))),
            ("Model", one_line(report["model"]["name"])),
        ]
    )
    if report["model"]["is_demonstration"]:
        print(f"\n{_DEMO_TEXT}")
    print(f"\n{_NEXT}")


def _backend_text(backend: dict[str, Any], use_gpu: bool) -> str:
    devices = f" [{'; '.join(backend['devices'])}]" if backend["devices"] else ""
    off = "" if use_gpu or backend["name"] == "CPU" else " (not used: use_gpu is false)"
    return f"{backend['name']}{off}, because {backend['reason']}{devices}"
