"""Errors that take a special model or a special moment, over real sockets and both protocols."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from tests.conformance import grpc_models
from tests.conformance.http_rest import (
    IDENTITY,
    Rest,
    connect,
    hear_out,
    is_refused,
    tensor,
    wait_for,
)

pytest_plugins = ("tests.conformance.http_fixtures",)

WILD: Final = ("TYPE_FP32", "[ -1 ]", "TYPE_FP32", "[ -1 ]", "")
# Two inputs that a request must have, and one that it may have.
OPTIONAL: Final = """backend: "identity"
input { name: "INPUT0" data_type: TYPE_FP32 dims: [ 1 ] }
input { name: "INPUT1" data_type: TYPE_FP32 dims: [ 1 ] }
input { name: "INPUT2" data_type: TYPE_FP32 dims: [ 1 ] optional: true }
output { name: "OUTPUT0" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "OUTPUT1" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "OUTPUT2" data_type: TYPE_FP32 dims: [ 1 ] }
"""
# Not decoupled, and yet it sends as many responses as its input says.
CHATTERBOX: Final = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            given = pb_utils.get_input_tensor_by_name(request, "IN").as_numpy()
            for _ in range(int(given[0])):
                sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUT", given)]))
            sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
        return None
"""
FLAGS: Final = (
    "--model-control-mode=explicit",
    "--load-model=*",
    "--allow-client-shm=true",
    "--http-header-forward-pattern=timeout",
    "--grpc-header-forward-pattern=timeout",
)
MOST_ELEMENTS: Final = 1_000_000  # of which classes are taken


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, run_server: Callable[..., Any]
) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("rare")
    write = grpc_models.write_model
    write(repository, "optional", OPTIONAL)
    write(repository, "chatterbox", grpc_models.TENSORS, CHATTERBOX)
    write(repository, "large", IDENTITY % (0, *WILD))
    write(repository, "nested", (IDENTITY % (0, *WILD)).replace("INPUT0", "parameters"))
    with run_server(repository, *FLAGS) as running:
        yield running


@pytest.fixture(params=["http", "grpc"])
def client(request: pytest.FixtureRequest, server: Any) -> Iterator[Any]:
    """Triton's own client of either protocol, with its module as `module`."""
    module = httpclient if request.param == "http" else grpcclient
    with module.InferenceServerClient(getattr(server, request.param)) as client:
        client.module = module
        yield client


def given(client: Any, name: str, array: np.ndarray[Any, Any]) -> Any:
    made = client.module.InferInput(name, list(array.shape), "FP32")
    made.set_data_from_numpy(array)
    return made


def refusal(call: Callable[[], object]) -> tuple[str, str]:
    with pytest.raises(InferenceServerException) as caught:
        call()
    return caught.value.status().removeprefix("StatusCode."), caught.value.message()


def test_e20_how_many_inputs_a_model_with_optional_ones_takes(client: Any) -> None:
    one = np.ones(1, np.float32)
    both = [given(client, name, one) for name in ("INPUT0", "INPUT1")]
    assert client.infer("optional", both).as_numpy("OUTPUT1").tolist() == [1.0]
    code, text = refusal(lambda: client.infer("optional", both[:1], request_id="q"))
    assert code in ("400", "INVALID_ARGUMENT")
    assert text == (
        "[request id: q] expected number of inputs between 2 and 3 but got 1 inputs for model "
        "'optional'. Got input(s) ['INPUT0'], but missing required input(s) ['INPUT1']. Please "
        "provide all required input(s)."
    )


def test_e41_a_region_of_the_other_kind_is_named(client: Any, memory: SharedMemory) -> None:
    client.register_system_shared_memory("r", memory.name, 64)
    code, text = refusal(lambda: client.get_cuda_shared_memory_status("r"))
    assert code in ("404", "NOT_FOUND")
    assert text == (
        "The region named 'r' is registered as system shared memory, not CUDA shared memory"
    )
    client.unregister_cuda_shared_memory("r")  # of the other kind, so it stays
    client.unregister_system_shared_memory("r")
    code, text = refusal(lambda: client.get_system_shared_memory_status("r"))
    assert code in ("404", "NOT_FOUND")
    assert text == "Unable to find system shared memory region: 'r'"


