"""ModelStreamInfer, rule by rule, in virtual time."""

from __future__ import annotations

import gzip

import pytest
import trio
import trio.testing

from actors import version_wiring
from actors.grpc import infer_stream as grpc_infer_stream
from actors.grpc.infer_stream import SHUTTING_DOWN
from actors.grpc.terms import RESPONSE_WINDOW
from actors.street.calls import DOOR_PATIENCE_SECONDS, Ticketed, closed, submit_nowait
from protocol.grpc_compression import CompressionLevel
from protocol.http2 import Http2Limits
from protocol.inference import InferResponse
from protocol.proto.messages import ModelStreamInferResponse
from protocol.status import internal
from repo.backends.base import ExecuteRequest, Outcome
from simulation.world import SimulatedModel
from tests.actors.grpc_rig import (
    DECOUPLED,
    PLAIN,
    GrpcWorld,
    describe,
    infer,
    model,
    repeat,
    run,
)

UNKNOWN = "Request for unknown model: 'nope' is not found"
TWO = PLAIN + " instance_group { count: 2 kind: KIND_CPU }"


def worlds(**settings: object) -> GrpcWorld:
    return GrpcWorld(
        {"m": model(), "slow": model(seconds=1.0), "rep": model(DECOUPLED)}, **settings
    )


def failing(seconds: float = 0.0) -> SimulatedModel:
    def fail(_: object) -> Outcome:
        return internal("out of order")

    return model(seconds=seconds, behaviour=fail)


def test_responses_come_in_the_order_of_their_requests() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open()
            await call.send(infer("slow", "a"), infer("m", "b"), end=True)
            await trio.sleep(0.5)
            assert call.messages == []
            assert await call.over() == (0, "")
            assert describe(await call.responses(2)) == [("a", True, ""), ("b", True, "")]
            assert trio.current_time() == 1.0

    run(worlds(), scenario)


def test_decoupled_responses_overtake_those_in_order() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open()
            await call.send(infer("slow", "a"), repeat("r", [0.25, 0.25]), repeat("s", [0.375]))
            await call.send(end=True)
            assert await call.over() == (0, "")
            assert describe(await call.responses(4)) == [
                ("r", False, ""), ("s", False, ""), ("r", False, ""), ("a", True, ""),
            ]  # fmt: skip

    run(worlds(), scenario)


@pytest.mark.parametrize(("wanted", "count"), [(False, 2), (True, 3)])
def test_the_end_alone_is_said_to_who_asks_for_it(wanted: bool, count: int) -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open()
            asked = repeat("r", [0.0, 0.0], triton_enable_empty_final_response=wanted)
            await call.send(asked, end=True)
            assert await call.over() == (0, "")
            responses = await call.responses(count)
            assert [final for _, final, _ in describe(responses)] == [False, False, True][:count]
            if wanted:
                last = responses[-1].infer_response
                assert (last.id, last.model_name, last.model_version) == ("r", "rep", "")
                assert not last.outputs

    run(worlds(), scenario)


def test_a_decoupled_request_may_have_no_response_at_all() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open()
            await call.send(repeat("r", []), end=True)
            assert await call.over() == (0, "")
            assert call.messages == []

    run(worlds(), scenario)


def test_what_is_wrong_with_one_request_is_said_in_its_turn() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open()
            await call.send(
                infer("slow", "a"),
                infer("nope", "b"),
                infer("m", "c", batch=False),
                infer("m", "d", triton_other=1),
                infer("nope", "e", triton_other=1),
                infer("m", "f"),
                end=True,
            )
            assert await call.over() == (0, "")
            got = describe(await call.responses(6))
            assert [(name, final) for name, final, _ in got] == [
                ("a", True), ("b", None), ("c", None), ("d", None), ("e", None), ("f", True),
            ]  # fmt: skip
            assert got[1][2] == UNKNOWN
            assert "unexpected shape for input 'INPUT' for model 'm'" in got[2][2]
            assert got[3][2].startswith("parameter keys starting with 'triton_' are reserved")
            assert got[4][2] == UNKNOWN
            # Clients take any model name here for an answer to a request that was accepted.
            assert (await call.responses(6))[1].infer_response.model_name == ""

    run(worlds(), scenario)


