"""Which hardware the installed llama.cpp can use, found out in a process of its own.

The process matters: a missing or broken vendor library may end it. Chooses nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass

from kwaai.limits import WORKER_START_TIMEOUT_S

_NAMES = {"CUDA": "CUDA", "Metal": "Metal", "MTL": "Metal", "Vulkan": "Vulkan", "ROCm": "ROCm"}


@dataclass(frozen=True, slots=True)
class BackendReport:
    """What runs the layers: `name` is CPU, CUDA, Metal, Vulkan or ROCm."""

    name: str
    devices: tuple[str, ...]
    reason: str


def probe(timeout_s: float = WORKER_START_TIMEOUT_S) -> BackendReport:
    """Ask llama.cpp for its devices. Never raises: without an answer it is the CPU, with the
    reason.
    """
    command = [sys.executable, "-P", "-m", "kwaai.inference.backends"]
    try:
        done = subprocess.run(command, capture_output=True, timeout=timeout_s, check=True)
        fields = json.loads(done.stdout.splitlines()[-1])
        return choose(fields["devices"], offload=fields["offload"])
    except (OSError, subprocess.SubprocessError, ValueError, LookupError, TypeError) as error:
        return BackendReport("CPU", (), f"llama.cpp did not say what it can use ({error})"[:300])


def choose(devices: list[list[str]], *, offload: bool) -> BackendReport:
    """Name the backend for llama.cpp's devices ([kind, name, description] each), and why."""
    gpus = [d for d in devices if d[0] == "gpu"]
    texts = tuple(f"{name}: {description}" for _, name, description in devices)
    for _, name, description in gpus:
        backend = next((full for key, full in _NAMES.items() if name.startswith(key)), "GPU")
        return BackendReport(backend, texts, f"llama.cpp found {description}")
    if offload:
        reason = "the installed llama-cpp-python was built for GPUs, but finds none here"
    else:
        reason = "the installed llama-cpp-python was built for the CPU only"
    return BackendReport("CPU", texts, reason)


def _print_devices() -> None:
    from kwaai.inference import ggml

    print(json.dumps({"devices": ggml.devices(), "offload": ggml.supports_offload()}))


if __name__ == "__main__":
    _print_devices()
