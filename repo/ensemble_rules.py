"""What an ensemble must say: alone about its steps, and together with its members.

Owns the wording of those refusals; all are INVALID_ARG. `check_ensemble_scheduling` needs the
ensemble's own configuration, `check_ensemble_members` that of every model in it. Neither knows
which of them are loaded.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from protocol.status import invalid_arg
from repo.model_config import (
    ModelConfig,
    ModelEnsemblingStep,
    ModelInput,
    ModelOutput,
    copy_config,
    ensemble_scheduling,
    is_decoupled,
    is_set,
    type_name,
)


@dataclass(slots=True)
class _Node:
    """One ensemble tensor in the graph that the steps span."""

    written: bool = False
    ready: bool = False
    sources: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)


def check_ensemble_scheduling(config: ModelConfig) -> None:
    """Judge what the ensemble says about itself. Raises ServerError INVALID_ARG."""
    name = config.name
    if config.instance_group:
        raise invalid_arg(f"instance group should not be specified for ensemble '{name}'")
    if is_set(config.optimization):
        raise invalid_arg(f"optimization should not be specified for ensemble '{name}'")
    if config.model_warmup:
        raise invalid_arg(f"model_warmup can not be specified for ensemble '{name}'")
    steps = _steps(config)
    if not steps:
        raise invalid_arg(f"must specify 'step' for ensemble '{name}'")
    graph = _graph(steps, name)
    _spread_readiness(graph, config)
    _check_outputs(graph, config)


def _steps(config: ModelConfig) -> Sequence[ModelEnsemblingStep]:
    ensemble = ensemble_scheduling(config)
    assert ensemble is not None, "called for ensembles only"
    return ensemble.step


def _graph(steps: Sequence[ModelEnsemblingStep], ensemble: str) -> dict[str, _Node]:
    graph: dict[str, _Node] = {}
    for index, step in enumerate(steps):
        for field_name, value in (
            ("model_name", step.model_name),
            ("input_map", step.input_map),
            ("output_map", step.output_map),
        ):
            if not value:
                raise invalid_arg(
                    f"must specify '{field_name}' in step {index} of ensemble '{ensemble}'"
                )
        for tensor in step.output_map.values():
            node = graph.setdefault(tensor, _Node())
            if node.written:
                raise invalid_arg(
                    f"ensemble tensor '{tensor}' can appear in an output map only once "
                    f"for ensemble '{ensemble}' step {index}"
                )
            node.written = True
        for _, source in sorted(step.input_map.items()):  # maps have no order of their own
            graph.setdefault(source, _Node()).targets.extend(step.output_map.values())
            for tensor in step.output_map.values():
                graph[tensor].sources.append(source)
    return graph


def _spread_readiness(graph: dict[str, _Node], config: ModelConfig) -> None:
    """Mark every tensor that the ensemble's inputs lead to."""
    pending: list[str] = []
    for one in config.input:
        if one.name not in graph:
            raise invalid_arg(
                f"ensemble input '{one.name}' for ensemble {config.name}' is not used"
            )
        graph[one.name].ready = True
        pending.append(one.name)
    while pending:
        for target in graph[pending.pop()].targets:
            node = graph[target]
            if not node.ready and all(graph[source].ready for source in node.sources):
                node.ready = True
                pending.append(target)


def _check_outputs(graph: dict[str, _Node], config: ModelConfig) -> None:
    outputs = {out.name for out in config.output}
    for out in config.output:
        node = graph.get(out.name)
        if node is None:
            raise invalid_arg(
                f"ensemble output '{out.name}' for ensemble {config.name}' is not used"
            )
        if not node.ready:
            message = f"output '{out.name}' for ensemble '{config.name}' is not written"
            loose = next((source for source in node.sources if not graph[source].ready), None)
            if loose is not None:
                message += f": at least one of its depending tensors, '{loose}', is not connected"
            raise invalid_arg(message)
    for tensor in sorted(graph):
        node = graph[tensor]
        if tensor not in outputs and not (node.ready and node.targets):
            raise invalid_arg(f"ensemble tensor '{tensor}' is unused in ensemble '{config.name}'")


@dataclass(frozen=True, slots=True)
class _Inferred:
    """What one model says about an ensemble tensor."""

    model_name: str
    data_type: str
    dims: tuple[int, ...]
    full_dims: tuple[int, ...]  # with the batch dimension

    @classmethod
    def of(cls, tensor: ModelInput | ModelOutput, config: ModelConfig) -> _Inferred:
        dims = tuple(tensor.dims)
        full_dims = (-1, *dims) if config.max_batch_size > 0 else dims
        return cls(config.name, type_name(tensor.data_type), dims, full_dims)


