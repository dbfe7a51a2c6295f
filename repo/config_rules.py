"""What a model configuration must and must not say, apart from its tensors.

Owns the wording of those refusals; all are INVALID_ARG. `config_rules_tensors` judges inputs and
outputs, `config_rules_sequence` what a sequence batcher is told, `instance_groups` where instances
run, and `ensemble_rules` what an ensemble's steps say.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import betterproto

from repo.config_rules_sequence import sequence_refusals
from repo.config_rules_tensors import check_tensors
from repo.ensemble_rules import ensemble_refusals
from repo.file_names import file_name_refusals
from repo.model_config import (
    ModelConfig,
    ModelDynamicBatching,
    ModelQueuePolicy,
    ModelQueuePolicyTimeoutAction,
    dynamic_batching,
    ensemble_scheduling,
    is_decoupled,
    is_set,
    parameter,
    sequence_batching,
)
from repo.platforms import ENSEMBLE_PLATFORM, platform_fits_backend
from repo.refusals import ConfigRefusal, raise_first

BATCH_STRATEGY_PARAMETER: Final = "TRITON_BATCH_STRATEGY_PATH"


def check_config(config: ModelConfig) -> None:
    """Judge everything but tensors. Expects a normalised configuration; raises ServerError."""
    raise_first(config_refusals(config))


def check_complete_config(config: ModelConfig) -> None:
    """Judge everything, tensors included: what a model must pass before instances are made."""
    check_config(config)
    check_tensors(config)


def config_refusals(config: ModelConfig) -> Iterator[ConfigRefusal]:
    """Everything that `check_config` has against a configuration, the gravest first."""
    name = config.name
    if not name:
        yield ConfigRefusal("model configuration must specify 'name'", "name")
    if not config.backend and config.platform != ENSEMBLE_PLATFORM:
        yield ConfigRefusal(f"unexpected platform type '{config.platform}' for {name}", "platform")
    elif config.backend and config.platform == ENSEMBLE_PLATFORM:
        yield ConfigRefusal(
            f"Ensemble model '{name}' must have platform type 'ensemble' and empty backend type",
            "backend",
        )
    elif not platform_fits_backend(config.platform, config.backend):
        yield ConfigRefusal(
            f"unexpected 'platform' and 'backend' pair, got:{config.platform}, {config.backend}",
            "platform",
        )
    if config.max_batch_size < 0:
        yield ConfigRefusal(
            f"'max_batch_size' must be non-negative value for {name}", "max_batch_size"
        )
    yield from file_name_refusals(config)
    yield from _scheduler_refusals(config)
    yield from _response_cache_refusals(config)
    yield from _metrics_refusals(config)


def _scheduler_refusals(config: ModelConfig) -> Iterator[ConfigRefusal]:
    batching = dynamic_batching(config)
    if batching is not None:
        yield from _dynamic_batching_refusals(batching, config)
    if sequence_batching(config) is not None:
        if parameter(config, BATCH_STRATEGY_PARAMETER) is not None:
            yield ConfigRefusal(
                f"{BATCH_STRATEGY_PARAMETER} cannot be specified with sequence batcher, "
                "using default batching strategy",
                f'parameters["{BATCH_STRATEGY_PARAMETER}"]',
            )
        yield from sequence_refusals(config)
    if ensemble_scheduling(config) is not None:
        if config.platform != ENSEMBLE_PLATFORM:
            yield ConfigRefusal(
                f"ensemble scheduling cannot be set for model '{config.name}' "
                "whose platform is not ensemble",
                "ensemble_scheduling",
            )
        else:
            yield from ensemble_refusals(config)
    elif config.platform == ENSEMBLE_PLATFORM:
        yield ConfigRefusal(
            f"ensemble scheduling must be set for ensemble {config.name} "
            "whose platform is ensemble",
            "platform",
        )


def _dynamic_batching_refusals(
    batching: ModelDynamicBatching, config: ModelConfig
) -> Iterator[ConfigRefusal]:
    name, here = config.name, "dynamic_batching"
    for index, size in enumerate(batching.preferred_batch_size):
        place = f"{here}.preferred_batch_size[{index}]"
        if size <= 0:
            yield ConfigRefusal(
                f"dynamic batching preferred size must be positive for {name}", place
            )
        if size > config.max_batch_size:
            yield ConfigRefusal(
                f"dynamic batching preferred size must be <= max batch size for {name}", place
            )
    levels = batching.priority_levels
    if levels != 0:
        if not 1 <= batching.default_priority_level <= levels:
            yield ConfigRefusal(
                f"default priority level must be in range [1, {levels}] for {name}",
                f"{here}.default_priority_level",
            )
        for level in batching.priority_queue_policy:
            if not 1 <= level <= levels:
                yield ConfigRefusal(
                    f"priority queue policy must have priority level in range [1, {levels}] "
                    f"for {name}",
                    f'{here}.priority_queue_policy["{level}"]',
                )
    if batching.preserve_ordering:
        yield from _preserved_order_refusals(batching, name)


def _preserved_order_refusals(batching: ModelDynamicBatching, name: str) -> Iterator[ConfigRefusal]:
    here = "dynamic_batching"
    if batching.priority_levels > 1:
        yield ConfigRefusal(
            f"Only one priority level is allowed when 'preserve_ordering' is true for {name}",
            f"{here}.priority_levels",
        )
    policies = {f"{here}.default_queue_policy": batching.default_queue_policy}
    if batching.priority_levels == 1:
        policies |= {
            f'{here}.priority_queue_policy["{level}"]': policy
            for level, policy in batching.priority_queue_policy.items()
        }
    for place, policy in policies.items():
        if _delays(policy):
            yield ConfigRefusal(
                "Queue policy can not have DELAY as timeout action "
                f"when 'preserve_ordering' is true for {name}",
                f"{place}.timeout_action",
            )


def _delays(policy: ModelQueuePolicy) -> bool:
    return (
        policy.default_timeout_microseconds != 0
        and policy.timeout_action == ModelQueuePolicyTimeoutAction.DELAY
    )


def _response_cache_refusals(config: ModelConfig) -> Iterator[ConfigRefusal]:
    if not config.response_cache.enable:
        return
    refused = f"Response Cache does not currently support model {config.name} with"
    remedy = "Please disable the response cache."
    if sequence_batching(config) is not None:
        yield ConfigRefusal(
            f"{refused} sequence batching scheduler. {remedy}", "response_cache.enable"
        )
    if is_decoupled(config):
        yield ConfigRefusal(
            f"{refused} 'decoupled' transaction policy. {remedy}", "response_cache.enable"
        )


def _metrics_refusals(config: ModelConfig) -> Iterator[ConfigRefusal]:
    for index, control in enumerate(config.model_metrics.metric_control):
        place = f"model_metrics.metric_control[{index}]"
        if not is_set(control.metric_identifier):
            yield ConfigRefusal("metric control must specify 'metric_identifier'", place)
        elif not control.metric_identifier.family:
            yield ConfigRefusal(
                "metric identifier must specify non-empty 'family'", f"{place}.metric_identifier"
            )
        choice, options = betterproto.which_one_of(control, "metric_options")
        if choice != "histogram_options":
            yield ConfigRefusal("metric control must specify 'histogram_options'", place)
        elif not options.buckets:
            yield ConfigRefusal(
                "histogram options must specify non-empty 'buckets'", f"{place}.histogram_options"
            )
