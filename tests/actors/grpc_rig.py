"""A gRPC client of the production wiring in virtual time: the h2 library over memory streams.

The client does what a test says and no more: it acknowledges what it reads only if told to, so
that tests can be slow readers. `GrpcWorld` adds decoupled models to those of the simulation.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import numpy as np
import trio
import trio.testing

from actors.grpc.connection import GrpcConnection
from actors.grpc.frontend import SWEEP_SECONDS
from actors.grpc.services import CATEGORIES, services
from actors.grpc.terms import GrpcSettings
from actors.ports.inlets import StreamInlet
from actors.street.executor import Done, Executor, PlainExecutor
from protocol.api_keys import Guard
from protocol.grpc_service import MODEL_INFER, MODEL_STREAM_INFER, decode_message, routes
from protocol.http2 import Http2Limits
from protocol.http2_wire import GOAWAY
from protocol.inference import InferResponse
from protocol.proto.messages import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from protocol.restriction import RestrictedApis
from protocol.status import internal
from repo.backends.base import ExecuteRequest, InstanceContext, Outcome, Timings
from repo.model_config import is_decoupled
from simulation.world import SimulatedModel, World

IO: Final = """
backend: "simulated"
input { name: "INPUT" data_type: TYPE_FP32 dims: [ -1 ] }
output { name: "INPUT" data_type: TYPE_FP32 dims: [ -1 ] }
"""
PLAIN: Final = IO + "max_batch_size: 8"
DECOUPLED: Final = IO + "model_transaction_policy { decoupled: true }"
ANY: Final = ("",)  # what is logged is the business of the single test
WINDOW: Final = 1 << 20
UNARY: Final = "UNARY_UNARY"


class Repeater(PlainExecutor):
    """A decoupled model: one response for each element of its input, an hour of them if asked.

    The element is the delay in seconds before its response; a negative one is an error.
    """

    def __init__(self, context: InstanceContext) -> None:
        super().__init__()
        self._context = context
        self._crash: Exception | None = None
        self.delivered: dict[str, int] = {}  # responses taken, by request id
        self.cancelled: list[str] = []  # ids of requests whose sender said so

    async def start(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with trio.open_nursery() as self._nursery:
            task_status.started()
            await self._stopped.wait()
            if self._crash is not None:
                raise self._crash

    def begin(self, requests: Sequence[ExecuteRequest], timings: Timings, done: Done) -> None:
        for request in requests:
            self._nursery.start_soon(self._respond, request)
        done([None] * len(requests))

    async def _respond(self, request: ExecuteRequest) -> None:
        asked, sender = request.request, request.sender
        for delay in asked.inputs[0].array.ravel():
            if sender.is_cancelled():
                self.cancelled.append(asked.id)
                break
            await trio.sleep(abs(float(delay)))
            response: Outcome = InferResponse(asked.model_name, "1", asked.id, list(asked.inputs))
            if float(delay) < 0:
                response = internal("no such element")
            await sender.deliver(response, False)  # type: ignore[attr-defined]  # a Responder's
            self.delivered[asked.id] = self.delivered.get(asked.id, 0) + 1
        await sender.deliver(None, True)  # type: ignore[attr-defined]  # as above

    def crash(self, error: Exception) -> None:
        """Fault: the instance dies at this instant, whatever it is doing."""
        self._crash = error
        self._stopped.set()


def model(config: str = PLAIN, seconds: float = 0.0, **more: Any) -> SimulatedModel:
    return SimulatedModel(config, latency=lambda _: seconds, **more)


class GrpcWorld(World):
    """Simulated models, and clients that connect to them."""

    def __init__(
        self,
        models: Mapping[str, SimulatedModel],
        *,
        options: Any = None,  # ServerOptions
        tracing: Any = None,  # TracePorts
        **settings: Any,
    ) -> None:
        super().__init__(models, options=options, expected_errors=ANY, tracing=tracing)
        self.repeaters: dict[str, Repeater] = {}
        self.connections: list[GrpcConnection] = []
        self._grpc = {"limits": Http2Limits(), "guard": Guard(RestrictedApis({})), **settings}

    def _make_executor(self, context: InstanceContext) -> Executor:
        if is_decoupled(context.config):
            repeater = self.repeaters[context.model_name] = Repeater(context)
            return repeater
        return super()._make_executor(context)

    @asynccontextmanager
    async def connect(
        self,
        *,
        reads: bool = True,
        wrap: Callable[[trio.abc.Stream], trio.abc.Stream] | None = None,
    ) -> AsyncIterator[Client]:
        """A connected client; the connection must end with the block."""
        ours, theirs = trio.testing.memory_stream_pair()
        table = routes(services(self.core.control_plane))
        stream = wrap(theirs) if wrap else theirs
        connection = GrpcConnection(
            stream,
            StreamInlet(stream),
            calls=self.core.calls,
            regions=self.core.regions,
            routes=table,
            settings=GrpcSettings(categories=CATEGORIES, **self._grpc),
            unary_paths=frozenset(
                path for path, route in table.items() if route.cardinality.name == UNARY
            ),
        )
        self.connections.append(connection)
        async with trio.open_nursery() as port:
            port.start_soon(self._sweep, connection)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(connection.run)
                client = Client(ours, reads=reads)
                await client.start(nursery)
                yield client
                await ours.aclose()
            port.cancel_scope.cancel()

    async def _sweep(self, connection: GrpcConnection) -> None:
        """What the port does for all its connections."""
        while True:
            await trio.sleep(SWEEP_SECONDS)
            connection.sweep(trio.current_time())


class Call:
    """What has come back on one call."""

    def __init__(self, client: Client, stream_id: int) -> None:
        self._client = client
        self.stream_id = stream_id
        self.headers: dict[str, str] = {}
        self.trailers: dict[str, str] = {}
        self.body = bytearray()
        self._messages: list[tuple[bool, bytes]] = []
        self._parsed = 0
        self.is_over = False
        self.reset_code: int | None = None

    async def send(self, *messages: bytes, end: bool = False, compressed: bool = False) -> None:
        await self._client.send_messages(self.stream_id, messages, end=end, compressed=compressed)

    async def reset(self) -> None:
        self._client.h2.reset_stream(self.stream_id)
        await self._client.flush()

    @property
    def raw_messages(self) -> list[tuple[bool, bytes]]:
        """Whether each is compressed, and its bytes."""
        body = self.body
        while len(body) - self._parsed >= 5:
            begin = self._parsed + 5
            size = int.from_bytes(body[begin - 4 : begin], "big")
            if len(body) < begin + size:
                break
            self._messages.append((body[begin - 5] == 1, bytes(body[begin : begin + size])))
            self._parsed = begin + size
        return self._messages

    @property
    def messages(self) -> list[bytes]:
        assert not any(compressed for compressed, _ in self.raw_messages)
        return [message for _, message in self.raw_messages]

    async def over(self) -> tuple[int, str]:
        """Wait for the status and its text."""
        await self._client.until(lambda: self.is_over)
        fields = self.trailers or self.headers
        return int(fields.get("grpc-status", -1)), decode_message(fields.get("grpc-message", ""))

    async def some(self, count: int) -> list[bytes]:
        """Wait for so many messages."""
        await self._client.until(lambda: len(self.raw_messages) >= count or self.is_over)
        return self.messages

    async def responses(self, count: int) -> list[Any]:
        """Wait for so many messages of a ModelStreamInfer."""
        return [ModelStreamInferResponse.FromString(each) for each in await self.some(count)]

    async def answer(self) -> Any:
        """The one reply of a ModelInfer."""
        status, text = await self.over()
        assert status == 0, (status, text)
        (message,) = self.messages
        return ModelInferResponse.FromString(message)


class Client:
    """An HTTP/2 connection as a gRPC client has one."""

    def __init__(self, stream: trio.abc.Stream, *, reads: bool) -> None:
        self.stream = stream
        self.reads = reads  # whether what is read is acknowledged
        self.h2 = h2.connection.H2Connection(
            h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        )
        self.calls: dict[int, Call] = {}
        self.closed = trio.Event()
        self.went_away = False
        self.deaf = False  # whether it looks at nothing that comes
        self._unread: list[tuple[int, int]] = []
        self._changed = trio.Event()
        self._partial = b""
        self._heard = b""

    async def start(self, nursery: trio.Nursery) -> None:
        self.h2.initiate_connection()
        self.h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: WINDOW})
        self.h2.increment_flow_control_window(64 * WINDOW)
        await self.flush()
        nursery.start_soon(self._read)
        await self.until(lambda: self.h2.max_outbound_frame_size > 1 << 14)

    async def open(
        self, path: str = MODEL_STREAM_INFER, *headers: tuple[str, str], end: bool = False
    ) -> Call:
        stream_id = self.h2.get_next_available_stream_id()
        call = self.calls[stream_id] = Call(self, stream_id)
        fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "x")]
        fields += [("te", "trailers"), ("content-type", "application/grpc"), *headers]
        self.h2.send_headers(stream_id, fields, end_stream=end)
        await self.flush()
        return call

    async def get(self, path: str, *headers: tuple[str, str], end: bool = True) -> Call:
        """A request that is not gRPC; without `end` its body is to come."""
        stream_id = self.h2.get_next_available_stream_id()
        call = self.calls[stream_id] = Call(self, stream_id)
        fields = [(":method", "GET"), (":scheme", "http"), (":path", path), (":authority", "x")]
        self.h2.send_headers(stream_id, [*fields, *headers], end_stream=end)
        await self.flush()
        return call

    async def unary(
        self, message: bytes, *headers: tuple[str, str], path: str = MODEL_INFER
    ) -> Call:
        """Begin a call with one message."""
        call = await self.open(path, *headers)
        await call.send(message, end=True)
        return call

    async def send_messages(
        self, stream_id: int, messages: Sequence[bytes], *, end: bool, compressed: bool
    ) -> None:
        flag = bytes((compressed,))
        data = b"".join(flag + len(each).to_bytes(4, "big") + each for each in messages)
        while data:
            await self.until(lambda: self.h2.local_flow_control_window(stream_id) > 0)
            step = min(
                len(data),
                self.h2.local_flow_control_window(stream_id),
                self.h2.max_outbound_frame_size,
            )
            self.h2.send_data(stream_id, data[:step])
            data = data[step:]
            await self.flush()
        if end:
            self.h2.end_stream(stream_id)
            await self.flush()

    async def read_on(self) -> None:
        """Acknowledge what was left unread, and everything from now on."""
        self.reads = True
        for nbytes, stream_id in self._unread:
            self.h2.acknowledge_received_data(nbytes, stream_id)
        self._unread.clear()
        await self.flush()

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert not self.closed.is_set(), "the server has closed the connection"
            await self._changed.wait()

    async def flush(self) -> None:
        data = self.h2.data_to_send()
        if data:
            await self.stream.send_all(data)

    async def _read(self) -> None:
        try:
            while data := await self.stream.receive_some():
                self._heard += data
                if self.deaf:
                    continue
                data, self._heard = self._heard, b""
                for event in self.h2.receive_data(self._without_goaway(bytes(data))):
                    self._take(event)
                await self.flush()
                self._say_changed()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        self.closed.set()
        for call in self.calls.values():
            call.is_over = True
        self._say_changed()

    def _without_goaway(self, data: bytes) -> bytes:
        """To the h2 library a GOAWAY is the end, but open calls go on."""
        self._partial += data
        kept = b""
        while len(self._partial) >= 9:
            size = 9 + int.from_bytes(self._partial[:3], "big")
            if len(self._partial) < size:
                break
            if self._partial[3] == GOAWAY:
                self.went_away = True
            else:
                kept += self._partial[:size]
            self._partial = self._partial[size:]
        return kept

    def _say_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _take(self, event: h2.events.Event) -> None:
        match event:
            case h2.events.ResponseReceived():
                self.calls[event.stream_id].headers = dict(event.headers)
            case h2.events.TrailersReceived():
                self.calls[event.stream_id].trailers = dict(event.headers)
            case h2.events.DataReceived():
                self.calls[event.stream_id].body += event.data
                if self.reads:
                    nbytes = event.flow_controlled_length
                    self.h2.acknowledge_received_data(nbytes, event.stream_id)
                else:
                    self._unread.append((event.flow_controlled_length, event.stream_id))
            case h2.events.StreamEnded():
                self.calls[event.stream_id].is_over = True
            case h2.events.StreamReset():
                self.calls[event.stream_id].is_over = True
                self.calls[event.stream_id].reset_code = event.error_code


def infer(
    model_name: str = "m",
    id: str = "",  # noqa: A002  # the protocol's word
    values: Sequence[float] = (0.0,),
    *,
    batch: bool = True,
    **parameters: Any,
) -> bytes:
    """A ModelInferRequest with one FP32 tensor INPUT."""
    message = ModelInferRequest(model_name=model_name, id=id)
    tensor = message.inputs.add()
    tensor.name, tensor.datatype = "INPUT", "FP32"
    tensor.shape.extend([1, len(values)] if batch else [len(values)])
    message.raw_input_contents.append(np.array(values, np.float32).tobytes())
    for name, value in parameters.items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
        setattr(message.parameters[name], kind, value)
    encoded: bytes = message.SerializeToString()
    return encoded


def repeat(id: str, delays: Sequence[float], **parameters: Any) -> bytes:  # noqa: A002
    """A request to the decoupled model `rep`, for one response per delay."""
    return infer("rep", id, delays, batch=False, **parameters)


def describe(responses: Sequence[Any]) -> list[tuple[str, bool | None, str]]:
    """(id, final flag or None, error) of each message of a stream."""
    found = []
    for each in responses:
        inner = each.infer_response
        final = inner.parameters.get("triton_final_response")
        found.append((inner.id, None if final is None else final.bool_param, each.error_message))
    return found


def run(
    world: GrpcWorld, scenario: Callable[[GrpcWorld], Awaitable[None]], *, seed: int = 0
) -> None:
    """Run the scenario to its end, in no more than an hour of virtual time."""

    async def bounded(_: World) -> None:
        with trio.fail_after(3600):
            await scenario(world)

    world.run(bounded, seed=seed)
