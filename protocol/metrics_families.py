"""The metric families that the server itself shows: name, kind and help of each.

The names are Triton's, so that its dashboards and autoscalers keep working; what Triton does not
show begins with `troupe_`. Durations are counted in the units that the names say.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from protocol.metrics_text import Family, HistogramSample, Kind, Sample, SummarySample

# The values of the label `reason` of failures; every model shows all four from the start.
FAILURE_REASONS: Final = ("REJECTED", "CANCELED", "BACKEND", "OTHER")

# Upper bounds in milliseconds of the first-response histogram, unless the model gives others.
FIRST_RESPONSE_BUCKETS_MS: Final = (100.0, 500.0, 2000.0, 5000.0)

# Upper bounds in seconds of the histograms of phases: from what one call costs to a long model.
PHASE_BUCKETS_SECONDS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0,
)  # fmt: skip

# (quantile, error) pairs of every summary, unless --metrics-config gives others.
SUMMARY_QUANTILES: Final = (
    (0.5, 0.05),
    (0.9, 0.01),
    (0.95, 0.001),
    (0.99, 0.001),
    (0.999, 0.001),
)

_FAMILIES: Final[dict[str, tuple[Kind, str]]] = {
    "nv_inference_request_success": ("counter", "Requests answered without an error"),
    "nv_inference_request_failure": ("counter", "Requests that failed, by reason"),
    "nv_inference_count": (
        "counter",
        "Inferences performed: batch items, without those answered from the cache",
    ),
    "nv_inference_exec_count": ("counter", "Batches executed, without cached requests"),
    "nv_inference_pending_request_count": (
        "gauge",
        "Requests accepted by the model and not executing yet",
    ),
    "nv_model_load_duration_secs": ("gauge", "Seconds that loading the model took"),
    "nv_inference_request_duration_us": (
        "counter",
        "Microseconds from a request's arrival to its response, summed",
    ),
    "nv_inference_queue_duration_us": (
        "counter",
        "Microseconds that requests waited for an instance, summed",
    ),
    "nv_inference_compute_input_duration_us": (
        "counter",
        "Microseconds spent on preparing inputs, summed over requests",
    ),
    "nv_inference_compute_infer_duration_us": (
        "counter",
        "Microseconds spent in the model, summed over requests",
    ),
    "nv_inference_compute_output_duration_us": (
        "counter",
        "Microseconds spent on collecting outputs, summed over requests",
    ),
    "nv_cache_num_hits_per_model": ("counter", "Requests answered from the response cache"),
    "nv_cache_num_misses_per_model": ("counter", "Requests not found in the response cache"),
    "nv_cache_hit_duration_per_model": (
        "counter",
        "Microseconds spent on answering from the response cache, summed",
    ),
    "nv_cache_miss_duration_per_model": (
        "counter",
        "Microseconds spent on look-ups and insertions after misses, summed",
    ),
    "nv_inference_first_response_histogram_ms": (
        "histogram",
        "Milliseconds from a request's arrival to its first response",
    ),
    "nv_inference_request_summary_us": (
        "summary",
        "Microseconds from a request's arrival to its response",
    ),
    "nv_inference_queue_summary_us": (
        "summary",
        "Microseconds that a request waited for an instance",
    ),
    "nv_inference_compute_input_summary_us": (
        "summary",
        "Microseconds spent on preparing a request's inputs",
    ),
    "nv_inference_compute_infer_summary_us": (
        "summary",
        "Microseconds that a request spent in the model",
    ),
    "nv_inference_compute_output_summary_us": (
        "summary",
        "Microseconds spent on collecting a request's outputs",
    ),
    "nv_cache_hit_summary_per_model": (
        "summary",
        "Microseconds that a request answered from the cache took",
    ),
    "nv_cache_miss_summary_per_model": (
        "summary",
        "Microseconds that look-up and insertion took after a miss",
    ),
    "nv_pinned_memory_pool_total_bytes": ("gauge", "Size of the pinned memory pool in bytes"),
    "nv_pinned_memory_pool_used_bytes": ("gauge", "Bytes of the pinned memory pool in use"),
    "nv_cpu_utilization": ("gauge", "Share of processor time in use, from 0 to 1"),
    "nv_cpu_memory_total_bytes": ("gauge", "Main memory of this machine in bytes"),
    "nv_cpu_memory_used_bytes": ("gauge", "Main memory in use in bytes"),
    "nv_gpu_utilization": ("gauge", "Share of time a GPU was busy, from 0 to 1"),
    "nv_gpu_memory_total_bytes": ("gauge", "Memory of a GPU in bytes"),
    "nv_gpu_memory_used_bytes": ("gauge", "Memory of a GPU in use in bytes"),
    "nv_gpu_power_usage": ("gauge", "Power that a GPU draws in watts"),
    "nv_gpu_power_limit": ("gauge", "Power that a GPU may draw in watts"),
    "nv_energy_consumption": (
        "counter",
        "Energy a GPU has used since the server started in joules",
    ),
    "troupe_phase_duration_seconds": (
        "histogram",
        "Seconds that requests spent in each phase, and in all of them: request",
    ),
    "troupe_queue_depth": ("gauge", "Requests that wait at one priority level; 0 without levels"),
    "troupe_queue_oldest_age_seconds": (
        "gauge",
        "How long the oldest of the requests that wait has waited",
    ),
    "troupe_connections": ("gauge", "Connections that are open, by protocol"),
    "troupe_mailbox_depth": ("gauge", "Messages that an actor has not taken out of its mailbox"),
}

FAMILY_NAMES: Final = tuple(_FAMILIES)


def family(name: str, samples: Sequence[Sample | HistogramSample | SummarySample]) -> Family:
    """The server's own family `name` with these samples. KeyError for an unknown name."""
    kind, text = _FAMILIES[name]
    return Family(name, kind, text, samples)
