"""GPU figures from a server's Prometheus metrics.

Owns which metrics are read and how polls are put together. Pure: text in, numbers out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

UTILIZATION: Final = "nv_gpu_utilization"
POWER: Final = "nv_gpu_power_usage"
MEMORY_USED: Final = "nv_gpu_memory_used_bytes"
MEMORY_TOTAL: Final = "nv_gpu_memory_total_bytes"
METRICS: Final = (UTILIZATION, POWER, MEMORY_USED, MEMORY_TOTAL)

_LINE: Final = re.compile(r'^(\w+)\{[^}]*gpu_uuid="([^"]*)"[^}]*\}\s+(\S+)', re.MULTILINE)

# Metric → GPU → value.
Poll = Mapping[str, Mapping[str, float]]


def read_metrics(text: str) -> Poll:
    """The four metrics of one look, by GPU."""
    found: dict[str, dict[str, float]] = {name: {} for name in METRICS}
    for name, gpu, value in _LINE.findall(text):
        if name in found:
            found[name][gpu] = float(value)
    return found


def missing(poll: Poll) -> list[str]:
    """The metrics that no GPU has."""
    return [name for name in METRICS if not poll[name]]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _first(values: Sequence[float]) -> float:
    return values[0]


def _highest(values: Sequence[float]) -> float:
    return max(values)


_HOW: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {
    UTILIZATION: _mean,
    POWER: _mean,
    MEMORY_USED: _highest,
    MEMORY_TOTAL: _first,
}


@dataclass(frozen=True)
class GpuFigures:
    """Metric → GPU → aggregate: mean utilisation and power, highest memory in use, total memory."""

    values: Poll = field(default_factory=dict)

    @classmethod
    def merged(cls, parts: Iterable[GpuFigures]) -> GpuFigures:
        """The aggregate over several windows, or over polls given as figures of one each."""
        series: dict[str, dict[str, list[float]]] = {}
        for part in parts:
            for name, by_gpu in part.values.items():
                for gpu, value in by_gpu.items():
                    series.setdefault(name, {}).setdefault(gpu, []).append(value)
        return cls(
            {
                name: {gpu: _HOW[name](values) for gpu, values in by_gpu.items()}
                for name, by_gpu in series.items()
            }
        )

    def of(self, metric: str) -> Mapping[str, float]:
        return self.values.get(metric, {})
