"""Both sides of a link: what hostile packets do, and what a frontend's death leaves behind."""

from __future__ import annotations

import contextlib
import random

import numpy as np
import pytest
import trio

from actors.frontends.answers import Answers, Forwarded
from actors.frontends.link_end import LinkEnd, layout_of
from actors.frontends.pipe import PeerGone
from actors.frontends.records import Rest
from actors.http.control import HttpControl
from actors.policy.restarting import Restarts
from actors.settings.options import ServerOptions
from protocol import routes
from protocol.inference import Tensor
from protocol.status import ServerError, StatusCode
from repo.backends.python.layout import WireError
from simulation.linked import LinkedWorld, memory_pipes
from simulation.world import SimulatedModel, World

BATCHED = """
backend: "simulated" max_batch_size: 4
input { name: "INPUT" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "INPUT" data_type: TYPE_FP32 dims: [ -1 ] }
"""


def one_tensor(elements: int) -> Tensor:
    return Tensor.from_array("x", np.arange(elements, dtype=np.float32))


async def test_records_come_through_with_small_and_large_tensors(autojump_clock: object) -> None:  # noqa: ARG001  # a fixture
    near, far = memory_pipes()
    heard: list[tuple[bytes, list[Tensor], tuple[str, ...]]] = []
    sender, receiver = LinkEnd(near, wake=lambda: None), LinkEnd(far, wake=lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(receiver.run, lambda *record: heard.append(record), lambda: None)
        nursery.start_soon(sender.run_writer)
        for elements in (4, 150_000, 4):
            sender.say(b"\x01", *layout_of(("x",), [one_tensor(elements)]))
        sender.say(b"\x02")
        assert not sender.flush()
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert [len(tensors) for _, tensors, _ in heard] == [1, 1, 1, 0]
    assert [tensors[0].array[-1] for _, tensors, _ in heard[:3]] == [3, 149_999, 3]
    assert [requested for _, _, requested in heard] == [("x",), ("x",), ("x",), ()]
    heard.clear()
    sender.close()
    receiver.close()


async def test_a_full_pipe_is_waited_for(autojump_clock: object) -> None:  # noqa: ARG001  # a fixture
    near, far = memory_pipes()
    woken: list[bool] = []
    heard: list[tuple[bytes, list[Tensor], tuple[str, ...]]] = []
    sender = LinkEnd(near, wake=lambda: woken.append(True))
    receiver = LinkEnd(far, wake=lambda: None)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.run_writer)
        for _ in range(40):
            sender.say(b"\x01", *layout_of((), [one_tensor(5000)]))
        sender.flush()
        assert sender.is_stuck
        nursery.start_soon(receiver.run, lambda *record: heard.append(record), lambda: None)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()

    assert woken
    assert not sender.is_stuck
    assert len(heard) == 40
    sender.close()
    receiver.close()


async def test_hostile_packets_are_refused_and_nothing_else(autojump_clock: object) -> None:  # noqa: ARG001  # a fixture
    near, far = memory_pipes()
    sender = LinkEnd(near, wake=lambda: None)
    sender.say(b"\x01\x02\x03", *layout_of(("x", "y"), [one_tensor(4), one_tensor(20)]))
    sender.say(b"\x01", *layout_of((), [Tensor("s", "BYTES", (1,), raw=b"\1\0\0\0a")]))
    sender.flush()
    packet, _ = far.receive() or (b"", -1)
    sender.close()
    dice = random.Random(23)
    for _ in range(2000):
        hostile = bytearray(packet)
        for _ in range(dice.randrange(1, 5)):
            hostile[dice.randrange(len(hostile))] = dice.randrange(256)
        near, far = memory_pipes()
        near.send(bytes(hostile[: dice.randrange(1, len(hostile) + 1)]))
        near.close()
        receiver = LinkEnd(far, wake=lambda: None)
        with contextlib.suppress(WireError, PeerGone):
            await receiver.run(lambda *_: None, lambda: None)
        receiver.close()


