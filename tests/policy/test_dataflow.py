"""The dataflow of ensembles, step by step with literal events."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from actors.policy.dataflow import (
    STREAM_WINDOW,
    Action,
    Dataflow,
    Finish,
    Flow,
    Member,
    Respond,
    Start,
    StepCall,
    Stop,
)
from actors.policy.dataflow_graph import MAX_PLANS, Graph
from protocol.inference import InferResponse, ParameterValue, Tensor
from protocol.status import ServerError, StatusCode, cancelled, deadline_exceeded, unavailable
from repo.model_config import StepSettings

PLAIN = Member(batches=True, dims={})


def step(reads: Mapping[str, str] | str, writes: Mapping[str, str] | str) -> StepSettings:
    """A step by its maps; a plain name is the tensor of the model's `I` or `O`."""
    inputs = {"I": reads} if isinstance(reads, str) else reads
    outputs = {"O": writes} if isinstance(writes, str) else writes
    return StepSettings("m", -1, inputs, outputs)


class Table:
    """A dataflow, one request after the other, and what it says in short words."""

    def __init__(
        self,
        *steps: StepSettings,
        outputs: Sequence[str] = ("OUT",),
        inputs: Sequence[str] = ("IN",),
        decoupled: Sequence[int] = (),
        limit: int = 0,
        member: Member = PLAIN,
        outside: Mapping[str, tuple[int, ...]] | None = None,
        batches: bool = True,
    ) -> None:
        self.graph = Graph(
            steps,
            inputs=inputs,
            outputs=outputs,
            decoupled=[index in decoupled for index in range(len(steps))],
        )
        self.flow = Dataflow(
            "e", self.graph, batches=batches, output_dims=outside or {}, max_inflight=limit
        )
        self.members = [member] * len(steps)
        self.calls: dict[tuple[str, int, int], StepCall] = {}

    def begin(
        self,
        name: str = "r",
        *,
        wanted: tuple[str, ...] = (),
        inputs: Sequence[Tensor] | None = None,
        batch_size: int = 1,
    ) -> tuple[Flow, list[str]]:
        given = [tensor("IN", 0)] if inputs is None else inputs
        flow, actions = self.flow.begin(
            name, given, batch_size=batch_size, wanted=wanted, members=self.members
        )
        return flow, self.words(actions)

    def say(
        self,
        index: int,
        iteration: int = 0,
        *values: Tensor,
        name: str = "r",
        final: bool = True,
        parameters: dict[str, ParameterValue] | None = None,
    ) -> list[str]:
        call = self.calls[name, index, iteration]
        call.batch_size = call.batch_size or 1
        outputs = list(values) or [tensor("O", index)]
        response = InferResponse("m", "1", "", outputs, parameters or {})
        return self.words(self.flow.respond(call, response, final))

    def words(self, actions: Sequence[Action]) -> list[str]:
        return [self._word(action) for action in actions]

    def _word(self, action: Action) -> str:
        match action:
            case Start(call):
                self.calls[call.flow.id, call.step, call.iteration] = call
                return f"start {call.step}.{call.iteration}"
            case Stop(call):
                return f"stop {call.step}.{call.iteration}"
            case Respond(_, outputs, _, final):
                return f"respond {[one.name for one in outputs]}{' final' if final else ''}"
            case Finish(_, error):
                return "finish" if error is None else f"fail {error}"


def tensor(name: str, value: int, shape: tuple[int, ...] = (1, 1)) -> Tensor:
    return Tensor.from_array(name, np.full(shape, value, np.int32))


CHAIN = (step("IN", "mid"), step("mid", "OUT"))
DIAMOND = (step("IN", "mid"), step("mid", "LEFT"), step("mid", "RIGHT"))


def test_a_step_follows_the_step_whose_tensor_it_reads() -> None:
    table = Table(*CHAIN)
    _, words = table.begin()
    assert words == ["start 0.0"]
    assert table.say(0) == ["start 1.0"]
    assert table.say(1) == ["respond ['OUT'] final"]


def test_a_step_waits_for_all_of_its_tensors() -> None:
    table = Table(step("IN", "a"), step("IN", "b"), step({"x": "a", "y": "b"}, "OUT"))
    _, words = table.begin()
    assert words == ["start 0.0", "start 1.0"]
    assert table.say(1) == []
    assert table.say(0) == ["start 2.0"]
    assert [one.name for one in table.calls["r", 2, 0].inputs] == ["y", "x"]


def test_a_tensor_may_be_read_twice_by_one_step() -> None:
    table = Table(step({"x": "IN", "y": "IN"}, "OUT"))
    _, words = table.begin()
    assert words == ["start 0.0"]
    assert [one.name for one in table.calls["r", 0, 0].inputs] == ["x", "y"]


