"""Generations, cancellations and partings over the wire, with models in Python."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import grpc_models
from tests.conformance.http_rest import (
    Response,
    Rest,
    connect,
    converse,
    hear_out,
    is_refused,
    pair,
    tensor,
    wait_for,
)

pytest_plugins = ("tests.conformance.http_fixtures",)

EVENT_STREAM = "text/event-stream; charset=utf-8"
NOT_ONE = (
    "generate expects model to produce exactly 1 response, use generate stream for model that "
    "generates various number of responses"
)


def generate(rest: Rest, model: str, body: Any, *, stream: bool = False) -> Response:
    return rest.post(f"/v2/models/{model}/generate{'_stream' if stream else ''}", body)


def events(body: bytes) -> list[Any]:
    return [json.loads(each.removeprefix(b"data: ")) for each in body.split(b"\n\n") if each]


# --- generate ------------------------------------------------------------------------------------


def test_case_25_a_flat_object_becomes_tensors_and_parameters(rest: Rest) -> None:
    body = {"PROMPT": "hi", "STREAM": False, "id": "7", "temperature": 0.1}
    response = generate(rest, "teller", body)
    assert response.status == 200
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    text = answer.pop("TEXT")
    assert answer == {"id": "7", "model_name": "teller", "model_version": "1"}
    assert text[0] == "hi"
    assert json.loads(text[1]) == {"id": "7", "temperature": 0.1}
    assert generate(rest, "teller", {"PROMPT": "hi"}).json()["TEXT"] == "hi"
    nested = {"parameters": {"PROMPT": "there", "top_k": 4}}
    assert json.loads(generate(rest, "teller", nested).json()["TEXT"][1]) == {"top_k": 4}


def test_case_26_responses_are_events(rest: Rest) -> None:
    response = generate(rest, "speaker", {"PROMPT": "one two three"}, stream=True)
    assert (response.status, response.headers["content-type"]) == (200, EVENT_STREAM)
    assert response.headers["transfer-encoding"] == "chunked"
    assert [each["TEXT"] for each in events(response.body)] == ["one", "two", "three"]

    response = generate(rest, "speaker", {"PROMPT": "one error two"}, stream=True)
    assert response.status == 200
    assert events(response.body)[1] == {"error": "no such word"}
    assert len(events(response.body)) == 3

    response = generate(rest, "speaker", {"PROMPT": "error one"}, stream=True)
    assert (response.status, response.headers["content-type"]) == (404, EVENT_STREAM)
    assert events(response.body)[0] == {"error": "no such word"}

    response = generate(rest, "speaker", {"PROMPT": ""}, stream=True)
    assert (response.status, response.body) == (200, b"")

    response = generate(rest, "teller", {"PROMPT": "plain"}, stream=True)
    assert [each["TEXT"] for each in events(response.body)] == ["plain"]


def test_case_26_events_come_as_they_are_made(rest: Rest) -> None:
    with connect(rest.address) as peer:
        body = b'{"PROMPT":"one wait two","id":"live"}'
        path = "/v2/models/speaker/generate_stream"
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        peer.sendall(head.encode() + body)
        heard = b""
        while b'"TEXT":"one"' not in heard:  # the model waits long with its second word
            data = peer.recv(65536)
            assert data
            heard += data


def test_case_26_the_repeat_backend(rest: Rest) -> None:
    body = {"IN": [4, 2, 0, 1], "DELAY": [1, 2, 3, 4], "WAIT": 5}
    response = generate(rest, "rep", body, stream=True)
    assert response.status == 200
    assert [(each["IDX"], each["OUT"]) for each in events(response.body)] == [
        (0, 4), (1, 2), (2, 0), (3, 1),
    ]  # fmt: skip


@pytest.mark.parametrize("prompt", ["", "one two", "one two three"])
def test_case_27_not_exactly_one_response(prompt: str, rest: Rest) -> None:
    response = generate(rest, "speaker", {"PROMPT": prompt})
    assert (response.status, response.json()) == (200, {"error": NOT_ONE})
    assert generate(rest, "speaker", {"PROMPT": "one"}).json()["TEXT"] == "one"


def test_case_28_an_input_twice(rest: Rest) -> None:
    response = generate(rest, "teller", b'{"PROMPT":"a","PROMPT":"b"}')
    assert (response.status, response.error) == (
        400, "[request id: <id_unknown>] input 'PROMPT' already exists in request",
    )  # fmt: skip


def test_case_29_no_report_without_its_metrics(rest: Rest) -> None:
    headers = {"endpoint-load-metrics-format": "json"}
    for path in ("generate", "generate_stream"):
        response = rest.post(f"/v2/models/teller/{path}", {"PROMPT": "a"}, headers)
        assert response.status == 200
        assert "endpoint-load-metrics" not in response.headers


@pytest.mark.parametrize(("model", "body", "status", "text"), [
    ("nope", {}, 404, "Request for unknown model: 'nope' is not found"),
    ("teller", b"[", 500, "failed to parse the request JSON buffer: Invalid value. at 1"),
    ("teller", {"PROMPT": ["a", "b"]}, 400,
     "The schema can not convert input 'PROMPT' to tensor with proper shape"),
    ("teller", {"parameters": 1}, 500,
     "Expected JSON object for keyword: 'parameters': attempt to access JSON non-object as object"),
    ("teller", {"parameters": {"PROMPT": 1}}, 500,
     ("Converting keyword: 'parameters': Unable to parse JSON bytes array: attempt to access JSON"
     " non-string as string")),
    ("fixed", {"INPUT0": [1, 2, 3]}, 400,
     "The schema can not convert input 'INPUT0' to tensor with proper shape"),
])  # fmt: skip
@pytest.mark.parametrize("stream", [False, True])
def test_mistakes_in_a_generation(
    model: str, body: Any, status: int, text: str, *, stream: bool, rest: Rest
) -> None:
    response = generate(rest, model, body, stream=stream)
    assert (response.status, response.error) == (status, text)
    assert response.headers["content-type"] == "application/json"


def test_a_compressed_generation_is_refused(rest: Rest) -> None:
    body = gzip.compress(b'{"PROMPT":"a"}')
    response = rest.post("/v2/models/teller/generate", body, {"Content-Encoding": "gzip"})
    assert (response.status, response.error) == (
        400, "Unsupported content-encoding, only 'identity' is supported.",
    )  # fmt: skip


# --- clients that go -----------------------------------------------------------------------------


def pending(metrics: Rest, model: str) -> int:
    mark = f'nv_inference_pending_request_count{{model="{model}",version="1"}} '
    page = metrics.get("/metrics").body.decode()
    return int(page.partition(mark)[2].split()[0])


def request(path: str, body: Any) -> bytes:
    text = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(text)}\r\n\r\n"
    return head.encode() + text


def patient(name: str, seconds: float) -> bytes:
    given = tensor("IN", "FP32", [1], [seconds])
    return request("/v2/models/patient/infer", {"id": name, "inputs": [given]})


@pytest.mark.parametrize("how", ["close", "reset", "half"])
def test_case_30_a_client_that_goes_is_noticed_by_the_model(
    how: str, rest: Rest, http_server: Any, http_notes: Path
) -> None:
    name = f"gone-{how}"
    with connect(rest.address) as peer:
        peer.sendall(patient(name, 10.0))
        wait_for((http_notes / f"began {name}").exists)
        if how == "reset":
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        if how == "half":
            peer.shutdown(socket.SHUT_WR)
            assert hear_out(peer) == b""
    wait_for((http_notes / f"cancelled {name}").exists)
    metrics = Rest(http_server.metrics)
    assert pending(metrics, "patient") == 0
    metrics.close()


def test_case_30_a_client_that_goes_frees_its_place_in_the_queue(
    rest: Rest, http_server: Any, http_notes: Path
) -> None:
    with contextlib.closing(Rest(http_server.metrics)) as metrics, connect(rest.address) as holder:
        holder.sendall(patient("holder", 10.0))
        wait_for((http_notes / "began holder").exists)
        with connect(rest.address) as ahead, connect(rest.address) as queued:
            # The worker is given one batch in advance, which waits there; the other in the queue.
            ahead.sendall(patient("ahead", 0.0))
            wait_for(lambda: pending(metrics, "patient") == 1)
            queued.sendall(patient("queued", 0.0))
            wait_for(lambda: pending(metrics, "patient") == 2)
            queued.close()
            wait_for(lambda: pending(metrics, "patient") == 1)
            assert not (http_notes / "ended holder").exists()
            holder.close()
            assert ahead.recv(15) == b"HTTP/1.1 200 OK"
    assert not (http_notes / "began queued").exists()


def test_a_client_that_leaves_a_stream_is_noticed_by_the_model(
    rest: Rest, http_notes: Path
) -> None:
    with connect(rest.address) as peer:
        body = {"PROMPT": "one wait two", "id": "left"}
        peer.sendall(request("/v2/models/speaker/generate_stream", body))
        assert peer.recv(15) == b"HTTP/1.1 200 OK"
    wait_for((http_notes / "cancelled left").exists)
    assert generate(rest, "speaker", {"PROMPT": "one"}).status == 200


def test_a_stream_that_nobody_reads_stops_its_model_only(rest: Rest) -> None:
    word = "x" * 20000
    with connect(rest.address) as peer:
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
        body = {"PROMPT": f"{word} " * 45}
        peer.sendall(request("/v2/models/speaker/generate_stream", body))
        for _ in range(20):
            assert generate(rest, "speaker", {"PROMPT": "one"}).json()["TEXT"] == "one"
        heard = b""
        while not heard.endswith(b"0\r\n\r\n"):
            data = peer.recv(1 << 20)
            assert data
            heard += data
    assert heard.count(b"data: ") == 45


# --- pipelining, keep-alive, the peculiar --------------------------------------------------------


def test_many_requests_in_one_segment(rest: Rest) -> None:
    body = json.dumps({"inputs": pair()}).encode()
    head = (
        f"POST /v2/models/simple/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    last = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    answer = converse(rest.address, (head.encode() + body) * 100 + last)
    assert answer.count(b"HTTP/1.1 200 OK") == 101
    assert answer.count(b'"OUTPUT0"') == 100


def test_an_absolute_target_and_lower_case_names(rest: Rest) -> None:
    head = b"GET http://x/v2/health/live?a=b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
    answer = converse(rest.address, head)
    assert answer.startswith(b"HTTP/1.1 200 OK")


def test_curl_s_expectation_is_met(rest: Rest) -> None:
    body = json.dumps({"inputs": pair()}).encode()
    with connect(rest.address) as peer:
        peer.sendall(
            b"POST /v2/models/simple/infer HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
            b"Connection: close\r\nContent-Length: %d\r\n\r\n" % len(body)
        )
        assert peer.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        peer.sendall(body)
        assert hear_out(peer).startswith(b"HTTP/1.1 200 OK")


def test_a_body_that_is_refused_is_answered_while_it_comes(rest: Rest) -> None:
    """Without a last look at the peer, the reset of a closed socket would eat the answer."""
    for _ in range(20):
        with connect(rest.address) as peer:
            peer.sendall(b"POST /v2 HTTP/1.1\r\nContent-Length: 9999999999\r\n\r\n")
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for _ in range(16):
                    peer.sendall(bytes(1 << 16))
            peer.shutdown(socket.SHUT_WR)
            assert b"value is out of range" in hear_out(peer)


# --- many, and the end ---------------------------------------------------------------------------


def resident_kib(server: Any) -> int:
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


def test_an_idle_server_keeps_no_tensors(rest: Rest, http_server: Any) -> None:
    count = 16 << 20
    body = {
        "inputs": [tensor("INPUT0", "FP32", [1, count], binary_data_size=4 * count)],
        "parameters": {"binary_data_output": True},
    }
    before = resident_kib(http_server)
    response = rest.infer("ident_FP32", body, bytes(4 * count))
    assert len(response.body) > 4 * count
    assert rest.get("/v2/health/live").status == 200
    wait_for(lambda: resident_kib(http_server) - before < 40_000)


def test_a_thousand_cut_connections_leave_nothing_behind(rest: Rest, http_server: Any) -> None:
    stages = [
        b"",
        b"GET /v2/hea",
        b"POST /v2/models/simple/infer HTTP/1.1\r\nContent-Length: 1000\r\n\r\n{",
        b"POST /v2/models/simple/infer HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        request("/v2/models/simple/infer", {"inputs": pair()}),
        request("/v2/models/simple/infer", {"inputs": pair()}) * 3,
        request("/v2/models/speaker/generate_stream", {"PROMPT": "one two three"}),
        request("/v2/models/teller/generate", {"PROMPT": "one"}),
        b"\x16\x03\x01\x02",
        b"GET /v2/models/stats HTTP/1.1\r\nHost: x\r\n\r\n",
    ]

    def cut(count: int) -> None:
        for number in range(count):
            with connect(rest.address) as peer:
                peer.sendall(stages[number % len(stages)])
                if number % 3 == 0:
                    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    rest.get("/v2/health/live")
    files = http_server.open_files()
    cut(400)
    wait_for(lambda: http_server.open_files() <= files + 1)
    before = resident_kib(http_server)
    cut(1000)
    wait_for(lambda: http_server.open_files() <= files + 1)
    assert resident_kib(http_server) - before < 4096
    assert rest.get("/v2/health/ready").status == 200
    assert not [line for line in http_server.lines if "ended by an error" in line]


def test_case_56_the_end_waits_for_work_and_for_nobody_who_is_idle(
    tmp_path: Path, start_server: Callable[..., Any]
) -> None:
    gate, notes = tmp_path / "gate", tmp_path / "notes"
    repository = tmp_path / "models"
    notes.mkdir()
    os.mkfifo(gate)
    grpc_models.write_patient(repository, notes)
    server = start_server(repository)
    answers: list[bytes] = []

    def ask() -> None:
        with connect(server.http) as peer:
            peer.sendall(patient("last", 1.0))
            answers.append(hear_out(peer))

    idle = [Rest(server.http) for _ in range(5)]
    for client in idle:
        assert client.get("/v2/health/ready").status == 200
    asking = threading.Thread(target=ask)
    asking.start()
    wait_for((notes / "began last").exists)
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    wait_for(lambda: is_refused(server.http))
    metrics = Rest(server.metrics)
    assert metrics.get("/metrics").status == 200
    metrics.close()
    assert server.stop() == 0
    assert time.monotonic() - began < 5.0
    asking.join()
    assert answers[0].startswith(b"HTTP/1.1 200 OK")
    assert b"\r\nConnection: close\r\n" in answers[0]
    for client in idle:
        client.close()


def test_case_56_the_end_does_not_wait_for_ever(
    tmp_path: Path, start_server: Callable[..., Any]
) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    grpc_models.write_patient(tmp_path / "models", notes)
    server = start_server(tmp_path / "models", "--exit-timeout-secs=1")
    with connect(server.http) as peer:
        peer.sendall(patient("endless", 30.0))
        wait_for((notes / "began endless").exists)
        assert server.stop() == 1
    assert any("Exit timeout expired. Exiting immediately." in line for line in server.lines)
