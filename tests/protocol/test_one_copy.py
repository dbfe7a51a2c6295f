"""A tensor that comes in pieces is put together once: from there on everybody looks at that."""

from __future__ import annotations

import itertools
import json
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import numpy as np
import pytest

from protocol.http1 import Http1Connection, HttpLimits, HttpRequest
from protocol.http2_events import UnaryCall
from protocol.proto.messages import ModelInferRequest
from protocol.v2_grpc_request import decode_infer_request
from protocol.v2_json import InferDecoder
from tests.protocol.http2_peer import PATH, Peer, grpc

TENSOR: Final = np.arange(150_000, dtype=np.float32)  # 600 kB
PIECE: Final = 65_536  # bytes that one read brings
# One copy, the room that a growing buffer keeps in reserve, and what else a request costs; a second
# copy would take twice the tensor.
MOST: Final = 1.3 * TENSOR.nbytes


@contextmanager
def no_more_than(limit: float) -> Iterator[None]:
    """All memory that the block has at any one time, in bytes."""
    tracemalloc.start()
    try:
        yield
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak <= limit


def pieces(data: bytes) -> list[bytes]:
    return [data[start : start + PIECE] for start in range(0, len(data), PIECE)]


def http_body() -> tuple[bytes, int]:
    """An infer request with the tensor behind its JSON, and how long the JSON is."""
    given = {
        "name": "I",
        "datatype": "FP32",
        "shape": [TENSOR.size],
        "parameters": {"binary_data_size": TENSOR.nbytes},
    }
    text = json.dumps({"inputs": [given]}).encode()
    return text + TENSOR.tobytes(), len(text)


def http_request(*, chunked: bool) -> tuple[list[bytes], int]:
    body, length = http_body()
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {len(body)}"
    framing += f"\r\nInference-Header-Content-Length: {length}"
    head = f"POST /v2/models/m/infer HTTP/1.1\r\nHost: x\r\n{framing}\r\n\r\n".encode()
    if not chunked:
        return pieces(head + body), length
    chunks = [b"%x\r\n%b\r\n" % (len(each), each) for each in pieces(body)]
    return [head, *chunks, b"0\r\n\r\n"], length


@pytest.mark.parametrize("chunked", [False, True])
def test_a_600_kb_body_of_http_is_copied_once(chunked: bool) -> None:
    reads, length = http_request(chunked=chunked)
    connection = Http1Connection(HttpLimits())
    decoder = InferDecoder()

    with no_more_than(MOST):
        (request,) = itertools.chain.from_iterable(connection.receive(each, 0.0) for each in reads)
        assert isinstance(request, HttpRequest)
        decoded, _ = decoder.decode("m", "1", request.body, str(length))
        array = decoded.inputs[0].array

    assert np.array_equal(array, TENSOR)
    assert np.shares_memory(array, np.frombuffer(request.body, np.uint8))


def test_a_600_kb_message_of_grpc_is_copied_once() -> None:
    message = ModelInferRequest(model_name="m")
    message.inputs.add(name="I", datatype="FP32", shape=[TENSOR.size])
    message.raw_input_contents.append(TENSOR.tobytes())
    peer = Peer(unary_paths=frozenset((PATH,)))
    peer.send(peer.headers(1))
    body = grpc(message.SerializeToString())
    frames = [
        peer.data(1, each, end=last)
        for each, last in zip(pieces(body), [*[False] * (len(body) // PIECE), True], strict=True)
    ]
    connection = peer.connection

    with no_more_than(MOST):
        (call,) = itertools.chain.from_iterable(connection.receive(each, 0.0) for each in frames)
        assert isinstance(call, UnaryCall)
        array = decode_infer_request(call.message).request.inputs[0].array

    assert np.array_equal(array, TENSOR)
    assert np.shares_memory(array, np.frombuffer(call.message, np.uint8))
