"""The server's own account of a window: the difference of two looks at its statistics.

Owns which version is meant where the user named none, how composing models are found, and the
split of a request into queue, compute and overhead. Pure: documents in, numbers out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from perf_analyzer.model import Document

DURATIONS: Final = (
    "success",
    "queue",
    "compute_input",
    "compute_infer",
    "compute_output",
    "cache_hit",
    "cache_miss",
)


@dataclass(frozen=True, slots=True)
class Duration:
    """How often something happened, and how long it took in all."""

    count: int = 0
    ns: int = 0

    @property
    def average_us(self) -> int:
        return self.ns // self.count // 1000 if self.count else 0

    def __add__(self, other: Duration) -> Duration:
        return Duration(self.count + other.count, self.ns + other.ns)

    def __sub__(self, other: Duration) -> Duration:
        return Duration(self.count - other.count, self.ns - other.ns)


@dataclass(frozen=True, slots=True)
class ModelDelta:
    """One model over one span of time."""

    name: str
    version: str
    inference_count: int
    execution_count: int
    durations: Mapping[str, Duration]

    def __getitem__(self, name: str) -> Duration:
        return self.durations[name]

    @property
    def compute(self) -> Duration:
        """Input, inference and output together; each request once."""
        ns = sum(self[part].ns for part in DURATIONS[2:5])
        return Duration(self["compute_infer"].count, ns)

    @property
    def overhead_us(self) -> int:
        """What is left of an average request after queue, compute and cache."""
        success = self["success"]
        if not success.count:
            return 0
        # Requests that the cache answered have no compute time and others no hit: per request,
        # each counts with what it had. Without a cache this is compute time per execution.
        cached = self["cache_hit"].count
        if cached or self["cache_miss"].count:
            served = max(1, self.compute.count + cached)
            spent = self.compute.ns + self["cache_hit"].ns + self["cache_miss"].ns
            accounted = spent / served
        else:
            accounted = self.compute.ns / max(1, self.compute.count)
        queued = self["queue"].ns / max(1, self["queue"].count)
        return max(0, int(success.ns / success.count - queued - accounted)) // 1000


@dataclass(frozen=True, slots=True)
class ServerDelta:
    """The model under load and the models that it is composed of."""

    model: ModelDelta
    composing: tuple[ModelDelta, ...] = ()


Counters = Mapping[tuple[str, str], ModelDelta]


def read_counters(document: Document) -> Counters:
    """All models of a statistics document, by name and version."""
    found = {}
    for each in document.get("model_stats", ()):
        stats = each.get("inference_stats", {})
        durations = {}
        for name in DURATIONS:
            value = stats.get(name) or {}
            durations[name] = Duration(int(value.get("count", 0)), int(value.get("ns", 0)))
        key = (str(each["name"]), str(each.get("version", "")))
        found[key] = ModelDelta(
            *key,
            int(each.get("inference_count", 0)),
            int(each.get("execution_count", 0)),
            durations,
        )
    return found


def _combined(
    one: ModelDelta, other: ModelDelta, how: Callable[[Duration, Duration], Duration], sign: int
) -> ModelDelta:
    return ModelDelta(
        one.name,
        one.version,
        one.inference_count + sign * other.inference_count,
        one.execution_count + sign * other.execution_count,
        {name: how(one[name], other[name]) for name in DURATIONS},
    )


def _difference(after: ModelDelta, before: ModelDelta | None) -> ModelDelta:
    return after if before is None else _combined(after, before, Duration.__sub__, -1)


class UnknownVersion(Exception):
    """The statistics do not have the model that was under load."""


def delta(
    before: Counters,
    after: Counters,
    *,
    name: str,
    version: str,
    composing: Sequence[tuple[str, str]] = (),
    warn: Callable[[str], None],
) -> ServerDelta:
    """What happened between two looks. Raises UnknownVersion."""
    return ServerDelta(
        _one(before, after, name, version, warn),
        tuple(_one(before, after, each, of, warn) for each, of in composing),
    )


def _one(
    before: Counters, after: Counters, name: str, version: str, warn: Callable[[str], None]
) -> ModelDelta:
    changes = {
        key[1]: _difference(counters, before.get(key))
        for key, counters in after.items()
        if key[0] == name and version in {"", key[1]}
    }
    if not changes:
        raise UnknownVersion("failed to find the requested model version")
    served = [each for each in changes if changes[each]["queue"].count > 0]
    candidates = served or list(changes)
    if len(served) > 1:
        warn(
            f"WARNING: requests of several versions of '{name}' were served, the statistics are"
            " those of the highest one"
        )
    return changes[max(candidates, key=lambda each: int(each) if each.isdecimal() else 0)]


def merged(deltas: Sequence[ServerDelta]) -> ServerDelta | None:
    """The sum over several windows; None of nothing."""
    if not deltas:
        return None
    total = deltas[0]
    for each in deltas[1:]:
        total = ServerDelta(
            _combined(total.model, each.model, Duration.__add__, 1),
            tuple(
                _combined(one, other, Duration.__add__, 1)
                for one, other in zip(total.composing, each.composing, strict=True)
            ),
        )
    return total
