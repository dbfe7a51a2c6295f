"""The JSON shapes of the control plane's answers: what is known, as the REST protocol says it.

Owns no state and asks nobody: `control_plane` does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from actors.lifecycle.model_index import ModelEntry, ServingVersion, VersionState
from actors.messages import VersionKey
from actors.metrics.counters import BatchCounters, Duration, ResponseCounters, VersionCounters
from actors.settings.log_settings import LogSettings
from protocol.datatypes import wire_name
from protocol.v2_json_control import log_settings_body
from repo.model_config import ModelInput, ModelOutput, type_name

Json = Mapping[str, object]

EXTENSIONS: Final = (
    "classification",
    "sequence",
    "model_repository",
    "model_repository(unload_dependents)",
    "schedule_policy",
    "model_configuration",
    "system_shared_memory",
    "cuda_shared_memory",
    "binary_tensor_data",
    "parameters",
    "statistics",
    "trace",
    "logging",
)


def index_rows(name: str, entry: ModelEntry, *, ready_only: bool) -> Iterator[Json]:
    if not entry.versions or entry.is_duplicate:
        if not ready_only:
            unavailable = {"state": VersionState.UNAVAILABLE.value, "reason": entry.reason}
            yield {"name": name, **(unavailable if entry.reason else {})}
        return
    for number, version in sorted(entry.versions.items()):
        if not ready_only or version.state is VersionState.READY:
            row = {"name": name, "version": str(number), "state": version.state.value}
            yield row | ({"reason": version.reason} if version.reason else {})


def log_settings_row(settings: LogSettings) -> Json:
    return log_settings_body(
        file=settings.file,
        info=settings.info,
        warning=settings.warning,
        error=settings.error,
        verbose_level=settings.verbose_level,
        style=settings.style,
    )


def tensor_metadata(tensor: ModelInput | ModelOutput, serving: ServingVersion) -> Json:
    shape = [*([-1] if serving.has_batch_dimension else []), *tensor.dims]
    return {
        "name": tensor.name,
        "datatype": wire_name(type_name(tensor.data_type)),
        "shape": shape,
    }


def _duration(duration: Duration) -> Json:
    return {"count": duration.count, "ns": duration.ns}


def _batch(size: int, batch: BatchCounters) -> Json:
    return {
        "batch_size": size,
        "compute_input": _duration(batch.compute_input),
        "compute_infer": _duration(batch.compute_infer),
        "compute_output": _duration(batch.compute_output),
    }


def _response(response: ResponseCounters) -> Json:
    return {
        "compute_infer": _duration(response.compute_infer),
        "compute_output": _duration(response.compute_output),
        "success": _duration(response.success),
        "fail": _duration(response.fail),
        "empty_response": _duration(response.empty_response),
        "cancel": _duration(response.cancel),
    }


def statistics_row(key: VersionKey, counters: VersionCounters) -> Json:
    name, version = key
    return {
        "name": name,
        "version": str(version),
        "last_inference": counters.last_inference_ms,
        "inference_count": counters.inference_count,
        "execution_count": counters.execution_count,
        "inference_stats": {
            "success": _duration(counters.success),
            "fail": _duration(counters.fail),
            "queue": _duration(counters.queue),
            "compute_input": _duration(counters.compute_input),
            "compute_infer": _duration(counters.compute_infer),
            "compute_output": _duration(counters.compute_output),
            "cache_hit": _duration(counters.cache_hit),
            "cache_miss": _duration(counters.cache_miss),
        },
        "response_stats": {
            str(index): _response(counters.responses[index]) for index in sorted(counters.responses)
        },
        "batch_stats": [_batch(size, counters.batches[size]) for size in sorted(counters.batches)],
        "memory_usage": [],
    }