def check_ensemble_members(config: ModelConfig, members: Mapping[str, ModelConfig]) -> None:
    """Judge the ensemble together with its steps' models, by name. Raises ServerError.

    The ensemble must have passed `check_ensemble_scheduling`, and every step's model must be in
    `members`; which one that is, is the repository's decision.
    """
    tensors: dict[str, _Inferred] = {}
    for one in config.input:
        tensors[one.name] = _Inferred.of(one, config)
    for out in config.output:
        tensors.setdefault(out.name, _Inferred.of(out, config))
    for step in _steps(config):
        member = members[step.model_name]
        if 0 < member.max_batch_size < config.max_batch_size:
            raise invalid_arg(
                f"ensemble {config.name} allows maximum batch size {config.max_batch_size}, but "
                f"it contains model {step.model_name} which only allows maximum batch size to be "
                f"{member.max_batch_size}"
            )
        _check_mapping(config.name, step, member, tensors)
    _check_decoupled_origins(config, members)


def with_transaction_policy(config: ModelConfig, members: Mapping[str, ModelConfig]) -> ModelConfig:
    """A copy of the ensemble's configuration that is decoupled exactly if one of its steps is."""
    config = copy_config(config)
    config.model_transaction_policy.decoupled = any(
        is_decoupled(members[step.model_name]) for step in _steps(config)
    )
    return config


def _check_mapping(
    ensemble: str, step: ModelEnsemblingStep, member: ModelConfig, tensors: dict[str, _Inferred]
) -> None:
    where, model_name = f"in ensemble {ensemble},", step.model_name
    inputs = {one.name: one for one in member.input}
    outputs = {out.name: out for out in member.output}
    for name, tensor in step.input_map.items():
        if name not in inputs:
            raise invalid_arg(
                f"{where} ensemble tensor {tensor} is mapping to non-existing input {name} "
                f"in model {model_name}"
            )
    for one in member.input:
        if one.name in step.input_map:
            _check_tensor(ensemble, step.input_map[one.name], _Inferred.of(one, member), tensors)
        elif not one.optional:
            raise invalid_arg(
                f"{where} input {one.name} in model {model_name} is not mapped to any ensemble "
                "tensors"
            )
    for name, tensor in step.output_map.items():
        if name not in outputs:
            raise invalid_arg(
                f"{where} ensemble tensor {tensor} is mapped from non-existing output {name} "
                f"in model {model_name}"
            )
        _check_tensor(ensemble, tensor, _Inferred.of(outputs[name], member), tensors)


def _check_tensor(
    ensemble: str, tensor: str, there: _Inferred, tensors: dict[str, _Inferred]
) -> None:
    here = tensors.setdefault(tensor, there)
    where = f"in ensemble {ensemble}, ensemble tensor {tensor}:"
    if here.data_type != there.data_type:
        raise invalid_arg(
            f"{where} inconsistent data type: {here.data_type} is inferred from model "
            f"{here.model_name} while {there.data_type} is inferred from model {there.model_name}"
        )
    # A tensor may pass between a model with batching and one without: then full shapes agree.
    if not (_agree(here.dims, there.dims) or _agree(here.full_dims, there.full_dims)):
        raise invalid_arg(
            f"{where} inconsistent shape: {_shape(here.full_dims)} is inferred from model "
            f"{here.model_name} while {_shape(there.full_dims)} is inferred from model "
            f"{there.model_name}"
        )


def _agree(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(
        a == b or -1 in {a, b} for a, b in zip(one, other, strict=True)
    )


def _shape(dims: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, dims))}]"


def _check_decoupled_origins(config: ModelConfig, members: Mapping[str, ModelConfig]) -> None:
    """A step can pair the responses of one decoupled step only, not those of several."""
    steps = _steps(config)
    writer = {
        tensor: index for index, step in enumerate(steps) for tensor in step.output_map.values()
    }
    origin_of_step: dict[int, int | None] = {}
    pending = set(range(len(steps)))
    while pending:
        ready = sorted(
            index
            for index in pending
            if not any(writer.get(tensor) in pending for tensor in steps[index].input_map.values())
        )
        assert ready, "check_ensemble_scheduling refuses cycles"
        for index in ready:
            step = steps[index]
            feeders = {writer[t] for t in step.input_map.values() if t in writer}
            origins = {origin_of_step[feeder] for feeder in feeders} - {None}
            if len(origins) > 1:
                raise invalid_arg(
                    f"in ensemble {config.name}, step of model '{step.model_name}' receives "
                    "inputs originated from different decoupled models"
                )
            inherited = next(iter(origins), None)
            origin_of_step[index] = index if is_decoupled(members[step.model_name]) else inherited
        pending.difference_update(ready)
