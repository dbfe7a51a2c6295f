"""What an ensemble must say: alone about its steps, and together with its members.

Owns the wording of those refusals; all are INVALID_ARG. `ensemble_refusals` needs the
ensemble's own configuration, `check_ensemble_members` that of every model in it. Neither knows
which of them are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

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
from repo.refusals import ConfigRefusal, DrawnShape, raise_first


@dataclass(slots=True)
class _Node:
    """One ensemble tensor in the graph that the steps span."""

    place: str  # where it is written, or else first read
    ready: bool = False
    sources: list[str] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)


def ensemble_refusals(config: ModelConfig) -> Iterator[ConfigRefusal]:
    """Judge what the ensemble says about itself."""
    name = config.name
    if config.instance_group:
        yield ConfigRefusal(
            f"instance group should not be specified for ensemble '{name}'", "instance_group[0]"
        )
    if is_set(config.optimization):
        yield ConfigRefusal(
            f"optimization should not be specified for ensemble '{name}'", "optimization"
        )
    if config.model_warmup:
        yield ConfigRefusal(
            f"model_warmup can not be specified for ensemble '{name}'", "model_warmup[0]"
        )
    steps = _steps(config)
    if not steps:
        yield ConfigRefusal(f"must specify 'step' for ensemble '{name}'", "ensemble_scheduling")
        return
    wrong_steps = list(_step_refusals(steps, name))
    yield from wrong_steps
    if not wrong_steps:
        graph = _graph(steps)
        yield from _input_refusals(graph, config)
        _spread_readiness(graph)
        yield from _output_refusals(graph, config)


def _steps(config: ModelConfig) -> Sequence[ModelEnsemblingStep]:
    ensemble = ensemble_scheduling(config)
    assert ensemble is not None, "called for ensembles only"
    return ensemble.step


def _step_refusals(steps: Sequence[ModelEnsemblingStep], ensemble: str) -> Iterator[ConfigRefusal]:
    written: set[str] = set()
    for index, step in enumerate(steps):
        for field_name, value in (
            ("model_name", step.model_name),
            ("input_map", step.input_map),
            ("output_map", step.output_map),
        ):
            if not value:
                yield ConfigRefusal(
                    f"must specify '{field_name}' in step {index} of ensemble '{ensemble}'",
                    _step_place(index),
                )
        for name, tensor in step.output_map.items():
            if tensor in written:
                yield ConfigRefusal(
                    f"ensemble tensor '{tensor}' can appear in an output map only once "
                    f"for ensemble '{ensemble}' step {index}",
                    f'{_step_place(index)}.output_map["{name}"]',
                )
            written.add(tensor)


def _step_place(index: int) -> str:
    return f"ensemble_scheduling.step[{index}]"


def _graph(steps: Sequence[ModelEnsemblingStep]) -> dict[str, _Node]:
    graph: dict[str, _Node] = {}
    for index, step in enumerate(steps):
        for name, tensor in step.output_map.items():
            place = f'{_step_place(index)}.output_map["{name}"]'
            graph.setdefault(tensor, _Node(place)).place = place
        for name, source in sorted(step.input_map.items()):  # maps have no order of their own
            node = graph.setdefault(source, _Node(f'{_step_place(index)}.input_map["{name}"]'))
            node.targets.extend(step.output_map.values())
            for tensor in step.output_map.values():
                graph[tensor].sources.append(source)
    return graph


def _input_refusals(graph: dict[str, _Node], config: ModelConfig) -> Iterator[ConfigRefusal]:
    """Marks the ensemble's inputs as ready, and refuses those that no step takes."""
    for index, one in enumerate(config.input):
        if one.name in graph:
            graph[one.name].ready = True
        else:
            yield ConfigRefusal(
                f"ensemble input '{one.name}' for ensemble {config.name}' is not used",
                f"input[{index}].name",
            )


def _spread_readiness(graph: dict[str, _Node]) -> None:
    """Mark every tensor that those which are ready lead to."""
    pending = [name for name, node in graph.items() if node.ready]
    while pending:
        for target in graph[pending.pop()].targets:
            node = graph[target]
            if not node.ready and all(graph[source].ready for source in node.sources):
                node.ready = True
                pending.append(target)


def _output_refusals(graph: dict[str, _Node], config: ModelConfig) -> Iterator[ConfigRefusal]:
    outputs = {out.name for out in config.output}
    for index, out in enumerate(config.output):
        place = f"output[{index}].name"
        node = graph.get(out.name)
        if node is None:
            yield ConfigRefusal(
                f"ensemble output '{out.name}' for ensemble {config.name}' is not used", place
            )
        elif not node.ready:
            message = f"output '{out.name}' for ensemble '{config.name}' is not written"
            loose = next((source for source in node.sources if not graph[source].ready), None)
            if loose is not None:
                message += f": at least one of its depending tensors, '{loose}', is not connected"
            yield ConfigRefusal(message, place)
    for tensor in sorted(graph):
        node = graph[tensor]
        if tensor not in outputs and not (node.ready and node.targets):
            yield ConfigRefusal(
                f"ensemble tensor '{tensor}' is unused in ensemble '{config.name}'", node.place
            )


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

    @property
    def drawn(self) -> DrawnShape:
        return DrawnShape(self.dims, batched=self.full_dims != self.dims)


