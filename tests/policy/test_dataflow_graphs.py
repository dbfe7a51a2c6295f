"""Random ensembles against an interpreter that needs no queues, no order and no bookkeeping."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actors.policy.dataflow import Action, Dataflow, Finish, Flow, Member, Respond, Start, StepCall
from actors.policy.dataflow_graph import Graph
from protocol.inference import InferResponse, Tensor
from repo.model_config import StepSettings
from simulation.reference_dataflow import computed, expected_responses


@dataclass(frozen=True)
class Case:
    """A graph, how many responses each step gives per call (None: not decoupled), and a wish."""

    steps: list[StepSettings]
    counts: list[int | None]
    omissions: list[frozenset[str]]  # by step: outputs that its model never makes
    outputs: list[str]
    wanted: tuple[str, ...]
    limit: int
    requests: int


@st.composite
def cases(draw: st.DrawFn) -> Case:
    tensors = ["IN0", "IN1"]
    steps: list[StepSettings] = []
    counts: list[int | None] = []
    omissions: list[frozenset[str]] = []
    for index in range(draw(st.integers(1, 6))):
        reads = draw(st.lists(st.sampled_from(tensors), min_size=1, max_size=3))
        writes = [f"t{index}.{n}" for n in range(draw(st.integers(1, 2)))]
        steps.append(
            StepSettings(
                f"m{index}",
                -1,
                {f"i{n}": tensor for n, tensor in enumerate(reads)},
                {f"o{n}": tensor for n, tensor in enumerate(writes)},
            )
        )
        # One decoupled step is what the configuration rules promise for any path.
        may_be_decoupled = not any(count is not None for count in counts)
        counts.append(draw(st.sampled_from([None, 0, 1, 3])) if may_be_decoupled else None)
        left_out = draw(st.booleans()) and len(writes) > 1
        omissions.append(frozenset({"o1"}) if left_out else frozenset())
        tensors += writes
    outputs = draw(st.lists(st.sampled_from(tensors[2:]), min_size=1, max_size=3, unique=True))
    wanted = draw(st.sampled_from([(), tuple(outputs[:1])]))
    limit = draw(st.sampled_from([0, 1, 2]))
    return Case(steps, counts, omissions, outputs, wanted, limit, draw(st.integers(1, 3)))


def expected(case: Case, given_inputs: dict[str, int]) -> list[dict[str, int]]:
    """The responses of one request."""
    wanted = case.wanted or tuple(case.outputs)
    return expected_responses(case.steps, case.counts, case.omissions, wanted, given_inputs)


def tensor_of(name: str, value: int) -> Tensor:
    return Tensor.from_array(name, np.array([[value]], np.int64))


class Players:
    """Members that answer in an order that Hypothesis chooses."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.graph = Graph(
            case.steps,
            inputs=["IN0", "IN1"],
            outputs=case.outputs,
            decoupled=[count is not None for count in case.counts],
        )
        self.dataflow = Dataflow(
            "e", self.graph, batches=True, output_dims={}, max_inflight=case.limit
        )
        self.open: list[tuple[StepCall, Iterator[InferResponse]]] = []
        self.answers: dict[Flow, list[dict[str, int]]] = {}
        self.ended: dict[Flow, object] = {}

    def begin(self, inputs: dict[str, int]) -> Flow:
        flow, actions = self.dataflow.begin(
            "r",
            [tensor_of(name, value) for name, value in inputs.items()],
            batch_size=1,
            wanted=self.case.wanted,
            members=[Member(batches=True, dims={})] * len(self.case.steps),
        )
        self.answers[flow] = []
        self.act(actions)
        return flow

    def act(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case Start(call):
                    call.batch_size = 1
                    self.open.append((call, self.responses(call)))
                    under_way = sum(one.step == call.step for one, _ in self.open)
                    assert not self.case.limit or under_way <= self.case.limit
                case Respond(flow, outputs, _, final):
                    assert flow not in self.ended
                    self.answers[flow].append({t.name: int(t.array.item()) for t in outputs})
                    if final:
                        self.ended[flow] = None
                case Finish(flow, error):
                    assert flow not in self.ended
                    self.ended[flow] = error

    def responses(self, call: StepCall) -> Iterator[InferResponse]:
        count = self.case.counts[call.step]
        inputs = {tensor.name: int(tensor.array.item()) for tensor in call.inputs}
        for number in range(1 if count is None else count):
            outputs = [
                tensor_of(name, computed(call.step, number, name, inputs))
                for name in call.flow.plan.requested[call.step]
                if name not in self.case.omissions[call.step]
            ]
            yield InferResponse("m", "1", "", outputs)

    def play(self, index: int) -> None:
        """One open call says its next word: a response, or, after the last one, the end."""
        call, responses = self.open[index]
        response = next(responses, None)
        is_plain = self.case.counts[call.step] is None
        if is_plain or response is None:
            del self.open[index]
            self.act(self.dataflow.respond(call, response, final=True))
        elif self.dataflow.has_room(call, 0):
            self.act(self.dataflow.respond(call, response, final=False))
        else:
            self.open[index] = (call, _again(response, responses))


def _again(first: InferResponse, rest: Iterator[InferResponse]) -> Iterator[InferResponse]:
    yield first
    yield from rest


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=cases(), picks=st.data())
def test_any_ensemble_answers_what_its_graph_says(case: Case, picks: st.DataObject) -> None:
    players = Players(case)
    inputs = [{"IN0": 10 + n, "IN1": 20 + n} for n in range(case.requests)]
    flows = [players.begin(one) for one in inputs]
    # Every iteration of every step says two words at most, and a word may have to wait.
    for _ in range(5_000):
        if not players.open:
            break
        players.play(picks.draw(st.integers(0, len(players.open) - 1)))
    assert not players.open, "somebody waits for ever"
    for flow, one in zip(flows, inputs, strict=True):
        assert flow in players.ended
        assert players.ended[flow] is None
        assert players.answers[flow] == expected(case, one)
        # What waits for a decoupled member that said nothing at all waits for the first iteration.
        assert all(iteration == 0 for _, iteration in flow.gathers)
        assert not flow.complete
    assert players.dataflow._in_flight == [0] * len(case.steps)
    assert not any(players.dataflow._queues)
