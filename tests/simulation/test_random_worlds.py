"""Random worlds, a few hundred of them; CI judges many more with `make simulate`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from simulation.drawing import TICK_SECONDS, TICK_US, draw_plan
from simulation.kinds import draw_world, kind_of
from simulation.report import judge, summary
from simulation.scenarios import CrowdPlay, world_of
from simulation.seeding import seeded_scheduler
from simulation.sweep import CHUNK, run_chunk, sweep
from tests.simulation.trace_reading import times

ROOT = Path(__file__).parents[2]
CHUNKS = 6


@pytest.mark.parametrize("first", range(0, CHUNKS * CHUNK, CHUNK))
def test_every_promise_is_kept(first: int) -> None:
    chunk = run_chunk(first, CHUNK)

    assert not chunk.failures, "\n".join(text for _, text in chunk.failures)
    assert chunk.requests > 10 * CHUNK


@pytest.mark.parametrize("seed", range(1000, 1012))
def test_every_trace_is_complete(tmp_path: Path, seed: int) -> None:
    """Whatever befalls a request, it is traced to its end, and the world is none the worse."""
    with seeded_scheduler(seed) as random:
        plan = draw_plan(random)
    file = tmp_path / "trace.json"
    world = world_of(plan, trace_config=(f"triton,file={file}", "level=TIMESTAMPS", "rate=1"))
    world.run(CrowdPlay(plan), seed=seed)

    assert world.core.calls.tracing.under_way == 0
    accepted = [asked for asked in world.ledger.asked.values() if asked.number]
    found = times(file).values() if file.exists() else []
    assert len(found) >= len(accepted)
    for stamps in found:
        assert {"REQUEST_START", "QUEUE_START", "REQUEST_END"} <= set(stamps)
        assert list(stamps.values()) == sorted(stamps.values())


def test_a_run_is_a_function_of_its_seed() -> None:
    assert judge(7).digest == judge(7).digest
    assert len({judge(seed).digest for seed in range(10)}) == 10


@pytest.mark.parametrize("seed", [23, 13, 114])  # of a crowd, and of two ensembles
def test_a_run_is_the_same_in_another_process_with_other_hashes(seed: int) -> None:
    digests = {
        subprocess.run(
            [sys.executable, "-m", "simulation", "--seed", str(seed), "--digest"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }

    assert digests == {judge(seed).digest}


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(6886, id="unloaded while it was loaded again"),
        pytest.param(9613, id="cancelled, and its client gone before it heard"),
    ],
)
def test_seeds_that_once_broke_a_promise(seed: int) -> None:
    assert not judge(seed).problem


def test_a_broken_promise_names_its_seed_and_how_to_see_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("simulation.world.complaints", lambda _: ["somebody overtook"])

    verdict = judge(5)

    assert verdict.problem == "somebody overtook"
    assert "python -m simulation --seed 5" in summary(verdict)
    assert not sweep(5, 2, processes=1)
    assert "2 worlds broke a promise" in capsys.readouterr().out


def test_plans_cover_what_can_be_configured() -> None:
    """A draw that never happens tests nothing: each feature and fault has its share."""
    with seeded_scheduler(0) as random:
        plans = [draw_plan(random) for _ in range(400)]
    text = "\n".join(model.config for plan in plans for model in plan.models)

    for words in (
        "max_batch_size: 0", "dynamic_batching", "preferred_batch_size", "max_queue_delay",
        "priority_levels: 5", "priority_queue_policy", "timeout_action: DELAY",
        "timeout_action: REJECT", "allow_timeout_override: true", "max_queue_size: 8",
        "preserve_ordering: true", "decoupled: true", "response_cache", "rate_limiter",
        "passive: true", "allow_ragged_batch: true", "count: 3",
    ):  # fmt: skip
        assert words in text
    faults = {fault.name for plan in plans for fault in plan.faults}
    assert faults == {
        "slow_instance", "instance_crash", "worker_loss", "client_vanishes", "stalled_reader",
        "unload_in_flight", "reload_in_flight", "clock_leap",
    }  # fmt: skip
    assert TICK_SECONDS * 1e6 == TICK_US


def test_every_kind_of_world_has_its_share() -> None:
    worlds = [draw_world(seed) for seed in range(400)]
    shares = Counter(world.kind for world in worlds)
    assert shares["sequences"] > 50
    assert shares["ensembles"] > 20
    assert shares["crowd"] > 200
    assert all(kind_of(seed) == world.kind for seed, world in enumerate(worlds))
    text = "\n".join(config for world in worlds for config in world.configs.values())
    for words in (
        "direct {", "oldest {", "iterative_sequence: true", "minimum_slot_utilization: 0.5",
        "max_candidate_sequences: 2", "max_inflight_requests: 1", "optional: true",
    ):  # fmt: skip
        assert words in text


def test_sequences_and_ensembles_are_answered_and_their_answers_looked_at() -> None:
    """A checker that is given nothing to look at finds nothing."""
    heard: Counter[str] = Counter()
    for seed in range(60):
        drawn = judge(seed).drawn
        heard[drawn.kind] += sum(bool(one.heard) for one in drawn.world.ledger.asked.values())
    assert heard["sequences"] > 100
    assert heard["ensembles"] > 20
