"""For the commands that ask a running node: a fake one behind the test's own control socket."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kwaai.store.home import Home, ensure_home
from kwaai.store.unix_socket import control_socket
from kwaai.testing.control import FakeNode, serving


@pytest.fixture
def home(kwaainet_home: Path) -> Home:
    """The KWAAINET_HOME of this test. It exists, and has no configuration yet."""
    return ensure_home(kwaainet_home)


@pytest.fixture
def node(home: Home) -> Iterator[FakeNode]:
    """The node that runs in `home`."""
    fake = FakeNode()
    with serving(fake, control_socket(home)):
        yield fake