def test_a_refused_decoupled_request_waits_for_nobody() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open()
            await call.send(infer("slow", "a"), repeat("r", [], triton_other=1))
            assert [name for name, _, _ in describe(await call.responses(1))] == ["r"]
            assert trio.current_time() == 0.0
            await call.send(end=True)
            assert [name for name, _, _ in describe(await call.responses(2))] == ["r", "a"]

    run(worlds(), scenario)


def test_a_bad_version_is_worse_than_an_unknown_model() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open()
            asked = b"\x12\x01x" + infer("nope", "a")  # model_version
            await call.send(asked, end=True)
            ((_, _, text),) = describe(await call.responses(1))
            assert text == (
                "failed to get model version from specified version string 'x' (details: stol), "
                "version should be an integral value > 0"
            )

    run(worlds(), scenario)


def test_a_request_that_fails_later_names_its_model() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open()
            await call.send(infer("bad", "a"), repeat("r", [0.0, -1.0, 0.0]), end=True)
            assert await call.over() == (0, "")
            responses = await call.responses(4)
            assert sorted(describe(responses), key=str) == sorted(
                [("a", True, "out of order"), ("r", False, ""), ("r", False, "no such element"),
                 ("r", False, "")], key=str,
            )  # fmt: skip
            assert {each.infer_response.model_name for each in responses} == {"bad", "rep"}

    run(GrpcWorld({"bad": failing(), "rep": model(DECOUPLED)}), scenario)


def test_on_request_the_first_failure_ends_the_call_and_drops_the_rest() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open("/inference.GRPCInferenceService/ModelStreamInfer",
                                     ("triton_grpc_error", "true"))  # fmt: skip
            await call.send(infer("m", "a"), infer("nope", "b"), infer("bad", "c"), infer("m", "d"))
            await call.send(repeat("r", [0.25] * 100))
            assert await call.over() == (13, "out of order")
            got = describe(await call.responses(2))
            assert got[:2] == [("a", True, ""), ("b", None, UNKNOWN)]
            assert "c" not in [name for name, _, _ in got]
            assert trio.current_time() == 0.5
            await trio.sleep(1.0)
            assert world.repeaters["rep"].cancelled == ["r"]
            again = await client.unary(infer("m"))
            assert (await again.answer()).model_name == "m"

    models = {"m": model(), "bad": failing(seconds=0.5), "rep": model(DECOUPLED)}
    run(GrpcWorld(models), scenario)


def test_a_call_without_requests_ends_well() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open(end=True)
            assert await call.over() == (0, "")

    run(worlds(), scenario)


def test_a_cancelled_call_cancels_its_requests_and_no_others() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            mine, other = await client.open(), await client.open()
            await mine.send(repeat("mine", [0.25] * 100), infer("slow", "x"), infer("slow", "y"))
            await other.send(repeat("other", [0.25] * 4), end=True)
            await mine.responses(1)
            await mine.reset()
            assert await other.over() == (0, "")
            assert len(other.messages) == 4
            await trio.sleep(5.0)
            assert world.repeaters["rep"].cancelled == ["mine"]
            # One was running; the other was still queued, and never ran.
            assert [each.detail for each in world.trace.of("execute")] == ["x"]

    run(worlds(), scenario)


def test_a_lost_connection_cancels_everything_on_it() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open()
            await call.send(repeat("r", [0.25] * 100))
            await call.responses(1)
        await trio.sleep(1.0)
        assert world.repeaters["rep"].cancelled == ["r"]

    run(worlds(), scenario)


def test_the_call_s_deadline_is_that_of_its_requests() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open(
                "/inference.GRPCInferenceService/ModelStreamInfer", ("grpc-timeout", "600m")
            )
            await call.send(repeat("r", [0.25] * 100), infer("slow", "a"), infer("slow", "b"))
            assert await call.over() == (4, "Deadline Exceeded")
            assert trio.current_time() == pytest.approx(0.6)
            assert len(call.messages) == 2
            await trio.sleep(5.0)
            assert world.repeaters["rep"].cancelled == ["r"]
            assert [each.detail for each in world.trace.of("execute")] == ["a"]

    run(worlds(), scenario)


