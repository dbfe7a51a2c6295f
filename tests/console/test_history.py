"""Points are what has changed between two readings."""

from __future__ import annotations

from actors.console.history import BATCH_TICKS, HISTORY_POINTS, VersionHistory
from actors.metrics.counters import BatchCounters, Duration, VersionCounters


def counters(
    requests: int, *, failed: int = 0, batches: dict[int, int] | None = None
) -> VersionCounters:
    found = VersionCounters(
        inference_count=2 * requests,
        execution_count=sum((batches or {}).values()),
        success=Duration(requests, requests * 4_000_000),
        fail=Duration(failed, 0),
        queue=Duration(requests, requests * 1_000_000),
        compute_infer=Duration(requests, requests * 2_500_000),
    )
    for size, times in (batches or {}).items():
        found.batches[size] = BatchCounters(compute_infer=Duration(times, 0))
    return found


def test_a_point_is_a_difference() -> None:
    history = VersionHistory()
    assert history.look(counters(0), 1, 1.0) is None
    history.look(counters(10, batches={1: 10}), 2, 1.0)
    point = history.look(counters(16, failed=1, batches={1: 10, 4: 3}), 3, 1.5)
    assert point is not None
    assert point.row() == {
        "tick": 3,
        "seconds": 1.5,
        "requests": 6,
        "failures": 1,
        "inferences": 12,
        "executions": 3,
        "request_us": 4000.0,
        "queue_us": 1000.0,
        "compute_input_us": 0.0,
        "compute_infer_us": 2500.0,
        "compute_output_us": 0.0,
    }
    assert history.batches(3) == [(1, 10), (4, 3)]
    assert history.batches(2 + BATCH_TICKS) == [(4, 3)]


def test_a_quiet_second_leaves_nothing_behind() -> None:
    history = VersionHistory()
    history.look(counters(1, batches={1: 1}), 1, 1.0)
    for tick in range(2, 10):
        assert history.look(counters(1, batches={1: 1}), tick, 1.0) is None
    assert [point.tick for point in history.points] == [1]


def test_a_version_that_was_loaded_anew_begins_at_nothing() -> None:
    history = VersionHistory()
    history.look(counters(100, batches={1: 100}), 1, 1.0)
    point = history.look(counters(3, batches={1: 3}), 2, 1.0)
    assert point is not None
    assert (point.requests, point.executions) == (3, 3)
    assert history.batches(2) == [(1, 103)]


def test_history_has_an_end() -> None:
    history = VersionHistory()
    for tick in range(1, 3 * HISTORY_POINTS):
        history.look(counters(tick, batches={1: tick}), tick, 1.0)
    assert len(history.points) == HISTORY_POINTS
    assert history.batches(3 * HISTORY_POINTS - 1) == [(1, BATCH_TICKS)]
