"""Tensors of every datatype over gRPC: raw, typed, compressed and in shared memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.utils.shared_memory as shm
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import (
    InferenceServerException,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from tests.conformance import grpc_models

Array = np.ndarray[Any, Any]

CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents",
    "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents",
    "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


@pytest.fixture(scope="module")
def notes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("notes")


@pytest.fixture(scope="module")
def server(
    notes: Path, tmp_path_factory: pytest.TempPathFactory, run_server: Callable[..., Any]
) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("tensors")
    grpc_models.write_identities(repository)
    grpc_models.link_sample(repository, "simple")
    grpc_models.write_patient(repository, notes)
    with run_server(repository, "--allow-client-shm=true") as running:
        yield running


@pytest.fixture
def client(server: Any) -> Iterator[Any]:
    with grpcclient.InferenceServerClient(server.grpc) as client:
        yield client
        client.unregister_system_shared_memory()


def values(datatype: str) -> Array:
    """The extremes and some between, two rows of them."""
    if datatype == "BYTES":
        return np.array(
            [[b"", b"a\0b", "é".encode()], [b"\xff\xfe", b"x" * 1000, b"1"]], np.object_
        )
    dtype = np.dtype(triton_to_np_dtype(datatype))
    if datatype == "BF16":
        return np.array([[0.0, 1.0, -2.5], [3.0, 256.0, -0.5]], dtype)
    if dtype.kind == "b":
        return np.array([[True, False, True], [False, False, True]])
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    return np.array([[limits.min, 0, 1], [limits.max, 2, 3]], dtype)


def tensor(name: str, array: Array, datatype: str) -> Any:
    given = grpcclient.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return given


@pytest.mark.parametrize("algorithm", [None, "gzip", "deflate"])
@pytest.mark.parametrize("datatype", grpc_models.DATATYPES.values())
def test_what_goes_in_comes_out(client: Any, datatype: str, algorithm: str | None) -> None:
    array = values(datatype)
    inputs = [tensor("INPUT0", array, datatype)]

    answer = client.infer(f"ident_{datatype}", inputs, compression_algorithm=algorithm)

    assert np.array_equal(answer.as_numpy("OUTPUT0"), array)


@pytest.mark.parametrize(("datatype", "field"), CONTENTS.items())
def test_typed_contents_are_the_same_tensors(server: Any, datatype: str, field: str) -> None:
    array = values(datatype)
    request = service_pb2.ModelInferRequest(model_name=f"ident_{datatype}")
    given = request.inputs.add(name="INPUT0", datatype=datatype, shape=array.shape)
    getattr(given.contents, field).extend(array.ravel().tolist())
    with grpc.insecure_channel(server.grpc) as channel:
        answer = service_pb2_grpc.GRPCInferenceServiceStub(channel).ModelInfer(request)

    raw = serialize_byte_tensor(array).item() if datatype == "BYTES" else array.tobytes()
    assert answer.raw_output_contents[0] == raw
    assert not answer.outputs[0].HasField("contents")


def test_a_large_tensor_comes_back_whole(client: Any) -> None:
    array = np.arange(16 << 20, dtype=np.float32).reshape(1, -1)  # 64 MiB
    answer = client.infer("ident_FP32", [tensor("INPUT0", array, "FP32")])
    assert np.array_equal(answer.as_numpy("OUTPUT0"), array)


# --- shared memory -------------------------------------------------------------------------------


class Shared:
    """An object in /dev/shm, named after this process and the test."""

    def __init__(self, name: str, nbytes: int) -> None:
        self.key = f"/troupe_test_{os.getpid()}_{name}"
        self.handle = shm.create_shared_memory_region(name, self.key, nbytes)

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *_: object) -> None:
        shm.destroy_shared_memory_region(self.handle)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("datatype", grpc_models.DATATYPES.values())
def test_tensors_may_lie_in_shared_memory(client: Any, datatype: str, streaming: bool) -> None:
    array = values(datatype)
    given = grpcclient.InferInput("INPUT0", list(array.shape), datatype)
    if datatype == "BYTES":
        array = serialize_byte_tensor(array)
    raw = bytes(array.item()) if datatype == "BYTES" else array.tobytes()
    size = len(raw)
    with Shared("both", 16_384) as shared:
        shm.set_shared_memory_region(shared.handle, [array])
        client.register_system_shared_memory("both", shared.key, 16_384)
        given.set_shared_memory("both", size)
        wanted = grpcclient.InferRequestedOutput("OUTPUT0")
        wanted.set_shared_memory("both", size + 8, offset=8192)
        response = ask(client, f"ident_{datatype}", [given], [wanted], streaming=streaming)

        assert list(response.outputs[0].shape) == list(values(datatype).shape)
        assert list(response.raw_output_contents) == [b""]
        back = shm.get_contents_as_numpy(shared.handle, np.uint8, [16_384])
        assert bytes(back[8192 : 8192 + size]) == raw
        assert bytes(back[8192 + size : 8192 + size + 8]) == bytes(8)


def ask(
    client: Any, model: str, inputs: list[Any], outputs: list[Any] | None, *, streaming: bool
) -> Any:
    if not streaming:
        return client.infer(model, inputs, outputs=outputs).get_response()
    answers: list[Any] = []
    client.start_stream(lambda result, error: answers.append((result, error)))
    client.async_stream_infer(model, inputs, outputs=outputs)
    client.stop_stream()
    ((result, error),) = answers
    assert error is None, error
    return result.get_response()


def test_raw_tensors_are_those_that_are_not_shared(client: Any) -> None:
    left, right = np.arange(16, dtype=np.int32).reshape(1, 16), np.full((1, 16), 7, np.int32)
    with Shared("left", 64) as shared:
        shm.set_shared_memory_region(shared.handle, [left])
        client.register_system_shared_memory("left", shared.key, 64)
        shared_input = grpcclient.InferInput("INPUT0", [1, 16], "INT32")
        shared_input.set_shared_memory("left", 64)
        answer = client.infer("simple", [shared_input, tensor("INPUT1", right, "INT32")])

    assert np.array_equal(answer.as_numpy("OUTPUT0"), left + right)
    assert np.array_equal(answer.as_numpy("OUTPUT1"), left - right)


def failure(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        call()
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def test_regions_are_registered_listed_and_forgotten(client: Any) -> None:
    with Shared("r", 64) as shared:
        client.register_system_shared_memory("r", shared.key, 64)
        status = client.get_system_shared_memory_status(as_json=True)
        assert status["regions"]["r"] == {"name": "r", "key": shared.key, "byte_size": "64"}
        assert client.get_system_shared_memory_status("r").regions["r"].byte_size == 64
        assert failure(lambda: client.register_system_shared_memory("r", shared.key, 64)) == (
            "ALREADY_EXISTS", "shared memory region 'r' already in manager"
        )  # fmt: skip
        assert failure(lambda: client.register_system_shared_memory("s", shared.key, 65)) == (
            "INVALID_ARGUMENT", "failed to register shared memory region 's': invalid args"
        )  # fmt: skip
        client.unregister_system_shared_memory("unknown")
        client.unregister_cuda_shared_memory()
        assert client.get_system_shared_memory_status().regions
        client.unregister_system_shared_memory("r")
        assert not client.get_system_shared_memory_status().regions


@pytest.mark.parametrize(("size", "offset", "code", "text"), [
    (4, 64, "INVALID_ARGUMENT", "Invalid offset for shared memory region: 'r'"),
    (4, 61, "INVALID_ARGUMENT", "Invalid offset + byte size for shared memory region: 'r'"),
    (-1, 1, "INVALID_ARGUMENT",
     ("Integer overflow detected: byte_size (18446744073709551615) + offset (1) exceeds maximum "
      "value (18446744073709551615) for region 'r'")),
    (4, -1, "INVALID_ARGUMENT", "Invalid offset for shared memory region: 'r'"),
])  # fmt: skip
def test_spans_outside_of_a_region(
    client: Any, size: int, offset: int, code: str, text: str
) -> None:
    given = grpcclient.InferInput("INPUT0", [1, 1], "FP32")
    given.set_shared_memory("r", size, offset=offset)
    wanted = grpcclient.InferRequestedOutput("OUTPUT0")
    wanted.set_shared_memory("r", size, offset=offset)
    good = tensor("INPUT0", np.zeros((1, 1), np.float32), "FP32")
    with Shared("r", 64) as shared:
        client.register_system_shared_memory("r", shared.key, 64)
        assert failure(lambda: client.infer("ident_FP32", [given])) == (code, text)
        outputs = [wanted]
        refused = failure(lambda: client.infer("ident_FP32", [good], outputs=outputs))
        assert refused == (code, text)


def test_an_output_that_does_not_fit_its_span(client: Any) -> None:
    wanted = grpcclient.InferRequestedOutput("OUTPUT0")
    wanted.set_shared_memory("r", 4)
    given = tensor("INPUT0", np.zeros((1, 2), np.float32), "FP32")
    with Shared("r", 64) as shared:
        client.register_system_shared_memory("r", shared.key, 64)
        assert failure(lambda: client.infer("ident_FP32", [given], outputs=[wanted])) == (
            "INTERNAL",
            (
                "shared memory size specified with the request for output 'OUTPUT0' (4 bytes) "
                "should be at least 8 bytes to hold the results"
            ),
        )


def test_a_region_in_use_stays_until_its_request_is_answered(client: Any, notes: Path) -> None:
    given = grpcclient.InferInput("IN", [1], "FP32")
    given.set_shared_memory("r", 4)
    wanted = grpcclient.InferRequestedOutput("OUT")
    wanted.set_shared_memory("r", 4, offset=32)
    with Shared("r", 64) as shared:
        shm.set_shared_memory_region(shared.handle, [np.array([0.3], np.float32)])
        client.register_system_shared_memory("r", shared.key, 64)
        outcome: list[Any] = []
        client.async_infer(
            "patient",
            [given],
            lambda result, error: outcome.append((result, error)),
            request_id="shared",
            outputs=[wanted],
        )
        while not (notes / "began shared").exists():
            assert not outcome
        client.unregister_system_shared_memory("r")
        assert list(client.get_system_shared_memory_status().regions) == ["r"]
        while client.get_system_shared_memory_status().regions:
            pass
        assert (notes / "ended shared").exists()
        back = shm.get_contents_as_numpy(shared.handle, np.float32, [16])
        assert back[8] == np.float32(0.3)
