"""Sequences over the wire, by the clients that people have, on the sample models and a few more."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from tests.conformance import grpc_models

PATIENCE: Final = 20.0  # seconds after which a test has failed
VALUES: Final = (11, 7, 5, 3, 2, 0, 1)

TENSORS: Final = """
backend: "python" instance_group { kind: KIND_CPU }
input { name: "INPUT" data_type: TYPE_INT32 dims: [ 1 ] }
output { name: "OUTPUT" data_type: TYPE_INT32 dims: [ 1 ] }
"""

# Says which sequence it was asked for, and whether that was its first or last request.
NAMER_CONFIG: Final = """
max_batch_size: 4
backend: "python" instance_group { kind: KIND_CPU }
input { name: "INPUT" data_type: TYPE_INT32 dims: [ 1 ] }
output { name: "OUTPUT" data_type: TYPE_STRING dims: [ 1 ] }
sequence_batching {
  control_input { name: "NAME"
    control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } }
  control_input { name: "END"
    control { kind: CONTROL_SEQUENCE_END bool_false_true: [ false, true ] } }
}
"""
NAMER: Final = """
import numpy as np
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            name = pb_utils.get_input_tensor_by_name(request, "NAME").as_numpy()[0, 0].decode()
            end = pb_utils.get_input_tensor_by_name(request, "END").as_numpy()[0, 0]
            text = f"{name} {request.correlation_id()} {request.flags()} {end}"
            out = pb_utils.Tensor("OUTPUT", np.array([[text.encode()]], np.object_))
            responses.append(pb_utils.InferenceResponse([out]))
        return responses
"""

# Sums up; the server remembers the sum.
ADDER_CONFIG: Final = (
    TENSORS
    + """
max_batch_size: 4
sequence_batching {
  oldest { max_candidate_sequences: 8 }
  state { input_name: "BEFORE" output_name: "AFTER" data_type: TYPE_INT32 dims: [ 1 ]
    initial_state { name: "ten" data_type: TYPE_INT32 dims: [ 1 ] data_file: "ten" } }
}
"""
)
ADDER: Final = """
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        responses = []
        for request in requests:
            value, before = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in ("INPUT", "BEFORE")
            )
            responses.append(pb_utils.InferenceResponse([
                pb_utils.Tensor("OUTPUT", value + before), pb_utils.Tensor("AFTER", value + before)
            ]))
        return responses
"""

# Answers with every number from its input down to 0, one each time it sees the request.
COUNTDOWN_CONFIG: Final = (
    TENSORS
    + """
max_batch_size: 4
model_transaction_policy { decoupled: true }
sequence_batching {
  iterative_sequence: true
  state { input_name: "LEFT" output_name: "NEXT" data_type: TYPE_INT32 dims: [ 1 ] }
  control_input { name: "START"
    control { kind: CONTROL_SEQUENCE_START int32_false_true: [ 0, 1 ] } }
  control_input { name: "READY"
    control { kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } }
}
"""
)
COUNTDOWN: Final = """
import triton_python_backend_utils as pb_utils
FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            sender = request.get_response_sender()
            value, left, start, ready = (
                pb_utils.get_input_tensor_by_name(request, name).as_numpy()
                for name in ("INPUT", "LEFT", "START", "READY")
            )
            if not ready[0, 0]:
                sender.send(flags=FINAL)
                continue
            now = value if start[0, 0] else left
            last = not now[0, 0]
            sender.send(
                pb_utils.InferenceResponse([
                    pb_utils.Tensor("OUTPUT", now), pb_utils.Tensor("NEXT", now - 1)
                ]),
                FINAL if last else 0,
            )
            if not last:
                request.set_release_flags(pb_utils.TRITONSERVER_REQUEST_RELEASE_RESCHEDULE)
        return None
