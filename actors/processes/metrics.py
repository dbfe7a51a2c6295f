"""The metrics that models make for themselves, kept for the server's metrics page.

Owns their values. Instances that open the same name, or the same labels, share it; what nobody has
open any longer vanishes. It is the MetricsPort of a real server, and synchronous.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise
from typing import Final

from actors.processes.ports import Labels, MetricKind, MetricOperation
from protocol.metrics_text import (
    Family,
    HistogramSample,
    Sample,
    check_family_name,
    check_label_names,
)
from protocol.status import ServerError, invalid_arg

# Distinct label values of one family: a model that labels by request would grow without end.
MAX_METRICS_PER_FAMILY: Final = 10_000

_Key = tuple[tuple[str, str], ...]


class _Metric:
    __slots__ = ("bounds", "counts", "open_count", "value")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.open_count = 0
        self.value = 0.0  # of a histogram, the sum of what was observed
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)


class _Family:
    __slots__ = ("description", "kind", "metrics", "open_count")

    def __init__(self, description: str, kind: MetricKind) -> None:
        self.description = description
        self.kind = kind
        self.open_count = 0
        self.metrics: dict[_Key, _Metric] = {}


class CustomMetrics:
    """A MetricsPort (`actors/processes/ports.py`)."""

    def __init__(self) -> None:
        self._families: dict[str, _Family] = {}

    def families(self) -> list[Family]:
        """What the metrics page shows."""
        return [
            Family(name, family.kind, family.description, _samples(family))
            for name, family in sorted(self._families.items())
        ]

    def open_family(self, name: str, description: str, kind: MetricKind) -> None:
        """Raises ServerError for a name that is none, or is taken by another kind."""
        try:
            check_family_name(name)
        except ValueError as error:
            raise invalid_arg(str(error)) from None
        family = self._families.get(name)
        if family is None:
            family = self._families[name] = _Family(description, kind)
        elif family.kind != kind:
            raise invalid_arg(f"metric family '{name}' is a {family.kind} already, not a {kind}")
        family.open_count += 1

    def close_family(self, name: str) -> None:
        family = self._families[name]
        family.open_count -= 1
        if not family.open_count:
            del self._families[name]

    def open_metric(self, family: str, labels: Labels, buckets: Sequence[float]) -> None:
        """Raises ServerError for labels or buckets that Prometheus would not read."""
        found = self._families.get(family)
        if found is None:
            raise _no_family(family)
        key = _key(labels)
        metric = found.metrics.get(key)
        if metric is None:
            try:
                check_label_names(labels)
            except ValueError as error:
                raise invalid_arg(str(error)) from None
            if any(left >= right for left, right in pairwise(buckets)):
                raise invalid_arg(f"buckets of '{family}' must ascend: {list(buckets)}")
            if len(found.metrics) >= MAX_METRICS_PER_FAMILY:
                raise invalid_arg(
                    f"metric family '{family}' has {MAX_METRICS_PER_FAMILY} metrics already"
                )
            metric = found.metrics[key] = _Metric(tuple(buckets))
        metric.open_count += 1

    def close_metric(self, family: str, labels: Labels) -> None:
        """Harmless when the family went first."""
        found = self._families.get(family)
        metric = found.metrics.get(_key(labels)) if found is not None else None
        if found is None or metric is None:
            return
        metric.open_count -= 1
        if not metric.open_count:
            del found.metrics[_key(labels)]

    def update(self, family: str, labels: Labels, operation: MetricOperation, value: float) -> None:
        """What does not exist any longer is not updated."""
        found = self._families.get(family)
        metric = found.metrics.get(_key(labels)) if found is not None else None
        if metric is None:
            return
        if operation == "set":
            metric.value = value
            return
        metric.value += value
        if operation == "observe":
            metric.counts[bisect_left(metric.bounds, value)] += 1

    def value(self, family: str, labels: Labels) -> float:
        """The value of a counter or a gauge. Raises ServerError."""
        found = self._families.get(family)
        metric = found.metrics.get(_key(labels)) if found is not None else None
        if metric is None:
            raise _no_family(family)
        return metric.value


def _samples(family: _Family) -> list[Sample | HistogramSample]:
    if family.kind == "histogram":
        return [
            HistogramSample(metric.bounds, tuple(metric.counts), metric.value, dict(key))
            for key, metric in family.metrics.items()
        ]
    return [Sample(metric.value, dict(key)) for key, metric in family.metrics.items()]


def _key(labels: Labels) -> _Key:
    return tuple(sorted(labels.items()))


def _no_family(name: str) -> ServerError:
    return invalid_arg(f"metric family '{name}' does not exist")
