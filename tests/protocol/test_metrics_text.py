"""The metrics page, to the byte."""

from __future__ import annotations

import math

import pytest

from protocol.metrics_families import (
    FAILURE_REASONS,
    FAMILY_NAMES,
    FIRST_RESPONSE_BUCKETS_MS,
    SUMMARY_QUANTILES,
    family,
)
from protocol.metrics_text import (
    Family,
    HistogramSample,
    Sample,
    SummarySample,
    check_family_name,
    check_label_names,
    number,
    render,
)

MODEL = {"version": "1", "model": "m"}


def test_labels_are_sorted_and_names_are_kept() -> None:
    samples = [
        Sample(0, {**MODEL, "reason": reason, "_tag": "t"}) for reason in FAILURE_REASONS[:2]
    ]
    text = render([Family("nv_inference_request_failure", "counter", "Failed", samples)])
    assert text == (
        "# HELP nv_inference_request_failure Failed\n"
        "# TYPE nv_inference_request_failure counter\n"
        'nv_inference_request_failure{_tag="t",model="m",reason="REJECTED",version="1"} 0\n'
        'nv_inference_request_failure{_tag="t",model="m",reason="CANCELED",version="1"} 0\n'
    )


def test_a_family_without_samples_is_left_out() -> None:
    assert render([family(name, []) for name in FAMILY_NAMES]) == ""
    text = render([family("nv_cpu_utilization", []), family("nv_gpu_power_usage", [Sample(1.5)])])
    assert text.splitlines()[1:] == [
        "# TYPE nv_gpu_power_usage gauge",
        "nv_gpu_power_usage 1.5",
    ]


def test_the_names_are_complete_and_have_no_suffix() -> None:
    assert len(FAMILY_NAMES) == 39
    for name in FAMILY_NAMES:
        check_family_name(name)
        assert not name.endswith(("_total", "_created"))
    with pytest.raises(KeyError):
        family("nope", [])


def test_a_histogram_is_cumulative() -> None:
    sample = HistogramSample(FIRST_RESPONSE_BUCKETS_MS, [1, 0, 2, 0, 3], 12.5, MODEL)
    text = render([family("nv_inference_first_response_histogram_ms", [sample])])
    name, labels = "nv_inference_first_response_histogram_ms", 'model="m",version="1"'
    assert text.splitlines()[1:] == [
        f"# TYPE {name} histogram",
        f"{name}_count{{{labels}}} 6",
        f"{name}_sum{{{labels}}} 12.5",
        f'{name}_bucket{{{labels},le="100"}} 1',
        f'{name}_bucket{{{labels},le="500"}} 1',
        f'{name}_bucket{{{labels},le="2000"}} 3',
        f'{name}_bucket{{{labels},le="5000"}} 3',
        f'{name}_bucket{{{labels},le="+Inf"}} 6',
    ]


def test_a_summary_has_its_quantiles() -> None:
    quantiles = [(quantile, math.nan) for quantile, _ in SUMMARY_QUANTILES]
    sample = SummarySample(quantiles, 0, 0.0)
    text = render([family("nv_inference_queue_summary_us", [sample])])
    name = "nv_inference_queue_summary_us"
    assert text.splitlines()[1:] == [
        f"# TYPE {name} summary",
        f"{name}_count 0",
        f"{name}_sum 0",
        *[
            f'{name}{{quantile="{quantile}"}} NaN'
            for quantile in ("0.5", "0.9", "0.95", "0.99", "0.999")
        ],
    ]


def test_what_clients_name_cannot_break_the_page() -> None:
    text = render([Family("a", "gauge", 'x\\y\n"z"', [Sample(1, {"model": 'a"\n\\} 7'})])])
    assert text == ('# HELP a x\\\\y\\n"z"\n# TYPE a gauge\na{model="a\\"\\n\\\\} 7"} 1\n')


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (True, "1"),
        (2**70, str(2**70)),
        (3.0, "3"),
        (0.1, "0.1"),
        (1e300, "1e+300"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_numbers(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize("name", ["", "1a", "a-b", "a b", "é", "a\n"])
def test_bad_names_are_told(name: str) -> None:
    with pytest.raises(ValueError, match="invalid metric name"):
        check_family_name(name)
    with pytest.raises(ValueError, match="invalid metric label"):
        check_label_names(["fine", name])


def test_good_names_pass() -> None:
    check_family_name("a:b_C1")
    check_label_names(["a", "_b", "C1"])


@pytest.mark.parametrize("name", ["__name__", "a:b"])
def test_labels_are_narrower_than_names(name: str) -> None:
    with pytest.raises(ValueError, match="invalid metric label"):
        check_label_names([name])
    check_family_name(name)
