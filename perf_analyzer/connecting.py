"""Opening connections: addresses, TLS.

Owns how `host:port` is read and how TLS is set up from the flags' files. Raises SetupError.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio

from perf_analyzer.model import SetupError

Connect = Callable[[], Awaitable[trio.abc.Stream]]

# A server on a reachable host answers within this, or is down.
CONNECT_SECONDS: Final = 10.0


class CannotConnect(SetupError):
    """Nobody listens there, or it is not who the user wants to talk to."""


@dataclass(frozen=True)
class Tls:
    """The files and switches of either protocol's TLS flags; "" is not given."""

    root_certificates: str = ""
    private_key: str = ""
    certificate_chain: str = ""
    private_key_type: str = "PEM"
    certificate_type: str = "PEM"
    verify_peer: bool = True
    verify_host: bool = True


def split_address(address: str, default_port: int) -> tuple[str, int]:
    """`host`, `host:port` or `[v6]:port`; an `http://` or `https://` in front is dropped."""
    bare = address.removeprefix("https://").removeprefix("http://").rstrip("/")
    host, colon, port = bare.rpartition(":")
    if not colon or port.endswith("]"):
        host, port = bare, str(default_port)
    if not port.isdecimal():
        raise SetupError(f"'{address}' is not a host and a port")
    return host.strip("[]"), int(port)


def tls_context(tls: Tls, protocol: str) -> ssl.SSLContext:
    """The client's context; `protocol` is what ALPN asks for. Raises SetupError."""
    if "DER" in {tls.certificate_type, tls.private_key_type} and tls.certificate_chain:
        raise SetupError("client certificates in DER format are not supported, convert to PEM")
    context = ssl.create_default_context(cafile=tls.root_certificates or None)
    context.set_alpn_protocols([protocol])
    context.check_hostname = tls.verify_host and tls.verify_peer
    context.verify_mode = ssl.CERT_REQUIRED if tls.verify_peer else ssl.CERT_NONE
    if tls.certificate_chain:
        try:
            context.load_cert_chain(tls.certificate_chain, tls.private_key or None)
        except (OSError, ssl.SSLError) as error:
            raise SetupError(f"the client certificate cannot be used: {error}") from None
    return context


def connector(address: str, default_port: int, context: ssl.SSLContext | None) -> Connect:
    """A way to open connections to `address`, which raises CannotConnect."""
    host, port = split_address(address, default_port)
    return _connector(host, port, context)


def plain_connector(host: str, port: int) -> Connect:
    """A way to open connections without TLS, which raises CannotConnect."""
    return _connector(host, port, None)


def _connector(host: str, port: int, context: ssl.SSLContext | None) -> Connect:
    async def connect() -> trio.abc.Stream:
        try:
            with trio.fail_after(CONNECT_SECONDS):
                plain = await trio.open_tcp_stream(host, port)
        except (OSError, trio.TooSlowError) as error:
            raise CannotConnect("Couldn't connect to server") from error
        if context is None:
            return plain
        secure = trio.SSLStream(plain, context, server_hostname=host, https_compatible=True)
        try:
            with trio.fail_after(CONNECT_SECONDS):
                await secure.do_handshake()
        except (trio.BrokenResourceError, trio.TooSlowError, ssl.SSLError) as error:
            await trio.aclose_forcefully(plain)
            raise CannotConnect(f"TLS handshake failed: {error.__cause__ or error}") from error
        return secure

    return connect


def must_exist(*paths: str) -> None:
    """Raises SetupError for the first path that is no file."""
    for path in paths:
        if path and not Path(path).is_file():
            raise SetupError(f"failed to open '{path}'")