def test_what_nobody_wants_is_pruned() -> None:
    table = Table(*DIAMOND, outputs=("LEFT", "RIGHT"))
    table.begin(wanted=("RIGHT",))
    assert table.say(0) == ["start 2.0"]
    assert table.say(2) == ["respond ['RIGHT'] final"]


def test_a_member_is_asked_for_what_is_read_only() -> None:
    both = step("IN", {"P": "mid", "Q": "OUT2"})
    table = Table(both, step("mid", "OUT"), outputs=("OUT", "OUT2"))
    assert table.graph.plan(("OUT",)).requested[0] == ("P",)
    assert table.graph.plan(()).requested[0] == ("P", "Q")


def test_plans_are_kept_but_not_without_end() -> None:
    names = tuple(f"O{n}" for n in range(MAX_PLANS + 5))
    graph = Graph(
        [step("IN", {name: name for name in names})],
        inputs=["IN"],
        outputs=names,
        decoupled=[False],
    )
    assert graph.plan((names[0],)) is graph.plan((names[0],))
    for name in names:
        graph.plan((name,))
    assert len(graph._plans) == MAX_PLANS


def test_an_output_that_a_member_left_out_is_left_out() -> None:
    table = Table(step("IN", {"P": "OUT", "Q": "OUT2"}), outputs=("OUT", "OUT2"))
    table.begin()
    assert table.say(0, 0, tensor("P", 1)) == ["respond ['OUT'] final"]


def test_a_step_runs_without_the_input_that_is_nothing() -> None:
    table = Table(step("IN", {"P": "a", "Q": "b"}), step({"x": "a", "y": "b"}, "OUT"))
    table.begin()
    assert table.say(0, 0, tensor("Q", 1)) == ["start 1.0"]
    assert [one.name for one in table.calls["r", 1, 0].inputs] == ["y"]


def test_an_input_of_the_ensemble_that_is_absent_is_nothing() -> None:
    table = Table(step({"x": "IN", "y": "MORE"}, "OUT"), inputs=("IN", "MORE"))
    _, words = table.begin()
    assert words == ["start 0.0"]
    assert [one.name for one in table.calls["r", 0, 0].inputs] == ["x"]


def test_a_decoupled_member_begins_an_iteration_with_every_response() -> None:
    table = Table(*CHAIN, decoupled=(0,))
    table.begin()
    assert table.say(0, final=False) == ["start 1.0"]
    assert table.say(0, final=False) == ["start 1.1"]
    assert table.say(1, 0) == ["respond ['OUT']"]
    assert table.say(0, final=True) == ["start 1.2"]
    assert table.say(1, 2) == []
    assert table.say(1, 1) == ["respond ['OUT']", "respond ['OUT'] final"], "in their order"


def test_the_end_may_come_without_a_response() -> None:
    table = Table(*CHAIN, decoupled=(0,))
    table.begin()
    table.say(0, final=False)
    assert table.words(table.flow.respond(table.calls["r", 0, 0], None, final=True)) == []
    assert table.say(1) == ["respond ['OUT'] final"]


def test_a_decoupled_ensemble_may_say_nothing() -> None:
    table = Table(*CHAIN, decoupled=(0,))
    table.begin()
    assert table.words(table.flow.respond(table.calls["r", 0, 0], None, final=True)) == ["finish"]


def test_what_exists_once_holds_a_step_to_the_first_iteration() -> None:
    table = Table(step("IN", "many"), step({"x": "many", "y": "IN"}, "OUT"), decoupled=(0,))
    flow, _ = table.begin()
    assert table.say(0, final=False) == ["start 1.0"]
    assert table.say(0, final=False) == []
    assert table.say(1) == ["respond ['OUT']"]
    assert not flow.gathers, "nothing is kept for an iteration that can never be complete"
    assert table.words(table.flow.respond(table.calls["r", 0, 0], None, final=True)) == ["finish"]


def test_branches_of_one_iteration_meet_whoever_is_first() -> None:
    table = Table(
        step("IN", "many"),
        step("many", "a"),
        step("many", "b"),
        step({"x": "a", "y": "b"}, "OUT"),
        decoupled=(0,),
    )
    table.begin()
    table.say(0, final=False)
    table.say(0, final=True)
    assert table.say(1, 1, tensor("O", 11)) == []
    assert table.say(1, 0, tensor("O", 10)) == []
    assert table.say(2, 0, tensor("O", 20)) == ["start 3.0"]
    assert table.say(2, 1, tensor("O", 21)) == ["start 3.1"]
    values = [one.array.item() for one in table.calls["r", 3, 1].inputs]
    assert values == [11, 21]


