"""Both ports over TLS, by real clients, while their certificates are replaced under them."""

from __future__ import annotations

import contextlib
import http.client
import json
import signal
import ssl
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
import trustme
from tritonclient.utils import InferenceServerException

from tests.conformance import grpc_models
from tests.conformance.conftest import ServerProcess
from tests.conformance.http_rest import connect, wait_for


class Pki:
    """Authorities, and the files that a server reads."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authorities = 0
        self.root = directory / "root.pem"
        self.renew()

    def renew(self) -> Path:
        """A new authority vouches for server and clients; the result is what trusts it."""
        authority = trustme.CA()
        self.authorities += 1
        trusted = self.directory / f"ca{self.authorities}.pem"
        authority.cert_pem.write_to_path(trusted)
        authority.cert_pem.write_to_path(self.root)
        client = authority.issue_cert("client@example.org")
        client.private_key_and_cert_chain_pem.write_to_path(
            self.directory / f"client{self.authorities}.pem"
        )
        server = authority.issue_cert("localhost", "127.0.0.1")
        server.private_key_pem.write_to_path(self.directory / "key.pem")
        server.cert_chain_pems[0].write_to_path(self.directory / "cert.pem")
        return trusted

    def flags(self, port: str, *, mutual: bool) -> tuple[str, ...]:
        return (
            f"--{port}-use-ssl{'-mutual' if mutual else ''}=true",
            f"--{port}-server-cert={self.directory / 'cert.pem'}",
            f"--{port}-server-key={self.directory / 'key.pem'}",
            f"--{port}-root-cert={self.root}",
        )

    def context(self, number: int) -> ssl.SSLContext:
        """What a client of the authority of that number uses."""
        context = ssl.create_default_context(cafile=str(self.directory / f"ca{number}.pem"))
        context.load_cert_chain(self.directory / f"client{number}.pem")
        return context


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("repository")
    grpc_models.link_sample(path, "simple")
    return path


Served = tuple[ServerProcess, Pki]


@contextlib.contextmanager
def serving(run_server: Callable[..., Any], repository: Path, pki: Pki, *, mutual: bool) -> Any:
    flags = [flag for port in ("http", "grpc") for flag in pki.flags(port, mutual=mutual)]
    with run_server(repository, *flags) as server:
        yield server, pki


@pytest.fixture(scope="module")
def served(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, run_server: Callable[..., Any]
) -> Iterator[Served]:
    """Mutual TLS, with certificates that stay."""
    pki = Pki(tmp_path_factory.mktemp("pki"))
    with serving(run_server, repository, pki, mutual=True) as both:
        yield both


@contextlib.contextmanager
def https(server: ServerProcess, pki: Pki, number: int) -> Iterator[http.client.HTTPSConnection]:
    connection = http.client.HTTPSConnection(server.http, context=pki.context(number), timeout=20)
    try:
        connection.connect()
        yield connection
    finally:
        connection.close()


def answers(server: ServerProcess, pki: Pki, number: int) -> bool:
    with https(server, pki, number) as connection:
        return is_live(connection)


def is_live(connection: http.client.HTTPConnection) -> bool:
    connection.request("GET", "/v2/health/live")
    with connection.getresponse() as response:
        response.read()
        return response.status == 200


def rpc(server: ServerProcess, pki: Pki, number: int) -> grpcclient.InferenceServerClient:
    client = pki.directory / f"client{number}.pem"
    return grpcclient.InferenceServerClient(
        server.grpc,
        ssl=True,
        root_certificates=str(pki.directory / f"ca{number}.pem"),
        private_key=str(client),
        certificate_chain=str(client),
    )


@pytest.mark.parametrize("mutual", [False, True], ids=["one-way", "mutual"])
def test_new_certificates_are_used_without_a_restart(
    mutual: bool, repository: Path, tmp_path: Path, run_server: Callable[..., Any]
) -> None:
    pki = Pki(tmp_path)
    with (
        serving(run_server, repository, pki, mutual=mutual) as (server, _),
        rpc(server, pki, 1) as old_rpc,
        https(server, pki, 1) as old,
    ):
        assert is_live(old)
        assert old_rpc.is_server_live(client_timeout=20)

        pki.renew()

        assert answers(server, pki, 2)
        with rpc(server, pki, 2) as new_rpc:
            assert new_rpc.is_server_live(client_timeout=20)
        assert is_live(old)  # connections keep what they have agreed on
        assert old_rpc.is_server_live(client_timeout=20)
        with pytest.raises(ssl.SSLCertVerificationError):
            answers(server, pki, 1)
    assert sum("uses the new files from now on" in line for line in server.lines) == 2


def test_broken_certificates_change_nothing_and_a_hang_up_has_them_looked_at(
    repository: Path, tmp_path: Path, run_server: Callable[..., Any]
) -> None:
    pki = Pki(tmp_path)
    with serving(run_server, repository, pki, mutual=True) as (server, _):
        (pki.directory / "cert.pem").write_text("not a certificate")
        for _ in range(2):
            assert answers(server, pki, 1)
        with rpc(server, pki, 1) as client:
            assert client.is_server_live(client_timeout=20)
        said = [line for line in server.lines if "TLS of the http port stays as it was" in line]
        assert len(said) == 1

        pki.renew()
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: sum("uses the new files" in line for line in server.lines) == 2)
        assert answers(server, pki, 2)


def test_clients_of_the_rest_port(served: Served) -> None:
    server, pki = served
    with httpclient.InferenceServerClient(
        server.http, ssl=True, ssl_context_factory=lambda: pki.context(1)
    ) as client:
        assert client.is_server_live()
        assert client.is_model_ready("simple")
    with urllib.request.urlopen(
        f"https://{server.http}/v2", context=pki.context(1), timeout=20
    ) as answer:
        assert json.load(answer)["name"] == "triton"


def test_a_response_that_ends_with_its_connection_ends_with_a_farewell(
    served: Served,
) -> None:
    server, pki = served
    with (
        connect(server.http) as plain,
        pki.context(1).wrap_socket(plain, server_hostname="localhost") as peer,
    ):
        peer.sendall(b"GET /v2/health/live HTTP/1.0\r\n\r\n")
        heard = b""
        while data := peer.recv(65536):  # raises SSLEOFError when there is no farewell
            heard += data
    assert heard.startswith(b"HTTP/1.1 200")


def test_who_does_not_speak_tls_is_let_go(served: Served) -> None:
    server, pki = served
    with connect(server.http) as peer:
        peer.sendall(b"GET /v2 HTTP/1.1\r\n\r\n")
        peer.recv(100)  # an alert, or nothing
        assert peer.recv(100) == b""
    with connect(server.http):  # says nothing, and must not hold up the end of the server
        assert answers(server, pki, 1)


def test_mutual_tls_asks_who_is_there(served: Served) -> None:
    server, pki = served
    trusted = pki.directory / "ca1.pem"
    anonymous = ssl.create_default_context(cafile=str(trusted))
    stranger = http.client.HTTPSConnection(server.http, context=anonymous, timeout=20)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        is_live(stranger)
    stranger.close()
    channel = grpc.secure_channel(server.grpc, grpc.ssl_channel_credentials(trusted.read_bytes()))
    with pytest.raises(grpc.FutureTimeoutError):
        grpc.channel_ready_future(channel).result(timeout=0.5)
    channel.close()
    assert answers(server, pki, 1)


def test_plain_clients_hear_nothing_over_grpc(served: Served) -> None:
    server, _ = served
    with (
        grpcclient.InferenceServerClient(server.grpc) as client,
        pytest.raises(InferenceServerException),
    ):
        client.is_server_live(client_timeout=2)
