"""Run a command in this process, as the tests of the command line do."""

from __future__ import annotations

import pytest

from kwaai.cli.main import main

Capture = pytest.CaptureFixture[str]


def run(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    """Return its exit code, standard output and standard error."""
    code = main(arguments)
    out, err = capsys.readouterr()
    return code, out, err
