"""What one infer request over HTTP costs the codecs alone: bytes in, bytes out, no socket.

    python -m bench.http_codec [--calls 20000] [--rounds 5]

The request is that of the Python client: two FP32 inputs of 16 elements in binary, two outputs
asked for in binary. "repeated": head and JSON header are the same each time, as most clients send
them; "changing": a request id differs in both. Each line is the best of the rounds, in CPU
microseconds per call. `h11` reads the same heads for comparison.
"""

from __future__ import annotations

import argparse
import gzip
import json
import time
from collections.abc import Callable, Sequence

import h11
import numpy as np

from protocol.api_keys import Guard
from protocol.http1 import Http1Connection, HttpLimits, HttpRequest
from protocol.http1_response import encode_response
from protocol.http_compression import decode_body
from protocol.inference import InferResponse, Tensor
from protocol.restriction import RestrictedApis
from protocol.routes import dispatch
from protocol.v2_json import InferDecoder
from protocol.v2_json_response import InferEncoder

OPEN = Guard(RestrictedApis({}))
FLOATS = np.arange(16, dtype=np.float32).reshape(1, 16)
MEBIBYTE = 1 << 20


def json_header(request_id: str) -> bytes:
    root: dict[str, object] = {"id": request_id} if request_id else {}
    root["inputs"] = [
        {
            "name": name,
            "shape": [1, 16],
            "datatype": "FP32",
            "parameters": {"binary_data_size": 64},
        }
        for name in ("INPUT0", "INPUT1")
    ]
    root["outputs"] = [
        {"name": name, "parameters": {"binary_data": True}} for name in ("OUTPUT0", "OUTPUT1")
    ]
    return json.dumps(root, separators=(",", ":")).encode()


def http_request(request_id: str) -> bytes:
    text = json_header(request_id)
    body = text + FLOATS.tobytes() * 2
    lines = [
        "POST /v2/models/simple/infer HTTP/1.1",
        "Host: localhost:8000",
        "User-Agent: tritonclient/2.73.0",
        "Accept: */*",
        f"Inference-Header-Content-Length: {len(text)}",
        "Content-Type: application/octet-stream",
        f"Content-Length: {len(body)}",
        *([f"X-Request-Id: {request_id}"] if request_id else []),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Codecs:
    """Everything that one request passes, each step callable on its own."""

    def __init__(self) -> None:
        self.connection = Http1Connection(HttpLimits())
        self.decoder = InferDecoder()
        self.encoder = InferEncoder()
        self.requests: dict[bytes, HttpRequest] = {}
        self.outputs = [Tensor.from_array(name, FLOATS) for name in ("OUTPUT0", "OUTPUT1")]

    def receive(self, data: bytes) -> HttpRequest:
        (event,) = self.connection.receive(data, 0.0)
        self.connection.reply_sent(0.0)
        assert isinstance(event, HttpRequest)
        return event

    def decode(self, data: bytes) -> object:
        request = self.requests[data]
        length = request.headers["inference-header-content-length"]
        return self.decoder.decode("simple", "", request.body, length)

    def whole(self, data: bytes) -> object:
        request = self.receive(data)
        dispatch(request.method, request.path, request.headers, OPEN)
        length = request.headers["inference-header-content-length"]
        decoded, plan = self.decoder.decode("simple", "", request.body, length)
        response = InferResponse("simple", "1", decoded.id, self.outputs)
        headers, parts = self.encoder.encode(response, plan)
        return encode_response(200, headers, parts)


def h11_request(data: bytes) -> object:
    peer = h11.Connection(h11.SERVER)
    peer.receive_data(data)
    return [peer.next_event() for _ in range(3)]


def best(run: Callable[[bytes], object], inputs: Sequence[bytes], rounds: int) -> float:
    """CPU microseconds per call, in the best round."""
    fastest = float("inf")
    for _ in range(rounds):
        start = time.process_time()
        for data in inputs:
            run(data)
        fastest = min(fastest, time.process_time() - start)
    return fastest / len(inputs) * 1e6


def print_line(name: str, microseconds: float) -> None:
    print(f"{name:44s} {microseconds:10.2f} us")


def small_requests(calls: int, rounds: int) -> None:
    same = [http_request("")] * calls
    # Fewer than a round's calls would be remembered from the round before.
    changing = [http_request(str(index)) for index in range(calls)]
    for kind, inputs in (("repeated", same), ("changing", changing)):
        codecs = Codecs()
        print_line(f"{kind}: receive", best(codecs.receive, inputs, rounds))
        codecs.requests = {data: codecs.receive(data) for data in inputs}
        print_line(f"{kind}: decode", best(codecs.decode, inputs, rounds))
        print_line(f"{kind}: receive to reply, whole", best(codecs.whole, inputs, rounds))
        print_line(f"{kind}: h11 receive", best(h11_request, inputs[:2000], rounds))
    request = Codecs().receive(same[0])
    print_line(
        "dispatch",
        best(lambda _: dispatch(request.method, request.path, request.headers, OPEN), same, rounds),
    )
    encoder = InferEncoder()
    _, plan = InferDecoder().decode(
        "simple", "", json_header("") + bytes(128), str(len(json_header("")))
    )
    response = InferResponse("simple", "1", "", Codecs().outputs)
    print_line("encode", best(lambda _: encoder.encode(response, plan), same, rounds))


def large_requests(rounds: int) -> None:
    size = 8 * MEBIBYTE
    header = {"inputs": [{"name": "I", "datatype": "UINT8", "shape": [size],
                          "parameters": {"binary_data_size": size}}]}  # fmt: skip
    text = json.dumps(header).encode()
    lines = [
        "POST /v2/models/m/infer HTTP/1.1",
        f"Inference-Header-Content-Length: {len(text)}",
        f"Content-Length: {len(text) + size}",
    ]
    data = "\r\n".join(lines).encode() + b"\r\n\r\n" + text + bytes(size)

    def in_pieces(whole: bytes) -> object:
        connection = Http1Connection(HttpLimits())
        decoder = InferDecoder()
        for start in range(0, len(whole), 65536):
            for event in connection.receive(whole[start : start + 65536], 0.0):
                assert isinstance(event, HttpRequest)
                return decoder.decode("m", "", event.body, str(len(text)))
        raise AssertionError("the request is whole")

    print_line("8 MiB binary tensor in 64 KiB pieces", best(in_pieces, [data], rounds))
    floats = np.linspace(0, 1, 100_000, dtype=np.float32)
    entry = {"name": "I", "datatype": "FP32", "shape": [100_000], "data": floats.tolist()}
    body = json.dumps({"inputs": [entry]}).encode()
    decoder = InferDecoder()
    print_line("100,000 FP32 in JSON: decode", best(
        lambda given: decoder.decode("m", "", given, None), [body], rounds))  # fmt: skip
    response = InferResponse("m", "1", outputs=[Tensor.from_array("O", floats)])
    encoder = InferEncoder()
    _, plan = decoder.decode("m", "", b'{"inputs":[]}', None)
    print_line("100,000 FP32 in JSON: encode", best(
        lambda _: encoder.encode(response, plan), [b""], rounds))  # fmt: skip
    packed = gzip.compress(bytes(range(256)) * 4096)
    print_line("1 MiB inflated", best(
        lambda given: decode_body(given, "gzip", 2 * MEBIBYTE), [packed], rounds))  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    small_requests(options.calls, options.rounds)
    large_requests(options.rounds)


if __name__ == "__main__":
    main()
