"""The graph of an ensemble: which step feeds which, and what a set of wanted outputs needs.

Owns the wiring of tensors between steps, as the configuration gives it, and the plans made from it:
one per set of outputs that somebody asked for, without the steps that nobody needs. It knows no
request and holds no tensor.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from repo.model_config import StepSettings

# Plans that stay ready. A client asks for few sets of outputs; others are planned when they come.
MAX_PLANS: Final = 64


Consumers = tuple[tuple[int, str], ...]
"""Who reads a tensor: a step, and by which name."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run for one set of wanted outputs. `response` counts as the step after the last.

    Where a tensor goes is a tuple of pairs: a step, and the name of its input there.
    """

    wanted: tuple[str, ...]
    steps: tuple[int, ...]  # those that are needed, ascending
    given: Sequence[tuple[str, Consumers]]  # the ensemble's inputs, and where they go
    fan_in: Sequence[int]  # by step: how many inputs it waits for
    once: Sequence[bool]  # by step: whether only the first iteration can be complete
    produced: Sequence[tuple[tuple[str, Consumers], ...]]  # by step: wanted outputs of its model
    requested: Sequence[tuple[str, ...]]  # by step: the model outputs among them
    downstream: Sequence[tuple[int, ...]]  # by step: every step that its outputs lead to


class Graph:
    """The steps of one ensemble. `decoupled` says of each step's model whether it is."""

    def __init__(
        self,
        steps: Sequence[StepSettings],
        *,
        inputs: Sequence[str],
        outputs: Sequence[str],
        decoupled: Sequence[bool],
    ) -> None:
        self.steps = steps
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        self.decoupled = decoupled
        self.response = len(steps)
        self._writer = {
            tensor: index for index, step in enumerate(steps) for tensor in step.output_map.values()
        }
        self._plans: OrderedDict[tuple[str, ...], Plan] = OrderedDict()

    def plan(self, wanted: tuple[str, ...]) -> Plan:
        """What the outputs `wanted` need; none named means all."""
        plan = self._plans.get(wanted)
        if plan is None:
            plan = self._plans[wanted] = self._make_plan(wanted or self.outputs)
            if len(self._plans) > MAX_PLANS:
                self._plans.popitem(last=False)
        return plan

    def _make_plan(self, wanted: tuple[str, ...]) -> Plan:
        steps = self._needed(wanted)
        consumers: dict[str, list[tuple[int, str]]] = {}
        for index in steps:
            for name, tensor in self.steps[index].input_map.items():
                consumers.setdefault(tensor, []).append((index, name))
        for tensor in wanted:
            consumers.setdefault(tensor, []).append((self.response, tensor))
        produced = [
            tuple(
                (output, tuple(consumers[tensor]))
                for output, tensor in step.output_map.items()
                if tensor in consumers
            )
            for step in self.steps
        ]
        return Plan(
            wanted=wanted,
            steps=tuple(steps),
            given=[(name, tuple(consumers[name])) for name in self.inputs if name in consumers],
            fan_in=[*(len(step.input_map) for step in self.steps), len(wanted)],
            once=self._fired_once(wanted),
            produced=produced,
            requested=[tuple(output for output, _ in pairs) for pairs in produced],
            downstream=[self._downstream(index, steps) for index in range(len(self.steps))],
        )

    def _needed(self, wanted: Sequence[str]) -> list[int]:
        """Backwards from the outputs: the steps that write what is read."""
        needed: set[int] = set()
        pending = list(wanted)
        while pending:
            index = self._writer.get(pending.pop())
            if index is not None and index not in needed:
                needed.add(index)
                pending += self.steps[index].input_map.values()
        return sorted(needed)

    def _fired_once(self, wanted: Sequence[str]) -> list[bool]:
        """Whether a step reads anything that exists for the first iteration only.

        An ensemble input does; so does the output of such a step, unless its model is decoupled and
        begins iterations of its own.
        """
        once: dict[int, bool] = {}

        def is_single(tensor: str) -> bool:
            index = self._writer.get(tensor)
            return index is None or (not self.decoupled[index] and fires_once(index))

        def fires_once(index: int) -> bool:
            if index not in once:
                once[index] = any(map(is_single, self.steps[index].input_map.values()))
            return once[index]

        return [*map(fires_once, range(len(self.steps))), any(map(is_single, wanted))]

    def _downstream(self, start: int, steps: Sequence[int]) -> tuple[int, ...]:
        reached: set[int] = set()
        tensors = set(self.steps[start].output_map.values())
        while True:
            further = {
                index
                for index in steps
                if index not in reached and not tensors.isdisjoint(self._reads(index))
            }
            if not further:
                return tuple(sorted(reached))
            reached |= further
            for index in further:
                tensors.update(self.steps[index].output_map.values())

    def _reads(self, index: int) -> Sequence[str]:
        return list(self.steps[index].input_map.values())
