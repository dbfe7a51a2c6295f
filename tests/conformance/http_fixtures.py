"""The server that all tests of the REST port ask: `pytest_plugins` of each of their modules."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.http_rest import FLAGS, Rest, write_repository


@pytest.fixture(scope="session")
def http_notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where models leave word of what they saw."""
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="session")
def http_server(
    http_notes: Path, tmp_path_factory: pytest.TempPathFactory, run_server: Callable[..., Any]
) -> Iterator[Any]:
    """A server with every feature switched on, over the models of `http_rest`."""
    repository = tmp_path_factory.mktemp("rest")
    write_repository(repository, http_notes)
    with run_server(repository, *FLAGS) as running:
        yield running


@pytest.fixture
def rest(http_server: Any) -> Iterator[Rest]:
    """A connection to it."""
    client = Rest(http_server.http)
    yield client
    client.close()


@pytest.fixture
def memory() -> Iterator[shared_memory.SharedMemory]:
    """A shared-memory object of 8 KiB."""
    region = shared_memory.SharedMemory(create=True, size=8192)
    yield region
    region.close()
    region.unlink()
