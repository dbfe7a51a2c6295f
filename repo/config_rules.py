"""What a model configuration must and must not say, apart from its tensors.

Owns the wording of those refusals; all are INVALID_ARG. `config_rules_tensors` judges inputs and
outputs, `config_rules_sequence` what a sequence batcher is told, `instance_groups` where instances
run, and `ensemble_rules` what an ensemble's steps say.
"""

from __future__ import annotations

from typing import Final

import betterproto

from protocol.status import invalid_arg
from repo.config_rules_sequence import check_sequence_batching
from repo.config_rules_tensors import check_tensors
from repo.ensemble_rules import check_ensemble_scheduling
from repo.file_names import check_file_names
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

BATCH_STRATEGY_PARAMETER: Final = "TRITON_BATCH_STRATEGY_PATH"


def check_config(config: ModelConfig) -> None:
    """Judge everything but tensors. Expects a normalised configuration; raises ServerError."""
    name = config.name
    if not name:
        raise invalid_arg("model configuration must specify 'name'")
    if not config.backend:
        if config.platform != ENSEMBLE_PLATFORM:
            raise invalid_arg(f"unexpected platform type '{config.platform}' for {name}")
    elif config.platform == ENSEMBLE_PLATFORM:
        raise invalid_arg(
            f"Ensemble model '{name}' must have platform type 'ensemble' and empty backend type"
        )
    if not platform_fits_backend(config.platform, config.backend):
        raise invalid_arg(
            f"unexpected 'platform' and 'backend' pair, got:{config.platform}, {config.backend}"
        )
    if config.max_batch_size < 0:
        raise invalid_arg(f"'max_batch_size' must be non-negative value for {name}")
    check_file_names(config)
    _check_scheduler(config)
    _check_response_cache(config)
    _check_metrics(config)


def check_complete_config(config: ModelConfig) -> None:
    """Judge everything, tensors included: what a model must pass before instances are made."""
    check_config(config)
    check_tensors(config)


def _check_scheduler(config: ModelConfig) -> None:
    batching = dynamic_batching(config)
    if batching is not None:
        _check_dynamic_batching(batching, config)
    if sequence_batching(config) is not None:
        if parameter(config, BATCH_STRATEGY_PARAMETER) is not None:
            raise invalid_arg(
                f"{BATCH_STRATEGY_PARAMETER} cannot be specified with sequence batcher, "
                "using default batching strategy"
            )
        check_sequence_batching(config)
    if ensemble_scheduling(config) is not None:
        if config.platform != ENSEMBLE_PLATFORM:
            raise invalid_arg(
                f"ensemble scheduling cannot be set for model '{config.name}' "
                "whose platform is not ensemble"
            )
        check_ensemble_scheduling(config)
    elif config.platform == ENSEMBLE_PLATFORM:
        raise invalid_arg(
            f"ensemble scheduling must be set for ensemble {config.name} whose platform is ensemble"
        )


def _check_dynamic_batching(batching: ModelDynamicBatching, config: ModelConfig) -> None:
    name = config.name
    for size in batching.preferred_batch_size:
        if size <= 0:
            raise invalid_arg(f"dynamic batching preferred size must be positive for {name}")
        if size > config.max_batch_size:
            raise invalid_arg(
                f"dynamic batching preferred size must be <= max batch size for {name}"
            )
    levels = batching.priority_levels
    if levels != 0:
        if not 1 <= batching.default_priority_level <= levels:
            raise invalid_arg(f"default priority level must be in range [1, {levels}] for {name}")
        if not all(1 <= level <= levels for level in batching.priority_queue_policy):
            raise invalid_arg(
                f"priority queue policy must have priority level in range [1, {levels}] for {name}"
            )
    if batching.preserve_ordering:
        _check_preserved_order(batching, name)


def _check_preserved_order(batching: ModelDynamicBatching, name: str) -> None:
    if batching.priority_levels > 1:
        raise invalid_arg(
            f"Only one priority level is allowed when 'preserve_ordering' is true for {name}"
        )
    policies = [batching.default_queue_policy]
    if batching.priority_levels == 1:
        policies += batching.priority_queue_policy.values()
    if any(_delays(policy) for policy in policies):
        raise invalid_arg(
            "Queue policy can not have DELAY as timeout action "
            f"when 'preserve_ordering' is true for {name}"
        )


def _delays(policy: ModelQueuePolicy) -> bool:
    return (
        policy.default_timeout_microseconds != 0
        and policy.timeout_action == ModelQueuePolicyTimeoutAction.DELAY
    )


def _check_response_cache(config: ModelConfig) -> None:
    if not config.response_cache.enable:
        return
    refused = f"Response Cache does not currently support model {config.name} with"
    remedy = "Please disable the response cache."
    if sequence_batching(config) is not None:
        raise invalid_arg(f"{refused} sequence batching scheduler. {remedy}")
    if is_decoupled(config):
        raise invalid_arg(f"{refused} 'decoupled' transaction policy. {remedy}")


def _check_metrics(config: ModelConfig) -> None:
    for control in config.model_metrics.metric_control:
        if not is_set(control.metric_identifier):
            raise invalid_arg("metric control must specify 'metric_identifier'")
        if not control.metric_identifier.family:
            raise invalid_arg("metric identifier must specify non-empty 'family'")
        choice, options = betterproto.which_one_of(control, "metric_options")
        if choice != "histogram_options":
            raise invalid_arg("metric control must specify 'histogram_options'")
        if not options.buckets:
            raise invalid_arg("histogram options must specify non-empty 'buckets'")
