"""The sample repository, served, and asked by the clients that Triton's users have."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import urllib.request
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from tritonclient.utils import InferenceServerException

Start = Callable[..., Any]  # Any: fixtures of conftest.py, which importlib mode cannot import

CLIENTS = [pytest.param(grpcclient, id="grpc"), pytest.param(httpclient, id="http")]


def connect(client: ModuleType, server: Any) -> Any:
    return client.InferenceServerClient(server.grpc if client is grpcclient else server.http)


def tensor(client: ModuleType, name: str, array: np.ndarray[Any, Any], datatype: str) -> Any:
    given = client.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return given


@pytest.mark.parametrize("client", CLIENTS)
def test_health_and_metadata(client: ModuleType, sample_server: Any) -> None:
    with connect(client, sample_server) as triton:
        assert triton.is_server_live()
        assert triton.is_server_ready()
        assert triton.is_model_ready("digits")
        assert not triton.is_model_ready("nope")
        metadata = triton.get_model_metadata("simple")
        config = triton.get_model_config("simple")

    name = metadata["name"] if isinstance(metadata, dict) else metadata.name
    assert name == "simple"
    limit = config["max_batch_size"] if isinstance(config, dict) else config.config.max_batch_size
    assert limit == 8


@pytest.mark.parametrize("client", CLIENTS)
def test_held_out_digits_are_read(client: ModuleType, sample_server: Any) -> None:
    pixels, labels = load_digits(return_X_y=True)
    _, held_out, _, expected = train_test_split(
        pixels,
        labels,
        test_size=0.2,
        random_state=1797,
        stratify=labels,  # as in train.py
    )
    right = 0
    with connect(client, sample_server) as triton:
        for start in range(0, len(held_out), 64):
            batch = held_out[start : start + 64].astype(np.float32)
            answer = triton.infer("digits", [tensor(client, "INPUT", batch, "FP32")])
            right += int((answer.as_numpy("LABEL").ravel() == expected[start : start + 64]).sum())

    assert right / len(held_out) >= 0.97


@pytest.mark.parametrize("client", CLIENTS)
def test_classification_gives_labels(client: ModuleType, sample_server: Any) -> None:
    pixels, labels = load_digits(return_X_y=True)
    wanted = client.InferRequestedOutput("PROBABILITIES", class_count=2)
    with connect(client, sample_server) as triton:
        answer = triton.infer(
            "digits",
            [tensor(client, "INPUT", pixels[:3].astype(np.float32), "FP32")],
            outputs=[wanted],
        )

    classes = answer.as_numpy("PROBABILITIES")
    assert classes.shape == (3, 2)
    for row, label in zip(classes, labels, strict=False):
        value, index, _ = row[0].decode().split(":")
        assert int(index) == label
        assert 0.5 < float(value) <= 1.0


@pytest.mark.parametrize("client", CLIENTS)
@pytest.mark.parametrize(("model", "dtype", "word"), [
    ("simple", np.int32, "INT32"), ("add_sub", np.float32, "FP32"),
])  # fmt: skip
def test_sums_are_exact(
    client: ModuleType, model: str, dtype: type[Any], word: str, sample_server: Any
) -> None:
    left = np.arange(48, dtype=dtype).reshape(3, 16)
    right = np.full((3, 16), 7, dtype=dtype)
    with connect(client, sample_server) as triton:
        answer = triton.infer(
            model,
            [tensor(client, "INPUT0", left, word), tensor(client, "INPUT1", right, word)],
            request_id="sum",
        )

    assert np.array_equal(answer.as_numpy("OUTPUT0"), left + right)
    assert np.array_equal(answer.as_numpy("OUTPUT1"), left - right)


@pytest.mark.parametrize("client", CLIENTS)
def test_strings_come_back_as_they_went(client: ModuleType, sample_server: Any) -> None:
    words = np.array([[b"", b"a\x00b", "é".encode(), b"\xff\xfe"]], dtype=np.object_)
    with connect(client, sample_server) as triton:
        answer = triton.infer("simple_identity", [tensor(client, "INPUT0", words, "BYTES")])

    assert np.array_equal(answer.as_numpy("OUTPUT0"), words)


@pytest.mark.parametrize("client", CLIENTS)
def test_mistakes_fail_alone_and_in_triton_s_words(client: ModuleType, sample_server: Any) -> None:
    good = np.zeros((1, 16), dtype=np.int32)
    pair = [tensor(client, "INPUT0", good, "INT32"), tensor(client, "INPUT1", good, "INT32")]
    nine = np.zeros((9, 16), dtype=np.int32)
    floats = np.zeros((1, 16), dtype=np.float32)
    short = np.zeros((1, 8), dtype=np.int32)
    cases: list[tuple[str, list[Any], str]] = [
        ("nope", pair, "Request for unknown model: 'nope' is not found"),
        ("simple", pair[:1],
         "Got input(s) ['INPUT0'], but missing required input(s) ['INPUT1']."),
        ("simple", [tensor(client, name, nine, "INT32") for name in ("INPUT0", "INPUT1")],
         "inference request batch-size must be <= 8 for 'simple'"),
        ("simple", [pair[0], tensor(client, "INPUT1", floats, "FP32")],
         "inference input 'INPUT1' data-type is 'FP32', but model 'simple' expects 'INT32'"),
        ("simple", [pair[0], tensor(client, "INPUT1", short, "INT32")],
         "unexpected shape for input 'INPUT1' for model 'simple'. Expected [-1,16], got [1,8]."),
    ]  # fmt: skip
    with connect(client, sample_server) as triton:
        for model, inputs, text in cases:
            with pytest.raises(InferenceServerException) as caught:
                triton.infer(model, inputs, request_id="q")
            assert text in str(caught.value)
        answer = triton.infer("simple", pair)

    assert np.array_equal(answer.as_numpy("OUTPUT0"), good)


def post(server: Any, path: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://{server.http}{path}", body, headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def test_malformed_bodies_are_answered(sample_server: Any) -> None:
    path = "/v2/models/simple/infer"

    status, body = post(sample_server, path, b'{"inputs":[', {})
    assert status == 500
    assert b"failed to parse the request JSON buffer" in body

    status, body = post(sample_server, path, b"{}", {"Inference-Header-Content-Length": "9"})
    assert status == 400
    assert b"inference header size should be in range (0, 2), got: 9" in body


def test_garbage_on_either_port_leaves_nothing_behind(sample_server: Any) -> None:
    before = sample_server.open_files()
    hostile = [
        b"\x16\x03\x01\x02\x00\x01",
        b"\x00" * 4096,
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP",
    ]
    for address in (sample_server.http, sample_server.grpc):
        host, port = address.split(":")
        for data in hostile:
            with socket.create_connection((host, int(port)), timeout=10) as peer:
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    while peer.recv(4096):
                        pass

    with connect(grpcclient, sample_server) as triton:
        assert triton.is_server_ready()
        triton.close()
    assert sample_server.open_files() <= before + 2


def test_a_connection_cut_in_a_request_cancels_nothing_else(sample_server: Any) -> None:
    host, port = sample_server.http.split(":")
    head = b"POST /v2/models/simple/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"
    with socket.create_connection((host, int(port))) as peer:
        peer.sendall(head)

    with connect(httpclient, sample_server) as triton:
        assert triton.is_server_ready()


def test_metrics_have_triton_s_names(sample_server: Any) -> None:
    with urllib.request.urlopen(f"http://{sample_server.metrics}/metrics", timeout=10) as page:
        text = page.read().decode()

    assert 'nv_inference_request_failure{model="simple",reason="REJECTED",version="1"} 0' in text
    assert "nv_cpu_utilization" in text
    assert "_total{" not in text


def test_a_killed_worker_loses_only_what_was_in_flight(start_server: Start, tmp_path: Path) -> None:
    (tmp_path / "add_sub").symlink_to(Path(__file__).parents[2] / "sample_repository" / "add_sub")
    server = start_server(tmp_path)
    array = np.ones((1, 16), dtype=np.float32)
    kills, clients, per_client = 5, 4, 200
    failures: list[str] = []
    wrong: list[Any] = []
    progress = threading.Semaphore(0)

    def client() -> None:
        inputs = [tensor(grpcclient, name, array, "FP32") for name in ("INPUT0", "INPUT1")]
        with grpcclient.InferenceServerClient(server.grpc) as triton:
            for _ in range(per_client):
                try:
                    answer = triton.infer("add_sub", inputs)
                    if not np.array_equal(answer.as_numpy("OUTPUT0"), array + array):
                        wrong.append(answer)
                except InferenceServerException as error:
                    failures.append(str(error.message()))
                progress.release()

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for _ in range(kills):
        for _ in range(clients * per_client // (kills + 1)):
            progress.acquire()
        with contextlib.suppress(IndexError, ProcessLookupError):
            os.kill(server.workers()[0], signal.SIGKILL)
    for thread in threads:
        thread.join()

    assert not wrong
    unhealthy = "Stub process 'add_sub_0_0' is not healthy."
    assert all(failure.endswith(unhealthy) for failure in failures), set(failures)
    # Each death takes what was in flight: two batches at most, of one request per client.
    assert len(failures) <= kills * clients
    assert server.stop() == 0


def test_sigterm_finishes_what_is_under_way_and_exits_0(
    start_server: Start, tmp_path: Path
) -> None:
    slow = tmp_path / "slow" / "1"
    slow.mkdir(parents=True)
    (slow.parent / "config.pbtxt").write_text(
        'backend: "python"\n'
        'input { name: "IN" data_type: TYPE_FP32 dims: [ 1 ] }\n'
        'output { name: "OUT" data_type: TYPE_FP32 dims: [ 1 ] }\n'
    )
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    (slow / "model.py").write_text(
        "import triton_python_backend_utils as pb_utils\n"
        "class TritonPythonModel:\n"
        "    def execute(self, requests):\n"
        f"        open({str(gate)!r}).read()\n"
        "        out = pb_utils.get_input_tensor_by_name(requests[0], 'IN').as_numpy()\n"
        "        return [pb_utils.InferenceResponse([pb_utils.Tensor('OUT', out)])]\n"
    )
    server = start_server(tmp_path)
    answers: list[Any] = []

    def ask() -> None:
        with grpcclient.InferenceServerClient(server.grpc) as triton:
            one = np.ones(1, dtype=np.float32)
            answers.append(triton.infer("slow", [tensor(grpcclient, "IN", one, "FP32")]))

    thread = threading.Thread(target=ask)
    thread.start()
    with gate.open("w") as opened:  # opens once the model reads: the request is executing
        server.process.send_signal(signal.SIGTERM)
        opened.write("go")
    thread.join()

    assert answers[0].as_numpy("OUT")[0] == 1.0
    assert server.stop() == 0
