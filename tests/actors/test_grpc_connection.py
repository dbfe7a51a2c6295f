"""Unary calls, deadlines, cancellation and the life of a gRPC connection, in virtual time."""

from __future__ import annotations

import gzip
import zlib

import pytest
import trio
import trio.testing

from actors import version_wiring
from actors.grpc import unary as grpc_unary
from actors.grpc.connection import LAST_WORDS_SECONDS
from actors.grpc.infer_stream import SHUTTING_DOWN
from actors.grpc.unary import DEADLINES_KEPT
from actors.street.calls import DOOR_PATIENCE_SECONDS, Ticketed, closed
from protocol.api_keys import Guard
from protocol.grpc_compression import CompressionLevel
from protocol.http2 import Http2Limits
from protocol.http2_wire import DATA, frame
from protocol.inference import InferResponse, Tensor
from protocol.proto.generated import inference as pb
from protocol.proto.generated.grpc.health import v1 as health
from protocol.proto.generated.grpc.reflection import v1 as reflection
from protocol.proto.messages import ModelInferResponse
from protocol.restriction import RestrictedApis
from protocol.v2_json_parameters import HeaderForwarding
from repo.backends.base import ExecuteRequest, Outcome
from tests.actors.grpc_rig import DECOUPLED, PLAIN, Client, GrpcWorld, infer, model, run

SERVICE = "/inference.GRPCInferenceService"
DYNAMIC = PLAIN + " dynamic_batching { }"
DEADLINE = (4, "Deadline Exceeded")


def worlds(**settings: object) -> GrpcWorld:
    return GrpcWorld({"m": model(), "slow": model(seconds=1.0)}, **settings)


async def settle() -> None:
    await trio.testing.wait_all_tasks_blocked()


def executed(world: GrpcWorld) -> list[str]:
    return [event.detail for event in world.trace.of("execute")]


# --- answers -------------------------------------------------------------------------------------


def test_calls_are_answered_as_their_models_end() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            slow = await client.unary(infer("slow", "a"))
            fast = await client.unary(infer("m", "b", [1.0, 2.0]))
            answer = await fast.answer()
            assert trio.current_time() == 0.0
            assert (answer.id, answer.model_version) == ("b", "1")
            assert "triton_final_response" not in answer.parameters
            assert fast.headers[":status"] == "200"
            assert fast.headers["content-type"] == "application/grpc"
            assert (await slow.answer()).id == "a"
            assert trio.current_time() == 1.0

    run(worlds(), scenario)


def test_a_large_reply_waits_for_the_windows() -> None:
    async def scenario(world: GrpcWorld) -> None:
        values = [float(number) for number in range(1 << 19)]  # 2 MiB, twice the window
        async with world.connect() as client:
            call = await client.unary(infer("m", "a", values))
            answer = await call.answer()
            assert len(answer.raw_output_contents[0]) == 4 << 19

    run(worlds(), scenario)


@pytest.mark.parametrize(("path", "status"), [
    ("/inference.GRPCInferenceService/Nope",
     (12, "unknown method Nope for service inference.GRPCInferenceService")),
    ("/tensorflow.Serving/Predict", (12, "unknown service tensorflow.Serving")),
    ("/a/b/c", (12, "unknown service a/b")),
    ("/nope", (12, 'malformed method name: "/nope"')),
    (f"{SERVICE}/ServerLive", (13, f"{SERVICE}/ServerLive takes exactly one request message")),
])  # fmt: skip
def test_calls_that_no_method_serves(path: str, status: tuple[int, str]) -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            assert await (await client.open(path, end=True)).over() == status
            call = await client.open(path)
            await call.send(b"", b"", end=True)
            assert await call.over() == status
            assert await (await client.unary(infer())).over() == (0, "")

    run(worlds(), scenario)


def test_bytes_that_are_no_message_fail_their_call() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            for path in ("ModelInfer", "ModelReady"):
                call = await client.unary(b"\xff\xff", path=f"{SERVICE}/{path}")
                assert await call.over() == (13, "Exception deserializing request!")

    run(worlds(), scenario)


