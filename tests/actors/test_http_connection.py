"""The life of a connection to the REST port, in virtual time: turns, limits, partings."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable

import pytest
import trio
import trio.testing

from actors import version_wiring
from actors.http.connection import (
    DRAIN_GRACE_SECONDS,
    LINGER_SECONDS,
    MAX_DISCARDED_BYTES,
    MAX_UNSENT_BYTES,
    MAX_WAITING_BYTES,
)
from actors.http.outbox import SEND_SLICE_BYTES, SEND_TIMEOUT_SECONDS
from actors.messages import Reply
from protocol.http1 import HttpLimits
from protocol.inference import InferResponse, Tensor
from protocol.status import internal
from repo.backends.base import ExecuteRequest, Outcome
from tests.actors.grpc_rig import DECOUPLED, PLAIN, model
from tests.actors.http_rig import HttpWorld, Scenario, generate, head, infer, request

INT32 = "[ -2147483648, 2147483647 ]"
LIVE = head("GET", "/v2/health/live")


def run(world: HttpWorld, scenario: Scenario, *, seed: int = 0) -> None:
    world.run_bounded(scenario, seed=seed)


def worlds(**settings: object) -> HttpWorld:
    return HttpWorld({"m": model(), "slow": model(seconds=4.0)}, **settings)  # type: ignore[arg-type]  # passed through


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


def executed(world: HttpWorld) -> list[str]:
    return [event.detail for event in world.trace.of("execute")]


# --- turns ---------------------------------------------------------------------------------------


def test_requests_of_a_connection_are_answered_one_after_the_other() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(infer("slow", 1.0, id="a") + infer("m", 2.0, id="b") + LIVE)
            first = await client.response()
            assert (first.json()["id"], trio.current_time()) == ("a", 4.0)
            assert (await client.response()).json()["id"] == "b"
            assert (await client.response()).status == 200

    run(worlds(), scenario)


def test_mistakes_between_pipelined_requests_stay_in_their_place() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(
                infer("slow", 1.0)
                + head("GET", "/nope")
                + infer("nope", 1.0)
                + head("DELETE", "/v2")
                + infer("m", 1.0, id="last")
            )
            statuses = [(await client.response()).status for _ in range(4)]
            assert statuses == [200, 404, 404, 405]
            assert (await client.response()).json()["id"] == "last"

    run(worlds(), scenario)


def test_bytes_may_come_one_by_one() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            for byte in infer("m", 1.0, 2.0, id="slowly"):
                await client.send(bytes((byte,)))
            assert (await client.response()).json()["id"] == "slowly"

    run(worlds(), scenario)


def test_a_reply_to_head_has_no_body() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            for path, status in (("/v2/health/live", 405), ("/nope", 404)):
                await client.send(head("HEAD", path))
                response = await client.response(to_head=True)
                assert response.status == status
                assert int(response.headers["content-length"]) > 0
            assert (await client.get("/v2/health/live")).status == 200

    run(worlds(), scenario)


def test_the_go_ahead_for_a_body_comes_in_its_turn() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(infer("slow", 1.0))
            upload = infer("m", 2.0, id="after", lines=("Expect: 100-continue",))
            cut = upload.index(b"\r\n\r\n") + 4
            await client.send(upload[:cut])
            assert (await client.response()).status == 200
            assert (await client.head()).status == 100
            assert trio.current_time() == 4.0
            await client.send(upload[cut:])
            assert (await client.response()).json()["id"] == "after"

    run(worlds(), scenario)


@pytest.mark.parametrize(("lines", "version"), [
    (("Connection: close",), "1.1"), ((), "1.0"), (("Connection: keep-alive",), "1.0"),
])  # fmt: skip
def test_the_last_reply_says_so(lines: tuple[str, ...], version: str) -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(head("GET", "/v2", *lines, version=version))
            response = await client.response()
            assert response.json()["name"] == "triton"
            assert response.headers["connection"] == "close"
            assert await client.rest() == b""
            assert trio.current_time() == 0.0

    run(worlds(), scenario)


# --- a client that goes --------------------------------------------------------------------------


def test_a_client_that_goes_frees_the_place_of_its_queued_request() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as first, world.connect() as second:
            await first.send(infer("slow", 1.0, id="executing"))
            await settle()
            await second.send(infer("slow", 1.0, id="queued"))
            await settle()
            assert world.pending("slow") == 1
            await trio.aclose_forcefully(second.stream)
            await settle()
            assert (world.pending("slow"), trio.current_time()) == (0, 0.0)
            assert (await first.response()).json()["id"] == "executing"

    world = HttpWorld({"slow": model(PLAIN + " dynamic_batching { }", seconds=4.0)})
    run(world, scenario)
    assert executed(world) == ["executing"]


@pytest.mark.parametrize("lines", [(), ("Connection: close",)])
def test_a_client_that_goes_is_noticed_whatever_it_said_of_the_connection(
    lines: tuple[str, ...],
) -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as first, world.connect() as second:
            await first.send(infer("slow", 1.0, id="executing"))
            await settle()
            await second.send(infer("slow", 1.0, lines=lines))
            await settle()
            await trio.aclose_forcefully(second.stream)
            await settle()
            assert world.pending("slow") == 0
            assert len(world.connections) == 1

    run(HttpWorld({"slow": model(PLAIN + " dynamic_batching { }", seconds=4.0)}), scenario)


def test_a_client_that_goes_leaves_the_door_it_stood_in(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(version_wiring, "QUEUE_CEILING", 1)
    monkeypatch.setattr(version_wiring, "SUBMIT_DOOR", 1)

    async def scenario(world: HttpWorld) -> None:
        async with contextlib.AsyncExitStack() as stack:
            # One executes, one is queued, one is in the door, and one waits before it.
            clients = []
            for name in "abcd":
                client = await stack.enter_async_context(world.connect())
                await client.send(infer("slow", 1.0, id=name))
                await settle()
                clients.append(client)
            for client in clients[:1:-1]:
                await trio.aclose_forcefully(client.stream)
                await settle()
            await trio.sleep(30)
            assert [(await client.response()).json()["id"] for client in clients[:2]] == ["a", "b"]

    world = HttpWorld({"slow": model(seconds=4.0)})
    run(world, scenario)
    assert executed(world) == ["a", "b"]


def test_a_client_that_goes_as_it_comes_into_the_door_leaves_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The model's door opens in the very moment in which the client is found to have gone."""
    monkeypatch.setattr(version_wiring, "QUEUE_CEILING", 1)
    monkeypatch.setattr(version_wiring, "SUBMIT_DOOR", 1)

    async def scenario(world: HttpWorld) -> None:
        async with contextlib.AsyncExitStack() as stack:
            clients = []
            for name in "abcd":
                client = await stack.enter_async_context(world.connect())
                await client.send(infer("slow", 1.0, id=name))
                await settle()
                clients.append(client)
            await trio.sleep(4.0 - trio.current_time())
            await trio.aclose_forcefully(clients[3].stream)
            for client in clients[:3]:
                await client.response()
            await trio.sleep(8)

    for seed in range(20):
        world = HttpWorld({"slow": model(seconds=4.0)})
        run(world, scenario, seed=seed)
        assert executed(world) == ["a", "b", "c"]