def test_a_batch_dimension_comes_and_goes() -> None:
    unbatched = Member(batches=False, dims={"I": (2,)})
    table = Table(*CHAIN, member=unbatched, outside={"OUT": (2,)})
    table.begin(inputs=[tensor("IN", 0, (1, 2))])
    assert table.calls["r", 0, 0].inputs[0].shape == (2,)
    call = table.calls["r", 0, 0]
    response = InferResponse("m", "1", "", [tensor("O", 0, (2,))])
    table.words(table.flow.respond(call, response, final=True))  # its batch size is 0
    assert table.calls["r", 1, 0].inputs[0].shape == (2,)
    (last,) = table.flow.respond(table.calls["r", 1, 0], response, final=True)
    assert isinstance(last, Respond)
    assert last.outputs[0].shape == (1, 2)


@pytest.mark.parametrize(
    ("member", "shape", "batch_size", "seen"),
    [
        (Member(batches=True, dims={"I": (-1,)}), (2,), 0, (1, 2)),
        (Member(batches=True, dims={"I": (3,)}), (2,), 0, (2,)),
        (Member(batches=True, dims={"I": (2,)}), (4, 2), 0, (4, 2)),
        (Member(batches=False, dims={"I": (2,)}), (1, 2), 1, (2,)),
        (Member(batches=False, dims={"I": (1, 2)}), (1, 2), 1, (1, 2)),
        (Member(batches=False, dims={"I": (2,)}), (3, 2), 3, (3, 2)),
        (Member(batches=True, dims={"I": (2,)}), (1, 2), 1, (1, 2)),
        (Member(batches=False, dims={"I": (1, 2)}), (1, 2), 0, (1, 2)),
    ],
)
def test_a_tensor_is_fitted_to_its_member(
    member: Member, shape: tuple[int, ...], batch_size: int, seen: tuple[int, ...]
) -> None:
    table = Table(step("IN", "OUT"), member=member)
    table.begin(inputs=[tensor("IN", 0, shape)], batch_size=batch_size)
    assert table.calls["r", 0, 0].inputs[0].shape == seen


def test_the_first_error_sticks_and_the_rest_drains() -> None:
    table = Table(*DIAMOND, outputs=("LEFT", "RIGHT"))
    table.begin()
    table.say(0)
    error = unavailable("[request id: r] Exceeds maximum queue size")
    assert table.words(table.flow.fail(table.calls["r", 1, 0], error, final=True)) == []
    assert table.say(2) == [
        "fail Unavailable: in ensemble 'e', [request id: r] Exceeds maximum queue size"
    ]


def test_a_second_error_changes_nothing() -> None:
    table = Table(*DIAMOND, outputs=("LEFT", "RIGHT"))
    table.begin()
    table.say(0)
    table.flow.fail(table.calls["r", 1, 0], unavailable("first"), final=True)
    words = table.words(table.flow.fail(table.calls["r", 2, 0], unavailable("2nd"), final=True))
    assert words == ["fail Unavailable: in ensemble 'e', first"]


def test_an_error_stops_a_producer_that_might_go_on_for_ever() -> None:
    table = Table(*CHAIN, decoupled=(0,))
    table.begin()
    table.say(0, final=False)
    assert table.words(table.flow.fail(table.calls["r", 1, 0], unavailable("x"), final=True)) == [
        "stop 0.0"
    ]
    assert table.say(0, final=False) == []
    assert table.words(table.flow.respond(table.calls["r", 0, 0], None, final=True)) == [
        "fail Unavailable: in ensemble 'e', x"
    ]


def test_nothing_to_answer_with_is_a_deadlock() -> None:
    table = Table(*CHAIN)
    table.begin(name="seven")
    assert table.words(table.flow.respond(table.calls["seven", 0, 0], None, final=True)) == [
        (
            "fail Invalid argument: in ensemble 'e', [request id: seven] unexpected deadlock, "
            "at least one output is not set while no more ensemble steps can be made"
        )
    ]


def test_cancelling_stops_what_is_under_way() -> None:
    table = Table(*CHAIN)
    flow, _ = table.begin()
    assert table.words(table.flow.cancel(flow)) == ["stop 0.0"]
    (finish,) = table.flow.fail(table.calls["r", 0, 0], cancelled(), final=True)
    assert isinstance(finish, Finish)
    assert finish.error is not None
    assert (finish.error.status, finish.error.message) == (StatusCode.CANCELLED, "")


