"""What a configuration may say and hardly ever means.

Owns the warnings and notes about configurations that load. None of them is an error.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from repo.labels import load_labels
from repo.lint.problems import Document, Problem
from repo.model_config import (
    ModelConfig,
    ModelDynamicBatching,
    ModelInput,
    ModelOutput,
    dynamic_batching,
    ensemble_scheduling,
)

# Nobody wants a second's wait for company; whoever writes it has mistaken the unit.
LONG_DELAY_MICROSECONDS: Final = 1_000_000


def suspicions(given: ModelConfig, directory: Path, document: Document) -> Iterator[Problem]:
    """Look at the configuration as it is written, before defaults were filled in."""
    yield from _batch_dimension(given, document)
    batching = dynamic_batching(given)
    if batching is not None:
        yield from _dynamic_batching(given, batching, document)
    for kind, tensors in (("input", given.input), ("output", given.output)):
        yield from _duplicates(kind, tensors, document)
    yield from _labels(given, directory, document)


def _batch_dimension(given: ModelConfig, document: Document) -> Iterator[Problem]:
    tensors: list[ModelInput | ModelOutput] = [*given.input, *given.output]
    if given.max_batch_size or not given.input or ensemble_scheduling(given) is not None:
        return
    if all(one.dims[:1] == [-1] and len(one.dims) > 1 for one in tensors):
        yield document.problem(
            "max_batch_size is 0, yet every tensor begins with -1, which looks like a batch "
            "dimension: requests are never batched",
            "max_batch_size" if document.place("max_batch_size") else "input[0].dims[0]",
            severity="warning",
            fix="write max_batch_size: 8, say, and dims without the leading -1",
        )


def _dynamic_batching(
    given: ModelConfig, batching: ModelDynamicBatching, document: Document
) -> Iterator[Problem]:
    here = "dynamic_batching"
    delay = batching.max_queue_delay_microseconds
    if given.max_batch_size == 1:
        yield document.problem(
            "max_batch_size is 1, so that dynamic_batching never makes a batch",
            here,
            severity="warning",
            fix="raise max_batch_size, or drop dynamic_batching",
        )
    if delay >= LONG_DELAY_MICROSECONDS:
        yield document.problem(
            f"requests may wait {delay / 1e6:g} s for company; the unit is microseconds",
            f"{here}.max_queue_delay_microseconds",
            severity="warning",
            fix=f"write {delay // 1000}, if milliseconds were meant",
        )
    elif delay and not batching.preferred_batch_size and given.max_batch_size > 1:
        yield document.problem(
            f"without preferred_batch_size a batch waits {delay} us unless it is full "
            f"({given.max_batch_size})",
            f"{here}.max_queue_delay_microseconds",
            severity="note",
        )


def _duplicates(
    kind: str, tensors: Sequence[ModelInput | ModelOutput], document: Document
) -> Iterator[Problem]:
    seen: set[str] = set()
    for index, one in enumerate(tensors):
        if one.name in seen:
            text = f"{kind} '{one.name}' is given twice"
            yield document.problem(text, f"{kind}[{index}].name", severity="warning")
        seen.add(one.name)


def _labels(given: ModelConfig, directory: Path, document: Document) -> Iterator[Problem]:
    labels = load_labels(given, directory)
    for index, out in enumerate(given.output):
        elements = math.prod(out.dims)
        count = len(labels.get(out.name, ()))
        if out.label_filename and -1 not in out.dims and count != elements:
            yield document.problem(
                f"'{out.label_filename}' has {count} labels for {elements} elements",
                f"output[{index}].label_filename",
                severity="warning",
            )