def test_a_slow_reader_stops_its_own_producer_and_nobody_else_s() -> None:
    """Beyond the windows of HTTP/2 and of the response door, the model waits."""
    big = [0.0] * 4096  # 16 KiB and an answer each

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect(reads=False) as lazy, world.connect() as eager:
            stuck, other = await lazy.open(), await eager.open()
            await stuck.send(repeat("stuck", big), end=True)
            await trio.testing.wait_all_tasks_blocked()
            taken = world.repeaters["rep"].delivered["stuck"]
            window, pending, one = 1 << 20, 100_000, 16_384
            assert window // one <= taken <= (window + pending) // one + RESPONSE_WINDOW + 2

            await other.send(repeat("other", [0.0] * 1000), end=True)
            assert await other.over() == (0, "")
            assert len(other.messages) == 1000
            assert world.repeaters["rep"].delivered["stuck"] == taken

            await lazy.read_on()
            assert await stuck.over() == (0, "")
            assert len(stuck.messages) == 4096

    run(worlds(limits=Http2Limits(pending_bytes=100_000)), scenario)


def test_a_reader_that_never_reads_loses_its_call_and_frees_the_model() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect(reads=False) as lazy:
            stuck = await lazy.open()
            await stuck.send(repeat("stuck", [0.0] * 4096))
            await trio.testing.wait_all_tasks_blocked()
            await stuck.over()
            assert stuck.reset_code == 11  # ENHANCE_YOUR_CALM
            await trio.sleep(1.0)
            assert world.repeaters["rep"].cancelled == ["stuck"]

    run(worlds(limits=Http2Limits(pending_bytes=100_000)), scenario)


def test_too_many_requests_in_flight_are_not_acknowledged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_infer_stream, "MAX_IN_FLIGHT", 4)

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open()
            async with trio.open_nursery() as nursery:
                large = [float(number) for number in range(40_000)]
                requests = [infer("slow", str(number), large) for number in range(12)]
                nursery.start_soon(lambda: call.send(*requests, end=True))
                await trio.sleep(0.5)
                # Four are under way; of the others there is no more than the call's window holds.
                unsent = 12 * 160_000 - 4 * 160_000 - (1 << 20)
                assert client.h2.local_flow_control_window(call.stream_id) <= 0
                assert unsent > 0
            assert await call.over() == (0, "")
            ids = [name for name, _, _ in describe(await call.responses(12))]
            assert ids == [str(number) for number in range(12)]

    models = {"slow": model(TWO, seconds=1.0)}
    run(GrpcWorld(models), scenario)


def test_a_full_door_holds_the_call_back_then_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_wiring, "SUBMIT_DOOR", 1)
    monkeypatch.setattr(version_wiring, "QUEUE_CEILING", 1)

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open()
            # One runs, one is queued, one is in the door, and the fourth waits before it.
            for name in "abcd":
                await call.send(infer("stuck", name))
                await trio.testing.wait_all_tasks_blocked()
            await call.send(infer("m", "e"), end=True)
            await trio.sleep(DOOR_PATIENCE_SECONDS - 0.5)
            assert call.messages == []
            await trio.sleep(1.0)
            await call.over()
            got = describe(await call.responses(5))
            assert [(name, final) for name, final, _ in got] == [
                ("a", True), ("b", True), ("c", True), ("d", None), ("e", True),
            ]  # fmt: skip
            assert got[3][2] == "[request id: d] Exceeds maximum queue size"

    models = {"stuck": model(PLAIN, seconds=100.0), "m": model()}
    run(GrpcWorld(models), scenario)


def test_bytes_that_are_no_request_end_the_call() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open()
            await call.send(repeat("r", [0.25] * 100))
            await call.send(b"\xff\xff\xff")
            assert await call.over() == (13, "Exception deserializing request!")
            await trio.sleep(1.0)
            assert world.repeaters["rep"].cancelled == ["r"]

    run(worlds(), scenario)


