"""A server that answers inference requests with canned bytes: the least that any server does.

    python bench/canned_server.py grpc|http PORT

It parses no request beyond where it ends, so that what a measurement shows is its client. The few
questions that a client asks first are answered properly.
"""

from __future__ import annotations

import json
import select
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from processes import free_ports

# This script runs from anywhere; the codecs belong to the repository.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from protocol.http2 import Http2Connection
from protocol.http2_events import UnaryCall
from protocol.proto.messages import ModelInferResponse, message_class

SERVICE = "/inference.GRPCInferenceService/"
TENSOR = {"name": "T", "datatype": "FP32", "shape": [16]}
METADATA = {"name": "m", "versions": ["1"], "inputs": [TENSOR], "outputs": [TENSOR]}
RECEIVE_BYTES = 1 << 18
CONNECT_SECONDS = 10.0


def _grpc_answers() -> dict[str, bytes]:
    response = ModelInferResponse(model_name="m", model_version="1")
    response.outputs.add(name="T", datatype="FP32", shape=[16])
    response.raw_output_contents.append(bytes(64))
    metadata = message_class("inference.ModelMetadataResponse")(**METADATA)
    server = message_class("inference.ServerMetadataResponse")(name="canned")
    config = message_class("inference.ModelConfigResponse")()
    return {
        SERVICE + "ModelInfer": response.SerializeToString(),
        SERVICE + "ModelMetadata": metadata.SerializeToString(),
        SERVICE + "ServerMetadata": server.SerializeToString(),
        SERVICE + "ModelConfig": config.SerializeToString(),
    }


class GrpcPeer:
    """One HTTP/2 connection."""

    answers = _grpc_answers()

    def __init__(self) -> None:
        paths = frozenset(self.answers)
        self.codec = Http2Connection(unary_paths=paths, now=time.monotonic())

    def greet(self) -> bytes:
        return b"".join(self.codec.take_output())

    def receive(self, data: bytes) -> bytes:
        for event in self.codec.receive(data, time.monotonic()):
            if isinstance(event, UnaryCall):
                self.codec.acknowledge(event.stream_id, len(event.message))
                self.codec.send_unary_reply(event.stream_id, self.answers[event.head.path])
        return b"".join(self.codec.take_output())


def _http(body: bytes, more: bytes = b"") -> bytes:
    return b"HTTP/1.1 200 OK\r\n%bContent-Length: %d\r\n\r\n%b" % (more, len(body), body)


def _http_infer() -> bytes:
    output = {**TENSOR, "parameters": {"binary_data_size": 64}}
    text = json.dumps({"model_name": "m", "outputs": [output]}).encode()
    head = b"Inference-Header-Content-Length: %d\r\n" % len(text)
    return _http(text + bytes(64), head)


class HttpPeer:
    """One HTTP/1.1 connection. A request is one receive, as it is on the loopback."""

    infer = _http_infer()
    pages = (
        (b"GET /v2/models/m/config ", _http(b'{"name":"m"}')),
        (b"GET /v2/models/m ", _http(json.dumps(METADATA).encode())),
        (b"GET /v2 ", _http(b'{"name":"canned","extensions":[]}')),
    )

    def greet(self) -> bytes:
        return b""

    def receive(self, data: bytes) -> bytes:
        if data.startswith(b"POST"):
            return self.infer
        return next(page for prefix, page in self.pages if data.startswith(prefix))


def serve(protocol: str, port: int) -> None:
    """Serve until killed."""
    kind = GrpcPeer if protocol == "grpc" else HttpPeer
    listener = socket.create_server(("127.0.0.1", port))
    epoll = select.epoll()
    epoll.register(listener.fileno(), select.EPOLLIN)
    peers: dict[int, tuple[socket.socket, GrpcPeer | HttpPeer]] = {}
    while True:
        for fd, _ in epoll.poll():
            if fd == listener.fileno():
                sock, _ = listener.accept()
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peer = kind()
                sock.sendall(peer.greet())
                peers[sock.fileno()] = (sock, peer)
                epoll.register(sock.fileno(), select.EPOLLIN)
                continue
            sock, peer = peers[fd]
            data = sock.recv(RECEIVE_BYTES)
            if data:
                if answer := peer.receive(data):
                    sock.sendall(answer)
            else:
                epoll.unregister(fd)
                del peers[fd]
                sock.close()


@contextmanager
def running_canned_server(protocol: str) -> Iterator[str]:
    """Such a server as a process of its own; gives its address."""
    (port,) = free_ports(1)
    child = subprocess.Popen([sys.executable, __file__, protocol, str(port)])
    try:
        give_up_at = time.monotonic() + CONNECT_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > give_up_at:
                    raise
                time.sleep(0.02)
        yield f"127.0.0.1:{port}"
    finally:
        child.kill()
        child.wait()


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
