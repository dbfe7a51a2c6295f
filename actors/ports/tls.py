"""TLS for a port: its context from PEM files that may change, and the handshake of a connection.

Owns what is negotiated (TLS 1.2 or later, the port's own protocol, and, for mutual TLS, a client
certificate that the root certificates vouch for), and the renewal of certificates: the files are
looked at whenever a client connects, and new ones hold for connections from then on. Files that
cannot be used stop the server at its start; later they leave everything as it was.
"""

from __future__ import annotations

import logging
import os
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import trio

from actors.ports.sockets import Buffer, PeerStream
from actors.settings.options import ServerOptions
from protocol.status import ServerError, invalid_arg

log = logging.getLogger(__name__)

HTTP2: Final = "h2"
HTTP1: Final = "http/1.1"
# As long as a client may take for the first bytes of its protocol.
HANDSHAKE_SECONDS: Final = 20.0

Port = Literal["http", "grpc"]


class HandshakeFailed(Exception):  # it is only ever logged
    """A peer did not, or not in time, agree on TLS and on what to speak over it."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Which files a port's TLS is made of; an empty `root` asks clients for no certificate."""

    port: Port
    certificate: str
    key: str
    root: str
    mutual: bool

    @classmethod
    def of(cls, options: ServerOptions, port: Port) -> TlsFiles | None:
        """What the options name, or None where the port speaks plain text."""
        if port == "http":
            mutual = options.http_use_ssl_mutual
            if not (mutual or options.http_use_ssl):
                return None
            files = (options.http_server_cert, options.http_server_key, options.http_root_cert)
        else:
            mutual = options.grpc_use_ssl_mutual
            if not (mutual or options.grpc_use_ssl):
                return None
            files = (options.grpc_server_cert, options.grpc_server_key, options.grpc_root_cert)
        return cls(port, *files, mutual)

    def signature(self) -> tuple[tuple[int, int, int] | None, ...]:
        """What changes when somebody replaces or rewrites a file; None for one that is missing."""
        return tuple(_signature(path) for path in (self.certificate, self.key, self.root))

    def load(self) -> ssl.SSLContext:
        """The context that the files make now. Raises INVALID_ARG."""
        certificate = self._readable("server-cert", self.certificate)
        key = self._readable("server-key", self.key)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols([HTTP2 if self.port == "grpc" else HTTP1])
        try:
            # An encrypted key would have OpenSSL ask for its password on a terminal nobody reads.
            context.load_cert_chain(certificate, key, password="")
        except (ssl.SSLError, ValueError, OSError) as error:
            raise invalid_arg(
                f"--{self.port}-server-cert '{certificate}' and --{self.port}-server-key '{key}' "
                f"are no PEM certificate and its key: {error}"
            ) from None
        if self.mutual:
            root = self._readable("root-cert", self.root)
            try:
                context.load_verify_locations(root)
            except (ssl.SSLError, OSError) as error:
                raise self._no_certificates(str(error)) from None
            if not context.get_ca_certs():
                raise self._no_certificates("there is none in it")
            context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _readable(self, flag: str, path: str) -> str:
        if not path:
            name = "gRPC" if self.port == "grpc" else "HTTP"
            raise invalid_arg(f"--{self.port}-{flag} must be given for {name} over TLS")
        try:
            with Path(path).open("rb"):
                return path
        except OSError as error:
            raise invalid_arg(
                f"--{self.port}-{flag} '{path}' cannot be read: {error.strerror}"
            ) from None

    def _no_certificates(self, reason: str) -> ServerError:
        return invalid_arg(
            f"--{self.port}-root-cert '{self.root}' holds no PEM certificates: {reason}"
        )


def _signature(path: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # beside each new connection, so without a Path
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino


class Tls:
    """One port's TLS, for connections yet to come."""

    def __init__(self, files: TlsFiles) -> None:
        """Raises INVALID_ARG when the files cannot be used."""
        self._files = files
        self._seen = files.signature()
        self._context = files.load()

    @classmethod
    def of(cls, options: ServerOptions, port: Port) -> Tls | None:
        """The TLS of a port, or None where it speaks plain text. Raises INVALID_ARG."""
        files = TlsFiles.of(options, port)
        return None if files is None else cls(files)

    @property
    def context(self) -> ssl.SSLContext:
        """What the next connection is to use: three looks at files, and more if they changed."""
        self.refresh()
        return self._context

    def refresh(self) -> None:
        """Look at the files now rather than when the next client comes."""
        signature = self._files.signature()
        if signature != self._seen:
            self._seen = signature
            self._renew()

    def secured(self, stream: PeerStream) -> TlsStream:
        """An accepted connection, over TLS."""
        return TlsStream(trio.SSLStream(stream, self.context, server_side=True))

    def _renew(self) -> None:
        try:
            self._context = self._files.load()
        except ServerError as error:
            log.error("TLS of the %s port stays as it was: %s", self._files.port, error.message)
        else:
            log.info("TLS of the %s port uses the new files from now on", self._files.port)


class TlsStream(trio.abc.HalfCloseableStream):
    """A stream over TLS whose peers may leave without a word, as most do."""

    def __init__(self, stream: trio.SSLStream[trio.abc.Stream]) -> None:
        self._stream = stream

    async def handshake(self, protocol: str, *, required: bool) -> None:
        """Agree with the peer, in time. Raises HandshakeFailed.

        A peer that names no protocol is taken to speak ours, unless naming it is `required`.
        """
        try:
            with trio.fail_after(HANDSHAKE_SECONDS):
                await self._stream.do_handshake()
        except (trio.BrokenResourceError, trio.ClosedResourceError, trio.TooSlowError) as error:
            raise HandshakeFailed(f"TLS handshake failed: {error.__cause__ or error}") from None
        if required and self._stream.selected_alpn_protocol() != protocol:
            raise HandshakeFailed("the client does not offer HTTP/2 over TLS")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            return bytes(await self._stream.receive_some(max_bytes))
        except trio.BrokenResourceError as error:
            if isinstance(error.__cause__, ssl.SSLEOFError):
                return b""
            raise

    async def send_all(self, data: Buffer) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """TLS ends both directions at once: its farewell is said by `aclose`."""

    async def aclose(self) -> None:
        await self._stream.aclose()


async def handshake(stream: trio.abc.Stream, protocol: str, *, required: bool = False) -> None:
    """Agree with the peer, where there is anything to agree on. Raises HandshakeFailed."""
    if isinstance(stream, TlsStream):
        await stream.handshake(protocol, required=required)
