"""The metrics that models make for themselves, as the metrics page shows them."""

from __future__ import annotations

import pytest

from actors.processes import metrics as process_metrics
from actors.processes.metrics import CustomMetrics
from actors.processes.ports import MetricsPort
from protocol.metrics_text import render
from protocol.status import ServerError


def refusal(call: object, *arguments: object) -> str:
    with pytest.raises(ServerError) as caught:
        call(*arguments)  # type: ignore[operator]  # a bound method
    return caught.value.message


def test_it_is_what_a_worker_needs() -> None:
    port: MetricsPort = CustomMetrics()
    port.open_family("hits", "", "counter")
    port.close_family("hits")


def test_values_are_shared_by_name_and_labels() -> None:
    metrics = CustomMetrics()
    for _ in range(2):
        metrics.open_family("hits", "How often", "counter")
        metrics.open_metric("hits", {"b": "2", "a": "1"}, ())
    metrics.open_metric("hits", {}, ())
    metrics.update("hits", {"a": "1", "b": "2"}, "increment", 2)
    metrics.update("hits", {"b": "2", "a": "1"}, "increment", 0.5)
    assert metrics.value("hits", {"a": "1", "b": "2"}) == 2.5
    metrics.open_family("level", "How full", "gauge")
    metrics.open_metric("level", {}, ())
    metrics.update("level", {}, "set", 9)
    metrics.update("level", {}, "increment", -4)
    assert render(metrics.families()) == (
        "# HELP hits How often\n"
        "# TYPE hits counter\n"
        'hits{a="1",b="2"} 2.5\n'
        "hits 0\n"
        "# HELP level How full\n"
        "# TYPE level gauge\n"
        "level 5\n"
    )


def test_a_histogram_counts_by_its_bounds() -> None:
    metrics = CustomMetrics()
    metrics.open_family("took", "Seconds", "histogram")
    metrics.open_metric("took", {"m": "x"}, [0.1, 1.0])
    for value in (0.1, 0.05, 0.5, 1.0, 3.0):
        metrics.update("took", {"m": "x"}, "observe", value)
    assert render(metrics.families()) == (
        "# HELP took Seconds\n"
        "# TYPE took histogram\n"
        'took_count{m="x"} 5\n'
        'took_sum{m="x"} 4.65\n'
        'took_bucket{m="x",le="0.1"} 2\n'
        'took_bucket{m="x",le="1"} 4\n'
        'took_bucket{m="x",le="+Inf"} 5\n'
    )


def test_what_nobody_has_open_vanishes() -> None:
    metrics = CustomMetrics()
    for _ in range(2):
        metrics.open_family("hits", "", "counter")
        metrics.open_metric("hits", {}, ())
    metrics.close_metric("hits", {})
    metrics.close_family("hits")
    metrics.update("hits", {}, "increment", 1)
    assert metrics.value("hits", {}) == 1
    metrics.close_metric("hits", {})
    metrics.update("hits", {}, "increment", 1)
    assert refusal(metrics.value, "hits", {}) == "metric family 'hits' does not exist"
    metrics.close_family("hits")
    assert metrics.families() == []
    # The family may go first; what is left of its metrics then does no harm.
    metrics.close_metric("hits", {})
    metrics.update("hits", {}, "increment", 1)
    assert refusal(metrics.open_metric, "hits", {}, ()) == "metric family 'hits' does not exist"


def test_what_prometheus_would_not_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = CustomMetrics()
    assert refusal(metrics.open_family, "no name", "", "gauge") == "invalid metric name 'no name'"
    metrics.open_family("level", "", "gauge")
    assert refusal(metrics.open_family, "level", "", "counter") == (
        "metric family 'level' is a gauge already, not a counter"
    )
    assert refusal(metrics.open_metric, "level", {"no label": ""}, ()) == (
        "invalid metric label 'no label'"
    )
    metrics.open_family("took", "", "histogram")
    assert refusal(metrics.open_metric, "took", {}, [1.0, 1.0]) == (
        "buckets of 'took' must ascend: [1.0, 1.0]"
    )
    monkeypatch.setattr(process_metrics, "MAX_METRICS_PER_FAMILY", 1)
    metrics.open_metric("level", {"n": "1"}, ())
    metrics.open_metric("level", {"n": "1"}, ())
    assert refusal(metrics.open_metric, "level", {"n": "2"}, ()) == (
        "metric family 'level' has 1 metrics already"
    )
