"""An HTTP load generator that costs little: one infer request at a time per connection."""

from __future__ import annotations

import json
import selectors
import socket
import time

import numpy as np


def request_bytes(address: str, elements: int, *, kind: str = "binary") -> bytes:
    """The whole request: one FP32 tensor [1, elements], in and out in binary or in "json"."""
    numbers = np.arange(elements, dtype=np.float32) / 8
    tensor: dict[str, object] = {"name": "INPUT0", "datatype": "FP32", "shape": [1, elements]}
    root: dict[str, object] = {"inputs": [tensor]}
    raw, lines = b"", [f"POST /v2/models/noop/infer HTTP/1.1\r\nHost: {address}"]
    if kind == "json":
        tensor["data"] = numbers.tolist()
    else:
        raw = numbers.tobytes()
        tensor["parameters"] = {"binary_data_size": len(raw)}
        root["parameters"] = {"binary_data_output": True}
    text = json.dumps(root).encode()
    if raw:
        lines.append(f"Inference-Header-Content-Length: {len(text)}")
    lines.append(f"Content-Length: {len(text) + len(raw)}\r\n\r\n")
    return "\r\n".join(lines).encode() + text + raw


class Connection:
    """One socket with one request in flight."""

    def __init__(self, address: str, request: bytes) -> None:
        host, port = address.split(":")
        self.socket = socket.create_connection((host, int(port)))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._request = request
        self._response = bytearray()
        self._whole = 0  # bytes of the response under way; 0 while its head is not here
        self.answered = 0
        self.failed = 0

    def send(self) -> None:
        self.socket.sendall(self._request)

    def receive(self) -> bool:
        """Take what has come; True once the response is whole."""
        data = self.socket.recv(1 << 20)
        if not data:
            raise ConnectionError("the server closed the connection")
        response = self._response
        response += data
        if not self._whole:
            end = response.find(b"\r\n\r\n")
            if end < 0:
                return False
            head = bytes(response[:end]).lower()
            at = head.index(b"\r\ncontent-length:") + 17
            stop = head.find(b"\r\n", at)
            self._whole = end + 4 + int(head[at : stop if stop >= 0 else end])
        if len(response) < self._whole:
            return False
        self.failed += not response.startswith(b"HTTP/1.1 200")
        self.answered += 1
        response.clear()
        self._whole = 0
        return True


def drive(
    address: str, *, elements: int, connections: int, seconds: float, kind: str = "binary"
) -> dict[str, float]:
    """Answers per second over `seconds`, after a tenth of that as warm-up; mean latency in µs."""
    request = request_bytes(address, elements, kind=kind)
    selector = selectors.DefaultSelector()
    peers = [Connection(address, request) for _ in range(connections)]
    for peer in peers:
        selector.register(peer.socket, selectors.EVENT_READ, peer)
        peer.send()
    began = time.perf_counter()
    warm_until, counted, until = began + seconds / 10, 0, began + seconds * 1.1
    warm = False
    while (now := time.perf_counter()) < until:
        if not warm and now >= warm_until:
            warm, counted, began = True, sum(peer.answered for peer in peers), now
        for key, _ in selector.select(timeout=1.0):
            if key.data.receive():
                key.data.send()
    elapsed = time.perf_counter() - began
    answered = sum(peer.answered for peer in peers) - counted
    for peer in peers:
        peer.socket.close()
    return {
        "answers_per_second": answered / elapsed,
        "latency_us": connections * elapsed / max(1, answered) * 1e6,
        "failed": sum(peer.failed for peer in peers),
    }
