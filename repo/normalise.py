"""Fills the defaults into a model configuration that later readers rely on.

Owns what an absent value means where Triton shows the default in the configuration it answers
with. It never judges (`config_rules`), never looks at files (`autocomplete`) and never needs to
know a device (`instance_groups`).
"""

from __future__ import annotations

from typing import Final

from repo.model_config import (
    ModelConfig,
    ModelOptimizationPolicyPinnedMemoryBuffer,
    ModelVersionPolicyLatest,
    copy_config,
    dynamic_batching,
    ensemble_scheduling,
    is_set,
    sequence_batching,
    strategy_oldest,
)

DEFAULT_SEQUENCE_IDLE_MICROSECONDS: Final = 1_000_000


def normalise(config: ModelConfig) -> ModelConfig:
    """A copy of `config` with its defaults filled in. Normalising twice changes nothing more."""
    config = copy_config(config)
    if not is_set(config.version_policy):
        config.version_policy.latest = ModelVersionPolicyLatest(num_versions=1)
    _fill_batching(config)
    if ensemble_scheduling(config) is None:
        optimization = config.optimization
        if not is_set(optimization.input_pinned_memory):
            optimization.input_pinned_memory = ModelOptimizationPolicyPinnedMemoryBuffer(True)
        if not is_set(optimization.output_pinned_memory):
            optimization.output_pinned_memory = ModelOptimizationPolicyPinnedMemoryBuffer(True)
    return config


def _fill_batching(config: ModelConfig) -> None:
    batching = dynamic_batching(config)
    if batching is not None and not batching.preferred_batch_size and config.max_batch_size > 0:
        batching.preferred_batch_size = [config.max_batch_size]
    sequence = sequence_batching(config)
    if sequence is None:
        return
    if sequence.max_sequence_idle_microseconds == 0:
        sequence.max_sequence_idle_microseconds = DEFAULT_SEQUENCE_IDLE_MICROSECONDS
    oldest = strategy_oldest(sequence)
    if oldest is not None and not oldest.preferred_batch_size and config.max_batch_size > 0:
        oldest.preferred_batch_size = [config.max_batch_size]
