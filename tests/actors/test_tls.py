"""TLS for a port: which files will do, who gets through, and what new files change."""

from __future__ import annotations

import contextlib
import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from actors.ports.tls import HANDSHAKE_SECONDS, HTTP2, HandshakeFailed, Tls, TlsStream, handshake
from actors.settings.options import ServerOptions
from protocol.status import ServerError, StatusCode

FILES = Path(__file__).parents[1] / "conformance" / "tls"


def options(**more: Any) -> ServerOptions:
    given = {
        "grpc_use_ssl": True,
        "grpc_server_cert": str(FILES / "server.pem"),
        "grpc_server_key": str(FILES / "server.key"),
        "grpc_root_cert": str(FILES / "ca.pem"),
        **more,
    }
    return ServerOptions(**given)


def grpc_context(options: ServerOptions) -> ssl.SSLContext:
    tls = Tls.of(options, "grpc")
    assert tls is not None
    return tls.context


def test_plain_text_is_the_rule() -> None:
    assert Tls.of(ServerOptions(), "grpc") is None
    assert Tls.of(ServerOptions(), "http") is None
    assert Tls.of(options(), "http") is None


@pytest.mark.parametrize(("more", "text"), [
    ({"grpc_server_cert": ""}, "--grpc-server-cert must be given for gRPC over TLS"),
    ({"grpc_server_key": ""}, "--grpc-server-key must be given for gRPC over TLS"),
    ({"grpc_server_key": "/nope"},
     "--grpc-server-key '/nope' cannot be read: No such file or directory"),
    ({"grpc_server_key": str(FILES / "client.key")}, "are no PEM certificate and its key: "),
    ({"grpc_server_cert": str(FILES / "README.md")}, "are no PEM certificate and its key: "),
    ({"grpc_use_ssl_mutual": True, "grpc_root_cert": ""},
     "--grpc-root-cert must be given for gRPC over TLS"),
    ({"grpc_use_ssl_mutual": True, "grpc_root_cert": "/nope"},
     "--grpc-root-cert '/nope' cannot be read: No such file or directory"),
    ({"grpc_use_ssl_mutual": True, "grpc_root_cert": str(FILES / "README.md")},
     "README.md' holds no PEM certificates: "),
])  # fmt: skip
def test_files_that_cannot_be_used_are_named(more: dict[str, Any], text: str) -> None:
    with pytest.raises(ServerError) as caught:
        grpc_context(options(**more))

    assert caught.value.status is StatusCode.INVALID_ARG
    assert text in caught.value.message


def test_an_encrypted_key_is_refused_and_nobody_is_asked(tmp_path: Path) -> None:
    key = tmp_path / "encrypted.key"
    key.write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )

    with pytest.raises(ServerError, match="are no PEM certificate and its key"):
        grpc_context(options(grpc_server_key=str(key)))


async def meet(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str, bytes]:
    """One handshake: why the server refused, or "", and what the client heard then."""
    ours, theirs = trio.testing.memory_stream_pair()
    refusals = [""]
    heard = b""

    async def serve() -> None:
        stream = TlsStream(trio.SSLStream(theirs, server, server_side=True))
        try:
            await handshake(stream, HTTP2, required=True)
            await stream.send_all(b"hello")
        except HandshakeFailed as error:
            refusals.append(str(error))
        await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        stream = trio.SSLStream(ours, client, server_hostname="localhost", https_compatible=True)
        with contextlib.suppress(trio.BrokenResourceError):
            heard = bytes(await stream.receive_some(5))
        await trio.aclose_forcefully(stream)
    return refusals[-1], heard


def client_context(*, alpn: str | None = HTTP2) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(FILES / "ca.pem"))
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    return context


async def test_a_client_that_speaks_http2_gets_through() -> None:
    assert await meet(grpc_context(options()), client_context()) == ("", b"hello")


async def test_a_client_that_does_not_offer_http2_does_not() -> None:
    for alpn in ("http/1.1", None):
        met = await meet(grpc_context(options()), client_context(alpn=alpn))
        assert met == ("the client does not offer HTTP/2 over TLS", b"")


def _with(certificate: str | None) -> ssl.SSLContext:
    context = client_context()
    if certificate is not None:
        context.load_cert_chain(FILES / f"{certificate}.pem", FILES / f"{certificate}.key")
    return context