def test_messages_are_compressed_both_ways() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open(
                "/inference.GRPCInferenceService/ModelStreamInfer",
                ("grpc-encoding", "gzip"),
                ("grpc-accept-encoding", "identity,deflate,gzip"),
            )
            asked = infer("m", "a", [0.0] * 1000)
            await call.send(gzip.compress(asked), compressed=True)
            await call.send(infer("m", "b"), end=True)  # small: the same call, as it is
            assert await call.over() == (0, "")
            (first, large), (second, small) = call.raw_messages
            assert call.headers["grpc-encoding"] == "gzip"
            assert first
            assert len(large) < 200
            inflated = ModelStreamInferResponse.FromString(gzip.decompress(large))
            assert inflated.infer_response.raw_output_contents[0] == bytes(4000)
            assert not second  # what does not get smaller stays as it is
            assert ModelStreamInferResponse.FromString(small).infer_response.id == "b"

    run(worlds(compression=CompressionLevel.LOW), scenario)


def test_a_stopping_server_finishes_what_is_under_way_and_takes_no_more() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            idle, busy = await client.open(), await client.open()
            await busy.send(infer("slow", "a"))
            await trio.sleep(0.25)
            world.connections[0].drain(trio.current_time())
            assert await idle.over() == (14, SHUTTING_DOWN)
            await busy.send(infer("m", "b"))
            assert await busy.over() == (14, SHUTTING_DOWN)
            assert describe(await busy.responses(2)) == [
                ("a", True, ""), ("b", None, SHUTTING_DOWN),
            ]  # fmt: skip
            assert client.went_away
            await client.closed.wait()

    run(worlds(), scenario)


def test_a_model_that_crashes_tells_even_a_slow_reader() -> None:
    """The window is full when the model ends, and the last word is owed all the same."""

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect(reads=False) as client:
            call = await client.open()
            await call.send(repeat("r", [0.0] * 4096), end=True)
            await trio.testing.wait_all_tasks_blocked()
            world.repeaters["rep"].crash(RuntimeError("the device fell off the bus"))
            await trio.testing.wait_all_tasks_blocked()
            await client.read_on()
            assert await call.over() == (0, "")
            last = describe([ModelStreamInferResponse.FromString(call.messages[-1])])[0]
            assert last == ("r", True, "model instance 'rep_0' has ended")

    run(worlds(limits=Http2Limits(pending_bytes=100_000)), scenario)


def test_a_model_that_closes_its_door_in_between_refuses_in_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def closing(ticketed: Ticketed) -> None:
        if ticketed.submit.request.id.startswith("late"):
            raise closed(ticketed.submit.request)
        submit_nowait(ticketed)

    monkeypatch.setattr(grpc_infer_stream, "submit_nowait", closing)

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open()
            await call.send(infer("slow", "a"), infer("m", "late"), repeat("late r", [0.0]))
            await call.send(infer("m", "b"), end=True)
            assert await call.over() == (0, "")
            got = describe(await call.responses(4))
            assert [(name, final) for name, final, _ in got] == [
                ("late r", None), ("a", True), ("late", None), ("b", True),
            ]  # fmt: skip
            assert got[2][2].startswith("[request id: late] Server is stopping, scheduler for")

    run(worlds(), scenario)


def test_a_decoupled_request_may_wait_at_a_full_door(monkeypatch: pytest.MonkeyPatch) -> None:
    full = ["r"]

    def full_once(ticketed: Ticketed) -> None:
        if full:
            full.pop()
            raise trio.WouldBlock
        submit_nowait(ticketed)

    monkeypatch.setattr(grpc_infer_stream, "submit_nowait", full_once)

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open()
            await call.send(repeat("r", [0.0, 0.0]), infer("m", "a"), end=True)
            assert await call.over() == (0, "")
            names = [name for name, _, _ in describe(await call.responses(3))]
            assert sorted(names) == ["a", "r", "r"]

    run(worlds(), scenario)


def test_a_response_that_cannot_be_rendered_is_an_error_in_its_place() -> None:
    def answer(request: ExecuteRequest) -> Outcome:
        response = InferResponse("m", "1", request.request.id, list(request.request.inputs))
        if request.request.id == "b":
            response.parameters = {"n": 2**70}
        return response

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open()
            await call.send(*[infer("m", name) for name in "abc"], end=True)
            assert await call.over() == (0, "")
            text = "response parameter 'n' does not fit into 64 bits"
            assert describe(await call.responses(3)) == [
                ("a", True, ""), ("b", True, text), ("c", True, ""),
            ]  # fmt: skip

    run(GrpcWorld({"m": model(behaviour=answer)}), scenario)
