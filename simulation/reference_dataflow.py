"""What an ensemble ought to answer, by an interpreter without queues, order or bookkeeping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from repo.model_config import StepSettings

MODULUS: Final = 1_000_003

# The model that a step's model asks, in place of the number of a step.
OTHER: Final = 99

Values = dict[int, int | None]
"""A tensor, by iteration; None where it has no value."""


def computed(step: int, number: int, output: str, inputs: Mapping[str, int]) -> int:
    """What a step's model makes of its inputs; different for everything that may differ.

    Its outputs are o0, o1, …, its inputs i0, i1, …; `number` counts the responses of one call.
    """
    value = step * 31 + number * 7 + int(output[1:])
    for name, one in sorted(inputs.items()):
        value = value * 131 + int(name[1:]) * 17 + one
    return value % MODULUS


def question(step: int, inputs: Mapping[str, int]) -> int:
    """What a step whose model asks another one asks it."""
    return computed(step, 0, "o0", inputs)


def with_answer(value: int, answer: int) -> int:
    """What such a model makes of a value that it would have computed alone."""
    return (value + answer) % MODULUS


def answered(asked: int) -> int:
    """What the other model, which is no step, answers."""
    return computed(OTHER, 0, "o0", {"i0": asked})


def expected_responses(
    steps: Sequence[StepSettings],
    counts: Sequence[int | None],
    omissions: Sequence[frozenset[str]],
    wanted: Sequence[str],
    given: Mapping[str, int],
    *,
    asking: int | None = None,
) -> list[dict[str, int]]:
    """The responses of one request, by plain recursion over tensors.

    `counts` says how many responses each step gives to a call (None: it is not decoupled),
    `omissions` which outputs its model never makes, `asking` whose model asks another one.
    """
    tensors: dict[str, Values] = {name: {0: value} for name, value in given.items()}
    writers = {t: s for s, step in enumerate(steps) for t in step.output_map.values()}

    def tensor(name: str) -> Values:
        if name not in tensors:
            run(writers[name])
        return tensors[name]

    def run(index: int) -> None:
        step, count = steps[index], counts[index]
        reads = {name: tensor(source) for name, source in step.input_map.items()}
        iterations = sorted(set.intersection(*(set(one) for one in reads.values())))
        results: dict[str, Values] = {name: {} for name in step.output_map}
        for iteration in iterations:
            inputs = {n: v for n, one in reads.items() if (v := one[iteration]) is not None}
            for number in range(1 if count is None else count):
                at = iteration if count is None else len(results["o0"])
                for name, values in results.items():
                    is_made = name not in omissions[index]
                    value = computed(index, number, name, inputs)
                    if index == asking:
                        value = with_answer(value, answered(question(index, inputs)))
                    values[at] = value if is_made else None
        for name, target in step.output_map.items():
            tensors[target] = results[name]

    found = {name: tensor(name) for name in wanted}
    iterations = sorted(set.intersection(*(set(one) for one in found.values())))
    return [
        {name: v for name, one in found.items() if (v := one[iteration]) is not None}
        for iteration in iterations
    ]
