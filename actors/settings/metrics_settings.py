"""What `--metrics-config` asks for: which latencies are shown, and how finely.

Plain data; `actors/metrics/statistics.py` counts by it and `actors/metrics/page.py` shows by it.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from actors.settings.options import ServerOptions
from protocol.metrics_families import SUMMARY_QUANTILES

log = logging.getLogger(__name__)

_USUAL_QUANTILES: Final = tuple(quantile for quantile, _ in SUMMARY_QUANTILES)


@dataclass(frozen=True, slots=True)
class MetricsSettings:
    """The settings by their names on the command line; `quantiles` lie between 0 and 1."""

    counter_latencies: bool = True
    histogram_latencies: bool = False
    summary_latencies: bool = False
    quantiles: tuple[float, ...] = _USUAL_QUANTILES
    phase_histograms: bool = False  # Troupe's own
    recent_latencies: bool = False  # no setting: the console wants them

    @classmethod
    def parse(cls, flags: Sequence[str]) -> MetricsSettings:
        """From the values of the repeatable flag, `<setting>=<value>`; unknown ones do not count.

        Raises ValueError with the text that the command line prints.
        """
        values: dict[str, str] = {}
        for text in flags:
            setting, equals, value = text.partition("=")
            if not (setting and equals):
                raise ValueError(f"--metrics-config option format is <setting>=<value>. Got {text}")
            values[setting] = value
        return cls(
            values.get("counter_latencies", "true") == "true",
            values.get("histogram_latencies") == "true",
            values.get("summary_latencies") == "true",
            _quantiles(values.get("summary_quantiles", "")) or _USUAL_QUANTILES,
            values.get("phase_histograms") == "true",
        )

    @classmethod
    def of(cls, options: ServerOptions) -> MetricsSettings:
        """What is to be measured: what the flag says, and what the console shows besides."""
        settings = cls.parse(options.metrics_config)
        if options.has_admin_port:
            return replace(settings, phase_histograms=True, recent_latencies=True)
        return settings

    @property
    def times_executions(self) -> bool:
        """Whether latencies are kept at all, beside the totals."""
        return (
            self.histogram_latencies
            or self.summary_latencies
            or self.phase_histograms
            or self.recent_latencies
        )


def _quantiles(text: str) -> tuple[float, ...]:
    """The quantiles of `q:error,…`. The error that is allowed is never used up: ranks are exact."""
    quantiles: list[float] = []
    for pair in filter(None, text.split(",")):
        quantile, _, error = pair.partition(":")
        try:
            number, allowed = float(quantile), float(error)
        except ValueError:
            number, allowed = -1.0, 0.0
        if 0.0 <= number <= 1.0 and 0.0 <= allowed <= 1.0:
            quantiles.append(number)
        else:
            log.error("summary quantile '%s' is not <quantile>:<error>, and is left out", pair)
    return tuple(quantiles)
