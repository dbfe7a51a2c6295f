"""Tracing as users have it: a server with trace flags, Triton's clients, files and a collector."""

from __future__ import annotations

import base64
import json
import os
import queue
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from google.protobuf.json_format import MessageToDict
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from actors.settings.options import ServerOptions
from protocol.status import ServerError, StatusCode
from protocol.trace_spans import Span
from troupe import otlp
from troupe.server import Server

IDENTITY = """
backend: "identity" max_batch_size: 4
input { name: "INPUT0" data_type: TYPE_INT32 dims: [ 1 ] }
output { name: "OUTPUT0" data_type: TYPE_INT32 dims: [ 1 ] }
instance_group { kind: KIND_CPU }
parameters { key: "enable_custom_tracing" value: { string_value: "true" } }
"""

ASKER = """
backend: "python" max_batch_size: 4
input { name: "INPUT0" data_type: TYPE_INT32 dims: [ 1 ] }
output { name: "CONTEXT" data_type: TYPE_STRING dims: [ 1 ] }
instance_group { kind: KIND_CPU }
"""

# Calls the other model as part of its own trace, and answers with what it may tell others of it.
ASKER_PY = """
import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        call = pb_utils.InferenceRequest(
            model_name="identity", requested_output_names=["OUTPUT0"],
            inputs=request.inputs(), trace=request.trace(), request_id="asked",
        )
        assert not call.exec().has_error()
        context = str(request.trace().get_context())
        text = np.array([[context]], np.object_)
        return pb_utils.InferenceResponse([pb_utils.Tensor("CONTEXT", text)])
"""

StartServer = Callable[..., Any]

HTTP, GRPC = ("HTTP_RECV", "HTTP_SEND"), ("GRPC_WAITREAD", "GRPC_SEND")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("traced")
    for name, config in (("identity", IDENTITY), ("asker", ASKER)):
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "config.pbtxt").write_text(config)
    (folder / "asker" / "1" / "model.py").write_text(ASKER_PY)
    return folder


def flags(*settings: str) -> list[str]:
    return [f"--trace-config={setting}" for setting in settings]


def ask(client: Any, model: str, **more: Any) -> Any:
    module = grpcclient if isinstance(client, grpcclient.InferenceServerClient) else httpclient
    tensor = module.InferInput("INPUT0", [1, 1], "INT32")
    tensor.set_data_from_numpy(np.array([[7]], np.int32))
    return client.infer(model, [tensor], **more)


def timestamps(items: Sequence[dict[str, Any]], number: int) -> dict[str, int]:
    return {
        stamp["name"]: stamp["ns"]
        for item in items
        if item["id"] == number
        for stamp in item.get("timestamps", ())
    }


def test_50_two_in_six_are_traced_and_then_no_more(
    start_server: StartServer, repository: Path, tmp_path: Path
) -> None:
    file = tmp_path / "trace.json"
    settings = flags("rate=2", "count=3", "level=TIMESTAMPS", f"triton,file={file}")
    server = start_server(repository, *settings)
    with (
        httpclient.InferenceServerClient(server.http) as over_http,
        grpcclient.InferenceServerClient(server.grpc) as over_grpc,
    ):
        for number in range(10):
            ask(over_http if number < 4 else over_grpc, "identity", request_id=str(number))
        shown = over_http.get_trace_settings()
        assert shown == {
            "trace_level": ["TIMESTAMPS"],
            "trace_rate": "2",
            "trace_count": "0",
            "log_frequency": "0",
            "trace_file": str(file),
            "trace_mode": "triton",
        }
        reply = over_grpc.get_trace_settings(as_json=True)["settings"]
        assert {name: each["value"] for name, each in reply.items()} == {
            name: text if isinstance(text, list) else [text] for name, text in shown.items()
        }
    after = time.monotonic_ns()
    assert server.stop() == 0

    items = json.loads(Path(f"{file}.0").read_text())
    assert not file.exists()
    heads = [item for item in items if "model_name" in item]
    assert [head["request_id"] for head in heads] == ["1", "3", "5"]
    for head, (receive, send) in zip(heads, [HTTP, HTTP, GRPC], strict=True):
        found = timestamps(items, head["id"])
        phases = [
            f"{receive}_START", f"{receive}_END", "REQUEST_START", "QUEUE_START", "COMPUTE_START",
            "COMPUTE_INPUT_END", "COMPUTE_OUTPUT_START", "COMPUTE_END", "REQUEST_END",
            "INFER_RESPONSE_COMPLETE", f"{send}_START", f"{send}_END",
        ]  # fmt: skip
        own = {"CUSTOM_ACTIVITY_START", "CUSTOM_SINGLE_ACTIVITY", "CUSTOM_ACTIVITY_END"}
        assert set(found) == {*phases, *own}
        instants = [found[name] for name in phases]
        assert instants == sorted(instants)
        assert after - 60 * 10**9 < instants[0]
        assert instants[-1] <= after


