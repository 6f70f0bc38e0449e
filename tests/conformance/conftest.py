"""One server for all conformance tests: they only add to what it has issued."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conformance_server import Client, open_office, served


@pytest.fixture(scope="session")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with open_office(tmp_path_factory.mktemp("conformance")) as office, served(office) as client:
        yield client
