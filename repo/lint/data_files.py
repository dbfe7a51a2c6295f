"""The files that a configuration refers to: labels, initial states, warm-up data.

Owns the finding of the field that is to blame, and the limit of what is made only to be checked.
The rules are those of the modules that read the files for the server.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import betterproto

from protocol.status import ServerError
from repo.implicit_state import StatePlan
from repo.labels import load_labels
from repo.lint.problems import Document, Problem
from repo.model_config import ModelConfig, ModelWarmup, copy_config, sequence_batching
from repo.warmup import warmup_samples

# A checker makes a model's first tensors, as a server does, but not gigabytes of them.
MAX_ELEMENTS: Final = 1 << 24


def label_problems(config: ModelConfig, directory: Path, document: Document) -> Iterator[Problem]:
    """Why the labels of an output cannot be read."""
    for index, out in enumerate(config.output):
        try:
            load_labels(ModelConfig(name=config.name, output=[out]), directory)
        except ServerError as error:
            yield document.refused(error, f"output[{index}].label_filename")


def data_problems(config: ModelConfig, directory: Path, document: Document) -> Iterator[Problem]:
    """Why states and warm-up samples cannot be made, of a configuration that passed its rules."""
    if _fits(_state_dims(config)):
        try:
            StatePlan.load(config, directory)
        except ServerError as error:
            yield document.refused(error, "sequence_batching.state")
    if config.instance_group and all(group.passive for group in config.instance_group):
        return  # nobody would warm up
    for index, sample in enumerate(config.model_warmup):
        if sample.batch_size > 0 and _fits(one.dims for one in sample.inputs.values()):
            try:
                warmup_samples(_with_warmup(config, index), directory)
            except ServerError as error:
                told = (name for name in sample.inputs if _is_told(error, sample, name))
                inside = next((f'.inputs["{name}"]' for name in told), "")
                yield document.refused(error, f"model_warmup[{index}]{inside}")


def _with_warmup(config: ModelConfig, index: int) -> ModelConfig:
    """A copy of the configuration with one of its warm-up samples only, and one request of it."""
    copy = copy_config(config)
    copy.model_warmup = [copy.model_warmup[index]]
    copy.model_warmup[0].batch_size = 1  # the others are the same
    return copy


def _is_told(error: ServerError, sample: ModelWarmup, name: str) -> bool:
    """Whether a sample was refused for this input: by its name, or by that of its file."""
    choice, file = betterproto.which_one_of(sample.inputs[name], "input_data_type")
    return f"'{name}'" in error.message or (
        choice == "input_data_file" and str(file) in error.message
    )


def _state_dims(config: ModelConfig) -> Iterator[Sequence[int]]:
    sequence = sequence_batching(config)
    for state in () if sequence is None else sequence.state:
        yield state.dims
        yield from (one.dims for one in state.initial_state)


def _fits(tensors: Iterable[Sequence[int]]) -> bool:
    """Whether tensors may be made for no better reason than to see whether they can be."""
    return all(math.prod(abs(dim) for dim in dims) <= MAX_ELEMENTS for dims in tensors)
