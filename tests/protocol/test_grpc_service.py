"""grpclib's contract on a transport of our own: routes, streams, timeouts, metadata, status."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import AsyncIterator

import betterproto
import pytest
import trio
from grpclib.const import Cardinality, Handler, Status
from grpclib.exceptions import GRPCError
from grpclib.metadata import decode_grpc_message, encode_timeout
from hypothesis import given
from hypothesis import strategies as st

from protocol.grpc_compression import (
    ACCEPTED,
    CompressionLevel,
    compress,
    decompress,
    request_encoding,
    response_encoding,
)
from protocol.grpc_service import (
    MODEL_INFER,
    MODEL_STREAM_INFER,
    Headers,
    Stream,
    decode_message,
    decode_metadata,
    encode_message,
    encode_metadata,
    json_reply,
    parse_timeout,
    routes,
    status_of,
    trailers,
)
from protocol.proto.generated import inference
from protocol.proto.generated.grpc.health import v1 as health
from protocol.proto.messages import message_class
from protocol.status import ServerError, StatusCode, cancelled, not_found

CHECK = "/grpc.health.v1.Health/Check"


class MemoryStream:
    """A call over memory channels, as a trio transport would offer it."""

    def __init__(self, requests: list[betterproto.Message]) -> None:
        self._requests = iter(requests)
        self.replies: list[betterproto.Message] = []

    async def recv_message(self) -> betterproto.Message | None:
        await trio.lowlevel.checkpoint()
        return next(self._requests, None)

    async def send_message(self, message: betterproto.Message) -> None:
        await trio.lowlevel.checkpoint()
        self.replies.append(message)

    async def __aiter__(self) -> AsyncIterator[betterproto.Message]:
        while (message := await self.recv_message()) is not None:
            yield message


class Health(health.HealthBase):
    async def check(
        self, health_check_request: health.HealthCheckRequest
    ) -> health.HealthCheckResponse:
        if health_check_request.service:
            raise GRPCError(Status.NOT_FOUND, health_check_request.service)
        return health.HealthCheckResponse(health.HealthCheckResponseServingStatus.SERVING)


class Inference(inference.GrpcInferenceServiceBase):
    async def server_metadata(
        self, server_metadata_request: inference.ServerMetadataRequest
    ) -> inference.ServerMetadataResponse:
        return inference.ServerMetadataResponse("troupe", "1", ["statistics"])

    async def model_stream_infer(
        self, model_infer_request_iterator: AsyncIterator[inference.ModelInferRequest]
    ) -> AsyncIterator[inference.ModelStreamInferResponse]:
        async for request in model_infer_request_iterator:
            yield inference.ModelStreamInferResponse(error_message=request.id)


# ---- routes ------------------------------------------------------------------------------------


def test_every_method_has_a_route() -> None:
    table = routes([Health(), Inference()])
    assert len(table) == 22
    route = table[CHECK]
    assert route.path == CHECK
    assert route.cardinality is Cardinality.UNARY_UNARY
    assert (route.request_type, route.reply_type) == (
        health.HealthCheckRequest,
        health.HealthCheckResponse,
    )
    assert table[MODEL_INFER].cardinality is Cardinality.UNARY_UNARY
    assert table[MODEL_STREAM_INFER].cardinality is Cardinality.STREAM_STREAM


def test_two_services_cannot_claim_one_path() -> None:
    with pytest.raises(ValueError, match="two services claim the path /grpc"):
        routes([Health(), Health()])


class Stranger:
    def __mapping__(self) -> dict[str, Handler]:
        mapping = Health().__mapping__()
        return {"/other.Service/Check": mapping[CHECK]}


def test_every_method_served_is_described() -> None:
    with pytest.raises(KeyError):
        routes([Stranger()])


def call(path: str, *requests: betterproto.Message) -> list[betterproto.Message]:
    """Serve one call, its messages as they would be on the wire."""
    route = routes([Health(), Inference()])[path]
    stream = MemoryStream([route.decode(bytes(request)) for request in requests])
    typed: Stream[betterproto.Message, betterproto.Message] = stream
    trio.run(route.func, typed)
    return [route.reply_type().parse(route.encode(reply)) for reply in stream.replies]


def test_a_generated_unary_method_runs_on_trio() -> None:
    (reply,) = call(CHECK, health.HealthCheckRequest())
    assert reply == health.HealthCheckResponse(health.HealthCheckResponseServingStatus.SERVING)


def test_a_generated_stream_runs_on_trio() -> None:
    replies = call(MODEL_STREAM_INFER, *(inference.ModelInferRequest(id=name) for name in "abc"))
    assert replies == [inference.ModelStreamInferResponse(error_message=name) for name in "abc"]
    assert call(MODEL_STREAM_INFER) == []


def test_a_reply_told_in_json_says_what_a_typed_one_says() -> None:
    class Told(inference.GrpcInferenceServiceBase):
        async def model_statistics(
            self, request: inference.ModelStatisticsRequest
        ) -> inference.ModelStatisticsResponse:
            row = {
                "name": request.name,
                "inference_count": "18446744073709551615",
                "last_inference": 7,
                "inference_stats": {"success": {"count": "3", "ns": "4"}},
                "batch_stats": [{"batch_size": "2", "compute_infer": {"count": "1"}}],
                "only_over_rest": True,
            }
            return json_reply(inference.ModelStatisticsResponse, {"model_stats": [row]})

    route = routes([Told()])["/inference.GRPCInferenceService/ModelStatistics"]
    stream = MemoryStream([inference.ModelStatisticsRequest(name="m")])
    typed: Stream[betterproto.Message, betterproto.Message] = stream
    trio.run(route.func, typed)
    (reply,) = stream.replies

    timed = inference.StatisticDuration
    assert route.reply_type().parse(route.encode(reply)) == inference.ModelStatisticsResponse(
        [
            inference.ModelStatistics(
                name="m",
                inference_count=2**64 - 1,
                last_inference=7,
                inference_stats=inference.InferStatistics(success=timed(3, 4)),
                batch_stats=[inference.InferBatchStatistics(2, compute_infer=timed(count=1))],
            )
        ]
    )


def test_errors_of_a_service_reach_the_transport() -> None:
    with pytest.raises(GRPCError) as caught:
        call(CHECK, health.HealthCheckRequest(service="x"))
    assert status_of(caught.value) == (5, "x")


def test_methods_left_out_are_unimplemented() -> None:
    with pytest.raises(GRPCError) as caught:
        call("/inference.GRPCInferenceService/ModelReady", inference.ModelReadyRequest())
    assert status_of(caught.value) == (12, "")


@given(st.sampled_from(sorted(routes([Inference()]))), st.binary(max_size=40))
def test_malformed_requests_are_server_errors(path: str, data: bytes) -> None:
    route = routes([Inference()])[path]
    try:
        message = route.decode(data)
    except ServerError as error:
        assert error.status is StatusCode.INTERNAL  # noqa: PT017  # either outcome is right
    else:
        assert isinstance(message, route.request_type)


@pytest.mark.parametrize(
    "data",
    [
        b"\x0b\x0c",  # a group where a string belongs
        b"\xfb\x01\x08\x01\xfc\x01",  # a group of an unknown number
        b"\x0d\x00\x00\x00\x00",  # a string of the wrong wire type
        b"\xf8\x07\x01",  # an unknown number
    ],
)
def test_unknown_fields_are_ignored(data: bytes) -> None:
    assert routes([Health()])[CHECK].decode(data) == health.HealthCheckRequest()


def test_a_cut_request_is_malformed() -> None:
    route = routes([Health()])[CHECK]
    for form in (bytes, bytearray, memoryview):
        with pytest.raises(ServerError) as caught:
            route.decode(form(b"\x0a\x05abc"))
        assert caught.value.message == "Exception deserializing request!"


def test_a_reply_of_another_type_is_a_defect() -> None:
    with pytest.raises(AssertionError, match="its own reply type"):
        routes([Health()])[CHECK].encode(health.HealthCheckRequest())


def test_betterproto_writes_what_protobuf_reads() -> None:
    duration = inference.StatisticDuration(count=3, ns=2**63)
    ours = inference.ModelStatisticsResponse(
        [
            inference.ModelStatistics(
                name="simple",
                version="1",
                last_inference=2**64 - 1,
                inference_stats=inference.InferStatistics(success=duration),
                batch_stats=[inference.InferBatchStatistics(8, duration)],
                response_stats={"0": inference.InferResponseStatistics(cancel=duration)},
            )
        ]
    )
    upb = message_class("inference.ModelStatisticsResponse").FromString(bytes(ours))
    assert inference.ModelStatisticsResponse().parse(upb.SerializeToString()) == ours
    assert "ns: 9223372036854775808" in str(upb)


# ---- timeouts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("1H", 3600), ("2M", 120), ("3S", 3), ("100m", 0.1), ("5u", 5e-6), ("99999999n", 0.099999999)],
)
def test_timeouts(value: str, seconds: float) -> None:
    assert parse_timeout(value) == pytest.approx(seconds)


@given(st.floats(1e-8, 9e7))
def test_timeouts_of_grpclib_clients(seconds: float) -> None:
    assert parse_timeout(encode_timeout(seconds)) == pytest.approx(seconds, rel=0.2)


@pytest.mark.parametrize(
    "value", ["", "S", "1", "1s", "-1S", "1.5S", "100000000S", " 1S", "1S\n", "\u0661S"]
)
def test_malformed_timeouts(value: str) -> None:
    with pytest.raises(ServerError) as caught:
        parse_timeout(value)
    assert caught.value.message == f"malformed grpc-timeout '{value}'"


# ---- metadata ----------------------------------------------------------------------------------


def test_metadata_among_headers() -> None:
    headers = (
        ("te", "trailers"),
        ("content-type", "application/grpc"),
        ("grpc-timeout", "1S"),
        ("user-agent", "x"),
        ("my_header", "a,b"),
        ("my_header", "c"),
        ("trace-bin", "AP8"),
        ("trace-bin", "AP8=, YQ=="),
        ("empty-bin", ""),
    )
    assert decode_metadata(headers) == (
        ("user-agent", "x"),
        ("my_header", "a,b"),
        ("my_header", "c"),
        ("trace-bin", b"\x00\xff"),
        ("trace-bin", b"\x00\xff"),
        ("trace-bin", b"a"),
        ("empty-bin", b""),
    )


@pytest.mark.parametrize("value", ["A", "!!!!", "\u00e9\u00e9\u00e9\u00e9", "AP8=AP8="])
def test_metadata_that_is_not_base64(value: str) -> None:
    with pytest.raises(ServerError) as caught:
        decode_metadata((("x-bin", value),))
    assert caught.value.message == "metadata 'x-bin' is not base64"


@given(st.lists(st.binary(max_size=10), max_size=3), st.text("abc ~!", max_size=5))
def test_metadata_survives_the_wire(values: list[bytes], text: str) -> None:
    metadata: list[tuple[str, str | bytes]] = [("x-bin", value) for value in values]
    metadata.append(("x", text))
    assert decode_metadata(encode_metadata(metadata)) == tuple(metadata)


@pytest.mark.parametrize(
    ("name", "value", "complaint"),
    [
        ("grpc-status", "0", "name 'grpc-status' is not allowed"),
        ("te", "trailers", "name 'te' is not allowed"),
        ("Upper", "x", "name 'Upper' is not allowed"),
        ("new\nline", "x", "is not allowed"),
        ("x-bin", "text", "wrong kind of value"),
        ("x", b"bytes", "wrong kind of value"),
        ("x", "new\nline", "not printable ASCII"),
        ("x", "\u00e9", "not printable ASCII"),
    ],
)
def test_metadata_that_grpc_forbids(name: str, value: str | bytes, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        encode_metadata(((name, value),))


# ---- status ------------------------------------------------------------------------------------


@given(st.text())
def test_messages_survive_the_wire(message: str) -> None:
    encoded = encode_message(message)
    assert encoded.isascii()
    assert encoded.isprintable()
    assert decode_message(encoded) == decode_grpc_message(encoded) == message


def test_message_encoding() -> None:
    assert encode_message("100%: 'M' \u00e9\n") == "100%25: 'M' %C3%A9%0A"
    assert encode_message("\udcff") == "?"
    assert decode_message("%zz%FF") == "%zz\ufffd"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (None, (("grpc-status", "0"),)),
        (not_found("no 'M'"), (("grpc-status", "5"), ("grpc-message", "no 'M'"))),
        (cancelled(), (("grpc-status", "1"),)),
        (
            GRPCError(Status.PERMISSION_DENIED, "no\n"),
            (("grpc-status", "7"), ("grpc-message", "no%0A")),
        ),
        (GRPCError(Status.UNIMPLEMENTED), (("grpc-status", "12"),)),
    ],
)
def test_trailers(error: ServerError | GRPCError | None, expected: Headers) -> None:
    assert trailers(error) == expected


# ---- compression -------------------------------------------------------------------------------

ALGORITHMS = ["gzip", "deflate"]
TEXT = b"the same words again and again, " * 100


def test_what_is_accepted() -> None:
    assert ACCEPTED == "identity,gzip,deflate"


@pytest.mark.parametrize("encoding", ["identity", *ALGORITHMS])
def test_request_encodings(encoding: str) -> None:
    assert request_encoding((("grpc-encoding", encoding),)) == encoding
    assert request_encoding(()) == "identity"


def test_an_unknown_request_encoding() -> None:
    with pytest.raises(ServerError) as caught:
        request_encoding((("x", "y"), ("grpc-encoding", "br")))
    assert caught.value.status is StatusCode.UNSUPPORTED
    assert caught.value.message == 'Compression algorithm "br" is not supported.'


@pytest.mark.parametrize(
    ("level", "accepted", "expected"),
    [
        ("none", "gzip,deflate", "identity"),
        ("low", "identity,deflate,gzip", "gzip"),
        ("medium", "identity, deflate, gzip", "deflate"),
        ("high", "deflate,gzip", "deflate"),
        ("low", "deflate", "deflate"),
        ("high", "gzip", "gzip"),
        ("high", "br,identity", "identity"),
        ("high", "", "identity"),
    ],
)
def test_response_encodings(level: str, accepted: str, expected: str) -> None:
    headers = (("x", "gzip"), ("grpc-accept-encoding", accepted))
    assert response_encoding(CompressionLevel(level), headers) == expected
    assert response_encoding(CompressionLevel(level), ()) == "identity"


@pytest.mark.parametrize("encoding", ALGORITHMS)
@pytest.mark.parametrize("level", [each for each in CompressionLevel if each.value != "none"])
def test_compression_there_and_back(encoding: str, level: CompressionLevel) -> None:
    compressed = compress([TEXT, memoryview(TEXT)], encoding, level)
    assert len(compressed) < len(TEXT)
    for form in (bytes, bytearray, memoryview):
        assert decompress(form(compressed), encoding, limit=2 * len(TEXT)) == TEXT + TEXT
    assert decompress(compress([], encoding), encoding, limit=0) == b""


def test_other_programs_read_it() -> None:
    assert gzip.decompress(compress([TEXT], "gzip")) == TEXT
    assert zlib.decompress(compress([TEXT], "deflate")) == TEXT


@pytest.mark.parametrize("encoding", ALGORITHMS)
def test_inflating_stops_at_the_limit(encoding: str) -> None:
    bomb = compress([bytes(2**20)] * 64, encoding)
    for limit in (0, 1, 2**20, 2**26 - 1):
        with pytest.raises(ServerError) as caught:
            decompress(bomb, encoding, limit)
        assert caught.value.status is StatusCode.INVALID_ARG
        assert caught.value.message == (
            f"Decompressed data size exceeds the maximum allowed value of {limit} bytes."
        )
    assert len(decompress(bomb, encoding, 2**26)) == 2**26


@pytest.mark.parametrize("encoding", ALGORITHMS)
@pytest.mark.parametrize("damage", ["nothing", "cut", "trailing", "second member", "flipped"])
def test_corrupt_messages(encoding: str, damage: str) -> None:
    good = compress([TEXT], encoding)
    bad = {
        "nothing": b"",
        "cut": good[:-1],
        "trailing": good + b"x",
        "second member": good + good,
        "flipped": good[:-3] + bytes([good[-3] ^ 1]) + good[-2:],
    }[damage]
    with pytest.raises(ServerError) as caught:
        decompress(bad, encoding, limit=10 * len(TEXT))
    assert caught.value.status is StatusCode.INTERNAL
    assert caught.value.message == f"corrupt {encoding} message"


def test_one_algorithm_is_not_taken_for_the_other() -> None:
    with pytest.raises(ServerError, match="corrupt deflate message"):
        decompress(compress([TEXT], "gzip"), "deflate", limit=10_000)


def test_compressed_by_identity() -> None:
    with pytest.raises(ServerError) as caught:
        decompress(b"x", "identity", limit=10)
    assert caught.value.message == "compressed message, but the call has no grpc-encoding"
