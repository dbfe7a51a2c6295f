"""What a model's configuration says about its own metrics.

Owns the one control there is: the buckets of the histogram of first responses.
"""

from __future__ import annotations

import logging
from typing import Final

from repo.model_config import ModelConfig

log = logging.getLogger(__name__)

FIRST_RESPONSE_FAMILY: Final = "nv_inference_first_response_histogram_ms"


def first_response_buckets(config: ModelConfig) -> tuple[float, ...] | None:
    """Upper bounds in milliseconds, ascending; None where the model gives none.

    A control for any other family changes nothing, and is logged.
    """
    found: tuple[float, ...] | None = None
    for control in config.model_metrics.metric_control:
        family = control.metric_identifier.family
        if family == FIRST_RESPONSE_FAMILY:
            found = tuple(sorted(set(control.histogram_options.buckets)))
        else:
            log.warning(
                "model '%s' has a metric_control for family '%s', which has no options",
                config.name,
                family,
            )
    return found
