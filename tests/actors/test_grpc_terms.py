"""The terms of calls: derived once for whatever in a head bears on them."""

from __future__ import annotations

from actors.grpc.terms import MAX_KNOWN_HEADS, GrpcSettings, Terms, TermsReader
from protocol.api_keys import Guard, Keyring
from protocol.http2 import Http2Limits
from protocol.http2_heads import RequestHead
from protocol.restriction import Category, RestrictedApis
from protocol.v2_json_parameters import HeaderForwarding

PATH = "/inference.GRPCInferenceService/ModelInfer"
OPEN = RestrictedApis({}, grpc=True)


def head(*headers: tuple[str, str]) -> RequestHead:
    return RequestHead(PATH, headers, "POST", "http", "a", "", -1, True, True, False, "")


def reader(
    restricted: RestrictedApis = OPEN,
    forwarding: HeaderForwarding | None = None,
    keyring: Keyring | None = None,
) -> TermsReader:
    return TermsReader(
        GrpcSettings(
            Http2Limits(),
            Guard(restricted, keyring),
            forwarding=forwarding or HeaderForwarding(),
            categories={PATH: Category.INFERENCE},
        )
    )


def refused(terms: Terms) -> bool:
    return terms.refusal is not None


def test_heads_that_differ_in_other_metadata_share_their_terms() -> None:
    terms = reader()
    first = terms.read(head(("grpc-timeout", "3S"), ("x-request-id", "1")))
    assert first.timeout_seconds == 3.0
    for number in range(3 * MAX_KNOWN_HEADS):
        other = terms.read(head(("x-request-id", str(number)), ("grpc-timeout", "3S")))
        assert other is first
    assert terms.read(head(("grpc-timeout", "4S"))).timeout_seconds == 4.0


def test_binary_metadata_are_judged_even_if_nothing_is_forwarded() -> None:
    terms = reader()
    assert terms.read(head(("x-trace-bin", "AAEC"))).bad_metadata is None
    assert terms.read(head(("x-trace-bin", "!"))).bad_metadata is not None


def test_every_header_counts_where_the_operator_forwards_or_restricts() -> None:
    forwarding = reader(forwarding=HeaderForwarding("x-.*"))
    for value in ("1", "2"):
        assert forwarding.read(head(("x-user", value))).forwarded == {"x-user": value}
    key = ("triton-grpc-protocol-key", "secret")
    restricting = reader(RestrictedApis({Category.INFERENCE: key}, grpc=True))
    assert refused(restricting.read(head(("triton-grpc-protocol-key", "guess"))))
    assert not refused(restricting.read(head(("triton-grpc-protocol-key", "secret"))))
    assert refused(restricting.read(head()))
