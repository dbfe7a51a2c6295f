"""The text of the metrics page: the families that Triton's dashboards know, by their names.

Owns no counter: it asks Statistics, looks into the model index, and reads the machine's own figures
when a page is asked for. A version's series vanish with the version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from actors.channels import Watch
from actors.lifecycle.model_index import ModelIndex
from actors.mailboxes import MailboxRegister
from actors.messages import VersionKey
from actors.metrics import gauges
from actors.metrics.counters import VersionCounters
from actors.metrics.gauges import serving_of, version_labels
from actors.metrics.gpu_monitor import GpuMonitor
from actors.metrics.statistics import StatisticsReader
from actors.processes.metrics import CustomMetrics
from actors.settings.metrics_settings import MetricsSettings
from actors.settings.options import ServerOptions
from protocol.metrics_families import family
from protocol.metrics_text import Family, HistogramSample, Sample, SummarySample, render
from repo.devices.port import PinnedMemory

_NS_PER_US: Final = 1000

# Family → its value, for the families that are one number per model version.
_COUNTERS: Final[Mapping[str, Callable[[VersionCounters], float]]] = {
    "nv_inference_request_success": lambda counters: counters.success.count,
    "nv_inference_count": lambda counters: counters.inference_count,
    "nv_inference_exec_count": lambda counters: counters.execution_count,
    "nv_model_load_duration_secs": lambda counters: counters.load_seconds,
}
_LATENCIES: Final[Mapping[str, Callable[[VersionCounters], float]]] = {
    "nv_inference_request_duration_us": lambda counters: counters.success.ns // _NS_PER_US,
    "nv_inference_queue_duration_us": lambda counters: counters.queue.ns // _NS_PER_US,
    "nv_inference_compute_input_duration_us": lambda counters: (
        counters.compute_input.ns // _NS_PER_US
    ),
    "nv_inference_compute_infer_duration_us": lambda counters: (
        counters.compute_infer.ns // _NS_PER_US
    ),
    "nv_inference_compute_output_duration_us": lambda counters: (
        counters.compute_output.ns // _NS_PER_US
    ),
}
_CACHE_COUNTERS: Final[Mapping[str, Callable[[VersionCounters], float]]] = {
    "nv_cache_num_hits_per_model": lambda counters: counters.cache_hit.count,
    "nv_cache_num_misses_per_model": lambda counters: counters.cache_miss.count,
    "nv_cache_hit_duration_per_model": lambda counters: counters.cache_hit.ns // _NS_PER_US,
    "nv_cache_miss_duration_per_model": lambda counters: counters.cache_miss.ns // _NS_PER_US,
}


@dataclass(frozen=True, slots=True)
class _Row:
    """One model version on the page."""

    labels: Mapping[str, str]
    counters: VersionCounters
    is_cached: bool


def _always(_: _Row) -> bool:
    return True


# Family → its summary among the latencies, and which versions show it.
_SUMMARIES: Final[Mapping[str, tuple[str, Callable[[_Row], bool]]]] = {
    "nv_inference_request_summary_us": ("request", lambda row: not row.is_cached),
    "nv_inference_queue_summary_us": ("queue", _always),
    "nv_inference_compute_input_summary_us": ("compute_input", _always),
    "nv_inference_compute_infer_summary_us": ("compute_infer", _always),
    "nv_inference_compute_output_summary_us": ("compute_output", _always),
    "nv_cache_hit_summary_per_model": ("cache_hit", lambda row: row.is_cached),
    "nv_cache_miss_summary_per_model": ("cache_miss", lambda row: row.is_cached),
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
        mailboxes: MailboxRegister,
        pinned_memory: PinnedMemory,
        gpus: GpuMonitor | None = None,
        connections: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        self._statistics = statistics
        self._index = index
        self._options = options
        self._settings = MetricsSettings.parse(options.metrics_config)
        self._processor = processor
        self._custom = custom
        self._mailboxes = mailboxes
        self._pinned_memory = pinned_memory
        self._gpus = gpus
        self._connections = connections

    async def page(self) -> str:
        """The whole page, in Prometheus' text format."""
        rows = self._rows(await self._statistics.read())
        families = self._counters(rows) + _latencies(rows)
        families += gauges.waiting(self._index.value, trio.current_time())
        families.append(gauges.mailbox_depths(self._mailboxes))
        families.append(gauges.connections(self._connections()))
        families += gauges.pinned_memory(self._pinned_memory())
        if self._options.allow_cpu_metrics:
            families += self._processor.families()
        if self._gpus is not None:
            families += self._gpus.families()
        return render(families + self._custom.families())

    def _rows(self, counters: Mapping[VersionKey, VersionCounters]) -> list[_Row]:
        index = self._index.value
        return [
            _Row(
                version_labels(key, index),
                counters[key],
                is_cached=self._options.cache_bytes is not None and _wants_cache(key, index),
            )
            for key in sorted(counters)
        ]

    def _counters(self, rows: Sequence[_Row]) -> list[Family]:
        families = [
            family(name, [Sample(value(row.counters), row.labels) for row in rows])
            for name, value in _COUNTERS.items()
        ]
        families.append(
            family(
                "nv_inference_request_failure",
                [
                    Sample(count, {**row.labels, "reason": reason})
                    for row in rows
                    for reason, count in row.counters.failures.items()
                ],
            )
        )
        if self._settings.counter_latencies:
            families += [
                family(name, [Sample(value(row.counters), row.labels) for row in rows])
                for name, value in _LATENCIES.items()
            ]
            cached = [row for row in rows if row.is_cached]
            families += [
                family(name, [Sample(value(row.counters), row.labels) for row in cached])
                for name, value in _CACHE_COUNTERS.items()
            ]
        return families


def _latencies(rows: Sequence[_Row]) -> list[Family]:
    """Histograms and summaries, for as far as they are measured."""
    histograms = [
        HistogramSample(first.bounds, first.counts, first.total, row.labels)
        for row in rows
        if row.counters.latencies is not None
        and (first := row.counters.latencies.first_response) is not None
    ]
    phases = [
        HistogramSample(each.bounds, each.counts, each.total, {**row.labels, "phase": phase})
        for row in rows
        if row.counters.latencies is not None
        for phase, each in row.counters.latencies.phases.items()
    ]
    families = [
        family("nv_inference_first_response_histogram_ms", histograms),
        family("troupe_phase_duration_seconds", phases),
    ]
    for name, (key, is_shown) in _SUMMARIES.items():
        readings = [
            (row.labels, row.counters.latencies.summaries[key])
            for row in rows
            if row.counters.latencies is not None
            and key in row.counters.latencies.summaries
            and is_shown(row)
        ]
        samples = [
            SummarySample(reading.quantiles, reading.count, reading.total, labels)
            for labels, reading in readings
        ]
        families.append(family(name, samples))
    return families


def _wants_cache(key: VersionKey, index: ModelIndex) -> bool:
    serving = serving_of(key, index)
    return serving is not None and serving.config.response_cache.enable
