"""Pipelines over gRPC: the server on one core, a client that costs little on another.

The core is the limit, so rates tell what a request, or a response, costs the server. An ensemble
of three steps is set beside one of them. For streams this client speaks as much HTTP/2 as it takes
to ask once and to count what comes: `native` is the built-in backend `square`, whose responses come
from a thread; `python` is a model.py in its worker, which shares the core.
"""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from bench.pipeline_models import noop_models
from bench.wire_load import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    FRAME,
    HEADERS,
    MAX_WINDOW,
    PING,
    PREFACE,
    SETTINGS,
    WINDOW_UPDATE,
    drive,
    literal,
)
from protocol.proto.messages import ModelInferRequest

ROOT = Path(__file__).parents[1]
RESPONSES = {"native": 100_000, "python": 100_000}
PROMISE = 20_000
STEPS_PROMISE = 3.3
SERVER_CORE, CLIENT_CORE = 0, 1
START_SECONDS = 60.0

NATIVE = """
backend: "square" max_batch_size: 0 instance_group { kind: KIND_CPU }
model_transaction_policy { decoupled: true }
"""


def request(model: str, count: int) -> bytes:
    """Asks for `count` responses."""
    message = ModelInferRequest(model_name=model)
    message.inputs.add(name="IN", datatype="INT32", shape=[1])
    message.raw_input_contents.append(np.array([count], np.int32).tobytes())
    body: bytes = message.SerializeToString()
    return b"\x00" + struct.pack(">I", len(body)) + body


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return FRAME.pack(len(payload) << 8 | kind, flags, stream) + payload


def read_stream(port: int, model: str, count: int) -> tuple[int, float]:
    """Ask once, read to the end: messages counted, seconds from the first to the last."""
    with socket.create_connection(("127.0.0.1", port)) as sock:
        path = b"/inference.GRPCInferenceService/ModelStreamInfer"
        head = (
            b"\x83\x86"
            + literal(b":path", path)
            + literal(b":authority", b"localhost")
            + literal(b"te", b"trailers")
            + literal(b"content-type", b"application/grpc")
        )
        sock.sendall(
            PREFACE
            + frame(SETTINGS, 0, 0, struct.pack(">HI", 4, MAX_WINDOW))
            + frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", MAX_WINDOW - 65_535))
            + frame(HEADERS, END_HEADERS, 1, head)
            + frame(DATA, END_STREAM, 1, request(model, count))
        )
        return _count(sock)


def _count(sock: socket.socket) -> tuple[int, float]:
    began = time.perf_counter()
    messages, left, prefix = 0, 0, b""
    for kind, flags, payload in _frames(sock):
        if kind == DATA:
            view = payload
            while view:
                if left:
                    taken = min(left, len(view))
                    left -= taken
                    view = view[taken:]
                    continue
                prefix, view = prefix + view[: 5 - len(prefix)], view[5 - len(prefix) :]
                if len(prefix) == 5:
                    left = int.from_bytes(prefix[1:], "big")
                    messages += 1
                    prefix = b""
        elif kind == SETTINGS and not flags & ACK:
            sock.sendall(frame(SETTINGS, ACK, 0))
        elif kind == PING and not flags & ACK:
            sock.sendall(frame(PING, ACK, 0, payload))
        elif kind == HEADERS and flags & END_STREAM:
            break
    return messages, time.perf_counter() - began


def _frames(sock: socket.socket) -> Iterator[tuple[int, int, bytes]]:
    buffer = b""
    while chunk := sock.recv(1 << 18):
        buffer += chunk
        at = 0
        while len(buffer) - at >= 9:
            size = int.from_bytes(buffer[at : at + 3], "big")
            if len(buffer) - at < 9 + size:
                break
            yield buffer[at + 3], buffer[at + 4], buffer[at + 9 : at + 9 + size]
            at += 9 + size
        buffer = buffer[at:]


@contextmanager
def server(repository: Path) -> Iterator[int]:
    """`troupe serve` on one core; its gRPC port."""
    process = subprocess.Popen(
        [
            *("taskset", "-c", str(SERVER_CORE), sys.executable, "bench/wire_server.py"),
            f"--model-repository={repository}",
            *("--grpc-address=127.0.0.1", "--http-address=127.0.0.1"),
            *("--grpc-port=0", "--http-port=0", "--metrics-port=0"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
    )
    try:
        assert process.stdout is not None
        lines = []
        deadline = time.monotonic() + START_SECONDS
        for line in process.stdout:
            lines.append(line)
            found = re.search(r"GRPCInferenceService at 127\.0\.0\.1:(\d+)", line)
            if found:
                yield int(found[1])
                break
            if time.monotonic() > deadline:
                break
        else:
            raise RuntimeError("the server did not start:\n" + "".join(lines))
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)


def measure_street() -> None:
    """Print what an ensemble of three steps costs beside one step, socket to socket."""
    os.sched_setaffinity(0, {CLIENT_CORE})
    print("ensemble of three no-op steps over gRPC, requests per second, the best of 3")
    with tempfile.TemporaryDirectory() as folder:
        for name, config in noop_models("OUTPUT").items():
            (Path(folder) / name / "1").mkdir(parents=True)
            (Path(folder) / name / "config.pbtxt").write_text(config)
        with server(Path(folder)) as port:
            for connections, streams in ((1, 1), (4, 8)):
                best = {"step": 0.0, "chain": 0.0}
                for _ in range(3):
                    for name, before in best.items():
                        rate = _rate(port, name, connections, streams)
                        best[name] = max(before, rate)
                ratio = best["step"] / best["chain"]
                print(
                    f"  {connections * streams:3} at once: one step {best['step']:7,.0f}   "
                    f"ensemble {best['chain']:7,.0f}   = {ratio:.2f} steps"
                    f"{'' if ratio <= STEPS_PROMISE else f', above {STEPS_PROMISE}'}"
                )


def _rate(port: int, model: str, connections: int, streams: int) -> float:
    message = ModelInferRequest(model_name=model)
    message.inputs.add(name="INPUT", datatype="FP32", shape=[1, 1])
    message.raw_input_contents.append(bytes(4))
    result = drive(
        f"127.0.0.1:{port}",
        "/inference.GRPCInferenceService/ModelInfer",
        message.SerializeToString(),
        connections=connections,
        streams=streams,
        seconds=3.0,
        fresh_headers=False,
    )
    assert not result["failed"], f"{result['failed']} calls failed"
    return result["answers_per_second"]


def measure_streams() -> None:
    """Print responses per second, native and Python."""
    os.sched_setaffinity(0, {CLIENT_CORE})
    print("responses per second over one gRPC stream, server on one core; the best of 3")
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        (repository / "native" / "1").mkdir(parents=True)
        (repository / "native" / "config.pbtxt").write_text(NATIVE)
        (repository / "square_int32").symlink_to(ROOT / "sample_repository" / "square_int32")
        with server(repository) as port:
            for name, model in (("native", "native"), ("python", "square_int32")):
                best = 0.0
                for _ in range(3):
                    messages, seconds = read_stream(port, model, RESPONSES[name])
                    assert messages >= RESPONSES[name], f"{messages} responses came"
                    best = max(best, messages / seconds)
                verdict = "" if best >= PROMISE else f", below {PROMISE:,}"
                print(f"  {name:7} {best:9,.0f}{verdict}")