def test_a_client_that_hangs_up_half_way_is_still_answered_what_needs_no_model() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(LIVE + LIVE + head("GET", "/nope") + infer("m", 1.0) + LIVE)
            await client.stream.send_eof()
            statuses = [(await client.response()).status for _ in range(3)]
            assert statuses == [200, 200, 404]
            assert await client.rest() == b""

    world = worlds()
    run(world, scenario)
    assert executed(world) == []


def test_a_late_reply_is_not_taken_for_the_next() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(infer("slow", 1.0, id="a"))
            await settle()
            (connection,) = world.connections
            exchange = connection._exchange
            assert exchange is not None
            earlier = exchange.ticketed.submit.number - 1
            exchange.ticketed.submit.reply.send_nowait(Reply(earlier, internal("late"), final=True))
            assert (await client.response()).json()["id"] == "a"
            exchange.ticketed.submit.reply.send_nowait(
                Reply(earlier + 1, internal("late"), final=True)
            )
            await settle()
            assert (await client.get("/v2/health/live")).status == 200

    run(worlds(), scenario)


# --- limits --------------------------------------------------------------------------------------


def test_a_peer_that_reads_no_answers_is_read_no_further() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect(lockstep=True) as client:
            wrong = head("GET", "/nope" * 16) * 64
            sent = 0
            with trio.move_on_after(SEND_TIMEOUT_SECONDS / 2):
                while True:
                    await client.send(wrong)
                    sent += 64
            (connection,) = world.connections
            # No answer has been read; each takes some 100 bytes.
            assert sent * 100 < MAX_UNSENT_BYTES + 300 * HttpLimits().max_requests_in_flight
            assert connection._outbox.unsent_bytes < MAX_UNSENT_BYTES + 65536

    run(worlds(), scenario)


