"""What is asked of a server besides inference: metadata, configuration, statistics, shared memory.

Owns `Control`, the same questions over both protocols, answered with the same documents. One
connection of its own, so that a question never waits behind the load.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, Protocol
from urllib.parse import quote

import trio
from google.protobuf import json_format
from google.protobuf.message import Message

from perf_analyzer.calls import Buffer
from perf_analyzer.connecting import CannotConnect, Connect
from perf_analyzer.grpc_clients import SERVICE, grpc_fields, open_http2
from perf_analyzer.http1_client import Head, Http1Client
from perf_analyzer.http2_client import Http2Client
from perf_analyzer.model import Document
from perf_analyzer.responses import error_text
from perf_analyzer.wires import Wire, Wires
from protocol import hpack
from protocol.proto.messages import message_class

# Loading a model can make a server slow to answer; longer than this and it is not going to.
ANSWER_SECONDS: Final = 60.0
GRPC_UNIMPLEMENTED: Final = 12
FAILED: Final = -1  # the status of a question whose connection ended
MemoryKind = Literal["system", "cuda"]


class ControlError(Exception):
    """The server refused; `unsupported` says that it does not know the question at all."""

    def __init__(self, text: str, *, unsupported: bool = False) -> None:
        super().__init__(text)
        self.unsupported = unsupported


class Control(Protocol):
    """The questions. All raise ControlError."""

    async def ready(self) -> bool: ...

    async def server_metadata(self) -> Document: ...

    async def model_metadata(self, name: str, version: str) -> Document: ...

    async def model_config(self, name: str, version: str) -> Document: ...

    async def statistics(self, name: str, version: str) -> Document:
        """Of one model, or of all with the name ""."""

    async def unregister_all(self) -> None: ...

    async def unregister(self, region: str, kind: MemoryKind) -> None: ...

    async def register(self, region: str, key: str, byte_size: int) -> None: ...

    async def register_cuda(
        self, region: str, handle: bytes, device: int, byte_size: int
    ) -> None: ...

    async def set_trace(self, settings: Mapping[str, str]) -> None: ...


class _Question:
    """One call and the event that its answer sets."""

    def __init__(self) -> None:
        self.begun_at = 0.0
        self.answered = trio.Event()
        self.problem = ""
        self.status = 0
        self.body: Buffer = b""

    def on_answer(self, head: Head, body: Buffer, now: float) -> None:
        self.status = head.status
        self.body = body
        self.answered.set()

    def on_message(self, message: Buffer, now: float) -> None:
        self.body = message

    def on_end(self, status: int, text: str, now: float) -> None:
        self.status = status
        self.problem = text
        self.answered.set()

    def on_failure(self, text: str) -> None:
        self.status = FAILED
        self.problem = text
        self.answered.set()


async def _answer(question: _Question) -> None:
    with trio.move_on_after(ANSWER_SECONDS):
        await question.answered.wait()
        return
    raise ControlError(f"no answer within {ANSWER_SECONDS:.0f} s")


class HttpControl:
    """The questions as REST."""

    def __init__(
        self,
        wires: Wires,
        connect: Connect,
        authority: str,
        headers: Sequence[tuple[str, str]],
    ) -> None:
        self._wires = wires
        self._connect = connect
        self._codec = Http1Client()
        self._wire: Wire | None = None
        self._turn = trio.Lock()
        self._common = f"Host: {authority}\r\nUser-Agent: troupe-perf\r\n" + "".join(
            f"{name}: {value}\r\n" for name, value in headers
        )

    async def _ask(self, method: str, path: str, body: bytes = b"") -> _Question:
        async with self._turn:
            old = self._wire is not None and not self._wire.closed and self._codec.usable
            question = await self._ask_once(method, path, body)
            if old and question.status == FAILED:  # the server closed it just now: ask again
                question = await self._ask_once(method, path, body)
        return question

    async def _ask_once(self, method: str, path: str, body: bytes) -> _Question:
        if self._wire is None or self._wire.closed or not self._codec.usable:
            self._codec = Http1Client()
            try:
                self._wire = self._wires.attach(await self._connect(), self._codec)
            except CannotConnect as error:
                raise ControlError(f"HTTP client failed: {error}") from None
        question = _Question()
        length = f"Content-Length: {len(body)}\r\n" if method == "POST" else ""
        head = f"{method} {path} HTTP/1.1\r\n{self._common}{length}\r\n"
        self._codec.start(question, question, head.encode("latin-1") + body)
        self._wire.touch()
        self._wires.flush()
        await _answer(question)
        return question

    async def _document(self, method: str, path: str, body: bytes = b"") -> Any:
        question = await self._ask(method, path, body)
        if question.status != 200:
            text = question.problem or error_text(question.body, question.status)
            raise ControlError(text, unsupported=question.status == 404)
        if not question.body:
            return {}
        try:
            return json.loads(bytes(question.body))
        except ValueError:
            raise ControlError(f"the answer to {path} is not JSON") from None

    @staticmethod
    def _model(name: str, version: str) -> str:
        return f"/v2/models/{quote(name)}" + (f"/versions/{version}" if version else "")

    async def ready(self) -> bool:
        return (await self._ask("GET", "/v2/health/ready")).status == 200

    async def server_metadata(self) -> Document:
        document: Document = await self._document("GET", "/v2")
        return document

    async def model_metadata(self, name: str, version: str) -> Document:
        document: Document = await self._document("GET", self._model(name, version))
        return document

    async def model_config(self, name: str, version: str) -> Document:
        path = f"{self._model(name, version)}/config"
        document: Document = await self._document("GET", path)
        return document

    async def statistics(self, name: str, version: str) -> Document:
        path = f"{self._model(name, version)}/stats" if name else "/v2/models/stats"
        document: Document = await self._document("GET", path)
        return document

    async def unregister_all(self) -> None:
        await self._document("POST", "/v2/systemsharedmemory/unregister")
        await self._document("POST", "/v2/cudasharedmemory/unregister")

    async def unregister(self, region: str, kind: MemoryKind) -> None:
        await self._document("POST", f"/v2/{kind}sharedmemory/region/{quote(region)}/unregister")

    async def register(self, region: str, key: str, byte_size: int) -> None:
        body = json.dumps({"key": key, "offset": 0, "byte_size": byte_size}).encode()
        path = f"/v2/systemsharedmemory/region/{quote(region)}/register"
        await self._document("POST", path, body)

    async def register_cuda(self, region: str, handle: bytes, device: int, byte_size: int) -> None:
        body = {
            "raw_handle": {"b64": base64.b64encode(handle).decode()},
            "device_id": device,
            "byte_size": byte_size,
        }
        path = f"/v2/cudasharedmemory/region/{quote(region)}/register"
        await self._document("POST", path, json.dumps(body).encode())

    async def set_trace(self, settings: Mapping[str, str]) -> None:
        body = {name: [text] if name == "trace_level" else text for name, text in settings.items()}
        await self._document("POST", "/v2/trace/setting", json.dumps(body).encode())


class GrpcControl:
    """The questions as unary calls."""

    def __init__(
        self,
        wires: Wires,
        connect: Connect,
        authority: str,
        metadata: Sequence[tuple[str, str]],
        *,
        tls: bool,
    ) -> None:
        self._wires = wires
        self._connect = connect
        self._codec: Http2Client | None = None
        self._wire: Wire | None = None
        self._fields = grpc_fields("", authority, metadata, tls=tls, encoding="identity")

    async def _ask(self, method: str, **fields: object) -> Message:
        if self._codec is None or self._wire is None or self._wire.closed:
            self._codec = Http2Client(self._fields)
            try:
                self._wire = await open_http2(self._wires, self._connect, self._codec)
            except CannotConnect as error:
                raise ControlError(f"gRPC client failed: {error}") from None
        request = message_class(f"inference.{method}Request")(**fields)
        block = hpack.encode(
            (name, SERVICE + method if name == ":path" else value) for name, value in self._fields
        )
        question = _Question()
        self._codec.start(question, question, request.SerializeToString(), block=block)
        self._wire.touch()
        self._wires.flush()
        await _answer(question)
        if question.status:
            unsupported = question.status == GRPC_UNIMPLEMENTED
            raise ControlError(question.problem, unsupported=unsupported)
        return message_class(f"inference.{method}Response").FromString(bytes(question.body))

    async def _document(self, method: str, **fields: object) -> Document:
        message = await self._ask(method, **fields)
        document: Document = json_format.MessageToDict(message, preserving_proto_field_name=True)
        return document

    async def ready(self) -> bool:
        return bool((await self._document("ServerReady")).get("ready"))

    async def server_metadata(self) -> Document:
        return await self._document("ServerMetadata")

    async def model_metadata(self, name: str, version: str) -> Document:
        return await self._document("ModelMetadata", name=name, version=version)

    async def model_config(self, name: str, version: str) -> Document:
        document = await self._document("ModelConfig", name=name, version=version)
        config: Document = document.get("config", {})
        return config

    async def statistics(self, name: str, version: str) -> Document:
        return await self._document("ModelStatistics", name=name, version=version)

    async def unregister_all(self) -> None:
        await self._ask("SystemSharedMemoryUnregister", name="")
        await self._ask("CudaSharedMemoryUnregister", name="")

    async def unregister(self, region: str, kind: MemoryKind) -> None:
        await self._ask(f"{kind.capitalize()}SharedMemoryUnregister", name=region)

    async def register(self, region: str, key: str, byte_size: int) -> None:
        await self._ask("SystemSharedMemoryRegister", name=region, key=key, byte_size=byte_size)

    async def register_cuda(self, region: str, handle: bytes, device: int, byte_size: int) -> None:
        await self._ask(
            "CudaSharedMemoryRegister",
            name=region,
            raw_handle=handle,
            device_id=device,
            byte_size=byte_size,
        )

    async def set_trace(self, settings: Mapping[str, str]) -> None:
        values = {name: {"value": [value]} for name, value in settings.items()}
        await self._ask("TraceSetting", settings=values)
