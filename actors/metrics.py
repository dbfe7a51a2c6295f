"""The text of the metrics page: the families that Triton's dashboards know, by their names.

Owns no counter: it asks Statistics, looks into the model index, and reads the machine's own figures
when a page is asked for. A version's series vanish with the version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from actors.channels import Watch
from actors.counters import VersionCounters
from actors.messages import VersionKey
from actors.model_index import ModelIndex, ServingVersion
from actors.options import ServerOptions
from actors.process_metrics import CustomMetrics
from actors.statistics import StatisticsReader
from protocol.metrics_families import family
from protocol.metrics_text import Family, Sample, render

_NS_PER_US: Final = 1000

# Family → its value, for the families that are one number per model version.
_COUNTERS: Final[Mapping[str, Callable[[VersionCounters], float]]] = {
    "nv_inference_request_success": lambda counters: counters.success.count,
    "nv_inference_count": lambda counters: counters.inference_count,
    "nv_inference_exec_count": lambda counters: counters.execution_count,
    "nv_model_load_duration_secs": lambda counters: counters.load_seconds,
}
_LATENCIES: Final[Mapping[str, Callable[[VersionCounters], int]]] = {
    "nv_inference_request_duration_us": lambda counters: counters.success.ns,
    "nv_inference_queue_duration_us": lambda counters: counters.queue.ns,
    "nv_inference_compute_input_duration_us": lambda counters: counters.compute_input.ns,
    "nv_inference_compute_infer_duration_us": lambda counters: counters.compute_infer.ns,
    "nv_inference_compute_output_duration_us": lambda counters: counters.compute_output.ns,
}


class Processor:
    """How busy the machine is, by Linux's /proc; since the last look where that matters."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self._proc = proc
        self._busy, self._total = self._jiffies()

    def families(self) -> list[Family]:
        """Utilisation since the last call (0 to 1) and memory in bytes; nothing without a /proc."""
        before = (self._busy, self._total)
        self._busy, self._total = self._jiffies()
        passed = self._total - before[1]
        memory = self._memory()
        if not memory:
            return []
        used = memory["MemTotal"] - memory["MemAvailable"]
        return [
            family(
                "nv_cpu_utilization",
                [Sample((self._busy - before[0]) / passed if passed else 0.0, {})],
            ),
            family("nv_cpu_memory_total_bytes", [Sample(memory["MemTotal"], {})]),
            family("nv_cpu_memory_used_bytes", [Sample(used, {})]),
        ]

    def _jiffies(self) -> tuple[int, int]:
        """Busy and total processor time since boot."""
        try:
            fields = (self._proc / "stat").read_text().split("\n", 1)[0].split()[1:9]
        except OSError:
            return 0, 0
        user, nice, system, idle, iowait, irq, softirq, steal = map(int, fields)
        busy = user + nice + system + irq + softirq + steal
        return busy, busy + idle + iowait

    def _memory(self) -> dict[str, int]:
        """/proc/meminfo in bytes."""
        try:
            lines = (self._proc / "meminfo").read_text().splitlines()
        except OSError:
            return {}
        return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if "kB" in line}


class Metrics:
    """Makes the metrics page."""

    def __init__(
        self,
        *,
        statistics: StatisticsReader,
        index: Watch[ModelIndex],
        options: ServerOptions,
        processor: Processor,
        custom: CustomMetrics,
    ) -> None:
        self._statistics = statistics
        self._index = index
        self._options = options
        self._processor = processor
        self._custom = custom

    async def page(self) -> str:
        """The whole page, in Prometheus' text format."""
        counters = await self._statistics.read()
        families = _inference_families(counters, self._index.value)
        if self._options.allow_cpu_metrics:
            families += self._processor.families()
        return render(families + self._custom.families())


def _inference_families(
    counters: Mapping[VersionKey, VersionCounters], index: ModelIndex
) -> list[Family]:
    rows = [(_labels(key, index), counters[key]) for key in sorted(counters)]
    families = [
        family(name, [Sample(value(row), labels) for labels, row in rows])
        for name, value in _COUNTERS.items()
    ]
    families += [
        family(name, [Sample(ns(row) // _NS_PER_US, labels) for labels, row in rows])
        for name, ns in _LATENCIES.items()
    ]
    families.append(
        family(
            "nv_inference_request_failure",
            [
                Sample(count, {**labels, "reason": reason})
                for labels, row in rows
                for reason, count in row.failures.items()
            ],
        )
    )
    families.append(
        family(
            "nv_inference_pending_request_count",
            [
                Sample(serving.pending(), _labels((serving.name, serving.version), index))
                for serving in index.serving()
            ],
        )
    )
    return families


def _labels(key: VersionKey, index: ModelIndex) -> dict[str, str]:
    """Model, version, and the tags that the model's configuration adds."""
    name, version = key
    labels = {"model": name, "version": str(version)}
    entry = index.models.get(name)
    row = entry.versions.get(version) if entry else None
    serving: ServingVersion | None = row.serving if row else None
    if serving is not None:
        labels |= {f"_{tag}": value for tag, value in serving.config.metric_tags.items()}
    return labels
