"""A KServe v2 gRPC server over memory streams: Troupe's own HTTP/2 codec, latencies by the test."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import trio
import trio.testing
from google.protobuf import json_format
from google.protobuf.message import Message

from perf_analyzer.options import Options
from perf_analyzer.setup import Target
from protocol.grpc_compression import decompress
from protocol.http2 import Http2Connection, Http2Limits
from protocol.http2_events import CallHalfClosed, CallOpened, MessageReceived, UnaryCall
from protocol.proto.messages import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
    message_class,
)

SERVICE = "/inference.GRPCInferenceService/"
MAX_BYTES = 1 << 24
GRPC_UNIMPLEMENTED = 12


@dataclass
class FakeGrpcServer:
    """Answers each request after `latency(number)` seconds; decoupled: `responses` times, and
    then, if `empty_final`, with an empty message."""

    latency: Callable[[int], float] = lambda _: 0.010
    config: dict[str, Any] = field(default_factory=lambda: {"name": "m"})
    responses: int = 1
    empty_final: bool = False
    gap: float = 0.0  # between the responses of one request
    error: str = ""
    connection_seconds: float = math.inf  # after these a connection is asked to end
    infers: list[ModelInferRequest] = field(default_factory=list)
    at: list[float] = field(default_factory=list)
    heads: list[dict[str, str]] = field(default_factory=list)
    connections: int = 0
    streams: int = 0
    busy: int = 0
    busiest: int = 0
    questions: dict[str, list[bytes]] = field(default_factory=dict)  # method → requests
    _nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def target(self, _options: Options) -> Target:
        async def connect() -> trio.abc.Stream:
            ours, theirs = trio.testing.memory_stream_pair()
            assert self._nursery is not None
            self.connections += 1
            self._nursery.start_soon(_Connection(self, theirs).run)
            return ours

        return Target(connect, "fake:8001", tls=False)

    def control(self, method: str) -> dict[str, Any] | None:
        """The answer to a question, as JSON; None for one that is not known."""
        tensor = {"datatype": "FP32", "shape": [4]}
        match method:
            case "ModelMetadata":
                return {
                    "name": "m",
                    "versions": ["1"],
                    "inputs": [{"name": "IN", **tensor}],
                    "outputs": [{"name": "OUT", **tensor}],
                }
            case "ModelConfig":
                return {"config": self.config}
            case "ServerMetadata":
                return {"name": "fake", "extensions": ["statistics"]}
            case "ModelStatistics":
                count = len(self.infers)
                words = ("success", "queue", "compute_input", "compute_infer", "compute_output")
                stats = {word: {"count": count, "ns": 1_000_000 * count} for word in words}
                model = {"name": "m", "version": "1", "inference_count": count}
                return {"model_stats": [{**model, "inference_stats": stats}]}
            case _ if "SharedMemory" in method:
                return {}
            case _:
                return None


class _Connection:
    def __init__(self, server: FakeGrpcServer, stream: trio.abc.Stream) -> None:
        self._server = server
        self._stream = stream
        self._codec = Http2Connection(
            Http2Limits(
                max_connection_age_seconds=server.connection_seconds,
                drain_ping_timeout_seconds=0.001,
            ),
            unary_paths=frozenset({SERVICE + "ModelInfer"}),
            now=trio.current_time(),
        )
        self._lock = trio.Lock()
        self._encodings: dict[int, str] = {}
        self._open: dict[int, int] = {}  # streams → requests under way
        self._closing: set[int] = set()

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            await self._write()
            if self._server.connection_seconds < math.inf:
                nursery.start_soon(self._grow_old)
            while True:
                try:
                    data = await self._stream.receive_some()
                except trio.ClosedResourceError:
                    data = b""
                if not data:
                    nursery.cancel_scope.cancel()
                    return
                for event in self._codec.receive(bytes(data), trio.current_time()):
                    self._on_event(event, nursery)
                await self._write()

    async def _grow_old(self) -> None:
        while not self._codec.is_closed:
            await trio.sleep(0.01)
            self._codec.tick(trio.current_time())
            await self._write()
        await self._stream.aclose()

    async def _write(self) -> None:
        async with self._lock:
            while self._codec.has_output:
                await self._stream.send_all(b"".join(self._codec.take_output()))

    def _on_event(self, event: object, nursery: trio.Nursery) -> None:
        match event:
            case UnaryCall(stream_id, head, compressed, message):
                self._server.heads.append(dict(head.headers))
                encoding = dict(head.headers).get("grpc-encoding", "identity")
                octets = decompress(bytes(message), encoding, MAX_BYTES) if compressed else message
                method = head.path.removeprefix(SERVICE)
                self._codec.acknowledge(stream_id, len(message))
                if method == "ModelInfer":
                    nursery.start_soon(self._infer, stream_id, bytes(octets))
                else:
                    nursery.start_soon(self._control, stream_id, method, bytes(octets))
            case CallOpened(stream_id, head, _):
                self._server.heads.append(dict(head.headers))
                self._server.streams += 1
                self._open[stream_id] = 0
                self._codec.send_response_headers(stream_id)
            case MessageReceived(stream_id, _, message):
                self._codec.acknowledge(stream_id, len(message))
                self._open[stream_id] += 1
                nursery.start_soon(self._stream_infer, stream_id, bytes(message))
            case CallHalfClosed(stream_id):
                self._closing.add(stream_id)
                self._maybe_end(stream_id)
            case _:
                pass

    def _maybe_end(self, stream_id: int) -> None:
        if stream_id in self._closing and not self._open[stream_id]:
            self._codec.send_trailers(stream_id, 0)

    async def _control(self, stream_id: int, method: str, octets: bytes) -> None:
        self._server.questions.setdefault(method, []).append(octets)
        answer = self._server.control(method)
        if answer is None:
            self._codec.send_trailers(stream_id, GRPC_UNIMPLEMENTED, "not here")
        else:
            reply: Message = message_class(f"inference.{method}Response")()
            json_format.ParseDict(answer, reply)
            self._codec.send_unary_reply(stream_id, reply.SerializeToString())
        await self._write()

    async def _begin(self, octets: bytes) -> tuple[ModelInferRequest, float]:
        server = self._server
        request = ModelInferRequest.FromString(octets)
        seconds = server.latency(len(server.infers))
        server.infers.append(request)
        server.at.append(trio.current_time())
        server.busy += 1
        server.busiest = max(server.busiest, server.busy)
        await trio.sleep(seconds)
        return request, seconds

    async def _infer(self, stream_id: int, octets: bytes) -> None:
        request, _ = await self._begin(octets)
        self._server.busy -= 1
        if self._server.error:
            self._codec.send_trailers(stream_id, 3, self._server.error)
        else:
            self._codec.send_unary_reply(stream_id, _response(request).SerializeToString())
        await self._write()

    async def _stream_infer(self, stream_id: int, octets: bytes) -> None:
        server = self._server
        request, _ = await self._begin(octets)
        for place in range(server.responses):
            last = place == server.responses - 1 and not server.empty_final
            await self._respond(stream_id, _response(request), final=last)
            if not last:
                await trio.sleep(server.gap)
        if server.empty_final:
            await self._respond(stream_id, ModelInferResponse(id=request.id), final=True)
        server.busy -= 1
        self._open[stream_id] -= 1
        self._maybe_end(stream_id)
        await self._write()

    async def _respond(self, stream_id: int, response: ModelInferResponse, *, final: bool) -> None:
        response.parameters["triton_final_response"].bool_param = final
        reply = ModelStreamInferResponse(infer_response=response, error_message=self._server.error)
        self._codec.send_message(stream_id, reply.SerializeToString())
        await self._write()


def _response(request: ModelInferRequest) -> ModelInferResponse:
    response = ModelInferResponse(model_name="m", model_version="1", id=request.id)
    raw = request.raw_input_contents[0] if request.raw_input_contents else b""
    response.outputs.add(name="OUT", datatype="FP32", shape=[len(raw) // 4])
    response.raw_output_contents.append(raw)
    return response