"""


def write_model(repository: Path, name: str, config: str, code: str) -> Path:
    version = repository / name / "1"
    version.mkdir(parents=True)
    (repository / name / "config.pbtxt").write_text(config)
    (version / "model.py").write_text(code)
    return repository / name


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, run_server: Callable[..., Any]
) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("sequences")
    for sample in ("simple_sequence", "simple_dyna_sequence", "stateful_accumulate"):
        grpc_models.link_sample(repository, sample)
    write_model(repository, "namer", NAMER_CONFIG, NAMER)
    adder = write_model(repository, "adder", ADDER_CONFIG, ADDER)
    (adder / "initial_state").mkdir()
    (adder / "initial_state" / "ten").write_bytes((10).to_bytes(4, "little"))
    write_model(repository, "countdown", COUNTDOWN_CONFIG, COUNTDOWN)
    with run_server(repository) as running:
        yield running


@pytest.fixture(scope="module")
def grpc(server: Any) -> Iterator[Any]:
    with grpcclient.InferenceServerClient(server.grpc) as client:
        yield client


@pytest.fixture(scope="module")
def http(server: Any) -> Iterator[Any]:
    with httpclient.InferenceServerClient(server.http, concurrency=4) as client:
        yield client


def given(library: Any, value: int) -> list[Any]:
    tensor = library.InferInput("INPUT", [1, 1], "INT32")
    tensor.set_data_from_numpy(np.array([[value]], np.int32))
    return [tensor]


def ask(library: Any, client: Any, model: str, value: int, sequence: int | str, **how: Any) -> Any:
    result = client.infer(model, given(library, value), sequence_id=sequence, **how)
    return result.as_numpy("OUTPUT").item()


def play(library: Any, client: Any, model: str, sequence: int | str) -> list[int]:
    """The answers to a whole sequence, one request after the other."""
    last = len(VALUES) - 1
    return [
        ask(
            library,
            client,
            model,
            value,
            sequence,
            sequence_start=place == 0,
            sequence_end=place == last,
        )
        for place, value in enumerate(VALUES)
    ]


@pytest.mark.parametrize("library", [grpcclient, httpclient], ids=["grpc", "http"])
def test_a_sequence_of_single_calls(library: Any, grpc: Any, http: Any) -> None:
    client = grpc if library is grpcclient else http

    assert play(library, client, "simple_sequence", 1000) == [12, *VALUES[1:]]
    assert play(library, client, "simple_sequence", "word") == [12, *VALUES[1:]]
    assert play(library, client, "simple_dyna_sequence", 1001) == [12, *VALUES[1:-1], 1002]
    assert play(library, client, "stateful_accumulate", 1002) == list(np.cumsum(VALUES))


def test_two_sequences_on_one_stream(server: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    with grpcclient.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for place, value in enumerate(VALUES):
            for sequence, sign in ((2001, 1), ("two", -1)):
                client.async_stream_infer(
                    "simple_sequence",
                    given(grpcclient, sign * value),
                    request_id=f"{sequence}_{place}",
                    sequence_id=sequence,
                    sequence_start=place == 0,
                    sequence_end=place == len(VALUES) - 1,
                )
        found = {}
        for _ in range(2 * len(VALUES)):
            result, error = answers.get(timeout=PATIENCE)
            assert error is None
            found[result.get_response().id] = result.as_numpy("OUTPUT").item()
        client.stop_stream()

    assert [found[f"2001_{place}"] for place in range(len(VALUES))] == [12, *VALUES[1:]]
    negative = [-value for value in VALUES]
    assert [found[f"two_{place}"] for place in range(len(VALUES))] == [-10, *negative[1:]]


def test_many_sequences_at_once_keep_their_sums_apart(server: Any) -> None:
    found: dict[int, list[int]] = {}

    def one(sequence: int) -> None:
        with grpcclient.InferenceServerClient(server.grpc) as client:
            found[sequence] = [
                ask(
                    grpcclient,
                    client,
                    "stateful_accumulate",
                    sequence,
                    sequence,
                    sequence_start=place == 0,
                    sequence_end=place == 19,
                )
                for place in range(20)
            ]

    threads = [threading.Thread(target=one, args=(sequence,)) for sequence in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)

    assert found == {
        sequence: [sequence * count for count in range(1, 21)] for sequence in range(1, 13)
    }


def test_a_model_sees_the_name_of_a_sequence(grpc: Any, http: Any) -> None:
    assert ask(grpcclient, grpc, "namer", 0, "fünf", sequence_start=True) == (
        "fünf fünf 1 False".encode()
    )
    assert ask(httpclient, http, "namer", 0, "fünf", sequence_end=True) == (
        "fünf fünf 2 True".encode()
    )


def test_a_python_model_has_its_state_kept(grpc: Any) -> None:
    wanted = [grpcclient.InferRequestedOutput("OUTPUT")]
    first = ask(grpcclient, grpc, "adder", 1, 7, sequence_start=True)
    second = ask(grpcclient, grpc, "adder", 2, 7, outputs=wanted)
    result = grpc.infer("adder", given(grpcclient, 3), sequence_id=7, sequence_end=True)

    assert (first, second, result.as_numpy("OUTPUT").item()) == (11, 13, 16)
    assert [output.name for output in result.get_response().outputs] == ["OUTPUT"]
    assert ask(grpcclient, grpc, "adder", 1, 7, sequence_start=True, sequence_end=True) == 11


def test_an_iterative_model_streams_until_it_is_done(server: Any) -> None:
    answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
    found: dict[str, list[int]] = {"a": [], "b": []}
    with grpcclient.InferenceServerClient(server.grpc) as client:
        client.start_stream(lambda result, error: answers.put((result, error)))
        for name, value in (("a", 40), ("b", 25)):
            client.async_stream_infer("countdown", given(grpcclient, value), request_id=name)
        for _ in range(41 + 26):
            result, error = answers.get(timeout=PATIENCE)
            assert error is None
            found[result.get_response().id].append(result.as_numpy("OUTPUT").item())
        client.stop_stream()

    assert found == {"a": list(range(40, -1, -1)), "b": list(range(25, -1, -1))}


START = (
    "inference request for sequence 3000 to model 'simple_sequence' must specify the START flag on "
    "the first request of the sequence"
)


UNIDENTIFIED = (
    "inference request to model 'simple_sequence' must specify a non-zero or non-empty "
    "correlation ID"
)
NOT_A_NUMBER = (
    "[request id: <id_unknown>] sequence batching control 'CORRID' data-type is 'BYTES', "
    "but model 'simple_dyna_sequence' expects 'UINT64'"
)
NOT_A_NAME = (
    "[request id: <id_unknown>] sequence batching control 'NAME' data-type is 'UINT64', "
    "but model 'namer' expects 'BYTES'"
)


@pytest.mark.parametrize(
    ("model", "sequence", "starts", "text"),
    [
        ("simple_sequence", 3000, False, START),
        ("simple_sequence", 0, True, UNIDENTIFIED),
        ("simple_dyna_sequence", "word", True, NOT_A_NUMBER),
        ("namer", 5, True, NOT_A_NAME),
    ],
)
def test_mistakes_are_named(
    request: pytest.FixtureRequest, model: str, sequence: int | str, starts: bool, text: str
) -> None:
    grpc, http = request.getfixturevalue("grpc"), request.getfixturevalue("http")
    for library, client, status in (
        (grpcclient, grpc, "StatusCode.INVALID_ARGUMENT"),
        (httpclient, http, "400"),
    ):
        with pytest.raises(InferenceServerException) as caught:
            ask(library, client, model, 1, sequence, sequence_start=starts)
        assert caught.value.message() == text
        assert caught.value.status() == status


def test_a_request_after_the_end_begins_nothing(grpc: Any) -> None:
    play(grpcclient, grpc, "simple_sequence", 4000)
    with pytest.raises(InferenceServerException, match="must specify the START flag"):
        ask(grpcclient, grpc, "simple_sequence", 1, 4000)


def test_a_batch_is_no_request_of_a_sequence(grpc: Any) -> None:
    tensor = grpcclient.InferInput("INPUT", [2, 1], "INT32")
    tensor.set_data_from_numpy(np.array([[1], [2]], np.int32))
    with pytest.raises(InferenceServerException) as caught:
        grpc.infer("simple_sequence", [tensor], sequence_id=5000, sequence_start=True)
    assert caught.value.message() == (
        "inference request to model 'simple_sequence' must specify batch-size 1 due to "
        "requirements of sequence batcher"
    )


def test_a_client_cannot_ask_for_a_hidden_state(grpc: Any) -> None:
    wanted = [grpcclient.InferRequestedOutput("OUTPUT_STATE")]
    with pytest.raises(InferenceServerException) as caught:
        ask(grpcclient, grpc, "stateful_accumulate", 1, 6000, sequence_start=True, outputs=wanted)
    assert caught.value.message() == (
        "unexpected inference output 'OUTPUT_STATE' for model 'stateful_accumulate'"
    )