def test_e48_a_header_of_a_reserved_name_is_not_forwarded(client: Any) -> None:
    one = [given(client, "INPUT0", np.ones(1, np.float32))]
    code, text = refusal(lambda: client.infer("large", one, headers={"timeout": "1"}))
    assert code in ("400", "INVALID_ARGUMENT")
    assert text == "Header 'timeout' is reserved for Triton usage and cannot be forwarded."
    assert client.infer("large", one, headers={"other": "1"}).as_numpy("OUTPUT0") == [1.0]


def test_e59_a_load_that_fails_says_why(client: Any) -> None:
    config = json.dumps({"backend": "nobody"})
    code, text = refusal(lambda: client.load_model("large", config=config))
    assert code in ("400", "INVALID_ARGUMENT")
    assert text.startswith("load failed for model 'large': version 1 is at UNAVAILABLE state: ")
    assert "nobody" in text
    assert text.endswith("\n")
    # What was loaded before goes on.
    one = [given(client, "INPUT0", np.ones(1, np.float32))]
    assert client.infer("large", one).as_numpy("OUTPUT0") == [1.0]


def test_classes_are_taken_of_a_million_elements_at_most(client: Any) -> None:
    wanted = [client.module.InferRequestedOutput("OUTPUT0", class_count=1)]

    def ask(count: int) -> Any:
        array = np.zeros(count, np.float32)
        array[-1] = 1.0
        return client.infer("large", [given(client, "INPUT0", array)], outputs=wanted)

    best = f"1.000000:{MOST_ELEMENTS - 1}".encode()
    assert ask(MOST_ELEMENTS).as_numpy("OUTPUT0").tolist() == [best]
    code, text = refusal(lambda: ask(MOST_ELEMENTS + 1))
    assert code in ("400", "INVALID_ARGUMENT")
    assert text == "classification output tensor too large"


def test_a_model_that_is_not_decoupled_gives_one_response(server: Any) -> None:
    rest = Rest(server.http)
    one = {"inputs": [tensor("IN", "FP32", [1], [1.0])]}
    assert rest.infer("chatterbox", one).json()["outputs"][0]["data"] == [1.0]
    two = {"inputs": [tensor("IN", "FP32", [1], [2.0])]}
    response = rest.infer("chatterbox", two)
    assert (response.status, response.error) == (500, "expected a single response, got 2")
    rest.close()


def test_a_generation_cannot_tell_parameters_from_an_input_of_that_name(server: Any) -> None:
    rest = Rest(server.http)
    response = rest.post("/v2/models/nested/generate", {"parameters": {"x": 1}})
    assert (response.status, response.error) == (
        400, "Keyword 'parameters' for nested schema also given as input tensor name",
    )  # fmt: skip
    rest.close()


def test_e5_a_probe_that_was_half_sent_is_told_of_the_end(
    tmp_path: Path, start_server: Callable[..., Any]
) -> None:
    grpc_models.write_model(tmp_path, "large", IDENTITY % (0, *WILD))
    server = start_server(tmp_path)
    probes = {path: connect(server.http) for path in ("live", "ready")}
    for path, peer in probes.items():
        peer.sendall(f"GET /v2/health/{path} HTTP/1.1\r\nHost: x\r\n".encode())
    # Both have been read once another connection, which came later, has had its answer.
    rest = Rest(server.http)
    assert rest.get("/v2/health/live").status == 200
    server.process.send_signal(signal.SIGTERM)
    wait_for(lambda: is_refused(server.http))
    for peer in probes.values():
        peer.sendall(b"\r\n")
        head, _, body = hear_out(peer).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nConnection: close" in head
        assert json.loads(body) == {"error": "Server exiting"}
        peer.close()
    rest.close()
    assert server.stop() == 0
