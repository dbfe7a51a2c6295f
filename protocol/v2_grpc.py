"""The codec of the two inference RPCs: serialized messages ↔ the one internal form.

    ModelInferRequest bytes  → decode_infer_request   → DecodedRequest(request, plan, empty_final)
    InferResponse + plan     → encode_infer_response  → ModelInferResponse, as buffers
    the same, on a stream    → encode_stream_response, encode_stream_error, encode_empty_final

The parts: `v2_grpc_wire` knows protobuf's wire format, `v2_grpc_parameters` and
`v2_grpc_contents` the rules of two kinds of field, `v2_grpc_request` and `v2_grpc_response` the
messages. None of them knows about HTTP/2, about time or about models.
"""

from __future__ import annotations

from protocol.v2_grpc_request import DecodedRequest, RejectedRequest, decode_infer_request
from protocol.v2_grpc_response import (
    MAX_MESSAGE_BYTES,
    Labels,
    encode_empty_final,
    encode_infer_response,
    encode_stream_error,
    encode_stream_response,
)
from protocol.v2_grpc_wire import Buffer

__all__ = [
    "MAX_MESSAGE_BYTES",
    "Buffer",
    "DecodedRequest",
    "Labels",
    "RejectedRequest",
    "decode_infer_request",
    "encode_empty_final",
    "encode_infer_response",
    "encode_stream_error",
    "encode_stream_response",
]
