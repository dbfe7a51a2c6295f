"""The program around a run: its streams, its terminal, HTTPS."""

from __future__ import annotations

import io
import shutil
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
import trio

from perf_analyzer.command_line import parse
from perf_analyzer.main import Terminal
from perf_analyzer.session import Ports, Session
from tests.perf_analyzer.fake_server import FakeServer
from tests.perf_analyzer.runs import WALL_NS, Run


class Screen(io.StringIO):
    """A terminal that somebody watches."""

    def isatty(self) -> bool:
        return True


def test_progress_is_for_those_who_watch(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, piped = Screen(), io.StringIO()
    for stream in (watched, piped):
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setattr(sys, "stdout", stream)
        terminal = Terminal()
        terminal.progress("pass 1")
        terminal.progress("x" * 500)
        terminal.out("result")

    assert piped.getvalue() == "result\n"
    assert watched.getvalue() == f"pass 1\r\x1b[K{'x' * 100}\r\x1b[Kresult\n"


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A certificate for localhost that signs itself, and its key."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs openssl to make a certificate")
    key, made = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    command += ["-keyout", str(key), "-out", str(made), "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost"]
    subprocess.run(command, check=True, capture_output=True)
    return made, key


def over_https(certificate: tuple[Path, Path], arguments: str) -> Run:
    """A run against a fake server behind TLS, on a real socket and in real time."""
    seen, server = Run(), FakeServer(latency=lambda _: 0.0)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            listeners = await trio.open_ssl_over_tcp_listeners(
                0, context, host="127.0.0.1", https_compatible=True
            )
            listener = listeners[0].transport_listener
            assert isinstance(listener, trio.SocketListener)
            port = listener.socket.getsockname()[1]

            async def serve(stream: trio.abc.Stream) -> None:
                try:
                    await server.connection(stream)
                except trio.BrokenResourceError:
                    """The client did not like the certificate, or has left."""

            nursery.start_soon(trio.serve_listeners, serve, listeners)
            options = parse(["-m", "m", "-u", f"https://localhost:{port}", *arguments.split()])
            ports = Ports(wall_ns=lambda: WALL_NS, listens_to_signals=False)
            try:
                seen.status = await Session(options, ports, seen).run()
            except Exception as error:  # noqa: BLE001  # whatever it is, the test looks at it
                seen.errors.append(str(error))
            nursery.cancel_scope.cancel()

    trio.run(main)
    return seen


def test_https_with_a_certificate_that_is_trusted(certificate: tuple[Path, Path]) -> None:
    seen = over_https(
        certificate, f"--request-count 20 --ssl-https-ca-certificates-file {certificate[0]}"
    )

    assert seen.errors == []
    assert seen.status == 0
    assert seen.value("Request count") == 20


def test_https_without_looking_at_the_certificate(certificate: tuple[Path, Path]) -> None:
    assert over_https(certificate, "--request-count 5 --ssl-https-verify-peer 0").status == 0


def test_a_stranger_s_certificate_is_refused(certificate: tuple[Path, Path]) -> None:
    seen = over_https(certificate, "--request-count 5")

    assert seen.status == -1
    assert "TLS handshake failed" in seen.errors[0]
