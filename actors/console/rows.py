"""The console's JSON: a model version, an actor, a slow request, as operators see them.

Plain functions of what others own. Every value that a client, a model or a file wrote is passed on
as it is: whoever shows it must take it for text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple

from actors.console.history import VersionHistory
from actors.console.slowness import why
from actors.lifecycle.model_index import ModelIndex, ServingVersion
from actors.mailboxes import ActorName
from actors.messages import SlowRequest, VersionKey
from actors.metrics.counters import VersionCounters
from actors.metrics.gpus import GpuReading
from repo.model_config import batching_settings, scheduling_choice, sequence_settings

Json = Mapping[str, object]

# Characters of a reason that are shown; a Python model's may be a whole traceback.
MAX_REASON: Final = 2000
_SCHEDULERS: Final = {
    "dynamic_batching": "dynamic",
    "sequence_batching": "sequence",
    "ensemble_scheduling": "ensemble",
}


class VersionSeen(NamedTuple):
    """A version as the index has it; number 0 stands for a model that has none."""

    key: VersionKey
    state: str
    reason: str
    serving: ServingVersion | None


def versions(index: ModelIndex) -> Iterable[VersionSeen]:
    """Every version of every model, by name."""
    for name, entry in sorted(index.models.items()):
        if not entry.versions:
            state = "UNAVAILABLE" if entry.reason else "UNKNOWN"
            yield VersionSeen((name, 0), state, entry.reason, None)
        for number, row in sorted(entry.versions.items()):
            yield VersionSeen((name, number), row.state.value, row.reason, row.serving)


def version_row(
    seen: VersionSeen,
    counters: VersionCounters | None,
    history: VersionHistory | None,
    *,
    fixed: Json,
    now: float,
    tick: int,
) -> Json:
    """One version; what is only known of a loaded one is left out of others.

    `fixed` is what `fixed_part` says of it, if it is loaded.
    """
    (name, version), state, reason, serving = seen
    row: dict[str, object] = {
        "name": name,
        "version": version,
        "state": state,
        "reason": reason[:MAX_REASON],
    }
    if serving is not None:
        row |= fixed
        row |= _load(serving, now)
    if counters is not None:
        row["counts"] = {
            "success": counters.success.count,
            "failures": dict(counters.failures),
            "inferences": counters.inference_count,
            "executions": counters.execution_count,
            "cache_hits": counters.cache_hit.count,
            "cache_misses": counters.cache_miss.count,
        }
        row["load_seconds"] = counters.load_seconds
        if counters.latencies is not None and counters.latencies.recent is not None:
            p50, p99 = (value for _, value in counters.latencies.recent.quantiles)
            row["p50_us"], row["p99_us"] = _number(p50), _number(p99)
    if history is not None:
        row["batches"] = history.batches(tick)
    return row


def fixed_part(serving: ServingVersion) -> Json:
    """What stays as it is while a version serves; configurations answer slowly."""
    config = serving.config
    return {
        "backend": config.backend or config.platform,
        "scheduler": _SCHEDULERS.get(scheduling_choice(config), "default"),
        "max_batch_size": config.max_batch_size,
        "decoupled": serving.decoupled,
        "instances": len(serving.instances),
    }


def _load(serving: ServingVersion, now: float) -> Json:
    waiting = serving.waiting()
    oldest_at = min((each.oldest_at for each in waiting.values()), default=now)
    return {
        "pending": serving.pending(),
        "oldest_seconds": round(max(0.0, now - oldest_at), 3),
        "levels": [
            {
                "level": level,
                "depth": each.count,
                "oldest_seconds": round(max(0.0, now - each.oldest_at), 3),
            }
            for level, each in sorted(waiting.items())
        ],
        "executing": sum(instance.executing for instance in serving.instances),
    }


def actor_row(name: ActorName, depth: int, oldest_seconds: float) -> Json:
    """One mailbox."""
    return {"actor": str(name), "depth": depth, "oldest_seconds": round(oldest_seconds, 3)}


def instance_rows(serving: ServingVersion) -> list[Json]:
    """The instances of one version: batches that they have not begun, requests they execute."""
    return [
        {
            "actor": f"instance {instance.name} of {serving.name}/{serving.version}",
            "depth": instance.waiting,
            "oldest_seconds": 0.0,
            "executing": instance.executing,
        }
        for instance in serving.instances
    ]


def slow_row(record: SlowRequest, serving: ServingVersion | None, now: float) -> Json:
    """One slow request, and why it waited."""
    name, version = record.key
    return {
        "model": name,
        "version": version,
        "id": record.request_id,
        "ago_seconds": round(now - record.finished_at, 1),
        "total_us": round((record.finished_at - record.submitted_at) * 1e6),
        "queue_us": round((record.started_at - record.submitted_at) * 1e6),
        "input_us": record.input_ns // 1000,
        "infer_us": record.infer_ns // 1000,
        "output_us": record.output_ns // 1000,
        "batch_size": record.batch_size,
        "instance": record.instance,
        "closed_by": record.closed_by,
        "error": record.error,
        "why": why(record, _queue_delay(serving)),
    }


def gpu_row(reading: GpuReading) -> Json:
    """One GPU, by the names of the metrics page."""
    return {"uuid": reading.uuid, **reading.values}


def _queue_delay(serving: ServingVersion | None) -> float:
    if serving is None:
        return 0.0
    sequences = sequence_settings(serving.config)
    if sequences is not None:
        return sequences.max_queue_delay_seconds
    return batching_settings(serving.config).max_queue_delay_seconds


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if math.isnan(value) else round(value, 1)
