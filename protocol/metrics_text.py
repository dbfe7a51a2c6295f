"""Metrics as Prometheus text, format 0.0.4.

Owns the spelling only: names exactly as given (no `_total`, no `_created`), labels sorted by name,
families without samples left out. It counts nothing, and `protocol.metrics_families` names what
the server itself shows.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

Kind = Literal["counter", "gauge", "histogram", "summary"]

CONTENT_TYPE: Final = "text/plain; charset=utf-8"

_FAMILY_NAME: Final = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
_LABEL_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")
_HELP_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n"})
_LABEL_ESCAPES: Final = str.maketrans({"\\": r"\\", "\n": r"\n", '"': r"\""})


@dataclass(frozen=True, slots=True)
class Sample:
    """The value of one counter or gauge."""

    value: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class HistogramSample:
    """Observations by size: `counts[i]` are at most `bounds[i]` and above the bound before it.

    The last of `counts`, one more than there are `bounds`, is of those above every bound.
    """

    bounds: Sequence[float]
    counts: Sequence[int]
    total: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SummarySample:
    """Observations by rank: (quantile, its value) pairs; a value is NaN when there is none."""

    quantiles: Sequence[tuple[float, float]]
    count: int
    total: float
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Family:
    """All samples of one name."""

    name: str
    kind: Kind
    help: str
    samples: Sequence[Sample | HistogramSample | SummarySample]


def check_family_name(name: str) -> None:
    """Raise ValueError for a name that Prometheus would not read."""
    if not _FAMILY_NAME.fullmatch(name):
        raise ValueError(f"invalid metric name '{name}'")


def check_label_names(names: Iterable[str]) -> None:
    """Raise ValueError for a label that Prometheus would not read, or keeps for itself."""
    for name in names:
        if not _LABEL_NAME.fullmatch(name) or name.startswith("__"):
            raise ValueError(f"invalid metric label '{name}'")


def render(families: Iterable[Family]) -> str:
    """The page. Names are taken as checked; values and help texts may hold anything."""
    lines: list[str] = []
    for family in families:
        if not family.samples:
            continue
        lines.append(f"# HELP {family.name} {family.help.translate(_HELP_ESCAPES)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        for sample in family.samples:
            if isinstance(sample, Sample):
                lines.append(_line(family.name, sample.labels, sample.value))
            elif isinstance(sample, HistogramSample):
                _render_histogram(family.name, sample, lines)
            else:
                _render_summary(family.name, sample, lines)
    lines.append("")
    return "\n".join(lines)


def _render_histogram(name: str, sample: HistogramSample, lines: list[str]) -> None:
    assert len(sample.counts) == len(sample.bounds) + 1, "one count is above every bound"
    lines.append(f"{name}_count{_labels(sample.labels)} {sum(sample.counts)}")
    lines.append(_line(f"{name}_sum", sample.labels, sample.total))
    cumulative = 0
    for bound, count in zip((*sample.bounds, math.inf), sample.counts, strict=True):
        cumulative += count
        labels = _labels(sample.labels, ("le", number(bound)))
        lines.append(f"{name}_bucket{labels} {cumulative}")


def _render_summary(name: str, sample: SummarySample, lines: list[str]) -> None:
    lines.append(f"{name}_count{_labels(sample.labels)} {sample.count}")
    lines.append(_line(f"{name}_sum", sample.labels, sample.total))
    for quantile, value in sample.quantiles:
        labels = _labels(sample.labels, ("quantile", number(quantile)))
        lines.append(f"{name}{labels} {number(value)}")


def _line(name: str, labels: Mapping[str, str], value: float) -> str:
    return f"{name}{_labels(labels)} {number(value)}"


def _labels(labels: Mapping[str, str], last: tuple[str, str] | None = None) -> str:
    pairs = sorted(labels.items())
    if last is not None:
        pairs.append(last)
    if not pairs:
        return ""
    return (
        "{" + ",".join(f'{name}="{text.translate(_LABEL_ESCAPES)}"' for name, text in pairs) + "}"
    )


def number(value: float) -> str:
    """A sample value: whole numbers without decimals, the others as Python prints them."""
    if isinstance(value, int):
        return str(int(value))
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    # Above 2⁵³ a double is always whole, and its digits would pretend to be exact.
    return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(value)
