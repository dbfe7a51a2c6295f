"""How late a deadline fires while its model is busy, over gRPC and by the real clock.

Run `python -m bench.lateness`. Each model has one instance, which a first request keeps busy. Then
come requests with deadlines (`grpc-timeout`) spread over two seconds; the last row has a queue
policy's timeouts instead. Lateness is the instant at which the client reads the status, less that
of sending and the timeout, so the way in and out is part of it. The promise is 2 ms.

The first row is the machine's own: a process that does nothing but wake up, on the server's core. A
server cannot be more punctual than that.
"""

from __future__ import annotations

import os
import socket
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import h2.config
import h2.connection
import h2.events
import numpy as np

from bench.pipeline_wire import SERVER_CORE, server
from protocol.proto.messages import ModelInferRequest

CALLS: Final = 200
FIRST_SECONDS: Final = 0.3
LAST_SECONDS: Final = 2.3
BUSY_SECONDS: Final = 4.0
PROMISE_SECONDS: Final = 0.002
PATH: Final = "/inference.GRPCInferenceService/ModelInfer"
DEADLINE_EXCEEDED: Final = "4"
UNAVAILABLE: Final = "14"

MODEL: Final = """
import time
import triton_python_backend_utils as pb_utils

class TritonPythonModel:
    def execute(self, requests):
        inputs = [pb_utils.get_input_tensor_by_name(one, "INPUT").as_numpy() for one in requests]
        time.sleep(max(float(one.max()) for one in inputs))
        return [pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", one)]) for one in inputs]
"""
IO: Final = """
max_batch_size: 4
input { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "OUTPUT" data_type: TYPE_FP32 dims: [ 1 ] }
"""
PYTHON: Final = IO + 'backend: "python" instance_group { kind: KIND_CPU }\n'
POLICY: Final = "default_timeout_microseconds: 60000000 allow_timeout_override: true"
IDLE: Final = "max_sequence_idle_microseconds: 60000000"
CONFIGS: Final = {
    "default": PYTHON,
    "dynamic": PYTHON + "dynamic_batching { }",
    "direct": PYTHON + f"sequence_batching {{ {IDLE} direct {{ }} }}",
    "oldest": PYTHON + f"sequence_batching {{ {IDLE} oldest {{ }} }}",
    "ensemble": 'platform: "ensemble" '
    + IO
    + """ensemble_scheduling { step { model_name: "member" model_version: -1
      input_map { key: "INPUT" value: "INPUT" } output_map { key: "OUTPUT" value: "OUTPUT" } } }""",
    "member": PYTHON,
    "policy": PYTHON + f"dynamic_batching {{ default_queue_policy {{ {POLICY} }} }}",
}
ROWS: Final = ("default", "dynamic", "direct", "oldest", "ensemble", "policy")


def write(repository: Path) -> None:
    """The models' files."""
    for name, config in CONFIGS.items():
        version = repository / name / "1"
        version.mkdir(parents=True)
        (repository / name / "config.pbtxt").write_text(config)
        if "python" in config:
            (version / "model.py").write_text(MODEL)


def message(model: str, seconds: float, sequence: int, timeout_us: int = 0) -> bytes:
    """A framed request that keeps its instance for so long."""
    request = ModelInferRequest(model_name=model)
    request.inputs.add(name="INPUT", datatype="FP32", shape=[1, 1])
    request.raw_input_contents.append(np.array([seconds], np.float32).tobytes())
    if model in {"direct", "oldest"}:
        request.parameters["sequence_id"].int64_param = sequence
        request.parameters["sequence_start"].bool_param = True
        request.parameters["sequence_end"].bool_param = True
    if timeout_us:
        request.parameters["timeout"].int64_param = timeout_us
    body: bytes = request.SerializeToString()
    return b"\x00" + len(body).to_bytes(4, "big") + body


@dataclass
class Client:
    """One connection, and when each of its calls ought to end."""

    sock: socket.socket
    due: dict[int, float] = field(default_factory=dict)
    late: list[float] = field(default_factory=list)
    statuses: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        config = h2.config.H2Configuration(client_side=True, header_encoding="utf-8")
        self.http2 = h2.connection.H2Connection(config)
        self.http2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.sock.sendall(self.http2.data_to_send())

    def ask(self, body: bytes, *, deadline: float = 0.0, due: float = 0.0) -> None:
        """Send a call, perhaps with a deadline, which ought to end `due` seconds later, if ever."""
        stream = self.http2.get_next_available_stream_id()
        headers = [(":method", "POST"), (":scheme", "http"), (":path", PATH), (":authority", "x")]
        headers += [("te", "trailers"), ("content-type", "application/grpc")]
        if deadline:
            headers.append(("grpc-timeout", f"{round(deadline * 1e6)}u"))
        self.http2.send_headers(stream, headers)
        self.http2.send_data(stream, body, end_stream=True)
        if due:
            self.due[stream] = time.perf_counter() + due
        self.flush()

    def read(self) -> None:
        """Take in what has come."""
        data = self.sock.recv(1 << 16)
        now = time.perf_counter()
        assert data, "the server has closed the connection"
        for event in self.http2.receive_data(data):
            if isinstance(event, h2.events.TrailersReceived | h2.events.ResponseReceived):
                assert event.headers is not None
                assert event.stream_id is not None
                status = dict(event.headers).get("grpc-status")
                if status is not None and event.stream_id in self.due:
                    self.late.append(now - self.due.pop(event.stream_id))
                    self.statuses.append(str(status))
        self.flush()


def measure(port: int, model: str) -> list[float]:
    """How late each of the deadlines behind a busy instance is, in seconds."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(sock)
        client.ask(message(model, BUSY_SECONDS, 1))
        time.sleep(FIRST_SECONDS / 2)
        by_policy = model == "policy"
        for number in range(CALLS):
            timeout = FIRST_SECONDS + (LAST_SECONDS - FIRST_SECONDS) * number / CALLS
            timeout_us = round(timeout * 1e6) if by_policy else 0
            body = message(model, 0.0, number + 2, timeout_us)
            client.ask(body, deadline=0.0 if by_policy else timeout, due=timeout)
        while client.due:
            client.read()
        expected = UNAVAILABLE if by_policy else DEADLINE_EXCEEDED
        assert set(client.statuses) == {expected}, sorted(set(client.statuses))
        return sorted(client.late)


def machine() -> list[float]:
    """How late a process wakes up that only sleeps."""
    usual = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {SERVER_CORE})
    late = []
    try:
        for _ in range(CALLS):
            due = time.perf_counter() + (LAST_SECONDS - FIRST_SECONDS) / CALLS
            time.sleep(max(0.0, due - time.perf_counter()))
            late.append(time.perf_counter() - due)
    finally:
        os.sched_setaffinity(0, usual)
    return sorted(late)


def show(name: str, late: list[float]) -> None:
    """One row."""
    picked = [late[0], *(late[int(len(late) * q)] for q in (0.5, 0.9, 0.99)), late[-1]]
    within = sum(one <= PROMISE_SECONDS for one in late) / len(late)
    print(f"{name:12}{''.join(f'{one * 1e3:8.2f}' for one in picked)}   {within:7.1%}", flush=True)


def main() -> None:
    print(f"lateness of {CALLS} deadlines behind a busy instance, ms")
    print(f"{'':12}{'min':>8}{'p50':>8}{'p90':>8}{'p99':>8}{'max':>8}   within 2 ms")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder))
        with server(Path(folder)) as port:
            show("the machine", machine())
            for model in ROWS:
                show(model, measure(port, model))


if __name__ == "__main__":
    main()
