"""CUDA shared memory of the load generator, against a stand-in for the CUDA runtime library."""

from __future__ import annotations

import base64
import ctypes
from dataclasses import dataclass, field

import numpy as np
import pytest
from google.protobuf import json_format

from perf_analyzer.cuda_memory import CudaError, CudaMemory
from protocol.proto.messages import message_class
from repo.devices.cuda_runtime import IPC_HANDLE_BYTES
from tests.perf_analyzer.fake_grpc import FakeGrpcServer
from tests.perf_analyzer.fake_server import FakeServer
from tests.perf_analyzer.runs import run

OUT_OF_MEMORY = 2


@dataclass
class FakeRuntime:
    """Hands out ordinary memory; a handle is the address, padded to its size."""

    room: int = 1 << 20
    device: int | None = None
    blocks: dict[int, ctypes.Array[ctypes.c_char]] = field(default_factory=dict)
    seen: dict[bytes, bytes] = field(default_factory=dict)  # handle → what lay there

    def cudaSetDevice(self, device: int, /) -> int:  # noqa: N802
        self.device = device
        return 0

    def cudaMalloc(self, pointer: object, size: ctypes.c_size_t, /) -> int:  # noqa: N802
        if size.value > self.room:
            return OUT_OF_MEMORY
        block = ctypes.create_string_buffer(size.value)
        target = pointer._obj  # type: ignore[attr-defined]  # of ctypes.byref
        target.value = ctypes.addressof(block)
        self.blocks[target.value] = block
        return 0

    def cudaMemcpy(  # noqa: N802
        self, target: ctypes.c_void_p, source: bytes, size: ctypes.c_size_t, kind: int, /
    ) -> int:
        assert kind == 1, "from the host to the device"
        ctypes.memmove(target, source, size.value)
        return 0

    def cudaIpcGetMemHandle(self, handle: object, memory: ctypes.c_void_p, /) -> int:  # noqa: N802
        address = memory.value or 0
        octets = address.to_bytes(8, "little").ljust(IPC_HANDLE_BYTES, b"\0")
        target = handle._obj  # type: ignore[attr-defined]  # of ctypes.byref
        ctypes.memmove(target, octets, IPC_HANDLE_BYTES)
        self.seen[octets] = self.blocks[address].raw
        return 0

    def cudaFree(self, memory: ctypes.c_void_p, /) -> int:  # noqa: N802
        del self.blocks[memory.value or 0]
        return 0

    def cudaGetErrorString(self, error: int, /) -> bytes:  # noqa: N802
        return {OUT_OF_MEMORY: b"out of memory"}[error]


def test_memory_has_its_content_and_a_handle_and_is_given_back() -> None:
    runtime = FakeRuntime()
    memory = CudaMemory(lambda: runtime)

    handle = memory.allocate([b"ab", b"cd"])

    assert runtime.device == 0
    assert len(handle) == IPC_HANDLE_BYTES
    assert runtime.seen[handle] == b"abcd"
    memory.free()
    assert not runtime.blocks


def test_a_failed_call_says_which_and_why() -> None:
    with pytest.raises(CudaError, match=r"^cudaMalloc failed: out of memory$"):
        CudaMemory(lambda: FakeRuntime(room=3)).allocate([b"abcd"])


def test_requests_over_http_refer_to_regions_of_the_gpu() -> None:
    runtime = FakeRuntime()
    server = FakeServer(output=lambda _: b"")

    seen = run(
        server,
        "--request-count 4 --shared-memory cuda",
        cuda=lambda: CudaMemory(lambda: runtime),
    )

    assert seen.status == 0
    registered = {path: body for path, body in server.posts if path.endswith("/register")}
    parameters = server.infers[0].document["inputs"][0]["parameters"]
    region = parameters["shared_memory_region"]
    body = registered[f"/v2/cudasharedmemory/region/{region}/register"]
    assert (body["device_id"], body["byte_size"]) == (0, 16)
    content = runtime.seen[base64.b64decode(body["raw_handle"]["b64"])]
    assert np.frombuffer(content, np.float32).shape == (4,)
    assert any(content)
    output = server.infers[0].document["outputs"][0]["parameters"]
    assert f"/v2/cudasharedmemory/region/{output['shared_memory_region']}/register" in registered
    ends = [path for path, _ in server.posts if path.endswith("/unregister") and "/region/" in path]
    assert all(path.startswith("/v2/cudasharedmemory/") for path in ends)
    assert len(ends) == 2
    assert not runtime.blocks


def test_requests_over_grpc_refer_to_regions_of_the_gpu() -> None:
    runtime = FakeRuntime()
    server = FakeGrpcServer()

    seen = run(
        server,
        "-i grpc --request-count 4 --shared-memory cuda",
        cuda=lambda: CudaMemory(lambda: runtime),
    )

    assert seen.status == 0
    question = message_class("inference.CudaSharedMemoryRegisterRequest").FromString(
        server.questions["CudaSharedMemoryRegister"][0]
    )
    request = json_format.MessageToDict(question, preserving_proto_field_name=True)
    assert (request.get("device_id", "0"), request["byte_size"]) == ("0", "16")
    assert runtime.seen[base64.b64decode(request["raw_handle"])]
    region = server.infers[0].inputs[0].parameters["shared_memory_region"].string_param
    assert region == request["name"]
    assert len(server.questions["CudaSharedMemoryUnregister"]) == 3  # all of them, then one by one
    assert not runtime.blocks


def test_a_machine_without_room_is_told_in_one_line() -> None:
    runtime = FakeRuntime(room=3)

    seen = run(
        FakeServer(),
        "--request-count 4 --shared-memory cuda",
        cuda=lambda: CudaMemory(lambda: runtime),
    )

    assert seen.status == 99
    assert len(seen.errors) == 1
    assert "unable to create CUDA shared memory" in seen.errors[0]
    assert seen.errors[0].endswith("cudaMalloc failed: out of memory")
    assert not runtime.blocks
