"""TLS for the gRPC port: the server's context from PEM files, and the handshake of a connection.

Owns what is negotiated: HTTP/2 and nothing else, TLS 1.2 or later, and, for mutual TLS, a client
certificate that the root certificates vouch for. Files that cannot be used stop the server at its
start; Triton would take them for empty.
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Final

import trio

from actors.options import ServerOptions
from actors.sockets import PeerStream
from protocol.status import ServerError, invalid_arg

ALPN: Final = "h2"
# As long as a client may take for the first bytes of HTTP/2.
HANDSHAKE_SECONDS: Final = 20.0


class HandshakeFailed(Exception):  # it is only ever logged
    """A peer did not, or not in time, agree on HTTP/2 over TLS."""


def grpc_context(options: ServerOptions) -> ssl.SSLContext | None:
    """The TLS context of the gRPC port, or None where it speaks plain text. Raises INVALID_ARG."""
    if not (options.grpc_use_ssl or options.grpc_use_ssl_mutual):
        return None
    certificate = _readable("grpc-server-cert", options.grpc_server_cert)
    key = _readable("grpc-server-key", options.grpc_server_key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([ALPN])
    try:
        # An encrypted key would have OpenSSL ask for its password on a terminal that nobody reads.
        context.load_cert_chain(certificate, key, password="")
    except (ssl.SSLError, ValueError) as error:
        raise invalid_arg(
            f"--grpc-server-cert '{certificate}' and --grpc-server-key '{key}' are no PEM "
            f"certificate and its key: {error}"
        ) from None
    if options.grpc_use_ssl_mutual:
        root = _readable("grpc-root-cert", options.grpc_root_cert)
        try:
            context.load_verify_locations(root)
        except ssl.SSLError as error:
            raise _no_certificates(root, str(error)) from None
        if not context.get_ca_certs():
            raise _no_certificates(root, "there is none in it")
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def secured(
    stream: PeerStream, context: ssl.SSLContext | None
) -> PeerStream | trio.SSLStream[PeerStream]:
    """The stream over which to speak HTTP/2."""
    if context is None:
        return stream
    return trio.SSLStream(stream, context, server_side=True, https_compatible=True)


async def handshake(stream: trio.abc.Stream) -> None:
    """Agree with the peer, where there is anything to agree on. Raises HandshakeFailed."""
    if not isinstance(stream, trio.SSLStream):
        return
    try:
        with trio.fail_after(HANDSHAKE_SECONDS):
            await stream.do_handshake()
    except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
        raise HandshakeFailed(f"TLS handshake failed: {error.__cause__ or error}") from None
    if stream.selected_alpn_protocol() != ALPN:
        raise HandshakeFailed("the client does not offer HTTP/2 over TLS")


def _readable(flag: str, path: str) -> str:
    if not path:
        raise invalid_arg(f"--{flag} must be given for gRPC over TLS")
    try:
        with Path(path).open("rb"):
            return path
    except OSError as error:
        raise invalid_arg(f"--{flag} '{path}' cannot be read: {error.strerror}") from None


def _no_certificates(path: str, reason: str) -> ServerError:
    return invalid_arg(f"--grpc-root-cert '{path}' holds no PEM certificates: {reason}")
