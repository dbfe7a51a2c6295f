"""The generate extension over a connection, in virtual time: events, back-pressure, partings."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from actors.http.exchanges import RESPONSE_WINDOW
from actors.http.outbox import SEND_TIMEOUT_SECONDS
from protocol.generate import NOT_EXACTLY_ONE
from protocol.inference import InferResponse, Tensor
from protocol.status import internal, unavailable
from repo.backends.base import ExecuteRequest, Outcome
from tests.actors.grpc_rig import DECOUPLED, Repeater, model
from tests.actors.http_rig import Client, HttpWorld, Scenario, generate, head, request

LIVE = head("GET", "/v2/health/live")
EVENT_STREAM = "text/event-stream; charset=utf-8"
MISSING = (
    "Got input(s) [], but missing required input(s) ['INPUT']. "
    "Please provide all required input(s)."
)
NO_ELEMENT = {"error": "no such element"}


def run(world: HttpWorld, scenario: Scenario) -> None:
    world.run_bounded(scenario)


def worlds(**settings: Any) -> HttpWorld:
    return HttpWorld({"m": model(), "rep": model(DECOUPLED)}, **settings)


async def event(client: Client) -> Any:
    """The next server-sent event of a chunked stream; None at its end."""
    chunk = await client.chunk()
    if not chunk:
        return None
    assert chunk.startswith(b"data: ")
    assert chunk.endswith(b"\n\n")
    return json.loads(chunk[6:])


def events(body: bytes) -> list[Any]:
    return [json.loads(each.removeprefix(b"data: ")) for each in body.split(b"\n\n") if each]


# --- streams -------------------------------------------------------------------------------------


def test_responses_are_sent_as_they_are_made() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(generate("rep", 1.0, 2.0, 4.0, more={"id": "7"}))
            response = await client.head()
            assert (response.status, response.headers["content-type"]) == (200, EVENT_STREAM)
            for instant in (1.0, 3.0, 7.0):
                assert await event(client) == {
                    "id": "7", "model_name": "rep", "model_version": "1", "INPUT": [1.0, 2.0, 4.0],
                }  # fmt: skip
                assert trio.current_time() == instant
            assert await event(client) is None
            assert (await client.get("/v2/health/live")).status == 200

    run(worlds(), scenario)


def test_a_plain_model_streams_its_one_response() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(generate("m", 5.0))
            response = await client.response()
            assert response.status == 200
            assert events(response.body) == [
                {"model_name": "m", "model_version": "1", "INPUT": 5.0}
            ]

    run(worlds(), scenario)


async def say_nothing(_: Repeater, request: ExecuteRequest) -> None:
    await request.sender.deliver(None, True)  # type: ignore[attr-defined]  # a Responder's


def test_no_response_at_all_is_an_empty_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Repeater, "_respond", say_nothing)

    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(generate("rep", 1.0))
            response = await client.response()
            assert (response.status, response.body) == (200, b"")
            assert response.headers["content-type"] == EVENT_STREAM
            await client.send(generate("rep", 1.0, stream=False))
            response = await client.response()
            assert (response.status, response.json()) == (200, {"error": NOT_EXACTLY_ONE})

    run(worlds(), scenario)


def test_the_first_response_decides_the_status() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(generate("rep", 0.0, -1.0, 0.0))
            response = await client.response()
            assert response.status == 200
            assert events(response.body)[1] == NO_ELEMENT
            assert len(events(response.body)) == 3

            await client.send(generate("rep", -1.0, 0.0))
            response = await client.response()
            assert (response.status, response.headers["content-type"]) == (500, EVENT_STREAM)
            assert events(response.body)[0] == NO_ELEMENT
            assert len(events(response.body)) == 2

    run(worlds(), scenario)


@pytest.mark.parametrize(("data", "status", "text"), [
    (generate("nope", 1.0), 404, "Request for unknown model: 'nope' is not found"),
    (generate("rep", 1.0, lines=("Content-Encoding: gzip",)), 400,
     "Unsupported content-encoding, only 'identity' is supported."),
    (request("/v2/models/rep/generate_stream", b"[]"), 500,
     "attempt to get members for non-object"),
    (request("/v2/models/rep/generate_stream", b"{"), 500,
     "failed to parse the request JSON buffer: Missing a name for object member. at 1"),
    (request("/v2/models/m/generate_stream", b'{"INPUT":["x"]}'), 500,
     "Unable to parse 'data': attempt to access JSON non-number as double"),
    (request("/v2/models/rep/generate", b'{"INPUT":1,"INPUT":2}'), 400,
     "[request id: <id_unknown>] input 'INPUT' already exists in request"),
    (request("/v2/models/rep/generate", b"{}"), 400,
     f"[request id: <id_unknown>] expected 1 inputs but got 0 inputs for model 'rep'. {MISSING}"),
])  # fmt: skip
def test_mistakes_are_told_without_a_stream(data: bytes, status: int, text: str) -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(data)
            response = await client.response()
            assert (response.status, response.json()) == (status, {"error": text})
            assert response.headers["content-type"] == "application/json"
            # Neither the connection nor its mailbox has kept anything of it.
            assert len(world.connections[0]._mailbox._doors) == 1
            await client.send(generate("m", 1.0, stream=False))
            assert (await client.response()).status == 200

    run(worlds(), scenario)


def test_a_peer_of_http_10_gets_events_without_chunks() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            body = b'{"INPUT":[0,0]}'
            await client.send(request("/v2/models/rep/generate_stream", body, version="1.0"))
            response = await client.head()
            assert "transfer-encoding" not in response.headers
            assert response.headers["connection"] == "close"
            assert len(events(await client.rest())) == 2

    run(worlds(), scenario)


def test_a_stream_may_be_the_last_of_its_connection() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(generate("rep", 0.0, lines=("Connection: close",)))
            response = await client.response()
            assert response.headers["connection"] == "close"
            assert len(events(response.body)) == 1
            assert await client.rest() == b""

    run(worlds(), scenario)


def test_at_the_end_a_stream_is_finished_first() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(generate("rep", 1.0, 1.0) + LIVE)
            await client.head()
            assert await event(client)
            world.connections[0].drain(trio.current_time())
            assert await event(client)
            assert await event(client) is None
            assert await client.rest() == b""

    run(worlds(), scenario)


# --- back-pressure -------------------------------------------------------------------------------


def test_a_slow_reader_slows_its_own_producer_only() -> None:
    async def scenario(world: HttpWorld) -> None:
        count = 200
        async with world.connect(lockstep=True) as slow, world.connect() as fast:
            await slow.send(generate("rep", *[0.0] * count, more={"id": "slow"}))
            await slow.head()
            await trio.sleep(1)
            # What is in the window, what is being sent, and what the model has in its hands.
            made = world.repeaters["rep"].delivered["slow"]
            assert made <= 3 * RESPONSE_WINDOW

            await fast.send(generate("rep", *[0.0] * count, more={"id": "fast"}))
            assert len(events((await fast.response()).body)) == count
            assert trio.current_time() == 1.0
            assert world.repeaters["rep"].delivered["slow"] == made

            for _ in range(count):
                assert await event(slow)
            assert await event(slow) is None

    run(worlds(), scenario)


def test_a_reader_that_stalls_loses_its_connection_and_frees_its_producer() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect(lockstep=True) as client:
            await client.send(generate("rep", *[0.0] * 200, more={"id": "stalled"}))
            await client.head()
            await trio.sleep(SEND_TIMEOUT_SECONDS + 2)
            assert not world.connections
            assert world.repeaters["rep"].cancelled == ["stalled"]

    run(worlds(), scenario)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_cancels_its_generation(stream: bool) -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            # More than a window of responses, then one that takes a minute.
            data = generate("rep", *[0.0] * stream * 20, 60.0, 0.0, stream=stream, more={"id": "a"})
            await client.send(data)
            await trio.sleep(1)
            await trio.aclose_forcefully(client.stream)
            await trio.testing.wait_all_tasks_blocked()
            assert not world.connections
            assert trio.current_time() == 1.0
            await trio.sleep(60)
            assert world.repeaters["rep"].cancelled == ["a"]

    run(worlds(), scenario)


# --- generate ------------------------------------------------------------------------------------


def test_one_response_is_one_object() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(generate("rep", 1.0, stream=False, more={"id": "7"}))
            response = await client.response()
            assert response.status == 200
            assert response.headers["content-type"] == "application/json"
            assert response.json() == {
                "id": "7", "model_name": "rep", "model_version": "1", "INPUT": 1.0,
            }  # fmt: skip

    run(worlds(), scenario)


def test_several_responses_are_too_many() -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            # The second response decides; the third would take an hour.
            for delays in ((0.0, 0.0), (0.0, 0.0, 3600.0, 0.0)):
                await client.send(generate("rep", *delays, stream=False, more={"id": "a"}))
                response = await client.response()
                assert (response.status, response.json()) == (200, {"error": NOT_EXACTLY_ONE})
                assert trio.current_time() == 0.0

    world = worlds()
    run(world, scenario)
    assert world.repeaters["rep"].cancelled == ["a"]


@pytest.mark.parametrize(("outcome", "status"), [
    (lambda _: internal("broken"), 500), (lambda _: unavailable("broken"), 503),
])  # fmt: skip
def test_an_error_has_its_own_status(
    outcome: Callable[[ExecuteRequest], Outcome], status: int
) -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(generate("m", 1.0, stream=False))
            response = await client.response()
            assert (response.status, response.json()) == (status, {"error": "broken"})

    run(HttpWorld({"m": model(behaviour=outcome)}), scenario)


def test_what_has_no_json_form_is_an_error() -> None:
    def halves(asked: ExecuteRequest) -> Outcome:
        tensor = Tensor("INPUT", "FP16", (1, 1), raw=bytes(2))
        return InferResponse("m", "1", asked.request.id, [tensor])

    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            await client.send(generate("m", 1.0))
            response = await client.response()
            assert response.status == 400
            assert events(response.body) == [{
                "error": "sending FP16 data via JSON is not supported. "
                "Please use the binary data format for output"
            }]  # fmt: skip

    run(HttpWorld({"m": model(behaviour=halves)}), scenario)


# --- the load report -----------------------------------------------------------------------------

BLOCKS = {"tokens_per": 64.0, "used": 8.0, "max": 16.0}
AS_TEXT = "TEXT named_metrics.kv_cache_utilization=0.500000, named_metrics.max_token_capacity=1024"
AS_JSON = 'JSON {"named_metrics":{"kv_cache_utilization":0.5,"max_token_capacity":1024}}'


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("wanted", "blocks", "expected"), [
    ("text", BLOCKS, AS_TEXT), ("json", BLOCKS, AS_JSON), ("xml", BLOCKS, None),
    (None, BLOCKS, None), ("json", {}, None), ("text", {"used": 1.0, "max": 2.0}, None),
])  # fmt: skip
def test_a_client_may_ask_how_full_the_cache_is(
    stream: bool, wanted: str | None, blocks: dict[str, float], expected: str | None
) -> None:
    async def scenario(world: HttpWorld) -> None:
        async with world.connect() as client:
            lines = (f"Endpoint-Load-Metrics-Format: {wanted}",) if wanted else ()
            await client.send(generate("m", 1.0, stream=stream, lines=lines))
            response = await client.response()
            assert response.status == 200
            assert response.headers.get("endpoint-load-metrics") == expected

    run(worlds(load_report=blocks), scenario)
