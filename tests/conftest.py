"""What every test gets: a home and a hub cache of its own, workers that do not spin, hypothesis's
profiles. And the official test vectors, for those who ask.

HYPOTHESIS_PROFILE=thorough looks at many more examples than the everyday profile.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

_VECTORS = Path(__file__).resolve().parents[2] / "shared" / "vectors"

# Before anything imports llama_cpp: spinning threads starve whatever shares the cores.
os.environ["OMP_WAIT_POLICY"] = "passive"

# No deadlines: a slow machine must not fail a test that is right.
settings.register_profile(
    "everyday",
    max_examples=60,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", settings.get_profile("everyday"), max_examples=2_000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "everyday"))


def _forget_the_user(monkeypatch: pytest.MonkeyPatch, directory: Path) -> Path:
    """Point every variable that leads to a user's own files into `directory`."""
    for name in tuple(os.environ):
        if name.startswith(("KWAAINET_", "HF_", "HUGGING_FACE_")):
            monkeypatch.delenv(name)
    home = directory / "kwaainet"
    monkeypatch.setenv("KWAAINET_HOME", str(home))
    monkeypatch.setenv("HF_HOME", str(directory / "huggingface"))
    return home


@pytest.fixture(scope="session", autouse=True)
def _session_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """For fixtures that outlive a test: they do not see the real home either."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        _forget_the_user(monkeypatch, tmp_path_factory.mktemp("session"))
        yield


@pytest.fixture(autouse=True)
def kwaainet_home(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Path:
    """The KWAAINET_HOME of this test. It does not exist yet."""
    return _forget_the_user(monkeypatch, tmp_path_factory.mktemp("home"))


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Commands that run in this process set logging up: undo that."""
    root, ours = logging.getLogger(), logging.getLogger("kwaai")
    handlers, level, our_level = list(root.handlers), root.level, ours.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    ours.setLevel(our_level)


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The folder of official test vectors, beside the repository; none of them is in it."""
    if not (_VECTORS / "README.md").is_file():
        pytest.skip(f"the official test vectors are not at {_VECTORS}")
    return _VECTORS