def test_pipelined_bodies_wait_with_their_sender() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect(lockstep=True) as client:
            await client.send(infer("slow", 1.0))
            large = request("/v2/models/nope/infer", bytes(MAX_WAITING_BYTES // 4))
            count = 0
            with trio.move_on_after(1.0):
                for _ in range(32):
                    await client.send(large)
                    count += 1
            assert count <= 6
            assert (await client.response()).status == 200
            for _ in range(count):
                assert (await client.response()).status == 404

    run(worlds(), scenario)


@pytest.mark.parametrize("id", ["short", "x" * 3 * SEND_SLICE_BYTES])
def test_a_peer_that_stalls_loses_its_connection(id: str) -> None:  # noqa: A002  # the protocol's word
    async def scenario(world: HttpWorld) -> None:
        async with world.connect(lockstep=True) as client:
            await client.send(infer("m", 1.0, id=id))
            await trio.sleep(SEND_TIMEOUT_SECONDS - 1)
            assert len(world.connections) == 1
            await trio.sleep(3)
            assert not world.connections

    run(worlds(), scenario)


def test_a_peer_that_reads_slowly_keeps_its_connection() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect(lockstep=True) as client:
            length = 3 * SEND_SLICE_BYTES
            await client.send(infer("m", 1.0, id="x" * length))
            heard = 0
            while heard < length:
                await trio.sleep(SEND_TIMEOUT_SECONDS / 2)
                heard += len(await client.stream.receive_some(SEND_SLICE_BYTES))
            assert trio.current_time() > SEND_TIMEOUT_SECONDS

    run(worlds(), scenario)


@pytest.mark.parametrize(("data", "seconds", "part"), [
    (b"GET /v2", 30, "head"),
    (head("POST", "/v2/models/m/infer", "Content-Length: 100") + b"{", 60, "body"),
])  # fmt: skip
def test_a_request_that_does_not_come_in_time(data: bytes, seconds: int, part: str) -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(data)
            response = await client.response()
            assert seconds <= trio.current_time() <= seconds + 2
            assert response.status == 408
            assert response.json() == {"error": f"timed out waiting for the request {part}"}
            assert response.headers["connection"] == "close"
            assert await client.rest() == b""

    run(worlds(), scenario)


def test_an_idle_connection_is_closed_without_a_word() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            assert (await client.get("/v2/health/live")).status == 200
            assert await client.rest() == b""
            assert 600 <= trio.current_time() <= 602

    run(worlds(), scenario)


@pytest.mark.parametrize(("data", "status", "text"), [
    (head("GET", "/v2", "X: " + "y" * 40000), 431, "request head exceeds 32768 bytes"),
    (head("GET", "/v2", *["A: b"] * 200), 431, "request has more than 128 header lines"),
    (head("POST", "/v2", "Content-Length: 2000"), 413,
     "request body exceeds the maximum of 1000 bytes"),
    (head("POST", "/v2", "Content-Length: 3000000000"), 400,
     f"Unable to parse Content-Length, value is out of range {INT32}, got: 3000000000"),
    (head("POST", "/v2", "Expect: wonders"), 417, "unknown expectation 'wonders'"),
    (head("GET", "/v2", version="2.0"), 505, "HTTP version 2.0 is not supported"),
    (b"\x16\x03\x01", 400, "malformed HTTP request: invalid method"),
])  # fmt: skip
def test_a_request_that_no_server_would_read(data: bytes, status: int, text: str) -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(data)
            response = await client.response()
            assert (response.status, response.json()) == (status, {"error": text})
            assert response.headers["connection"] == "close"
            assert await client.rest() == b""

    run(worlds(limits=HttpLimits(max_body_bytes=1000)), scenario)


# --- partings ------------------------------------------------------------------------------------


def test_the_last_word_is_heard_by_a_client_that_is_still_talking() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect(lockstep=True) as client:
            await client.send(head("POST", "/v2", "Content-Length: 2000"))
            assert (await client.response()).status == 413
            # The rest of the body is taken, so that no reset overtakes the answer.
            await client.send(bytes(2000))
            assert await client.rest() == b""
            await client.stream.aclose()
            await settle()
            assert not world.connections
            assert trio.current_time() == 0.0

    run(worlds(limits=HttpLimits(max_body_bytes=1000)), scenario)


def test_a_client_that_does_not_hang_up_is_not_waited_for_long() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            response = await client.get("/v2", "Connection: close")
            assert response.status == 200
            await trio.sleep(LINGER_SECONDS)
            await settle()
            assert not world.connections

    run(worlds(), scenario)


def test_a_client_that_never_stops_talking_is_not_read_for_ever() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect(lockstep=True) as client:
            await client.send(infer("slow", 1.0, lines=("Connection: close",)))
            sent = 0
            with trio.move_on_after(3.0):
                while True:
                    await client.send(bytes(1 << 20))
                    sent += 1 << 20
            assert sent <= MAX_DISCARDED_BYTES + (2 << 20)
            assert (await client.response()).status == 200

    run(worlds(), scenario)


def test_at_the_end_an_idle_connection_closes_at_once() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            assert (await client.get("/v2/health/live")).status == 200
            world.connections[0].drain(trio.current_time())
            assert await client.rest() == b""
            await settle()
            assert (world.connections, trio.current_time()) == ([], 0.0)

    run(worlds(), scenario)


def test_at_the_end_the_current_answer_is_the_last() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(infer("slow", 1.0, id="a") + infer("m", 1.0, id="b"))
            await settle()
            world.connections[0].drain(trio.current_time())
            response = await client.response()
            assert response.json()["id"] == "a"
            assert response.headers["connection"] == "close"
            assert await client.rest() == b""

    world = worlds()
    run(world, scenario)
    assert executed(world) == ["a"]


def test_at_the_end_half_a_request_has_a_moment_to_become_whole() -> None:
    async def scenario(world: HttpWorld) -> None:
        data = infer("m", 1.0, id="whole")
        async with world.connect() as punctual, world.connect() as late:
            for client in (punctual, late):
                await client.send(data[:-5])
            await settle()
            for connection in world.connections:
                connection.drain(trio.current_time())
            await trio.sleep(DRAIN_GRACE_SECONDS / 2)
            await punctual.send(data[-5:])
            response = await punctual.response()
            assert response.json()["id"] == "whole"
            assert response.headers["connection"] == "close"
            assert await late.rest() == b""
            assert trio.current_time() <= DRAIN_GRACE_SECONDS + 1

    run(worlds(), scenario)


# --- defects -------------------------------------------------------------------------------------


def test_a_defect_in_an_operation_costs_its_connection_alone(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario(world: HttpWorld) -> None:
        def broken(*_: object, **__: object) -> bool:
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr(world.core.control_plane, "is_live", broken)
        monkeypatch.setattr(world.core.calls, "prepare", broken)
        for data in (LIVE, infer("m", 1.0), generate("m", 1.0)):
            async with world.connect() as client:
                await client.send(data)
                response = await client.response()
                assert response.status == 500
                assert response.json() == {"error": "internal server error"}
                assert await client.rest() == b""
        async with world.connect() as client:
            assert (await client.get("/v2/health/ready")).status == 200

    run(worlds(), scenario)
    assert caplog.text.count("ZeroDivisionError: a defect") == 3


def test_a_response_that_breaks_its_encoder_costs_its_connection_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def answer(_: ExecuteRequest) -> Outcome:
        return InferResponse("m", "1", "", [Tensor("INPUT", "NOPE", (1, 1), raw=bytes(3))])

    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(infer("m", 1.0))
            assert (await client.response()).json() == {"error": "internal server error"}
            assert await client.rest() == b""

    run(HttpWorld({"m": model(behaviour=answer)}), scenario)
    assert "a response failed" in caplog.text


def test_a_connection_that_has_ended_needs_no_search_for_garbage() -> None:
    gone: list[weakref.ref[object]] = []

    async def scenario(world: HttpWorld) -> None:
        gc.disable()
        for _ in range(3):
            async with world.connect() as client:
                await client.send(infer("m", 1.0) + infer("slow", 1.0))
                await client.response()
                gone.append(weakref.ref(world.connections[0]))
        await trio.sleep(10)
        assert [ref() for ref in gone] == [None, None, None]

    try:
        run(worlds(), scenario)
    finally:
        gc.enable()


# --- chance --------------------------------------------------------------------------------------

WHAT: tuple[Callable[[str], bytes], ...] = (
    lambda name: infer("m", 1.0, id=name),
    lambda name: infer("slow", 1.0, id=name),
    lambda name: infer("slow", 1.0, id=name, lines=("Connection: close",)),
    lambda name: generate("rep", *[0.25] * 12, more={"id": name}),
    lambda name: generate("rep", *[0.0] * 30, more={"id": name}),
    lambda name: generate("rep", 0.5, stream=False, more={"id": name}),
    lambda name: generate("m", 1.0, more={"id": name}),
    lambda _: head("GET", "/v2/models/stats"),
    lambda _: head("GET", "/nope"),
)


@pytest.mark.parametrize("seed", range(12))
def test_a_client_may_go_at_any_moment(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(world: HttpWorld) -> None:
        random = world.random

        async def come_and_go(number: int) -> None:
            await trio.sleep(random.random() * 10)
            async with world.connect(lockstep=random.random() < 0.3) as client:
                with trio.move_on_after(random.choice((0.0, 0.25, 1.0, 4.0, 20.0))):
                    data = b"".join(
                        random.choice(WHAT)(f"{number}-{step}")
                        for step in range(random.randrange(1, 4))
                    )
                    while data:
                        size = random.randrange(1, 4000)
                        await client.send(data[:size])
                        data = data[size:]
                    if random.random() < 0.2:
                        await client.stream.send_eof()
                    while await client.stream.receive_some(random.randrange(1, 4000)):
                        await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            for number in range(60):
                nursery.start_soon(come_and_go, number)
        await trio.sleep(60)
        for name in ("m", "slow", "rep"):
            serving = world.core.index.value.find(name, "")
            assert serving.pending() == 0
            assert not [each for one in serving.instances for each in one._in_flight]

    models = {"m": model(), "slow": model(PLAIN + " dynamic_batching { }", seconds=1.0)}
    run(HttpWorld({**models, "rep": model(DECOUPLED)}), scenario, seed=seed)
    assert not caplog.records
