"""What frontends note of traced requests, in virtual time: when they came, when they went."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import trio

from actors.settings.options import ServerOptions
from protocol.grpc_service import MODEL_INFER
from simulation.world import World
from tests.actors.grpc_rig import GrpcWorld, model, repeat
from tests.actors.grpc_rig import infer as grpc_infer
from tests.actors.http_rig import HttpWorld, generate, infer, request
from tests.simulation.trace_reading import heads, times

DECOUPLED = """
backend: "repeat" max_batch_size: 0
input { name: "INPUT" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "OUTPUT" data_type: TYPE_FP32 dims: [ 1 ] }
instance_group { count: 1 kind: KIND_CPU }
model_transaction_policy { decoupled: true }
"""


def traced(folder: Path, *more: str) -> ServerOptions:
    flags = (f"triton,file={folder / 't'}", "level=TIMESTAMPS", "rate=1", *more)
    return ServerOptions(model_repository=("simulated",), trace_config=flags)


def served(
    came: float, compute: float, end: float, protocol: str, waited: float
) -> dict[str, float]:
    """All that is noted of a request that was answered at once when it had been executed."""
    receive = "HTTP_RECV" if protocol == "HTTP" else "GRPC_WAITREAD"
    return {
        f"{receive}_START": waited,
        f"{receive}_END": came,
        "REQUEST_START": came,
        "QUEUE_START": came,
        "COMPUTE_START": compute,
        "COMPUTE_INPUT_END": compute,
        "COMPUTE_OUTPUT_START": end,
        "COMPUTE_END": end,
        "REQUEST_END": end,
        "INFER_RESPONSE_COMPLETE": end,
        f"{protocol}_SEND_START": end,
        f"{protocol}_SEND_END": end,
    }


def over_http(
    folder: Path, scenario: Callable[[HttpWorld], Awaitable[None]], **models: Any
) -> dict[int, dict[str, float]]:
    HttpWorld(models, options=traced(folder)).run_bounded(scenario)
    return times(folder / "t")


def over_grpc(
    folder: Path, scenario: Callable[[GrpcWorld], Awaitable[None]], **models: Any
) -> dict[int, dict[str, float]]:
    world = GrpcWorld(models, options=traced(folder))

    async def bounded(_: World) -> None:
        with trio.fail_after(3600):
            await scenario(world)

    world.run(bounded)
    return times(folder / "t")


# --- HTTP ----------------------------------------------------------------------------------------


def test_http_notes_when_a_request_came_and_when_its_answer_went(tmp_path: Path) -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await trio.sleep(1.0)
            await client.send(infer("m", 1.0, id="q"))
            assert (await client.response()).status == 200

    found = over_http(tmp_path, scenario, m=model(seconds=0.5))
    assert found == {1: served(1.0, 1.0, 1.5, "HTTP", 1.0)}
    assert next(iter(found[1])) == "HTTP_RECV_START"
    assert heads(tmp_path / "t") == [
        {"id": 1, "model_name": "m", "model_version": 1, "request_id": "q"}
    ]


def test_http_begins_to_receive_with_the_head(tmp_path: Path) -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            message = infer("m", 1.0)
            await client.send(message[:-10])
            await trio.sleep(0.25)
            await client.send(message[-10:])
            assert (await client.response()).status == 200

    assert over_http(tmp_path, scenario, m=model()) == {1: served(0.25, 0.25, 0.25, "HTTP", 0.0)}


def test_http_has_sent_when_the_client_has_taken_it(tmp_path: Path) -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect(lockstep=True) as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.send, infer("m", 1.0))
            await trio.sleep(0.5)
            assert (await client.response()).status == 200

    found = over_http(tmp_path, scenario, m=model(seconds=0.25))[1]
    assert (found["HTTP_SEND_START"], found["HTTP_SEND_END"]) == (0.25, 0.5)


def test_a_client_that_goes_leaves_a_trace_without_an_answer(tmp_path: Path) -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(infer("m", 1.0))
            await trio.sleep(0.25)
        await trio.sleep(1.0)

    found = over_http(tmp_path, scenario, m=model(seconds=1.0))[1]
    assert "HTTP_RECV_END" in found
    assert not [name for name in found if name.startswith(("HTTP_SEND", "INFER"))]
    assert found["REQUEST_END"] == 1.0


def test_requests_that_a_model_never_sees_are_not_traced(tmp_path: Path) -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            for message in (infer("nope", 1.0), request("/v2/models/m/infer", b"{}")):
                await client.send(message)
                assert (await client.response()).status >= 400
            await client.send(infer("m", 1.0))
            assert (await client.response()).status == 200

    assert list(over_http(tmp_path, scenario, m=model())) == [1]


def test_a_generation_is_sent_with_its_last_event(tmp_path: Path) -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(generate("rep", 0.25, 0.5))
            assert (await client.response()).status == 200

    found = over_http(tmp_path, scenario, rep=model(DECOUPLED))[1]
    assert found["HTTP_SEND_START"] == 0.25
    assert found["REQUEST_END"] == found["HTTP_SEND_END"] == found["COMPUTE_END"] == 0.75


# --- gRPC ----------------------------------------------------------------------------------------


def test_grpc_notes_how_long_it_waited_and_when_the_answer_went(tmp_path: Path) -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            await trio.sleep(1.0)
            await (await client.unary(grpc_infer())).answer()
            await trio.sleep(1.0)
            await (await client.unary(grpc_infer())).answer()

    assert over_grpc(tmp_path, scenario, m=model(seconds=0.5)) == {
        1: served(1.0, 1.0, 1.5, "GRPC", 0.0),
        2: served(2.5, 2.5, 3.0, "GRPC", 1.0),
    }


def test_a_call_that_is_reset_leaves_a_trace_without_an_answer(tmp_path: Path) -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.unary(grpc_infer())
            await trio.sleep(0.25)
            await call.reset()
            await trio.sleep(2.0)

    found = over_grpc(tmp_path, scenario, m=model(seconds=1.0))[1]
    assert found["REQUEST_END"] == 1.0
    assert "GRPC_WAITREAD_END" in found
    assert "GRPC_SEND_START" not in found


def test_a_call_beyond_its_deadline_leaves_one_too(tmp_path: Path) -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open(MODEL_INFER, ("grpc-timeout", "250m"))
            await call.send(grpc_infer(), end=True)
            assert (await call.over())[0] == 4
            await trio.sleep(2.0)

    found = over_grpc(tmp_path, scenario, m=model(seconds=1.0))[1]
    assert found["REQUEST_END"] == 1.0
    assert "GRPC_SEND_START" not in found


def test_requests_of_a_stream_are_traced_each(tmp_path: Path) -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open()
            await call.send(grpc_infer(id="a"))
            await call.some(1)
            await trio.sleep(0.25)
            await call.send(repeat("b", [0.5, 0.25]), end=True)
            await call.over()

    found = over_grpc(tmp_path, scenario, m=model(seconds=0.5), rep=model(DECOUPLED))
    assert found[1] == served(0.0, 0.0, 0.5, "GRPC", 0.0)
    assert found[2]["GRPC_WAITREAD_START"] == 0.0
    assert found[2]["GRPC_WAITREAD_END"] == 0.75
    assert found[2]["GRPC_SEND_START"] == 1.25
    assert found[2]["GRPC_SEND_END"] == found[2]["REQUEST_END"] == 1.5


def test_a_stream_that_breaks_off_leaves_no_trace_open(tmp_path: Path) -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.open()
            await call.send(grpc_infer(), repeat("b", [5.0]))
            await trio.sleep(0.25)
            await call.reset()
            await trio.sleep(10.0)

    found = over_grpc(tmp_path, scenario, m=model(seconds=1.0), rep=model(DECOUPLED))
    assert [len(stamps) for stamps in found.values()] == [9, 9]


def test_both_protocols_show_the_same_settings(tmp_path: Path) -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            shown = (await client.get("/v2/trace/setting")).json()
            assert shown == {
                "trace_level": ["TIMESTAMPS"],
                "trace_rate": "1",
                "trace_count": "-1",
                "log_frequency": "0",
                "trace_file": str(tmp_path / "t"),
                "trace_mode": "triton",
            }
            answer = world.core.control_plane.trace_settings("")
            assert json.loads(json.dumps(answer)) == shown

    HttpWorld({"m": model()}, options=traced(tmp_path)).run_bounded(scenario)
