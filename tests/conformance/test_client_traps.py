"""What Triton's clients rely on without saying so, each asked by the client that would stumble.

The rest of these traps are checked by the drivers in `clients/`; `test_protocol_cases` lists all.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.grpc import service_pb2, service_pb2_grpc
from tritonclient.utils import InferenceServerException

from tests.conformance import grpc_models
from tests.conformance.http_rest import IDENTITY, PATIENCE

# Far more than the 100 calls at a time that HTTP/2 wants a server to allow at least.
CALLS: Final = 500
SPACED: Final = "a model, 100% é"


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, run_server: Callable[..., Any]
) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("traps")
    grpc_models.link_sample(repository, "simple")
    wild = IDENTITY % (8, "TYPE_FP32", "[ -1 ]", "TYPE_FP32", "[ -1 ]", "")
    grpc_models.write_model(repository, "identity", wild)
    grpc_models.write_model(repository, SPACED, wild)
    with run_server(repository, "--model-control-mode=explicit", "--load-model=*") as running:
        yield running


@pytest.fixture
def over_http(server: Any) -> Iterator[Any]:
    with httpclient.InferenceServerClient(server.http) as client:
        yield client


@pytest.fixture
def over_grpc(server: Any) -> Iterator[Any]:
    with grpcclient.InferenceServerClient(server.grpc) as client:
        yield client


def tensor(module: Any, array: np.ndarray[Any, Any], datatype: str, name: str = "INPUT0") -> Any:
    given = module.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return given


def test_malformed_json_and_a_wrong_json_type_are_errors_of_status_500(over_http: Any) -> None:
    def refused(call: Callable[[], object]) -> tuple[str, str]:
        with pytest.raises(InferenceServerException) as caught:
            call()
        return caught.value.status(), caught.value.message()

    status, text = refused(lambda: over_http.update_trace_settings(settings={"trace_rate": 5}))
    assert status == "500"
    assert text == "Unable to parse 'trace_rate': attempt to access JSON non-string as string"

    negative = tensor(httpclient, np.zeros((1, 16), np.int32), "INT32")
    negative.set_shape([1, -16])
    other = tensor(httpclient, np.zeros((1, 16), np.int32), "INT32", "INPUT1")
    status, text = refused(lambda: over_http.infer("simple", [negative, other]))
    assert status == "500"
    assert text == (
        "Unable to parse 'shape': attempt to access JSON non-unsigned-integer as unsigned-integer"
    )

    # No call of the client makes malformed JSON, so its connection is given some.
    response = over_http._post("v2/models/simple/infer", "{", {}, {})
    assert response.status_code == 500
    assert b"failed to parse the request JSON buffer: " in response.read()


@pytest.mark.parametrize("name", [SPACED])
def test_a_name_that_the_client_quotes_is_found(name: str, over_http: Any, over_grpc: Any) -> None:
    one = np.ones((1, 1), np.float32)
    for client, module in ((over_http, httpclient), (over_grpc, grpcclient)):
        assert client.is_model_ready(name)
        answer = client.infer(name, [tensor(module, one, "FP32")])
        assert answer.as_numpy("OUTPUT0").tolist() == [[1.0]]
        client.unload_model(name)
        assert not client.is_model_ready(name)
        client.load_model(name)


def test_an_output_without_elements_has_its_place(over_http: Any, over_grpc: Any) -> None:
    nothing = np.zeros((2, 0), np.float32)
    response = over_grpc.infer("identity", [tensor(grpcclient, nothing, "FP32")]).get_response()
    assert [list(each.shape) for each in response.outputs] == [[2, 0]]
    # The C++ client takes the i-th of them for the i-th output without counting them.
    assert list(response.raw_output_contents) == [b""]

    # All binary outputs being empty, the body is JSON alone and no header gives its length.
    answer = over_http.infer("identity", [tensor(httpclient, nothing, "FP32")])
    assert answer.get_response()["outputs"][0]["shape"] == [2, 0]
    assert answer.get_output("OUTPUT0")["parameters"] == {"binary_data_size": 0}


def test_unary_calls_may_speak_of_an_empty_final_response(server: Any, over_grpc: Any) -> None:
    """The C++ client does so in every call; the Python client does not let its user."""
    request = service_pb2.ModelInferRequest(model_name="identity", id="q")
    request.inputs.add(name="INPUT0", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(bytes(4))
    with grpcclient.grpc.insecure_channel(server.grpc) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        for wanted in (False, True):
            request.parameters["triton_enable_empty_final_response"].bool_param = wanted
            response = stub.ModelInfer(request, timeout=PATIENCE)
            assert response.id == "q"
            assert "triton_final_response" not in response.parameters
    # The client of this test's environment agrees that others are reserved.
    with pytest.raises(InferenceServerException, match="reserved"):
        over_grpc.infer("identity", [], parameters={"sequence_id": 1})


def test_one_channel_carries_hundreds_of_calls(over_grpc: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    for number in range(CALLS):
        array = np.full((1, 1), number, np.float32)
        over_grpc.async_infer(
            "identity",
            [tensor(grpcclient, array, "FP32")],
            lambda result, error: answers.put((result, error)),
        )
    found = []
    for _ in range(CALLS):
        result, error = answers.get(timeout=PATIENCE)
        assert error is None, error
        found.append(int(result.as_numpy("OUTPUT0").item()))
    assert sorted(found) == list(range(CALLS))
