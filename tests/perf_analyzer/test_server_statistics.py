"""The server's own account of a window."""

from __future__ import annotations

from typing import Any

import pytest

from perf_analyzer.server_statistics import UnknownVersion, delta, merged, read_counters
from perf_analyzer.telemetry import GpuFigures, missing, read_metrics


def stats(name: str, version: str, count: int, **ns: int) -> dict[str, Any]:
    words = ("success", "queue", "compute_input", "compute_infer", "compute_output")
    return {
        "name": name,
        "version": version,
        "inference_count": str(count),  # gRPC spells 64-bit integers as text
        "execution_count": count,
        "inference_stats": {
            word: {"count": count, "ns": str(ns.get(word, 0) * count)} for word in words
        },
    }


def document(*models: dict[str, Any]) -> dict[str, Any]:
    return {"model_stats": list(models)}


TIMES = {
    "success": 5_000_000,
    "queue": 1_000_000,
    "compute_input": 100_000,
    "compute_infer": 3_000_000,
    "compute_output": 200_000,
}


def ignore(_text: str) -> None:
    pass


def test_a_request_is_split_into_its_parts() -> None:
    before = read_counters(document(stats("m", "1", 0)))
    after = read_counters(document(stats("m", "1", 100, **TIMES)))

    moved = delta(before, after, name="m", version="1", warn=ignore).model

    parts = [moved[name].average_us for name in ("queue", "compute_input", "compute_infer")]
    assert moved["success"].average_us == 5000
    assert parts == [1000, 100, 3000]
    assert moved.overhead_us == 700
    assert moved.inference_count == 100


def test_the_version_that_served_is_taken() -> None:
    before = read_counters(document(stats("m", "1", 7), stats("m", "2", 5)))
    after = read_counters(document(stats("m", "1", 7), stats("m", "2", 9)))

    assert delta(before, after, name="m", version="", warn=ignore).model.version == "2"


def test_several_versions_that_served_are_warned_of() -> None:
    before = read_counters(document(stats("m", "1", 1), stats("m", "10", 1)))
    after = read_counters(document(stats("m", "1", 2), stats("m", "10", 2)))
    warnings: list[str] = []

    moved = delta(before, after, name="m", version="", warn=warnings.append)

    assert moved.model.version == "10"
    assert len(warnings) == 1


def test_an_absent_version_is_an_error() -> None:
    counters = read_counters(document(stats("m", "1", 1)))

    with pytest.raises(UnknownVersion, match="failed to find the requested model version"):
        delta(counters, counters, name="m", version="3", warn=ignore)


def test_composing_models_are_counted_beside_the_ensemble() -> None:
    before = read_counters(document(stats("e", "1", 0), stats("a", "1", 0)))
    after = read_counters(document(stats("e", "1", 10), stats("a", "1", 20)))

    moved = delta(before, after, name="e", version="", composing=[("a", "")], warn=ignore)
    twice = merged([moved, moved])

    assert moved.composing[0].inference_count == 20
    assert twice is not None
    assert twice.composing[0].inference_count == 40
    assert twice.model["success"].count == 20


def test_cached_requests_count_with_what_they_had() -> None:
    after = document(stats("m", "1", 10, success=1_000_000, compute_infer=0, queue=100_000))
    inference = after["model_stats"][0]["inference_stats"]
    inference["cache_hit"] = {"count": 10, "ns": 2_000_000}
    for part in ("compute_input", "compute_infer", "compute_output"):
        inference[part] = {"count": 0, "ns": 0}

    moved = delta({}, read_counters(after), name="m", version="1", warn=ignore).model

    assert moved["cache_hit"].average_us == 200
    assert moved.overhead_us == 1000 - 100 - 200


def test_metrics_are_aggregated_over_looks() -> None:
    def page(first: float, second: float, used: int) -> str:
        return (
            "# TYPE nv_gpu_utilization gauge\n"
            f'nv_gpu_utilization{{gpu_uuid="a"}} {first}\n'
            f'nv_gpu_utilization{{gpu_uuid="b"}} {second}\n'
            f'nv_gpu_memory_used_bytes{{gpu_uuid="a"}} {used}\n'
            f'nv_inference_count{{model="m"}} 3\n'
        )

    looks = [
        GpuFigures(read_metrics(page(0.2, 0.4, 10))),
        GpuFigures(read_metrics(page(0.4, 0.6, 8))),
    ]
    figures = GpuFigures.merged(looks)

    assert figures.of("nv_gpu_utilization") == pytest.approx({"a": 0.3, "b": 0.5})
    assert figures.of("nv_gpu_memory_used_bytes") == {"a": 10}
    assert missing(read_metrics(page(0, 0, 0))) == [
        "nv_gpu_power_usage",
        "nv_gpu_memory_total_bytes",
    ]
