"""The REST port by Triton's own HTTP clients: case 59 and what else they can ask."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.http as httpclient
import tritonclient.http.aio as httpaio
import tritonclient.utils.shared_memory as shm
from tritonclient.utils import (
    InferenceServerException,
    serialize_byte_tensor,
    triton_to_np_dtype,
)

from tests.conformance import grpc_models
from tests.conformance.http_rest import wait_for

pytest_plugins = ("tests.conformance.http_fixtures",)

Array = np.ndarray[Any, Any]
NO_JSON = ("FP16", "BF16")
COMPRESSIONS = (None, "gzip", "deflate")
DATATYPES = tuple(grpc_models.DATATYPES.values())


@pytest.fixture
def client(http_server: Any) -> Iterator[Any]:
    with httpclient.InferenceServerClient(http_server.http, concurrency=4) as client:
        yield client
        client.unregister_system_shared_memory()


def sample(datatype: str) -> Array:
    """The extremes and some between, two rows of them."""
    if datatype == "BYTES":
        words = [b"", b"a b", "é".encode(), b'"quoted"', b"x" * 1000, b"1"]
        return np.array(words, np.object_).reshape(2, 3)
    dtype = np.dtype(triton_to_np_dtype(datatype))
    if datatype == "BF16":
        return np.array([[0.0, 1.0, -2.5], [3.0, 256.0, -0.5]], dtype)
    if dtype.kind == "b":
        return np.array([[True, False, True], [False, False, True]])
    limits = np.iinfo(dtype) if dtype.kind in "iu" else np.finfo(dtype)
    return np.array([[limits.min, 0, 1], [limits.max, 2, 3]], dtype)


def check(result: Any, array: Array, datatype: str, *, binary: bool) -> None:
    found = result.as_numpy("OUTPUT0")
    assert result.get_output("OUTPUT0")["datatype"] == datatype
    if datatype == "BYTES" and not binary:
        found = np.array([each.encode() for each in found.ravel()], np.object_).reshape(found.shape)
    assert np.array_equal(found, array)


def forms(datatype: str) -> list[bool]:
    return [True] if datatype in NO_JSON else [True, False]


def tensors(array: Array, datatype: str, *, binary: bool) -> dict[str, Any]:
    given = httpclient.InferInput("INPUT0", list(array.shape), datatype)
    given.set_data_from_numpy(array, binary_data=binary)
    wanted = httpclient.InferRequestedOutput("OUTPUT0", binary_data=binary)
    return {"model_name": f"ident_{datatype}", "inputs": [given], "outputs": [wanted]}


@pytest.mark.parametrize("datatype", DATATYPES)
def test_case_59_every_datatype_in_every_form(datatype: str, client: Any) -> None:
    array = sample(datatype)
    for binary in forms(datatype):
        for there in COMPRESSIONS:
            for back in COMPRESSIONS:
                result = client.infer(
                    **tensors(array, datatype, binary=binary),
                    request_compression_algorithm=there,
                    response_compression_algorithm=back,
                )
                check(result, array, datatype, binary=binary)


def test_case_59_every_datatype_by_the_asyncio_client(http_server: Any) -> None:
    async def ask() -> None:
        async with httpaio.InferenceServerClient(http_server.http) as client:
            for datatype in DATATYPES:
                array = sample(datatype)
                for binary in forms(datatype):
                    for squeeze in COMPRESSIONS:
                        result = await client.infer(
                            **tensors(array, datatype, binary=binary),
                            request_compression_algorithm=squeeze,
                            response_compression_algorithm=squeeze,
                        )
                        check(result, array, datatype, binary=binary)

    asyncio.run(ask())


@pytest.mark.parametrize("datatype", DATATYPES)
def test_case_59_every_datatype_in_shared_memory(datatype: str, client: Any) -> None:
    array = sample(datatype)
    raw = serialize_byte_tensor(array) if datatype == "BYTES" else array
    size = len(raw.item()) if datatype == "BYTES" else raw.nbytes
    region = shm.create_shared_memory_region(f"r_{datatype}", f"/troupe_{datatype}", 8192)
    try:
        shm.set_shared_memory_region(region, [raw])
        client.register_system_shared_memory(f"r_{datatype}", f"/troupe_{datatype}", 8192)
        given = httpclient.InferInput("INPUT0", list(array.shape), datatype)
        given.set_shared_memory(f"r_{datatype}", size)
        wanted = httpclient.InferRequestedOutput("OUTPUT0")
        wanted.set_shared_memory(f"r_{datatype}", 4096, offset=4096)
        result = client.infer(f"ident_{datatype}", [given], outputs=[wanted])
        described = result.get_output("OUTPUT0")
        assert (described["datatype"], described["shape"]) == (datatype, [2, 3])
        assert "data" not in described
        dtype = np.object_ if datatype == "BYTES" else array.dtype
        found = shm.get_contents_as_numpy(region, dtype, [2, 3], offset=4096)
        assert np.array_equal(found, array)
        del found
        client.unregister_system_shared_memory(f"r_{datatype}")
        assert client.get_system_shared_memory_status() == []
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shm.destroy_shared_memory_region(region)


def test_many_requests_at_a_time(client: Any, http_server: Any) -> None:
    array = np.arange(4096, dtype=np.int32).reshape(1, 4096)

    def ask(number: int) -> bool:
        with httpclient.InferenceServerClient(http_server.http) as mine:
            for step in range(10):
                asked = array + number * 1000 + step
                result = mine.infer(**tensors(asked, "INT32", binary=True))
                if not np.array_equal(result.as_numpy("OUTPUT0"), asked):
                    return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(ask, range(8)))
    pending = [client.async_infer(**tensors(array + n, "INT32", binary=True)) for n in range(16)]
    for number, each in enumerate(pending):
        assert np.array_equal(each.get_result().as_numpy("OUTPUT0"), array + number)


def test_what_the_clients_ask_beside_inference(client: Any) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("simple", "1")
    assert not client.is_model_ready("nope")
    assert client.get_server_metadata()["name"] == "x"
    assert client.get_model_metadata("simple")["versions"] == ["1"]
    assert client.get_model_config("simple")["max_batch_size"] == 8
    assert {row["name"] for row in client.get_model_repository_index()} > {"simple", "rep"}
    client.unload_model("ident_UINT8", unload_dependents=True)
    assert not client.is_model_ready("ident_UINT8")
    client.load_model("ident_UINT8")
    assert client.is_model_ready("ident_UINT8")
    (row,) = client.get_inference_statistics("simple")["model_stats"]
    assert row["name"] == "simple"
    assert client.get_trace_settings()["trace_mode"] == "triton"
    assert client.get_trace_settings("simple")["trace_level"] == ["OFF"]
    settings = client.update_log_settings({"log_verbose_level": 1})
    assert settings["log_verbose_level"] == 1
    assert client.update_log_settings({"log_verbose_level": 0}) == client.get_log_settings()
    assert client.get_cuda_shared_memory_status() == []
    with pytest.raises(InferenceServerException, match="log file location can not be updated"):
        client.update_log_settings({"log_file": "/tmp/x"})
    with pytest.raises(InferenceServerException, match="trace file location can not be updated"):
        client.update_trace_settings(settings={"trace_file": "/tmp/x"})


def test_an_asyncio_call_that_is_cancelled(http_server: Any, http_notes: Any) -> None:
    async def ask() -> None:
        async with httpaio.InferenceServerClient(http_server.http) as client:
            given = httpclient.InferInput("IN", [1], "FP32")
            given.set_data_from_numpy(np.array([10.0], np.float32))
            call = asyncio.create_task(client.infer("patient", [given], request_id="aio"))
            await asyncio.to_thread(wait_for, (http_notes / "began aio").exists)
            call.cancel()
            await asyncio.to_thread(wait_for, (http_notes / "cancelled aio").exists)

    asyncio.run(ask())