def check_ensemble_members(config: ModelConfig, members: Mapping[str, ModelConfig]) -> None:
    """Judge the ensemble together with its steps' models, by name. Raises ServerError.

    The ensemble must have passed `ensemble_refusals`, and every step's model must be in
    `members`; which one that is, is the repository's decision.
    """
    raise_first(member_refusals(config, members))


def member_refusals(
    config: ModelConfig, members: Mapping[str, ModelConfig]
) -> Iterator[ConfigRefusal]:
    """Everything that `check_ensemble_members` has against it, step by step."""
    tensors: dict[str, _Inferred] = {}
    for one in config.input:
        tensors[one.name] = _Inferred.of(one, config)
    for out in config.output:
        tensors.setdefault(out.name, _Inferred.of(out, config))
    for index, step in enumerate(_steps(config)):
        member = members[step.model_name]
        if 0 < member.max_batch_size < config.max_batch_size:
            yield ConfigRefusal(
                f"ensemble {config.name} allows maximum batch size {config.max_batch_size}, but "
                f"it contains model {step.model_name} which only allows maximum batch size to be "
                f"{member.max_batch_size}",
                f"{_step_place(index)}.model_name",
            )
        yield from _mapping_refusals(config.name, step, member, tensors, _step_place(index))
    yield from _decoupled_origin_refusals(config, members)


def with_transaction_policy(config: ModelConfig, members: Mapping[str, ModelConfig]) -> ModelConfig:
    """A copy of the ensemble's configuration that is decoupled exactly if one of its steps is."""
    config = copy_config(config)
    config.model_transaction_policy.decoupled = any(
        is_decoupled(members[step.model_name]) for step in _steps(config)
    )
    return config


def _mapping_refusals(
    ensemble: str,
    step: ModelEnsemblingStep,
    member: ModelConfig,
    tensors: dict[str, _Inferred],
    place: str,
) -> Iterator[ConfigRefusal]:
    where, model_name = f"in ensemble {ensemble},", step.model_name
    inputs = {one.name for one in member.input}
    outputs = {out.name: out for out in member.output}
    for name, tensor in step.input_map.items():
        if name not in inputs:
            yield ConfigRefusal(
                f"{where} ensemble tensor {tensor} is mapping to non-existing input {name} "
                f"in model {model_name}",
                f'{place}.input_map["{name}"]',
            )
    for one in member.input:
        if one.name in step.input_map:
            yield from _tensor_refusals(
                ensemble,
                step.input_map[one.name],
                _Inferred.of(one, member),
                tensors,
                f'{place}.input_map["{one.name}"]',
            )
        elif not one.optional:
            yield ConfigRefusal(
                f"{where} input {one.name} in model {model_name} is not mapped to any ensemble "
                "tensors",
                place,
            )
    for name, tensor in step.output_map.items():
        field = f'{place}.output_map["{name}"]'
        if name in outputs:
            there = _Inferred.of(outputs[name], member)
            yield from _tensor_refusals(ensemble, tensor, there, tensors, field)
        else:
            yield ConfigRefusal(
                f"{where} ensemble tensor {tensor} is mapped from non-existing output {name} "
                f"in model {model_name}",
                field,
            )


def _tensor_refusals(
    ensemble: str, tensor: str, there: _Inferred, tensors: dict[str, _Inferred], place: str
) -> Iterator[ConfigRefusal]:
    here = tensors.setdefault(tensor, there)
    where = f"in ensemble {ensemble}, ensemble tensor {tensor}:"
    if here.data_type != there.data_type:
        yield ConfigRefusal(
            f"{where} inconsistent data type: {here.data_type} is inferred from model "
            f"{here.model_name} while {there.data_type} is inferred from model {there.model_name}",
            place,
        )
    # A tensor may pass between a model with batching and one without: then full shapes agree.
    if not (_agree(here.dims, there.dims) or _agree(here.full_dims, there.full_dims)):
        yield ConfigRefusal(
            f"{where} inconsistent shape: {_shape(here.full_dims)} is inferred from model "
            f"{here.model_name} while {_shape(there.full_dims)} is inferred from model "
            f"{there.model_name}",
            place,
            expected=here.drawn,
            found=there.drawn,
        )


def _agree(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return len(one) == len(other) and all(
        a == b or -1 in {a, b} for a, b in zip(one, other, strict=True)
    )


def _shape(dims: tuple[int, ...]) -> str:
    return f"[{','.join(map(str, dims))}]"


def _decoupled_origin_refusals(
    config: ModelConfig, members: Mapping[str, ModelConfig]
) -> Iterator[ConfigRefusal]:
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
        assert ready, "ensemble_refusals knows of cycles"
        for index in ready:
            step = steps[index]
            feeders = {writer[t] for t in step.input_map.values() if t in writer}
            origins = {origin_of_step[feeder] for feeder in feeders} - {None}
            if len(origins) > 1:
                yield ConfigRefusal(
                    f"in ensemble {config.name}, step of model '{step.model_name}' receives "
                    "inputs originated from different decoupled models",
                    f"{_step_place(index)}.input_map",
                )
            inherited = next(iter(origins), None)
            origin_of_step[index] = index if is_decoupled(members[step.model_name]) else inherited
        pending.difference_update(ready)
