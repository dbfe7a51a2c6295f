"""Troupe against the client drivers, by the tritonclient of the test environment.

run.py does the same with every release; this keeps the current one green all the time, also where
connections are served by processes of their own.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[3] / "bench")]

from peer_servers import Endpoint, start_troupe
from repository import write_repository
from run import FLAGS, FLAVOURS, SHARED_MEMORY_FLAG, drive


@pytest.fixture(scope="module", params=[0, 2])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Endpoint]:
    folder = tmp_path_factory.mktemp("drivers")
    write_repository(folder / "models")
    flags = (*FLAGS, SHARED_MEMORY_FLAG, f"--frontend-workers={request.param}")
    with start_troupe(folder / "models", log=folder / "server.log", flags=flags) as endpoint:
        yield endpoint


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_client_finds_everything_as_it_expects(server: Endpoint, flavour: str) -> None:
    complaint = drive(Path(sys.executable), flavour, server, ())

    assert complaint is None, complaint
