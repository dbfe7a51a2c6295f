"""Sequences over the production actors in virtual time; numbers are those of the scenarios."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import trio

from actors.metrics.counters import VersionCounters
from actors.settings.options import ServerOptions
from actors.street.local_calls import open_call
from protocol.inference import InferRequest, InferResponse, SequenceFlag, Tensor
from protocol.status import ServerError, StatusCode
from repo.backends.base import ExecuteRequest, Outcome, Rescheduled
from simulation.world import SimulatedModel, World

S, E, N = SequenceFlag.START, SequenceFlag.END, SequenceFlag.NONE

IO = """
backend: "simulated"
input { name: "INPUT" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "OUTPUT" data_type: TYPE_FP32 dims: [ -1 ] }
"""
CONTROLS = """
control_input { name: "START"
  control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } }
control_input { name: "END" control { kind: CONTROL_SEQUENCE_END fp32_false_true: [ -1, 7 ] } }
control_input { name: "READY"
  control { kind: CONTROL_SEQUENCE_READY bool_false_true: [ false, true ] } }
control_input { name: "CORRID"
  control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 } }
"""


def config(
    more: str = "",
    *,
    max_batch: int = 4,
    io: str = IO,
    controls: str = CONTROLS,
    idle_seconds: float = 1000,
) -> str:
    idle = f"max_sequence_idle_microseconds: {int(idle_seconds * 1e6)}"
    return f"{io} max_batch_size: {max_batch} sequence_batching {{ {idle} {controls} {more} }}"


def value_of(request: InferRequest, name: str) -> float:
    (found,) = [tensor for tensor in request.inputs if tensor.name == name]
    return float(found.array.reshape(-1)[0])


def answered(request: ExecuteRequest, *values: float, name: str = "OUTPUT") -> InferResponse:
    asked = request.request
    array = np.array([values], np.float32)
    return InferResponse(asked.model_name, "1", asked.id, [Tensor.from_array(name, array)])


class Accumulator:
    """Adds up what its slot saw since START, as a model with state of its own does."""

    def __init__(self) -> None:
        self.sums: dict[float, float] = {}
        self.seen: list[tuple[str, dict[str, float]]] = []

    def __call__(self, request: ExecuteRequest) -> Outcome:
        asked = request.request
        controls = {name: value_of(asked, name) for name in ("START", "END", "READY", "CORRID")}
        self.seen.append((asked.id, controls))
        if not controls["READY"]:
            assert request.is_null
            return answered(request, math.nan)
        corrid = controls["CORRID"]
        if controls["START"]:
            self.sums[corrid] = 0.0
        self.sums[corrid] += value_of(asked, "INPUT")
        return answered(request, self.sums[corrid])


def request(
    sequence: int | str,
    flags: SequenceFlag = N,
    value: float = 0.0,
    *,
    id: str = "",  # noqa: A002  # the protocol's word
    batch: int = 1,
    dims: int = 1,
    timeout_us: int = 0,
) -> InferRequest:
    tensor = Tensor.from_array("INPUT", np.full((batch, dims), value, np.float32))
    return InferRequest(
        "m",
        id=id,
        inputs=[tensor],
        correlation_id=sequence,
        sequence_flags=flags,
        timeout_us=timeout_us,
    )


class Play:
    """What one scenario asked, and what became of it."""

    def __init__(
        self,
        model: str,
        behaviour: Callable[[ExecuteRequest], Outcome],
        seconds: float = 1.0,
        *,
        options: ServerOptions | None = None,
    ) -> None:
        simulated = SimulatedModel(model, latency=lambda _: seconds, behaviour=behaviour)
        self.world = World({"m": simulated}, options=options)
        self.answers: dict[str, float | str] = {}
        self.at: dict[str, float] = {}
        self.counters: VersionCounters
        self._script: list[tuple[float, InferRequest, float]] = []

    def send(self, at: float, asked: InferRequest, *, gives_up_at: float = math.inf) -> Play:
        self._script.append((at, asked, gives_up_at))
        return self

    def run(self, *, seed: int = 0) -> Play:
        async def scenario(world: World) -> None:
            async with trio.open_nursery() as nursery:
                for at, asked, gives_up_at in self._script:
                    await trio.sleep_until(at)
                    nursery.start_soon(self._ask, world, asked, gives_up_at)
                    await trio.testing.wait_all_tasks_blocked()
            self.counters = (await world.core.reader.read())["m", 1]

        self.world.run(scenario, seed=seed)
        return self

    async def _ask(self, world: World, asked: InferRequest, gives_up_at: float) -> None:
        with trio.move_on_at(gives_up_at) as scope:
            try:
                response = await world.ask(asked)
                self.answers[asked.id] = float(response.outputs[0].array.reshape(-1)[0])
            except ServerError as error:
                self.answers[asked.id] = error.message
        if scope.cancelled_caught:
            self.answers[asked.id] = "gave up"
        self.at[asked.id] = trio.current_time()

    @property
    def sizes(self) -> dict[int, int]:
        return {size: one.compute_infer.count for size, one in self.counters.batches.items()}


def not_started(sequence: int) -> str:
    """What a request hears whose sequence nobody has started."""
    return (
        f"inference request for sequence {sequence} to model 'm' must specify the START flag on "
        "the first request of the sequence"
    )


def whole(play: Play, sequence: int, values: tuple[float, ...], at: float = 0.0) -> Play:
    """All requests of a sequence at once, named `<sequence>.<place>`."""
    for place, value in enumerate(values):
        flags = (S if place == 0 else N) | (E if place == len(values) - 1 else N)
        play.send(at, request(sequence, flags, value, id=f"{sequence}.{place}"))
    return play


def test_43_two_sequences_run_side_by_side() -> None:
    play = Play(config(), Accumulator())
    whole(whole(play, 987, (1, 2, 3, 4)), 988, (0, 9, 5, 13)).run()

    assert play.answers["987.3"] == 10
    assert play.answers["988.3"] == 27
    # The first request left alone, before the others had come.
    assert sum(size * count for size, count in play.sizes.items()) >= 8
    assert play.counters.inference_count == 8


def test_44_short_sequences_in_high_slots_leave_no_padding_behind() -> None:
    strategy = "direct { max_queue_delay_microseconds: 9000000 minimum_slot_utilization: 1 }"
    play = Play(config(strategy), Accumulator())
    for sequence, length in ((1, 4), (2, 4), (3, 2), (4, 2)):
        whole(play, sequence, (1.0,) * length)
    play.run()

    assert play.sizes == {4: 2, 2: 2}
    assert play.counters.inference_count == 12


def test_45_padding_counts_in_batches_only() -> None:
    model = Accumulator()
    play = Play(
        config("direct { max_queue_delay_microseconds: 9000000 minimum_slot_utilization: 1 }"),
        model,
    )
    for sequence, length in ((1, 1), (2, 1), (3, 2), (4, 2)):
        whole(play, sequence, (1.0,) * length)
    play.run()

    assert play.sizes == {4: 2}
    assert play.counters.inference_count == 6
    assert play.counters.success.count == 6
    assert play.counters.execution_count == 2
    nulls = [controls for _, controls in model.seen if not controls["READY"]]
    assert nulls == [{"START": 0, "END": -1, "READY": 0, "CORRID": 0}] * 2


def test_controls_say_where_in_its_sequence_a_request_stands() -> None:
    model = Accumulator()
    play = whole(Play(config(), model), 5, (1, 2, 3)).send(9, request(6, S | E, id="6")).run()

    assert play.answers["6"] == 0
    assert model.seen == [
        ("5.0", {"START": 1, "END": -1, "READY": 1, "CORRID": 5}),
        ("5.1", {"START": 0, "END": -1, "READY": 1, "CORRID": 5}),
        ("5.2", {"START": 0, "END": 7, "READY": 1, "CORRID": 5}),
        ("6", {"START": 1, "END": 7, "READY": 1, "CORRID": 6}),
    ]


def test_the_client_s_own_request_is_left_as_it_was() -> None:
    asked = request(5, S | E, 1.0, id="a")
    Play(config(), Accumulator()).send(0, asked).run()

    assert [tensor.name for tensor in asked.inputs] == ["INPUT"]
    assert asked.correlation_id == 5


def test_46_other_shapes_wait() -> None:
    play = Play(config(), lambda asked: answered(asked, asked.request.inputs[0].shape[1]), 1.0)
    for sequence, dims in enumerate((1, 1, 2, 3), start=1):
        play.send(0, request(sequence, S, id=f"{sequence}", dims=dims))
    play.run()

    assert play.answers == {"1": 1, "2": 1, "3": 2, "4": 3}
    assert [event.at_us / 1e6 for event in play.world.trace.of("execute")] == [0, 1, 2, 3]


def test_47_mistakes_are_answered_at_once_and_not_counted() -> None:
    play = Play(config(), Accumulator())
    play.send(0, request(5, id="unstarted")).send(0, request(5, S, id="two", batch=2))
    play.send(0, request(0, S, id="none")).send(0, request(5, S | E, 1, id="ok"))
    play.send(2, request(5, id="after")).run()

    assert play.answers == {
        "unstarted": not_started(5),
        "two": "inference request to model 'm' must specify batch-size 1 due to requirements of "
        "sequence batcher",
        "none": "inference request to model 'm' must specify a non-zero or non-empty correlation "
        "ID",
        "ok": 1.0,
        "after": not_started(5),
    }
    assert play.counters.fail.count == 0
    assert play.counters.success.count == 1


def test_48_a_start_on_an_open_sequence_begins_anew(caplog: pytest.LogCaptureFixture) -> None:
    play = Play(config(), Accumulator())
    for at, (name, flags) in enumerate((("a", S), ("b", N), ("c", S), ("d", E))):
        play.send(at, request(1, flags, 1, id=name))
    play.run()

    assert play.answers == {"a": 1, "b": 2, "c": 1, "d": 2}
    assert "starts anew" in caplog.text


def test_49_the_backlog_gets_the_slot_of_an_end() -> None:
    play = Play(config(max_batch=1), Accumulator())
    play.send(0, request(1, S, 1, id="a")).send(0.25, request(2, S, 5, id="b"))
    play.send(0.5, request(1, E, 1, id="a2")).send(3.5, request(2, E, 5, id="b2")).run()

    assert play.answers == {"a": 1, "a2": 2, "b": 5, "b2": 10}
    assert play.at == {"a": 1, "a2": 2, "b": 3, "b2": 4.5}


def test_50_silence_ends_a_sequence() -> None:
    play = Play(config(idle_seconds=5, max_batch=1), Accumulator())
    play.send(0, request(1, S, id="a")).send(0.5, request(2, S, id="b"))
    play.send(6, request(1, id="a2")).run()

    assert play.answers == {"a": 0, "b": 0, "a2": not_started(1)}
    assert play.at["b"] == 6.0


@pytest.mark.parametrize(
    ("utilization", "ready", "at"), [(0.5, 2, 0.0), (0.5, 1, 3.0), (1.0, 2, 3.0)]
)
def test_51_the_delay_waits_for_slots(utilization: float, ready: int, at: float) -> None:
    direct = f"max_queue_delay_microseconds: 3000000 minimum_slot_utilization: {utilization}"
    play = Play(config(f"direct {{ {direct} }}"), Accumulator())
    for sequence in range(1, ready + 1):
        play.send(0, request(sequence, S, id=f"{sequence}"))
    play.run()

    assert play.world.trace.batches() == [(at, ready)]


def test_52_the_timeout_parameter_limits_the_wait_for_a_slot() -> None:
    play = Play(config(max_batch=1), Accumulator(), seconds=5.0)
    play.send(0, request(1, S, id="a", timeout_us=3_000_000))
    play.send(0, request(2, S, id="b", timeout_us=3_000_000))
    play.send(4, request(2, id="b2")).send(5, request(1, E, id="a2")).run()

    assert play.answers == {
        "a": 0,
        "b": "timeout of the corresponding sequence has been expired",
        "b2": not_started(2),
        "a2": 0,
    }
    assert play.at["b"] == 3
    assert play.counters.failures["REJECTED"] == 1


def test_53_a_cancelled_head_takes_its_sequence_along() -> None:
    play = Play(config(max_batch=1), Accumulator(), seconds=4.0)
    play.send(0, request(1, S, id="a")).send(1, request(1, id="a2"), gives_up_at=2)
    play.send(1, request(1, id="a3")).send(3, request(2, S | E, id="b")).run()

    assert play.answers == {"a": 0, "a2": "gave up", "a3": "", "b": 0}
    assert play.at["a3"] == 2
    assert play.counters.failures["CANCELED"] == 2
    assert play.counters.execution_count == 2


def test_54_a_cancelled_request_in_the_backlog_takes_its_sequence_along() -> None:
    play = Play(config(max_batch=1), Accumulator())
    play.send(0, request(1, S, id="a")).send(0.25, request(2, S, id="b"))
    play.send(0.25, request(2, id="b2"), gives_up_at=0.5).send(0.75, request(1, E, id="a2"))
    play.send(0.75, request(3, S | E, id="c")).run()

    assert play.answers == {"a": 0, "b": "", "b2": "gave up", "a2": 0, "c": 0}
    assert play.at["b"] == 1  # when the slot was freed
    assert play.counters.failures["CANCELED"] == 2


CORRID = (
    'control_input {{ name: "CORRID" control {{ kind: CONTROL_SEQUENCE_CORRID data_type: {} }} }}'
)


def test_55_a_narrow_control_sees_the_low_bits() -> None:
    seen: list[object] = []

    def model(asked: ExecuteRequest) -> Outcome:
        (corrid,) = [one for one in asked.request.inputs if one.name == "CORRID"]
        seen.append((corrid.datatype, corrid.shape, corrid.array.item()))
        return answered(asked, 1)

    Play(config(controls=CORRID.format("TYPE_INT32")), model).send(
        0, request(2**32 + 5, S | E, id="a")
    ).run()
    Play(config(controls=CORRID.format("TYPE_STRING")), model).send(
        0, request("five", S | E, id="a")
    ).run()

    assert seen == [("INT32", (1, 1), 5), ("BYTES", (1, 1), b"five")]


def test_55_the_kind_of_an_id_must_fit_its_control() -> None:
    text = Play(config(controls=CORRID.format("TYPE_STRING")), Accumulator())
    text.send(0, request(5, S, id="a")).run()
    number = Play(config(), Accumulator()).send(0, request("5", S, id="a")).run()

    assert text.answers["a"] == (
        "[request id: a] sequence batching control 'CORRID' data-type is 'UINT64', but model 'm' "
        "expects 'BYTES'"
    )
    assert number.answers["a"] == (
        "[request id: a] sequence batching control 'CORRID' data-type is 'BYTES', but model 'm' "
        "expects 'UINT64'"
    )


@pytest.mark.parametrize("strategy", ["direct { }", "oldest { }"])
def test_a_model_without_batching_has_one_slot_per_instance(strategy: str) -> None:
    shapes: list[dict[str, tuple[int, ...]]] = []
    model = Accumulator()

    def watched(asked: ExecuteRequest) -> Outcome:
        shapes.append({tensor.name: tensor.shape for tensor in asked.request.inputs})
        assert asked.batch_size == 0
        return model(asked)

    groups = "instance_group { count: 2 kind: KIND_CPU } "
    groups += 'instance_group { name: "idle" kind: KIND_CPU passive: true }'
    play = Play(config(strategy, max_batch=0) + groups, watched)
    for sequence in (1, 2, 3):
        asked = request(sequence, S | (E if sequence == 1 else N), sequence, id=f"{sequence}")
        asked.inputs = [asked.inputs[0].reshaped((1,))]
        play.send(0, asked)
    play.run()

    assert play.answers == {"1": 1, "2": 2, "3": 3}
    # The third waits for the slot of the first, and nobody runs on the passive instance.
    assert play.at == {"1": 1, "2": 1, "3": 2}
    assert {event.who for event in play.world.trace.of("execute")} == {"m_0_0", "m_0_1"}
    assert shapes[0] == {"INPUT": (1,), "START": (1,), "END": (1,), "READY": (1,), "CORRID": (1,)}


OLDEST = "oldest {{ max_candidate_sequences: {} max_queue_delay_microseconds: 5000000 }}"


def test_56_candidates_are_batched_as_they_come() -> None:
    play = Play(config(OLDEST.format(4)), Accumulator())
    for sequence in range(1, 5):
        whole(play, sequence, (1, 2, 3))
    whole(play, 5, (1, 2, 3), at=20).run()

    assert play.sizes == {4: 3, 1: 3}
    assert [play.answers[f"{sequence}.2"] for sequence in range(1, 6)] == [6] * 5
    assert play.world.trace.batches()[3:] == [(25, 1), (31, 1), (37, 1)]


def test_57_requests_of_a_sequence_follow_each_other() -> None:
    play = whole(Play(config("oldest {}"), Accumulator()), 1, (1, 2, 3)).run()

    assert play.world.trace.batches() == [(0, 1), (1, 1), (2, 1)]
    assert play.answers["1.2"] == 6


def test_58_the_next_owner_of_a_slot_waits_for_the_end() -> None:
    play = Play(config("oldest { max_candidate_sequences: 1 }"), Accumulator())
    play.send(0, request(1, S, 1, id="a")).send(0.5, request(2, S | E, 2, id="b"))
    play.send(2, request(1, E, 1, id="a2")).run()

    assert play.at == {"a": 1, "a2": 3, "b": 4}


def test_replies_of_the_oldest_can_be_kept_in_order() -> None:
    order: list[str] = []
    play = Play(config("oldest { preserve_ordering: true }"), Accumulator())
    for sequence in range(1, 4):
        whole(play, sequence, (1, 2))
    play.run()
    order = sorted(play.at, key=lambda name: play.at[name])

    assert {name[-1] for name in order[:3]} == {"0"}
    assert play.answers["3.1"] == 3


STATE = """
state { input_name: "IN_STATE" output_name: "OUT_STATE" data_type: TYPE_FP32 dims: [ 1 ] %s }
"""


def stateful(asked: ExecuteRequest) -> Outcome:
    """OUTPUT = OUT_STATE = IN_STATE + INPUT; the server keeps the sum."""
    total = value_of(asked.request, "IN_STATE") + value_of(asked.request, "INPUT")
    response = answered(asked, total)
    response.outputs.append(answered(asked, total, name="OUT_STATE").outputs[0])
    return response


def test_60_the_state_lives_as_long_as_its_sequence() -> None:
    play = whole(Play(config(STATE % ""), stateful), 7, (1, 2, 3))
    whole(play, 8, (5, 5), at=9).run()

    assert [play.answers[f"7.{place}"] for place in range(3)] == [1, 3, 6]
    assert [play.answers[f"8.{place}"] for place in range(2)] == [5, 10]


def test_sequences_that_run_together_do_not_share_a_state() -> None:
    play = Play(config(STATE % ""), stateful)
    for at in range(3):
        for sequence in range(1, 5):
            flags = S if at == 0 else N
            play.send(at, request(sequence, flags, sequence, id=f"{sequence}.{at}"))
    play.run()

    assert [play.answers[f"{sequence}.2"] for sequence in range(1, 5)] == [3, 6, 9, 12]


def test_59_a_state_that_is_not_updated_stays() -> None:
    def model(asked: ExecuteRequest) -> Outcome:
        return answered(asked, value_of(asked.request, "IN_STATE") + 1)

    play = whole(Play(config(STATE % ""), model), 1, (0,) * 11).run()

    assert set(play.answers.values()) == {1.0}


def test_59_a_backend_may_update_a_state_itself_and_only_a_state() -> None:
    texts: list[str] = []

    def model(asked: ExecuteRequest) -> Outcome:
        total = value_of(asked.request, "IN_STATE") + 1
        tensor = answered(asked, total).outputs[0]
        asked.update_state(tensor.renamed("OUT_STATE"))
        try:
            asked.update_state(tensor)
        except ServerError as error:
            texts.append(error.message)
        return answered(asked, total)

    def stateless(asked: ExecuteRequest) -> Outcome:
        asked.update_state(asked.request.inputs[0].renamed("OUT_STATE"))
        raise AssertionError("not reached")

    play = whole(Play(config(STATE % ""), model), 1, (0, 0, 0)).run()
    without = Play(config(), stateless).send(0, request(1, S | E, id="a")).run()

    assert play.answers["1.2"] == 3
    assert set(texts) == {"state 'OUTPUT' is not a valid state name."}
    assert without.answers["a"] == (
        "unable to add state 'OUT_STATE'. State configuration is missing for model 'm'."
    )


def test_a_state_is_shown_only_where_it_is_an_output_too() -> None:
    shown: list[list[str]] = []

    async def scenario(world: World) -> None:
        response = await world.ask(request(1, S | E, 1, id="a"))
        shown.append([tensor.name for tensor in response.outputs])
        asked = request(2, S | E, 1, id="b")
        asked.requested_outputs = ("OUT_STATE",)
        with pytest.raises(
            ServerError, match="unexpected inference output 'OUT_STATE' for model 'm'"
        ):
            await world.ask(asked)

    World({"m": SimulatedModel(config(STATE % ""), behaviour=stateful)}).run(scenario)
    both = IO + 'output { name: "OUT_STATE" data_type: TYPE_FP32 dims: [ 1 ] }'

    async def with_output(world: World) -> None:
        asked = request(2, S | E, 1, id="b")
        asked.requested_outputs = ("OUT_STATE",)
        response = await world.ask(asked)
        shown.append([tensor.name for tensor in response.outputs])

    World({"m": SimulatedModel(config(STATE % "", io=both), behaviour=stateful)}).run(with_output)

    assert shown == [["OUTPUT"], ["OUT_STATE"]]


def countdown(asked: ExecuteRequest) -> Outcome:
    """The state counts down from INPUT; the model wants to see the request until it is 0."""
    left = value_of(asked.request, "IN_STATE") or value_of(asked.request, "INPUT")
    asked.update_state(answered(asked, left - 1, name="OUT_STATE").outputs[0])
    return Rescheduled() if left > 1 else answered(asked, left)


def test_61_an_iterative_request_is_executed_until_it_is_done() -> None:
    iterative = config("iterative_sequence: true" + STATE % "", controls="")
    play = Play(iterative, countdown)
    play.send(0, request(0, value=3, id="a")).send(0.5, request(0, value=2, id="b")).run()

    assert play.answers == {"a": 1, "b": 1}
    assert play.at == {"a": 3, "b": 3}
    # Each request has succeeded once, however often it was executed.
    assert play.counters.success.count == 2
    assert play.counters.inference_count == 2
    assert play.counters.fail.count == 0
    assert play.counters.execution_count == 3


def test_61_its_sequence_may_be_given_up_between_two_iterations() -> None:
    iterative = config("iterative_sequence: true" + STATE % "", controls="", idle_seconds=0.25)
    play = Play(iterative, countdown, seconds=0.5).send(0, request(0, value=3, id="a")).run()

    assert play.answers == {"a": not_started(1)}
    assert play.counters.failures["OTHER"] == 1


def test_61_without_iteration_a_request_cannot_come_back() -> None:
    play = Play(config(STATE % "", controls=""), countdown)
    play.send(0, request(1, S, value=3, id="a")).run()

    assert play.answers["a"] == (
        "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, while the model is not "
        "configured to handle such a flag."
    )
    assert play.counters.failures["BACKEND"] == 1


def test_draining_answers_what_was_accepted_and_ends_though_sequences_are_open() -> None:
    answers: list[object] = []

    async def scenario(world: World) -> None:
        serving = world.core.index.value.find("m", "")

        async def ask(asked: InferRequest) -> None:
            try:
                answers.append((await world.ask(asked)).outputs[0].array.item())
            except ServerError as error:
                answers.append(error.message)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, request(1, S, 1))
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(ask, request(1, N, 1))
            await trio.testing.wait_all_tasks_blocked()
            assert serving.pending() == 1
            world.core.repository.drain()

    World({"m": SimulatedModel(config(), lambda _: 1.0, Accumulator())}).run(scenario)

    assert answers == [1, 2]


def test_a_crash_answers_everybody() -> None:
    async def scenario(world: World) -> None:
        failures: list[ServerError] = []

        async def ask(asked: InferRequest) -> None:
            with pytest.raises(ServerError) as caught:
                await world.ask(asked)
            failures.append(caught.value)

        async with trio.open_nursery() as nursery:
            for asked in (request(1, S), request(1, N), request(2, S), request(3, S)):
                nursery.start_soon(ask, asked)
                await trio.testing.wait_all_tasks_blocked()
            world.executors["m_0"].crash(RuntimeError("gone"))
        assert len(failures) == 4
        assert {one.status for one in failures} <= {StatusCode.INTERNAL, StatusCode.UNAVAILABLE}

    models = {"m": SimulatedModel(config(max_batch=1), lambda _: 8.0, Accumulator())}
    World(models, expected_errors=["crashed"]).run(scenario)


def test_the_limiter_is_asked_for_the_instance_that_has_the_sequence() -> None:
    model = Accumulator()
    limited = config(max_batch=1) + " instance_group { count: 2 kind: KIND_CPU }"
    options = ServerOptions(model_repository=("simulated",), rate_limit="execution_count")
    play = Play(limited, model, options=options)
    play.send(0, request(1, S, 1, id="a")).send(0, request(2, S, 1, id="b"))
    for at in range(2, 5):
        play.send(at, request(2, N, 1, id=f"b{at}"))
    play.send(6, request(1, E, 1, id="a2")).run()

    assert play.answers == {"a": 1, "b": 1, "b2": 2, "b3": 3, "b4": 4, "a2": 2}
    by_instance = {event.detail: event.who for event in play.world.trace.of("execute")}
    assert len({by_instance[name] for name in ("b", "b2", "b3", "b4")}) == 1
    assert by_instance["a"] == by_instance["a2"] != by_instance["b"]


def test_a_caller_s_deadline_frees_its_place() -> None:
    async def scenario(world: World) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.ask, request(1, S))
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(ServerError) as caught:
                await world.ask(request(2, S), deadline_at=0.5)
            assert trio.current_time() == 0.5
            assert caught.value.status is StatusCode.DEADLINE_EXCEEDED

    World({"m": SimulatedModel(config(max_batch=1), lambda _: 1.0, Accumulator())}).run(scenario)


def test_responses_stream_while_the_request_goes_on() -> None:
    """A request whose caller leaves in the middle is told so and frees its slot."""

    async def scenario(world: World) -> None:
        async with open_call(world.core.calls, request(1, S)):
            await trio.testing.wait_all_tasks_blocked()
        response = await world.ask(request(1, E, 1))
        assert response.outputs[0].array.item() == 1

    World({"m": SimulatedModel(config(), lambda _: 1.0, Accumulator())}).run(scenario)