def test_settings_that_change_apply_to_what_comes_then(
    start_server: StartServer, repository: Path, tmp_path: Path
) -> None:
    file = tmp_path / "trace.json"
    server = start_server(repository, f"--trace-file={file}")
    assert any("'--trace-file' has been deprecated" in line for line in server.lines)
    with httpclient.InferenceServerClient(server.http) as client:
        ask(client, "identity", request_id="before")
        on = {"trace_level": ["TIMESTAMPS", "TENSORS"], "trace_rate": "1"}
        client.update_trace_settings("asker", settings=on)
        ask(client, "identity", request_id="other model")
        ask(client, "asker", request_id="traced")
        client.update_trace_settings("asker", settings={"trace_level": None, "trace_rate": None})
        ask(client, "asker", request_id="after")
    assert server.stop() == 0

    items = json.loads(file.read_text())
    heads = [item for item in items if "model_name" in item]
    assert heads == [
        {"id": 1, "model_name": "asker", "model_version": 1, "request_id": "traced"},
        {
            "id": 2, "model_name": "identity", "model_version": 1, "request_id": "asked",
            "parent_id": 1,
        },
    ]  # fmt: skip
    tensors = [(item["id"], item["activity"], item["tensor"]) for item in items if "tensor" in item]
    seven = {"data": "7", "shape": "1,1", "dtype": "INT32"}
    text = {"name": "CONTEXT", "data": '"None"', "shape": "1,1", "dtype": "BYTES"}
    assert tensors == [
        (1, "TENSOR_QUEUE_INPUT", {"name": "INPUT0", **seven}),
        (1, "TENSOR_BACKEND_OUTPUT", text),
        (1, "TENSOR_BACKEND_INPUT", {"name": "INPUT0", **seven}),
        (2, "TENSOR_QUEUE_INPUT", {"name": "INPUT0", **seven}),
        (2, "TENSOR_BACKEND_OUTPUT", {"name": "OUTPUT0", **seven}),
        (2, "TENSOR_BACKEND_INPUT", {"name": "INPUT0", **seven}),
    ]


# --- a collector ---------------------------------------------------------------------------------


class Collector:
    """Receives OTLP over HTTP on loopback."""

    def __init__(self) -> None:
        self.requests: queue.SimpleQueue[ExportTraceServiceRequest] = queue.SimpleQueue()
        requests = self.requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                assert self.path == "/v1/traces"
                assert self.headers["Content-Type"] == "application/x-protobuf"
                requests.put(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # its name there
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1/traces"

    def spans(self, count: int) -> list[dict[str, Any]]:
        """So many spans, as JSON, once they have come; each with its resource and scope."""
        found: list[dict[str, Any]] = []
        while len(found) < count:
            message = MessageToDict(self.requests.get(timeout=20))
            for resource in message["resourceSpans"]:
                for scope in resource["scopeSpans"]:
                    found += [
                        {**span, "resource": resource["resource"], "scope": scope["scope"]}
                        for span in scope["spans"]
                    ]
        assert self.requests.empty()
        return found


@pytest.fixture
def collector() -> Iterator[Collector]:
    with _serving(Collector()) as collector:
        yield collector


@contextmanager
def _serving(collector: Collector) -> Iterator[Collector]:
    thread = threading.Thread(target=collector.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield collector
    finally:
        collector.server.shutdown()
        thread.join()
        collector.server.server_close()


def exporting(collector: Collector, *more: str) -> list[str]:
    return flags(
        "mode=opentelemetry",
        "level=TIMESTAMPS",
        f"opentelemetry,url={collector.url}",
        "opentelemetry,bsp_schedule_delay=60000",  # longer than any test
        *more,
    )


def attributes(of: dict[str, Any]) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values())) for one in of.get("attributes", ())}


def tree(spans: Sequence[dict[str, Any]]) -> set[tuple[str, str]]:
    names = {span["spanId"]: span["name"] for span in spans}
    return {(span["name"], names.get(span.get("parentSpanId", ""), "")) for span in spans}


CLIENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_52_a_client_s_trace_goes_through_the_server_to_the_collector(
    start_server: StartServer, repository: Path, collector: Collector
) -> None:
    more = ("rate=0", "opentelemetry,resource=service.name=mine", "opentelemetry,resource=zone=a,b")
    server = start_server(repository, *exporting(collector, *more))
    before = time.time_ns()
    with httpclient.InferenceServerClient(server.http) as client:
        ask(client, "asker")
        headers = {"traceparent": CLIENT, "tracestate": "vendor=1"}
        found = ask(client, "asker", headers=headers, request_id="mine")
    assert collector.requests.empty()
    assert server.stop() == 0

    spans = collector.spans(6)  # those that wait are sent before the server ends
    assert tree(spans) == {
        ("InferRequest", ""),
        ("asker", "InferRequest"),
        ("compute", "asker"),
        ("identity", "asker"),
        ("compute", "identity"),
        ("CUSTOM_ACTIVITY", "compute"),
    }
    by_name = {span["name"]: span for span in spans}
    root, asker = by_name["InferRequest"], by_name["asker"]
    context = json.loads(found.as_numpy("CONTEXT").item())
    trace_id, span_id = (_hex(asker[key]) for key in ("traceId", "spanId"))
    assert context == {"traceparent": f"00-{trace_id}-{span_id}-01", "tracestate": "vendor=1"}
    assert trace_id == CLIENT.split("-")[1]
    assert _hex(root["parentSpanId"]) == CLIENT.split("-")[2]
    assert {span["kind"] for span in spans} == {"SPAN_KIND_SERVER"}
    assert {span["traceState"] for span in spans} == {"vendor=1"}
    resource = attributes(root["resource"])
    assert (resource["service.name"], resource["zone"]) == ("mine", "a,b")
    assert root["scope"]["name"] == "triton-server"
    told = attributes(asker)
    assert (told["triton.model_name"], told["triton.request_id"]) == ("asker", "mine")
    assert (told["triton.trace_id"], told["triton.trace_parent_id"]) == ("1", "0")
    assert before <= int(root["startTimeUnixNano"]) <= int(root["endTimeUnixNano"])
    assert int(root["endTimeUnixNano"]) <= time.time_ns()
    assert [event["name"] for event in root["events"]][:2] == ["HTTP_RECV_START", "HTTP_RECV_END"]


def _hex(encoded: str) -> str:
    return base64.b64decode(encoded).hex()


def test_without_the_extra_the_server_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, repository: Path
) -> None:
    monkeypatch.setattr(otlp, "_is_installed", lambda _: False)
    options = ServerOptions(
        model_repository=(str(repository),), trace_config=("mode=opentelemetry",)
    )
    with pytest.raises(ServerError) as caught:
        Server(options)
    assert caught.value.status is StatusCode.UNSUPPORTED
    assert caught.value.message == (
        "trace mode 'opentelemetry' needs the OpenTelemetry exporter: install troupe[otel]"
    )


def test_half_a_character_in_an_id_does_not_keep_a_span_from_its_collector() -> None:
    exporter = otlp.OtlpExporter({"url": "http://127.0.0.1:1/v1/traces"})
    span = Span("m", 1, 2, 0, False, "", {"triton.request_id": "\ud800", "n": 3}, (), 0.0, 0.5)
    told = encode_spans([exporter.readable(span, 10)])
    (sent,) = told.resource_spans[0].scope_spans[0].spans
    assert [
        (one.key, one.value.string_value or one.value.int_value) for one in sent.attributes
    ] == [
        ("triton.request_id", "?"),
        ("n", 3),
    ]
    assert (sent.start_time_unix_nano, sent.end_time_unix_nano) == (10, 500_000_010)
    exporter.close()


# --- what hangs ----------------------------------------------------------------------------------


@pytest.mark.parametrize("hangs", ["collector", "file"])
def test_a_stop_does_not_wait_for_what_hangs(
    hangs: str, start_server: StartServer, repository: Path, tmp_path: Path
) -> None:
    """The file is a pipe that nobody reads, the collector a port that never answers.

    How long it takes is in tests/simulation/test_tracing_stop.py.
    """
    with socket.create_server(("127.0.0.1", 0)) as silent:
        if hangs == "file":
            os.mkfifo(tmp_path / "t")
            settings, lost = [f"triton,file={tmp_path / 't'}"], "1 traces are lost"
        else:
            url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"
            settings = ["mode=opentelemetry", f"opentelemetry,url={url}"]
            lost = "spans are lost: the collector does not answer in time"
        server = start_server(
            repository, *flags("level=TIMESTAMPS", "rate=1", *settings), "--exit-timeout-secs=1"
        )
        with httpclient.InferenceServerClient(server.http) as client:
            ask(client, "identity")
        assert server.stop() == 0
    assert any(lost in line for line in server.lines)
