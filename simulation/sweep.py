"""Runs the worlds of many seeds on every core, and says how fast that was."""

from __future__ import annotations

import concurrent.futures
import faulthandler
import gc
import multiprocessing
import os
import time  # noqa: TID251  # a sweep takes real time, and says how much
from collections.abc import Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Final

from simulation.report import judge, summary

# Seeds that a process takes at a time: enough to make the hand-over cheap.
CHUNK: Final = 50
# A world takes about ten milliseconds. One that goes round in circles at one instant of virtual
# time never ends; its process is ended, with a trace of where it was.
_CHUNK_SECONDS: Final = 300.0
# Failures that are told in full; the others are likely to be the same.
_MAX_TOLD: Final = 5


@dataclass(frozen=True, slots=True)
class Chunk:
    """What came out of some seeds."""

    seeds: int
    requests: int
    failures: tuple[tuple[int, str], ...]  # seed and summary


def run_chunk(first: int, count: int) -> Chunk:
    """Judge the seeds from `first` on, in this process."""
    requests = 0
    failures = []
    for seed in range(first, first + count):
        verdict = judge(seed)
        requests += verdict.requests
        if verdict.problem:
            failures.append((seed, summary(verdict)))
    return Chunk(count, requests, tuple(failures))


def sweep(first: int, count: int, processes: int) -> bool:
    """Judge `count` seeds and print what came out; whether every promise was kept."""
    began = time.perf_counter()
    seeds = requests = 0
    failures: list[tuple[int, str]] = []
    for chunk in _chunks(first, count, processes):
        seeds += chunk.seeds
        requests += chunk.requests
        failures += chunk.failures
    seconds = time.perf_counter() - began
    for _, text in sorted(failures)[:_MAX_TOLD]:
        print(text)  # noqa: T201  # this is a command
    print(  # noqa: T201  # as above
        f"{seeds} worlds, {requests} requests, {len(failures)} worlds broke a promise; "
        f"{seconds:.1f} s on {processes} processes: {seeds / seconds:.0f} worlds/s, "
        f"{requests / seconds:.0f} simulated requests/s"
    )
    return seeds == count and not failures


def _chunks(first: int, count: int, processes: int) -> Iterator[Chunk]:
    starts = range(first, first + count, CHUNK)
    if processes == 1:
        for start in starts:
            yield run_chunk(start, min(CHUNK, first + count - start))
        return
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin
    ) as pool:
        futures = {
            pool.submit(_guarded, start, min(CHUNK, first + count - start)): start
            for start in starts
        }
        for future in concurrent.futures.as_completed(futures):
            try:
                yield future.result()
            except BrokenProcessPool:
                start = futures[future]
                text = f"a process ended within the seeds from {start} on; see its traceback above"
                yield Chunk(0, 0, ((start, text),))
                return


def _begin() -> None:
    """What every process does first."""
    # Modules and their constants live for ever; the collector need not look at them again.
    gc.freeze()


def _guarded(first: int, count: int) -> Chunk:
    faulthandler.dump_traceback_later(_CHUNK_SECONDS, exit=True)
    try:
        return run_chunk(first, count)
    finally:
        faulthandler.cancel_dump_traceback_later()


def available_processes() -> int:
    """One for each core that this process may use."""
    return len(os.sched_getaffinity(0))