def test_a_response_that_cannot_be_rendered_is_an_error() -> None:
    def answer(request: ExecuteRequest) -> Outcome:
        tensor = Tensor("INPUT", "FP32", (1, 1), raw=bytes(4))
        return InferResponse("m", "1", request.request.id, [tensor], {"n": 2**70})

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.unary(infer())
            assert await call.over() == (13, "response parameter 'n' does not fit into 64 bits")

    run(GrpcWorld({"m": model(behaviour=answer)}), scenario)


def test_a_defect_in_a_method_ends_its_call_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: GrpcWorld) -> None:
        def broken() -> bool:
            raise ZeroDivisionError("a defect")

        monkeypatch.setattr(world.core.control_plane, "is_live", broken)
        async with world.connect() as client:
            call = await client.unary(b"", path=f"{SERVICE}/ServerLive")
            assert await call.over() == (2, "internal server error")
            assert await (await client.unary(infer())).over() == (0, "")

    run(worlds(), scenario)


def test_a_status_message_may_be_in_any_language() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.unary(infer("mödel %"))
            assert await call.over() == (5, "Request for unknown model: 'mödel %' is not found")

    run(worlds(), scenario)


# --- what a head says ----------------------------------------------------------------------------


@pytest.mark.parametrize(("path", "required"), [("ModelInfer", "k"), ("ServerLive", "h")])
def test_restricted_calls_need_their_key(path: str, required: str) -> None:
    guard = Guard(RestrictedApis.parse(["inference:k=v", "health:h=w"], grpc=True))
    key = f"triton-grpc-protocol-{required}"
    refusal = (14, f"This protocol is restricted, expecting header '{key}'")
    value = {"k": "v", "h": "w"}[required]

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            message = infer() if path == "ModelInfer" else b""
            full = f"{SERVICE}/{path}"
            for _ in range(3):
                assert await (await client.unary(message, path=full)).over() == refusal
            wrong = await client.unary(message, (key, "x"), path=full)
            assert await wrong.over() == refusal
            right = await client.unary(message, (key, value), path=full)
            assert await right.over() == (0, "")
            stream = await client.open()
            assert await stream.over() == (
                14, "This protocol is restricted, expecting header 'triton-grpc-protocol-k'"
            )  # fmt: skip
            if path == "ServerLive":
                check = "/grpc.health.v1.Health/Check"
                assert await (await client.unary(b"", path=check)).over() == refusal

    run(worlds(guard=guard), scenario)


@pytest.mark.parametrize("path", ["ModelInfer", "ModelStreamInfer", "ServerLive"])
def test_an_unknown_compression_is_refused_with_those_that_are_known(path: str) -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.unary(
                infer(), ("grpc-encoding", "snappy"), path=f"{SERVICE}/{path}"
            )
            assert await call.over() == (
                12, 'Compression algorithm "snappy" is not supported.'
            )  # fmt: skip
            assert call.headers["grpc-accept-encoding"] == "identity,gzip,deflate"

    run(worlds(), scenario)