@pytest.mark.parametrize(("certificate", "welcome"), [
    ("client", True), (None, False), ("stranger", False), ("server", False),
])  # fmt: skip
async def test_mutual_tls_wants_a_certificate_it_trusts(
    certificate: str | None, welcome: bool
) -> None:
    server = grpc_context(options(grpc_use_ssl=False, grpc_use_ssl_mutual=True))

    refusal, heard = await meet(server, _with(certificate))

    assert (refusal, heard) == ("", b"hello") if welcome else refusal and not heard


async def test_old_versions_are_not_spoken() -> None:
    client = client_context()
    client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_2
    assert await meet(grpc_context(options()), client) == ("", b"hello")
    server = grpc_context(options())
    assert server.minimum_version == ssl.TLSVersion.TLSv1_2


async def _nothing(_: trio.abc.Stream) -> None:
    return


async def _garbage(stream: trio.abc.Stream) -> None:
    await stream.send_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")


async def _farewell(stream: trio.abc.Stream) -> None:
    await stream.aclose()


@pytest.mark.parametrize("peer", [_nothing, _garbage, _farewell])
async def test_a_peer_that_does_not_shake_hands_is_let_go(
    peer: Callable[[trio.abc.Stream], Any], autojump_clock: trio.testing.MockClock
) -> None:
    assert autojump_clock is trio.lowlevel.current_clock()
    server = grpc_context(options())
    ours, theirs = trio.testing.memory_stream_pair()
    stream = TlsStream(trio.SSLStream(theirs, server, server_side=True))
    await peer(ours)

    with pytest.raises(HandshakeFailed, match="TLS handshake failed"):
        await handshake(stream, HTTP2)

    assert trio.current_time() <= HANDSHAKE_SECONDS + 1
    await trio.aclose_forcefully(ours)
    await trio.aclose_forcefully(stream)


class Files:
    """A certificate, its key and a root on disk, which can be replaced."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = trustme.CA()
        self.options = ServerOptions(
            http_use_ssl=True,
            http_server_cert=str(directory / "cert.pem"),
            http_server_key=str(directory / "key.pem"),
        )
        self.issue()

    def issue(self) -> None:
        certificate = self.authority.issue_cert("localhost")
        certificate.private_key_pem.write_to_path(self.directory / "key.pem")
        certificate.cert_chain_pems[0].write_to_path(self.directory / "cert.pem")

    def tls(self) -> Tls:
        tls = Tls.of(self.options, "http")
        assert tls is not None
        return tls


def test_new_files_hold_for_connections_from_then_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    files = Files(tmp_path)
    tls = files.tls()
    before = tls.context
    assert tls.context is before

    files.issue()
    after = tls.context

    assert after is not before
    assert tls.context is after
    assert caplog.messages == ["TLS of the http port uses the new files from now on"]


@pytest.mark.parametrize("damage", [
    lambda path: path.write_text("garbage"),
    lambda path: path.write_text(path.read_text()[:100]),
    lambda path: path.write_text(""),
    lambda path: path.unlink(),
])  # fmt: skip
def test_files_that_are_broken_or_half_written_change_nothing(
    damage: Callable[[Path], object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = Files(tmp_path)
    tls = files.tls()
    before = tls.context
    damage(tmp_path / "cert.pem")

    assert tls.context is before
    assert tls.context is before
    assert len(caplog.messages) == 1  # said once, not with every client
    assert "TLS of the http port stays as it was: --http-server-" in caplog.messages[0]

    files.issue()
    assert tls.context is not before


def test_a_certificate_without_its_key_waits_for_the_key(tmp_path: Path) -> None:
    files = Files(tmp_path)
    tls = files.tls()
    before = tls.context
    certificate = files.authority.issue_cert("localhost")

    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    assert tls.context is before
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    assert tls.context is not before


async def test_a_peer_may_leave_without_a_word(tmp_path: Path) -> None:
    files = Files(tmp_path)
    ours, theirs = trio.testing.memory_stream_pair()
    server = TlsStream(trio.SSLStream(theirs, files.tls().context, server_side=True))
    trusting = ssl.create_default_context()
    files.authority.configure_trust(trusting)
    client = trio.SSLStream(ours, trusting, server_hostname="localhost")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, b"hello")
        assert await server.receive_some() == b"hello"
    await trio.aclose_forcefully(ours)

    assert await server.receive_some() == b""
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"too late")
    await server.aclose()
