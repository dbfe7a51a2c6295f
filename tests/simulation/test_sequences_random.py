"""Random sequences over the production actors: starts, ends, silences, cancellations, crashes.

Every request adds a number of its own to the state that the server keeps for its sequence, so that
an answer tells which requests it stands on, and whether any of them was somebody else's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from protocol.inference import InferRequest, InferResponse, SequenceFlag, Tensor
from protocol.status import ServerError
from repo.backends.base import ExecuteRequest, Outcome
from simulation.executor import SimulatedExecutor
from simulation.world import SimulatedModel, World

S, E, N = SequenceFlag.START, SequenceFlag.END, SequenceFlag.NONE
IDLE_SECONDS = 8.0
EXECUTION_SECONDS = 0.5

CONFIG = """
backend: "simulated" max_batch_size: %d instance_group { count: %d kind: KIND_CPU }
input { name: "TAG" data_type: TYPE_INT64 dims: [ 1 ] }
output { name: "SUM" data_type: TYPE_INT64 dims: [ 1 ] }
sequence_batching {
  %s max_sequence_idle_microseconds: 8000000
  control_input { name: "READY"
    control { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } }
  state { input_name: "BEFORE" output_name: "AFTER" data_type: TYPE_INT64 dims: [ 1 ] }
}
"""
STRATEGIES = (
    "direct { }",
    "direct { max_queue_delay_microseconds: 1000000 minimum_slot_utilization: 0.75 }",
    "oldest { max_candidate_sequences: 2 }",
    """oldest {
      max_candidate_sequences: 3 max_queue_delay_microseconds: 250000 preserve_ordering: true
    }""",
)

quarters = st.integers(0, 12).map(lambda count: count / 4)


@dataclass(frozen=True)
class Step:
    """One request: how long after the one before it, and when its caller gives up, if it does."""

    pause: float
    patience: float | None
    waits: bool  # for the answer to the one before it


@dataclass(frozen=True)
class Plan:
    strategy: str
    max_batch: int
    instances: int
    sequences: tuple[tuple[Step, ...], ...]
    ends: tuple[bool, ...]
    losses: tuple[float, ...]  # when what is being executed fails
    crash_at: float | None
    seed: int


steps = st.builds(
    Step,
    pause=st.sampled_from((0.0, 0.0, 0.25, 1.0, 9.0)),
    patience=st.sampled_from((None, None, None, 0.25, 2.0)),
    waits=st.booleans(),
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    count = draw(st.integers(1, 6))
    sequence = st.lists(steps, min_size=1, max_size=5).map(tuple)
    return Plan(
        strategy=draw(st.sampled_from(STRATEGIES)),
        max_batch=draw(st.sampled_from((1, 2, 4))),
        instances=draw(st.sampled_from((1, 2))),
        sequences=tuple(draw(sequence) for _ in range(count)),
        ends=tuple(draw(st.booleans()) for _ in range(count)),
        losses=tuple(draw(st.lists(quarters, max_size=2))),
        crash_at=draw(st.sampled_from((None, None, None, 1.25, 4.0))),
        seed=draw(st.integers(0, 2**16)),
    )


def add(asked: ExecuteRequest) -> Outcome:
    values = {tensor.name: tensor.array.astype(np.int64) for tensor in asked.request.inputs}
    if asked.is_null:
        assert not values["READY"].any()
        assert not values["BEFORE"].any()
    total = values["TAG"] + values["BEFORE"]
    outputs = [Tensor.from_array("SUM", total), Tensor.from_array("AFTER", total)]
    return InferResponse("m", "1", asked.request.id, outputs)


@dataclass
class Run:
    """A plan being played, and what became of each request: its sum, or why there is none."""

    plan: Plan
    answers: dict[str, int | str] = field(default_factory=dict)

    async def scenario(self, world: World) -> None:
        async with trio.open_nursery() as nursery:
            for number, sequence in enumerate(self.plan.sequences, start=1):
                nursery.start_soon(self.sequence, world, number, sequence)
            for at in self.plan.losses:
                nursery.start_soon(self.lose, world, at)
            if self.plan.crash_at is not None:
                nursery.start_soon(self.crash, world, self.plan.crash_at)

    async def sequence(self, world: World, number: int, sequence: tuple[Step, ...]) -> None:
        async with trio.open_nursery() as nursery:
            for place, step in enumerate(sequence):
                await trio.sleep(step.pause)
                is_last = place == len(sequence) - 1
                flags = (S if place == 0 else N) | (
                    E if is_last and self.plan.ends[number - 1] else N
                )
                asked = InferRequest(
                    "m",
                    id=f"{number}.{place}",
                    inputs=[Tensor.from_array("TAG", np.array([[tag(number, place)]]))],
                    correlation_id=number if number % 2 else f"s{number}",
                    sequence_flags=flags,
                )
                if step.waits:
                    await self.ask(world, asked, step.patience)
                else:
                    nursery.start_soon(self.ask, world, asked, step.patience)
                    # The next one stands behind it at the door.
                    await trio.testing.wait_all_tasks_blocked()

    async def ask(self, world: World, asked: InferRequest, patience: float | None) -> None:
        with trio.move_on_after(float("inf") if patience is None else patience) as scope:
            try:
                response = await world.ask(asked)
                assert [tensor.name for tensor in response.outputs] == ["SUM"]
                self.answers[asked.id] = int(response.outputs[0].array.item())
            except ServerError as error:
                self.answers[asked.id] = error.message
        if scope.cancelled_caught:
            self.answers[asked.id] = "gave up"

    async def lose(self, world: World, at: float) -> None:
        await trio.sleep_until(at)
        first_executor(world).lose_worker()

    async def crash(self, world: World, at: float) -> None:
        await trio.sleep_until(at)
        first_executor(world).crash(RuntimeError("gone"))


def first_executor(world: World) -> SimulatedExecutor:
    return next(iter(world.executors.values()))


def tag(number: int, place: int) -> int:
    return 1 << (8 * (number - 1) + place)


@settings(
    max_examples=120,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(plans())
def test_sequences_keep_their_order_their_place_and_their_state(plan: Plan) -> None:
    run = Run(plan)
    config = CONFIG % (plan.max_batch, plan.instances, plan.strategy)
    model = SimulatedModel(config, latency=lambda _: EXECUTION_SECONDS, behaviour=add)
    world = World({"m": model}, expected_errors=["crashed"])
    world.run(run.scenario, seed=plan.seed)

    asked = {
        f"{number}.{place}"
        for number, sequence in enumerate(plan.sequences, start=1)
        for place in range(len(sequence))
    }
    assert run.answers.keys() == asked, "everybody is served or refused"
    executed: dict[int, list[tuple[int, str]]] = {}
    for event in world.trace.of("execute"):
        batch = [tuple(map(int, name.split("."))) for name in event.detail.split(",") if name]
        assert len({number for number, _ in batch}) == len(batch), "a slot has one request"
        assert event.size <= plan.max_batch
        for number, place in batch:
            executed.setdefault(number, []).append((place, event.who))
    for number, runs in executed.items():
        places = [place for place, _ in runs]
        assert places == sorted(places), "in order"
        assert len({who for _, who in runs}) == 1, "a sequence never moves"
        own = sum(tag(number, place) for place in range(8))
        before = 0
        for place in places:
            answer = run.answers[f"{number}.{place}"]
            if isinstance(answer, str):
                continue  # it failed, or nobody waited to hear the sum
            assert answer & ~own == 0, "nothing of another sequence"
            assert answer & tag(number, place), "its own number"
            assert answer < 2 * tag(number, place), "nothing of later requests"
            assert before & ~answer == 0, "everything that was answered before"
            before = answer
