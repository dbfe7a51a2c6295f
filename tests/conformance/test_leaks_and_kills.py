"""What loads, unloads and deaths leave behind: bench/leaks.py and bench/kills.py in short."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))

from kills import link_models, run
from leaks import SAMPLES, cycle, held

RunServer = Callable[..., AbstractContextManager[Any]]

# Enough for a leak of a worker's buffers to show, which were 190 KiB each time.
CYCLES = 10
# The first few bring the zygote and the lazy imports.
WARM_UP = 6
TOLERANCE_MIB = 1.5
PATIENCE_SECONDS = 30.0


@pytest.mark.parametrize(("model", "processes"), [("add_sub", 2), ("simple", 1)])
def test_nothing_is_left_of_models_that_were_unloaded(
    model: str, processes: int, run_server: RunServer
) -> None:
    with run_server(SAMPLES, "--model-control-mode=explicit") as server:
        pid = server.process.pid
        for _ in range(WARM_UP):
            cycle(server.http, pid, model, processes)
        before = held(pid)
        for _ in range(CYCLES):
            cycle(server.http, pid, model, processes)
        # A thread that has nothing to do is kept for ten seconds, in case there is more.
        give_up_at = time.monotonic() + PATIENCE_SECONDS
        while left := held(pid).more_than(before, TOLERANCE_MIB):
            assert time.monotonic() < give_up_at, left
            time.sleep(0.1)


@pytest.mark.parametrize("clients", [1, 4])
def test_a_killed_worker_fails_nobody_but_who_was_inside(
    clients: int, tmp_path: Path, run_server: RunServer
) -> None:
    """Alone in its batch a request is not tried again; with others it is."""
    with run_server(link_models(tmp_path)) as server:
        verdict = run(server.http, server.process.pid, kills=5, clients=clients)

    assert verdict.problems == []
    assert verdict.answered >= 5
    assert verdict.bystander_answered > 0