def test_a_frontend_that_dies_frees_what_it_had_under_way() -> None:
    async def scenario(world: World) -> None:
        assert isinstance(world, LinkedWorld)
        errors: list[ServerError] = []

        async def ask() -> None:
            try:
                await world.infer("M")
            except ServerError as error:
                errors.append(error)

        async with trio.open_nursery() as nursery:
            for _ in range(9):
                nursery.start_soon(ask)
            await trio.sleep(0.5)
            assert world.link.in_flight == 9
            world.pipe.close()
        assert world.link.in_flight == 0
        assert {error.status for error in errors} == {StatusCode.UNAVAILABLE}
        assert {error.message for error in errors} == {"the server has stopped"}
        serving = world.core.index.value.find("M", "")
        assert serving.pending() == 0

    LinkedWorld({"M": SimulatedModel(BATCHED, latency=lambda _: 1.0)}).run(scenario)


def test_a_deadline_holds_behind_a_link() -> None:
    async def scenario(world: World) -> None:
        asked = [
            world.client().ask("M", f"r{number}", deadline_at=trio.current_time() + 0.25)
            for number in range(2)
        ]
        await world.all_answered()
        assert asked[0].error is None
        assert asked[1].error is not None
        assert asked[1].error.status is StatusCode.DEADLINE_EXCEEDED

    LinkedWorld({"M": SimulatedModel(BATCHED, latency=lambda _: 1.0)}).run(scenario)


def test_a_frontend_knows_at_once_what_was_loaded_and_unloaded() -> None:
    async def scenario(world: World) -> None:
        assert isinstance(world, LinkedWorld)
        control = world.core.control_plane
        for _ in range(3):
            await world.infer("M")
            await control.unload_model("", "M", unload_dependents=False)
            await world.board.settle()
            with pytest.raises(ServerError, match="has no available versions"):
                await world.infer("M")
            await control.load_model("", "M", {})
            await world.board.settle()

    options = ServerOptions(
        model_repository=("simulated",), model_control_mode="explicit", load_model=("*",)
    )
    LinkedWorld({"M": SimulatedModel(BATCHED)}, options=options).run(scenario)


def test_processes_that_die_soon_are_started_later_and_later() -> None:
    restarts = Restarts()

    assert [restarts.delay(0.0) for _ in range(9)] == [
        0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0
    ]  # fmt: skip
    assert restarts.delay(10.0) == pytest.approx(0.1)


class _Broken(Answers):
    """Answers as a defect of ours would."""

    async def answer(self, question: Rest, blob: bytes) -> tuple[Rest, bytes]:
        raise RuntimeError("a defect")


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ({"http": "ServerLive", "fields": {}}, {"status": 500}),
        ({"grpc": "/x/Y"}, {"grpc_status": 2, "message": "internal server error"}),
    ],
)
def test_a_defect_in_a_forwarded_call_fails_that_call(
    question: Rest, answer: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("simulation.linked.Answers", _Broken)

    async def scenario(world: World) -> None:
        assert isinstance(world, LinkedWorld)
        found, _ = await world.uplink.ask(question)
        assert found.items() >= answer.items()
        await world.infer("M")

    LinkedWorld({"M": SimulatedModel(BATCHED)}, expected_errors=("a forwarded call failed",)).run(
        scenario
    )


def test_a_forwarded_operation_is_answered_and_can_be_given_up() -> None:
    async def scenario(world: World) -> None:
        assert isinstance(world, LinkedWorld)
        forwarded = Forwarded(world.uplink.ask)
        answer = await forwarded.run(routes.ModelMetadata("M"), b"")
        assert answer.status == 200
        assert b'"platform":"simulated"' in answer.parts[0]
        answer = await forwarded.run(routes.ModelStatistics("X"), b"")
        assert answer.status == 400
        with trio.move_on_after(0):
            await forwarded.run(routes.ServerReady(), b"")
        assert (await forwarded.run(routes.ServerReady(), b"")).status == 200

    LinkedWorld({"M": SimulatedModel(BATCHED)}).run(scenario)


@pytest.mark.parametrize("question", [{"http": "Nope", "fields": {}}, {"grpc": "/nope"}])
def test_a_question_that_makes_no_sense_ends_the_link_alone(question: Rest) -> None:
    async def scenario(world: World) -> None:
        assert isinstance(world, LinkedWorld)
        answers = Answers(HttpControl(world.core.control_plane, max_input_size=1024), {})
        with pytest.raises(WireError, match="a frontend asks for"):
            await answers.answer(question, b"")

    LinkedWorld({"M": SimulatedModel(BATCHED)}).run(scenario)
