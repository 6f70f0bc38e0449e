"""Which backend is named for which devices, and that asking for them never fails."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from kwaai.inference.backends import BackendReport, choose, probe

CPU = ["cpu", "CPU", "Some Processor"]


@pytest.mark.parametrize(
    ("device", "name"),
    [
        (["gpu", "CUDA0", "NVIDIA H200"], "CUDA"),
        (["gpu", "Metal", "Apple M3"], "Metal"),
        (["gpu", "MTL0", "Apple M4"], "Metal"),
        (["gpu", "Vulkan1", "AMD Radeon"], "Vulkan"),
        (["gpu", "ROCm0", "AMD Instinct"], "ROCm"),
        (["gpu", "SYCL0", "Intel Arc"], "GPU"),
    ],
)
def test_a_gpu_is_named_with_the_reason(device: list[str], name: str) -> None:
    report = choose([device, CPU], offload=True)
    assert report.name == name
    assert report.devices == (f"{device[1]}: {device[2]}", "CPU: Some Processor")
    assert device[2] in report.reason


@pytest.mark.parametrize(("offload", "words"), [(True, "finds none"), (False, "CPU only")])
def test_without_a_gpu_it_is_the_cpu_with_the_reason(offload: bool, words: str) -> None:
    report = choose([CPU, ["accelerator", "BLAS", "OpenBLAS"]], offload=offload)
    assert report.name == "CPU"
    assert words in report.reason
    assert choose([], offload=offload) == BackendReport("CPU", (), report.reason)


@pytest.mark.parametrize(
    "outcome",
    [
        OSError("no such program"),
        subprocess.CalledProcessError(-11, "probe"),
        subprocess.TimeoutExpired("probe", 1.0),
        b"",
        b"not json\n",
        b"[]\n",
        b"{}\n",
        b'{"devices": 3, "offload": true}\n',
        b'{"devices": [["gpu"]], "offload": true}\n',
    ],
)
def test_no_answer_is_the_cpu(monkeypatch: pytest.MonkeyPatch, outcome: Exception | bytes) -> None:
    def run(*args: Any, **options: Any) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return subprocess.CompletedProcess(args, 0, stdout=outcome)

    monkeypatch.setattr("subprocess.run", run)
    report = probe()
    assert (report.name, report.devices) == ("CPU", ())
    assert "did not say" in report.reason
    assert len(report.reason) <= 300


def test_the_real_probe() -> None:
    report = probe()
    assert report.devices, report.reason
    assert report.reason.startswith(("llama.cpp found", "the installed llama-cpp-python"))