def test_a_deadline_is_told_in_its_own_words() -> None:
    table = Table(*CHAIN)
    flow, _ = table.begin()
    table.flow.cancel(flow, deadline_exceeded())
    assert table.say(0) == ["fail Deadline exceeded: Deadline Exceeded"]


def test_a_limit_holds_for_all_requests_together() -> None:
    table = Table(*CHAIN, limit=1)
    assert table.begin("a")[1] == ["start 0.0"]
    assert table.begin("b")[1] == []
    assert table.say(0, name="a") == ["start 1.0", "start 0.0"]
    assert table.say(0, name="b") == []
    assert table.say(1, name="a") == ["respond ['OUT'] final", "start 1.0"]
    assert table.say(1, name="b") == ["respond ['OUT'] final"]


def test_who_is_cancelled_no_longer_waits_for_a_place() -> None:
    table = Table(*CHAIN, limit=1)
    table.begin("a")
    flow, _ = table.begin("b")
    assert table.words(table.flow.cancel(flow)) == ["fail Cancelled: "]
    assert table.say(0, name="a") == ["start 1.0"]


def test_a_producer_waits_while_its_responses_are_on_their_way() -> None:
    table = Table(*CHAIN, decoupled=(0,))
    table.begin()
    call = table.calls["r", 0, 0]
    for _ in range(STREAM_WINDOW):
        assert table.flow.has_room(call, 0)
        table.say(0, final=False)
    assert not table.flow.has_room(call, 0)
    assert table.say(1, 0) == ["respond ['OUT']"]
    assert table.flow.has_room(call, 0)
    assert not table.flow.has_room(call, 1), "what the caller has not taken counts as well"


def test_with_a_limit_the_producer_waits_for_as_many() -> None:
    table = Table(*CHAIN, decoupled=(0,), limit=2)
    table.begin()
    call = table.calls["r", 0, 0]
    table.say(0, final=False)
    assert table.flow.has_room(call, 0)
    table.say(0, final=False)
    assert not table.flow.has_room(call, 0)


def test_a_step_counts_only_what_comes_after_it() -> None:
    """Otherwise the second of two producers would wait for its own end."""
    table = Table(step("IN", "a"), step("a", "b"), step("b", "OUT"), decoupled=(0, 1), limit=1)
    table.begin()
    table.say(0, final=False)
    assert not table.flow.has_room(table.calls["r", 0, 0], 0)
    assert table.flow.has_room(table.calls["r", 1, 0], 0)


@pytest.mark.parametrize("number", [42, "forty-two"])
def test_what_a_member_says_of_sequences_holds_from_there_on(number: int | str) -> None:
    table = Table(step("IN", "a"), step("a", "b"), step("b", "OUT"))
    table.begin()
    assert table.calls["r", 0, 0].sequence == {}
    table.say(0, parameters={"sequence_id": number, "sequence_end": True, "more": 1})
    assert table.calls["r", 1, 0].sequence == {"sequence_id": number, "sequence_end": True}
    table.say(1, parameters={"sequence_end": False})
    assert table.calls["r", 2, 0].sequence == {"sequence_id": number, "sequence_end": False}
    call = table.calls["r", 2, 0]
    (last,) = table.flow.respond(call, InferResponse("m", "1", "", []), final=True)
    assert isinstance(last, Respond)
    assert last.sequence == {"sequence_id": number, "sequence_end": False}


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        (
            {"sequence_id": 1.5},
            (
                "expected parameter 'sequence_id' to be TRITONSERVER_PARAMETER_INT or "
                "TRITONSERVER_PARAMETER_STRING"
            ),
        ),
        (
            {"sequence_id": True},
            (
                "expected parameter 'sequence_id' to be TRITONSERVER_PARAMETER_INT or "
                "TRITONSERVER_PARAMETER_STRING"
            ),
        ),
        (
            {"sequence_start": 1},
            "expect parameter 'sequence_start' to be TRITONSERVER_PARAMETER_BOOL",
        ),
    ],
)
def test_parameters_of_a_wrong_type_are_an_error(
    parameters: dict[str, ParameterValue], text: str
) -> None:
    table = Table(*CHAIN)
    table.begin()
    assert table.say(0, parameters=parameters) == [
        f"fail Invalid argument: in ensemble 'e', {text}"
    ]


def test_an_error_is_wrapped_by_its_ensemble() -> None:
    wrapped = Table(*CHAIN).flow.wrapped(unavailable("x"))
    assert isinstance(wrapped, ServerError)
    assert (wrapped.status, wrapped.message) == (StatusCode.UNAVAILABLE, "in ensemble 'e', x")