@pytest.mark.parametrize(
    ("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)]
)
def test_requests_and_replies_may_be_compressed(encoding: str, pack: object) -> None:
    assert callable(pack)

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            head = (("grpc-encoding", encoding), ("grpc-accept-encoding", f"identity,{encoding}"))
            call = await client.open(f"{SERVICE}/ModelInfer", *head)
            await call.send(pack(infer("m", "a", [0.0] * 1000)), compressed=True, end=True)
            assert await call.over() == (0, "")
            ((is_compressed, body),) = call.raw_messages
            assert is_compressed
            assert call.headers["grpc-encoding"] == encoding
            wbits = 31 if encoding == "gzip" else 15
            inflated = zlib.decompress(body, wbits)
            assert ModelInferResponse.FromString(inflated).raw_output_contents[0] == bytes(4000)

            live = await client.open(f"{SERVICE}/ServerLive", *head)
            await live.send(pack(b""), compressed=True, end=True)
            assert await live.some(1) == [bytes(pb.ServerLiveResponse(live=True))]

    run(worlds(compression=CompressionLevel.HIGH), scenario)


def test_compressed_messages_are_not_believed() -> None:
    bomb = gzip.compress(bytes(1 << 20))
    too_large = "Decompressed data size exceeds the maximum allowed value of 100000 bytes."

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            cases = [
                ((), b"x", (13, "compressed message, but the call has no grpc-encoding")),
                ((("grpc-encoding", "gzip"),), b"x", (13, "corrupt gzip message")),
                ((("grpc-encoding", "gzip"),), bomb, (3, too_large)),
            ]  # fmt: skip
            for head, message, status in cases:
                for path in ("ModelInfer", "ModelStreamInfer"):
                    call = await client.open(f"{SERVICE}/{path}", *head)
                    await call.send(message, compressed=True, end=True)
                    assert await call.over() == status

    run(worlds(limits=Http2Limits(max_message_bytes=100_000)), scenario)


def test_a_message_over_the_limit_is_refused_by_its_length() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            asked = infer("m", "a", [0.0] * 1000)
            text = f"Received message larger than max ({len(asked)} vs. 1000)"
            assert await (await client.unary(asked)).over() == (8, text)
            assert await (await client.unary(infer())).over() == (0, "")

    run(worlds(limits=Http2Limits(max_message_bytes=1000)), scenario)


def test_metadata_become_parameters_where_the_operator_wants_it() -> None:
    seen: list[dict[str, object]] = []

    def look(request: ExecuteRequest) -> Outcome:
        seen.append(dict(request.request.parameters))
        return InferResponse("m", "1", "", list(request.request.inputs))

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            head = (("my_key", "v"), ("other", "w"), ("my_data-bin", "AAAA"))
            assert await (await client.unary(infer(n=1), *head)).over() == (0, "")
            stream = await client.open(f"{SERVICE}/ModelStreamInfer", *head)
            await stream.send(infer(), end=True)
            assert await stream.over() == (0, "")
            assert seen == [{"n": 1, "my_key": "v"}, {"my_key": "v"}]

            bad = ("my_timeout", "1"), ("triton_my_x", "1")
            refusal = "Header 'triton_my_x' is reserved for Triton usage and cannot be forwarded."
            for _ in range(2):
                assert await (await client.unary(infer(), *bad)).over() == (3, refusal)
            unknown = await client.unary(infer("nope"), *bad)
            assert (await unknown.over())[0] == 5

    forwarding = HeaderForwarding("my_.*")
    run(GrpcWorld({"m": model(behaviour=look)}, forwarding=forwarding), scenario)


def test_a_case_sensitive_pattern_never_matches_metadata() -> None:
    def look(request: ExecuteRequest) -> Outcome:
        assert not request.request.parameters
        return InferResponse("m", "1", "", list(request.request.inputs))

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.unary(infer(), ("my_header", "v"))
            assert await call.over() == (0, "")

    forwarding = HeaderForwarding("(?-i)MY_HEADER")
    run(GrpcWorld({"m": model(behaviour=look)}, forwarding=forwarding), scenario)


# --- deadlines and cancellation ------------------------------------------------------------------


def test_the_deadline_holds_wherever_the_request_is() -> None:
    """Running, queued behind it, and at the door: all are answered at their deadline."""

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            running = await client.unary(infer("d", "running"), ("grpc-timeout", "250m"))
            queued = [
                await client.unary(infer("d", f"queued {number}"), ("grpc-timeout", "500m"))
                for number in range(20)
            ]
            patient = await client.unary(infer("d", "patient"))
            assert await running.over() == DEADLINE
            assert trio.current_time() == 0.25
            for call in queued:
                assert await call.over() == DEADLINE
            assert trio.current_time() == 0.5
            assert await patient.over() == (0, "")
            assert trio.current_time() == 2.0
            assert executed(world) == ["running", "patient"]

    run(GrpcWorld({"d": model(DYNAMIC, seconds=1.0)}), scenario)


def test_a_deadline_holds_at_a_full_door_and_nobody_waits_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(version_wiring, "SUBMIT_DOOR", 1)
    monkeypatch.setattr(version_wiring, "QUEUE_CEILING", 1)

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            for name in ("running", "queued", "at the door"):
                await client.unary(infer("slow", name))
                await settle()
            hasty = await client.unary(infer("slow", "hasty"), ("grpc-timeout", "1S"))
            given_up = await client.unary(infer("slow", "given up"))
            patient = await client.unary(infer("slow", "patient"))
            await settle()
            await given_up.reset()
            assert await hasty.over() == DEADLINE
            assert trio.current_time() == 1.0
            assert await patient.over() == (
                14, "[request id: patient] Exceeds maximum queue size"
            )  # fmt: skip
            assert trio.current_time() == DOOR_PATIENCE_SECONDS
        await trio.sleep(500.0)
        assert executed(world) == ["running"]  # the others went with their connection

    run(GrpcWorld({"slow": model(seconds=100.0)}), scenario)


@pytest.mark.parametrize("text", ["", "1", "1s", "-1S", "123456789S", "1.5S"])
def test_a_malformed_deadline_is_the_client_s_mistake(text: str) -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.unary(infer(), ("grpc-timeout", text))
            assert await call.over() == (13, f"malformed grpc-timeout '{text}'")

    run(worlds(), scenario)


def test_a_deadline_ends_a_control_call_too(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario(world: GrpcWorld) -> None:
        async def never(*_: object) -> bool:
            await trio.sleep_forever()
            raise AssertionError("unreachable")

        monkeypatch.setattr(world.core.control_plane, "is_model_ready", never)
        async with world.connect() as client:
            path = f"{SERVICE}/ModelReady"
            call = await client.unary(b"", ("grpc-timeout", "2S"), path=path)
            assert await call.over() == DEADLINE
            assert trio.current_time() == 2.0
            other = await client.unary(b"", path=path)
            await settle()
            await other.reset()
            await settle()
            assert await (await client.unary(infer())).over() == (0, "")

    run(worlds(), scenario)


def test_a_reset_call_leaves_the_queue_and_is_told_to_the_model() -> None:
    cancelled: list[int] = []

    async def scenario(world: GrpcWorld) -> None:
        (executor,) = world.executors.values()
        executor.cancel = cancelled.append  # type: ignore[method-assign, assignment]  # a spy
        async with world.connect() as client:
            running = await client.unary(infer("d", "running"))
            queued = await client.unary(infer("d", "queued"))
            await settle()
            await running.reset()
            await queued.reset()
            await settle()
            assert len(cancelled) == 1
            (version,) = world.core.index.value.serving()
            assert version.pending() == 0
            assert (await (await client.unary(infer("d", "next"))).answer()).id == "next"
            assert executed(world) == ["running", "next"]

    run(GrpcWorld({"d": model(DYNAMIC, seconds=1.0)}), scenario)


def test_a_lost_connection_cancels_its_calls() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            for name in ("a", "b", "c"):
                await client.unary(infer("d", name))
                await settle()
        await trio.sleep(10.0)
        assert executed(world) == ["a"]

    run(GrpcWorld({"d": model(DYNAMIC, seconds=1.0)}), scenario)


# --- the connection ------------------------------------------------------------------------------


def test_a_stopping_server_answers_what_it_has_and_refuses_the_rest() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            slow = await client.unary(infer("slow", "a"))
            await settle()
            client.deaf = True  # it has not heard of the stop yet
            world.connections[0].drain(trio.current_time())
            late = await client.unary(infer("m", "b"))
            await settle()
            client.deaf = False
            assert await late.over() == (14, SHUTTING_DOWN)
            assert (await slow.answer()).id == "a"
            await client.closed.wait()
            assert client.went_away

    run(worlds(), scenario)


class StuckStream(trio.abc.Stream):
    """A peer that sends, but never reads: what is written to it does not go anywhere."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self._stream = stream
        self.stuck = False

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.stuck:
            await trio.sleep_forever()
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


def test_a_connection_that_is_over_does_not_wait_for_its_peer() -> None:
    async def scenario(world: GrpcWorld) -> None:
        streams: list[StuckStream] = []

        def wrap(stream: trio.abc.Stream) -> trio.abc.Stream:
            streams.append(StuckStream(stream))
            return streams[0]

        async with world.connect(wrap=wrap) as client:
            streams[0].stuck = True
            await client.unary(infer())
            await settle()
            began = trio.current_time()
            await client.stream.send_all(frame(DATA, 0, 99, b"nobody asked"))
            await client.closed.wait()
            assert trio.current_time() - began <= 2 * LAST_WORDS_SECONDS

    run(worlds(), scenario)


def test_a_request_that_is_not_grpc_is_told_so() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            call = await client.get("/v2/health/live")
            await client.until(lambda: call.is_over)
            assert call.headers[":status"] == "415"
            assert bytes(call.body) == b"this port speaks gRPC"

    run(worlds(), scenario)


def test_a_request_that_is_not_grpc_is_answered_when_it_is_whole() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            fields = (("content-type", "application/json"),)
            call = await client.get("/v2/models/m/infer", *fields, end=False)
            client.h2.send_data(call.stream_id, b"{}" * 500)
            await client.flush()
            await settle()
            assert not call.headers
            client.h2.end_stream(call.stream_id)
            await client.flush()
            await client.until(lambda: call.is_over)
            assert call.headers[":status"] == "415"

            cancelled = await client.get("/v2/models/m/infer", *fields, end=False)
            await cancelled.reset()
            await settle()
            assert (await (await client.unary(infer("m", "a"))).answer()).id == "a"

    run(worlds(), scenario)


# --- streaming services --------------------------------------------------------------------------


async def reflect(client: Client, *questions: bytes) -> list[bytes]:
    call = await client.open("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
    await call.send(*questions, end=True)
    assert await call.over() == (0, "")
    return call.messages


def test_reflection_is_a_conversation() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            asked = bytes(reflection.ServerReflectionRequest(list_services="*"))
            answers = await reflect(client, *[asked] * 40)
            assert len(answers) == 40
            listed = reflection.ServerReflectionResponse().parse(answers[0])
            names = [each.name for each in listed.list_services_response.service]
            assert "inference.GRPCInferenceService" in names
            assert await reflect(client) == []

            call = await client.open(
                "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
            )
            await call.send(asked)
            await call.some(1)
            await call.send(asked)
            await call.some(2)
            world.connections[0].drain(trio.current_time())
            assert await call.over() == (0, "")

    run(worlds(), scenario)


def test_a_client_that_does_not_read_is_not_answered_further() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect(reads=False) as client:
            name = "inference.GRPCInferenceService"
            asked = bytes(reflection.ServerReflectionRequest(file_containing_symbol=name))
            call = await client.open("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo")
            await call.send(*[asked] * 400, end=True)
            await settle()
            answered = len(call.raw_messages)
            assert 10 < answered < 100
            await client.read_on()
            assert await call.over() == (0, "")
            assert len(call.raw_messages) == 400

    run(worlds(limits=Http2Limits(pending_bytes=10_000)), scenario)


def test_watching_the_health_is_not_offered() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            message = bytes(health.HealthCheckRequest())
            for end in (True, False):
                call = await client.open("/grpc.health.v1.Health/Watch")
                await call.send(message, end=end)
                assert (await call.over())[0] == 12

    run(worlds(), scenario)


def test_models_that_stream_cannot_be_called_otherwise() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            text = "ModelInfer RPC doesn't support models with decoupled transaction policy"
            for message in (infer("rep", batch=False), infer("rep", batch=False, triton_x=1)):
                assert await (await client.unary(message)).over() == (12, text)

    run(GrpcWorld({"rep": model(DECOUPLED)}), scenario)


def test_a_model_that_closes_its_door_in_between_refuses(monkeypatch: pytest.MonkeyPatch) -> None:
    def closing(ticketed: Ticketed) -> None:
        raise closed(ticketed.submit.request)

    monkeypatch.setattr(grpc_unary, "submit_nowait", closing)

    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            status, text = await (await client.unary(infer())).over()
            assert status == 14
            assert "has stopped accepting new inference requests" in text

    run(worlds(), scenario)


def test_deadlines_of_answered_calls_do_not_pile_up() -> None:
    async def scenario(world: GrpcWorld) -> None:
        async with world.connect() as client:
            for number in range(3 * DEADLINES_KEPT):
                call = await client.unary(infer("m", str(number)), ("grpc-timeout", "1H"))
                assert await call.over() == (0, "")
            infers = world.connections[0]._infers
            assert len(infers._deadlines) <= DEADLINES_KEPT + 2
            late = await client.unary(infer("slow", "late"), ("grpc-timeout", "100m"))
            assert await late.over() == DEADLINE
            assert trio.current_time() == pytest.approx(0.1)

    run(worlds(), scenario)
