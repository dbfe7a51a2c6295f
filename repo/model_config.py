"""The typed model configuration: one name for every message of it, and the settings that
schedulers read.

Owns the meaning of a configuration's numbers: microseconds become seconds HERE, once. It never
reads a file, never judges a configuration (`config_rules`), and never fills a default into one
(`normalise`); the settings below only apply what Triton means by an absent value.

The messages are betterproto dataclasses. Three of their habits matter to a reader:
a field of an unset `oneof` member raises AttributeError, so ask `dynamic_batching(config)` and its
siblings; an absent sub-message reads as an empty one, so ask `is_set(message)`; and an empty
sub-message made in Python counts as absent until `mark_set(message)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

import betterproto

from protocol.datatypes import config_name, wire_name
from protocol.proto.generated.inference import (
    BatchInput,
    BatchInputKind,
    BatchOutput,
    BatchOutputKind,
    DataType,
    ModelConfig,
    ModelDynamicBatching,
    ModelEnsembling,
    ModelEnsemblingStep,
    ModelInput,
    ModelInputFormat,
    ModelInstanceGroup,
    ModelInstanceGroupKind,
    ModelInstanceGroupSecondaryDevice,
    ModelInstanceGroupSecondaryDeviceSecondaryDeviceKind,
    ModelMetrics,
    ModelMetricsMetricControl,
    ModelMetricsMetricControlHistogramOptions,
    ModelMetricsMetricControlMetricIdentifier,
    ModelOperations,
    ModelOptimizationPolicy,
    ModelOptimizationPolicyCuda,
    ModelOptimizationPolicyCudaGraphSpec,
    ModelOptimizationPolicyCudaGraphSpecLowerBound,
    ModelOptimizationPolicyCudaGraphSpecShape,
    ModelOptimizationPolicyExecutionAccelerators,
    ModelOptimizationPolicyExecutionAcceleratorsAccelerator,
    ModelOptimizationPolicyGraph,
    ModelOptimizationPolicyModelPriority,
    ModelOptimizationPolicyPinnedMemoryBuffer,
    ModelOutput,
    ModelParameter,
    ModelQueuePolicy,
    ModelQueuePolicyTimeoutAction,
    ModelRateLimiter,
    ModelRateLimiterResource,
    ModelRepositoryAgents,
    ModelRepositoryAgentsAgent,
    ModelResponseCache,
    ModelSequenceBatching,
    ModelSequenceBatchingControl,
    ModelSequenceBatchingControlInput,
    ModelSequenceBatchingControlKind,
    ModelSequenceBatchingInitialState,
    ModelSequenceBatchingState,
    ModelSequenceBatchingStrategyDirect,
    ModelSequenceBatchingStrategyOldest,
    ModelTensorReshape,
    ModelTransactionPolicy,
    ModelVersionPolicy,
    ModelVersionPolicyAll,
    ModelVersionPolicyLatest,
    ModelVersionPolicySpecific,
    ModelWarmup,
    ModelWarmupInput,
)

__all__ = [
    "BatchInput", "BatchInputKind", "BatchOutput", "BatchOutputKind", "BatchingSettings",
    "ControlSettings", "DataType", "EnsembleSettings", "InitialStateSettings", "ModelConfig",
    "ModelDynamicBatching", "ModelEnsembling", "ModelEnsemblingStep", "ModelInput",
    "ModelInputFormat", "ModelInstanceGroup", "ModelInstanceGroupKind",
    "ModelInstanceGroupSecondaryDevice", "ModelInstanceGroupSecondaryDeviceSecondaryDeviceKind",
    "ModelMetrics", "ModelMetricsMetricControl", "ModelMetricsMetricControlHistogramOptions",
    "ModelMetricsMetricControlMetricIdentifier", "ModelOperations", "ModelOptimizationPolicy",
    "ModelOptimizationPolicyCuda", "ModelOptimizationPolicyCudaGraphSpec",
    "ModelOptimizationPolicyCudaGraphSpecLowerBound",
    "ModelOptimizationPolicyCudaGraphSpecShape", "ModelOptimizationPolicyExecutionAccelerators",
    "ModelOptimizationPolicyExecutionAcceleratorsAccelerator", "ModelOptimizationPolicyGraph",
    "ModelOptimizationPolicyModelPriority", "ModelOptimizationPolicyPinnedMemoryBuffer",
    "ModelOutput", "ModelParameter", "ModelQueuePolicy", "ModelQueuePolicyTimeoutAction",
    "ModelRateLimiter", "ModelRateLimiterResource", "ModelRepositoryAgents",
    "ModelRepositoryAgentsAgent", "ModelResponseCache", "ModelSequenceBatching",
    "ModelSequenceBatchingControl", "ModelSequenceBatchingControlInput",
    "ModelSequenceBatchingControlKind", "ModelSequenceBatchingInitialState",
    "ModelSequenceBatchingState", "ModelSequenceBatchingStrategyDirect",
    "ModelSequenceBatchingStrategyOldest", "ModelTensorReshape", "ModelTransactionPolicy",
    "ModelVersionPolicy", "ModelVersionPolicyAll", "ModelVersionPolicyLatest",
    "ModelVersionPolicySpecific", "ModelWarmup", "ModelWarmupInput", "QueuePolicySettings",
    "SchedulingChoice", "SequenceSettings", "StateSettings", "StepSettings",
    "batching_settings", "copy_config", "data_type_of", "datatype", "dynamic_batching",
    "ensemble_scheduling", "ensemble_settings", "is_decoupled", "is_set", "mark_set",
    "model_dims", "parameter", "scheduling_choice", "sequence_batching", "sequence_settings",
    "strategy_direct", "strategy_oldest", "type_name",
]  # fmt: skip

SchedulingChoice = Literal["", "dynamic_batching", "sequence_batching", "ensemble_scheduling"]

_MICROSECONDS: Final = 1_000_000

# Triton's default of max_sequence_idle_microseconds.
_DEFAULT_SEQUENCE_IDLE_SECONDS: Final = 1.0


def copy_config(config: ModelConfig) -> ModelConfig:
    """A deep copy. (betterproto's own `deepcopy` forgets that an empty message was present.)"""
    copy: ModelConfig = ModelConfig().parse(bytes(config))
    return copy


def is_set(message: betterproto.Message) -> bool:
    """Whether a sub-message stands in the configuration, be it empty."""
    return bool(betterproto.serialized_on_wire(message))


def mark_set(message: betterproto.Message) -> None:
    """Make the message count as present even when it is empty."""
    message.parse(b"")


def scheduling_choice(config: ModelConfig) -> SchedulingChoice:
    """Which scheduler the model asks for; "" is the default scheduler."""
    choice: SchedulingChoice = betterproto.which_one_of(config, "scheduling_choice")[0]
    return choice


def dynamic_batching(config: ModelConfig) -> ModelDynamicBatching | None:
    return config.dynamic_batching if scheduling_choice(config) == "dynamic_batching" else None


def sequence_batching(config: ModelConfig) -> ModelSequenceBatching | None:
    return config.sequence_batching if scheduling_choice(config) == "sequence_batching" else None


def ensemble_scheduling(config: ModelConfig) -> ModelEnsembling | None:
    chosen = scheduling_choice(config) == "ensemble_scheduling"
    return config.ensemble_scheduling if chosen else None


def strategy_direct(sequence: ModelSequenceBatching) -> ModelSequenceBatchingStrategyDirect | None:
    """The direct strategy's settings; None when they are absent, though direct is the default."""
    chosen = betterproto.which_one_of(sequence, "strategy_choice")[0] == "direct"
    return sequence.direct if chosen else None


def strategy_oldest(sequence: ModelSequenceBatching) -> ModelSequenceBatchingStrategyOldest | None:
    chosen = betterproto.which_one_of(sequence, "strategy_choice")[0] == "oldest"
    return sequence.oldest if chosen else None


def is_decoupled(config: ModelConfig) -> bool:
    return config.model_transaction_policy.decoupled


def parameter(config: ModelConfig, key: str) -> str | None:
    """The string value of one of `config.parameters`; None when it is absent."""
    found = config.parameters.get(key)
    return None if found is None else found.string_value


def type_name(data_type: int) -> str:
    """`TYPE_FP32`: the name a configuration uses."""
    return DataType(data_type).name or "<invalid>"


def datatype(data_type: int) -> str:
    """`FP32`, `BYTES`: the name on the wire; `<invalid>` for TYPE_INVALID."""
    return wire_name(type_name(data_type))


def data_type_of(name: str) -> DataType:
    """The enum value of a wire name (`FP32`, `BYTES`)."""
    value: DataType = DataType.from_string(config_name(name))
    return value


def model_dims(tensor: ModelInput | ModelOutput) -> tuple[int, ...]:
    """The dims that the model itself sees, without the batch dimension: those after reshape."""
    return tuple(tensor.reshape.shape if is_set(tensor.reshape) else tensor.dims)


@dataclass(frozen=True, slots=True)
class QueuePolicySettings:
    """What one priority level does with requests that wait too long or are too many."""

    timeout_action: Literal["REJECT", "DELAY"] = "REJECT"
    default_timeout_seconds: float = 0.0  # 0: no timeout
    allow_timeout_override: bool = False
    max_queue_size: int = 0  # 0: no limit


@dataclass(frozen=True, slots=True)
class BatchingSettings:
    """The dynamic batcher's settings; `max_batch_size` is at least 1."""

    max_batch_size: int
    preferred_batch_sizes: tuple[int, ...] = ()  # ascending; empty for a model without batching
    max_queue_delay_seconds: float = 0.0
    preserve_ordering: bool = False
    priority_levels: int = 0  # 0: one queue, without levels
    default_priority_level: int = 0
    default_policy: QueuePolicySettings = QueuePolicySettings()
    level_policies: Mapping[int, QueuePolicySettings] = field(default_factory=dict)

    def policy_of(self, level: int) -> QueuePolicySettings:
        return self.level_policies.get(level, self.default_policy)


@dataclass(frozen=True, slots=True)
class ControlSettings:
    """One control tensor: [1], or [1, 1] for a model with batching.

    `false_value` and `true_value` are the configured pair; a CORRID control has neither.
    """

    kind: Literal["START", "END", "READY", "CORRID"]
    name: str
    datatype: str
    false_value: float = 0
    true_value: float = 1


@dataclass(frozen=True, slots=True)
class InitialStateSettings:
    """What a sequence's state holds at its start; `data_file` "" means zeros."""

    name: str
    dims: tuple[int, ...]
    data_file: str = ""


@dataclass(frozen=True, slots=True)
class StateSettings:
    """One implicit state; `dims` are without the batch dimension and may hold -1."""

    input_name: str
    output_name: str
    datatype: str
    dims: tuple[int, ...]
    initial: InitialStateSettings | None = None
    same_buffer: bool = False
    growable: bool = False


@dataclass(frozen=True, slots=True)
class SequenceSettings:
    """The sequence batcher's settings; `max_batch_size` is at least 1.

    `preferred_batch_sizes` and `preserve_ordering` belong to the oldest strategy,
    `minimum_slot_utilization` to the direct one.
    """

    max_batch_size: int
    strategy: Literal["direct", "oldest"] = "direct"
    slots_per_instance: int = 1
    max_sequence_idle_seconds: float = _DEFAULT_SEQUENCE_IDLE_SECONDS
    max_queue_delay_seconds: float = 0.0
    minimum_slot_utilization: float = 0.0
    preferred_batch_sizes: tuple[int, ...] = ()
    preserve_ordering: bool = False
    iterative: bool = False
    controls: tuple[ControlSettings, ...] = ()
    states: tuple[StateSettings, ...] = ()


@dataclass(frozen=True, slots=True)
class StepSettings:
    """One step of an ensemble: maps are model tensor name → ensemble tensor name."""

    model_name: str
    model_version: int  # -1: the latest
    input_map: Mapping[str, str]
    output_map: Mapping[str, str]
    model_namespace: str = ""


@dataclass(frozen=True, slots=True)
class EnsembleSettings:
    """The ensemble's steps; `max_inflight_requests` 0 is no limit."""

    steps: tuple[StepSettings, ...]
    max_inflight_requests: int = 0


def batching_settings(config: ModelConfig) -> BatchingSettings:
    """The settings of `dynamic_batching`, or Triton's defaults when it is absent."""
    maximum = max(config.max_batch_size, 1)
    batching = dynamic_batching(config)
    if batching is None:
        return BatchingSettings(max_batch_size=maximum)
    return BatchingSettings(
        max_batch_size=maximum,
        preferred_batch_sizes=_preferred(batching.preferred_batch_size, config.max_batch_size),
        max_queue_delay_seconds=batching.max_queue_delay_microseconds / _MICROSECONDS,
        preserve_ordering=batching.preserve_ordering,
        priority_levels=batching.priority_levels,
        default_priority_level=batching.default_priority_level,
        default_policy=_queue_policy(batching.default_queue_policy),
        level_policies={
            level: _queue_policy(policy) for level, policy in batching.priority_queue_policy.items()
        },
    )


def sequence_settings(config: ModelConfig) -> SequenceSettings | None:
    """The settings of `sequence_batching`; None when the model has no sequences.

    Expects a configuration that passed `config_rules`.
    """
    sequence = sequence_batching(config)
    if sequence is None:
        return None
    maximum = max(config.max_batch_size, 1)
    idle_seconds = sequence.max_sequence_idle_microseconds / _MICROSECONDS
    common = SequenceSettings(
        max_batch_size=maximum,
        slots_per_instance=maximum,
        max_sequence_idle_seconds=idle_seconds or _DEFAULT_SEQUENCE_IDLE_SECONDS,
        iterative=sequence.iterative_sequence,
        controls=tuple(
            _control(one.name, control) for one in sequence.control_input for control in one.control
        ),
        states=tuple(_state(state) for state in sequence.state),
    )
    oldest = strategy_oldest(sequence)
    if oldest is not None:
        return replace(
            common,
            strategy="oldest",
            slots_per_instance=max(oldest.max_candidate_sequences, 0) or maximum,
            max_queue_delay_seconds=oldest.max_queue_delay_microseconds / _MICROSECONDS,
            preferred_batch_sizes=_preferred(oldest.preferred_batch_size, config.max_batch_size),
            preserve_ordering=oldest.preserve_ordering,
        )
    direct = strategy_direct(sequence)
    if direct is None:
        return common
    return replace(
        common,
        max_queue_delay_seconds=direct.max_queue_delay_microseconds / _MICROSECONDS,
        minimum_slot_utilization=direct.minimum_slot_utilization,
    )


def ensemble_settings(config: ModelConfig) -> EnsembleSettings | None:
    """The settings of `ensemble_scheduling`; None for a model that is no ensemble."""
    ensemble = ensemble_scheduling(config)
    if ensemble is None:
        return None
    return EnsembleSettings(
        steps=tuple(
            StepSettings(
                model_name=step.model_name,
                model_version=step.model_version,
                input_map=dict(step.input_map),
                output_map=dict(step.output_map),
                model_namespace=step.model_namespace,
            )
            for step in ensemble.step
        ),
        max_inflight_requests=ensemble.max_inflight_requests,
    )


def _preferred(sizes: list[int], max_batch_size: int) -> tuple[int, ...]:
    # Without batching every pass counts as "at least the largest preferred size".
    if max_batch_size < 1:
        return ()
    return tuple(sorted(set(sizes))) or (max_batch_size,)


def _queue_policy(policy: ModelQueuePolicy) -> QueuePolicySettings:
    delay = policy.timeout_action == ModelQueuePolicyTimeoutAction.DELAY
    return QueuePolicySettings(
        timeout_action="DELAY" if delay else "REJECT",
        default_timeout_seconds=policy.default_timeout_microseconds / _MICROSECONDS,
        allow_timeout_override=policy.allow_timeout_override,
        max_queue_size=policy.max_queue_size,
    )


_CONTROL_KINDS: Final[dict[str, Literal["START", "END", "READY", "CORRID"]]] = {
    "CONTROL_SEQUENCE_START": "START",
    "CONTROL_SEQUENCE_END": "END",
    "CONTROL_SEQUENCE_READY": "READY",
    "CONTROL_SEQUENCE_CORRID": "CORRID",
}


def _control(name: str, control: ModelSequenceBatchingControl) -> ControlSettings:
    kind = _CONTROL_KINDS[ModelSequenceBatchingControlKind(control.kind).name]
    pairs: tuple[tuple[str, list[int] | list[float] | list[bool]], ...] = (
        ("INT32", control.int32_false_true),
        ("FP32", control.fp32_false_true),
        ("BOOL", control.bool_false_true),
    )
    for type_of_pair, pair in pairs:
        if pair and kind != "CORRID":
            return ControlSettings(kind, name, type_of_pair, pair[0], pair[1])
    return ControlSettings(kind, name, datatype(control.data_type))


def _state(state: ModelSequenceBatchingState) -> StateSettings:
    initial = None
    if state.initial_state:
        first = state.initial_state[0]
        source, value = betterproto.which_one_of(first, "state_data")
        initial = InitialStateSettings(
            name=first.name,
            dims=tuple(first.dims),
            data_file=str(value) if source == "data_file" else "",
        )
    return StateSettings(
        input_name=state.input_name,
        output_name=state.output_name,
        datatype=datatype(state.data_type),
        dims=tuple(state.dims),
        initial=initial,
        same_buffer=state.use_same_buffer_for_input_output,
        growable=state.use_growable_memory,
    )
