"""gRPC over TLS and mutual TLS, by Triton's client; and files that stop the server at its start."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from tests.conformance import grpc_models

FILES = Path(__file__).parent / "tls"
SERVER = (f"--grpc-server-cert={FILES / 'server.pem'}", f"--grpc-server-key={FILES / 'server.key'}")


@pytest.fixture(scope="module", params=["one-way", "mutual"])
def server(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    run_server: Callable[..., Any],
) -> Iterator[tuple[str, Any]]:
    repository = tmp_path_factory.mktemp("tls")
    grpc_models.write_repeat(repository)
    grpc_models.write_identities(repository)
    mode = {
        "one-way": ("--grpc-use-ssl=true",),
        "mutual": ("--grpc-use-ssl-mutual=true", f"--grpc-root-cert={FILES / 'ca.pem'}"),
    }[request.param]
    with run_server(repository, *SERVER, *mode) as running:
        yield request.param, running


def connect(server: Any, *, certificate: str | None = None, ssl: bool = True) -> Any:
    if not ssl:
        return grpcclient.InferenceServerClient(server.grpc)
    return grpcclient.InferenceServerClient(
        server.grpc,
        ssl=True,
        root_certificates=str(FILES / "ca.pem"),
        private_key=certificate and str(FILES / f"{certificate}.key"),
        certificate_chain=certificate and str(FILES / f"{certificate}.pem"),
    )


def tensor(name: str, array: np.ndarray[Any, Any], datatype: str) -> Any:
    given = grpcclient.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return given


def test_all_is_as_in_plain_text(server: tuple[str, Any]) -> None:
    _, running = server
    array = np.arange(1 << 18, dtype=np.float32).reshape(1, -1)  # more than a TLS record
    responses: list[Any] = []
    with connect(running, certificate="client") as client:
        for _ in range(3):
            answer = client.infer(
                "ident_FP32", [tensor("INPUT0", array, "FP32")], client_timeout=20
            )
            assert np.array_equal(answer.as_numpy("OUTPUT0"), array)
        client.start_stream(lambda result, error: responses.append((result, error)))
        client.async_stream_infer("rep", [
            tensor("IN", np.arange(5, dtype=np.int32), "INT32"),
            tensor("DELAY", np.zeros(5, np.uint32), "UINT32"),
            tensor("WAIT", np.zeros(1, np.uint32), "UINT32"),
        ])  # fmt: skip
        client.stop_stream()
    assert [result.as_numpy("OUT")[0] for result, _ in responses] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("certificate", [None, "stranger"])
def test_mutual_tls_asks_who_is_there(server: tuple[str, Any], certificate: str | None) -> None:
    mode, running = server
    with connect(running, certificate=certificate) as client:
        if mode == "one-way":
            assert client.is_server_live()
            return
        with pytest.raises(InferenceServerException) as caught:
            client.is_server_live(client_timeout=5)
        assert caught.value.status() in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED")


def test_plain_text_is_not_answered(server: tuple[str, Any]) -> None:
    _, running = server
    with connect(running, ssl=False) as client, pytest.raises(InferenceServerException):
        client.is_server_live(client_timeout=2)
    with connect(running, certificate="client") as client:
        assert client.is_server_live()


@pytest.mark.parametrize(("flags", "text"), [
    (("--grpc-use-ssl=true",), "--grpc-server-cert must be given for gRPC over TLS"),
    (("--grpc-use-ssl=true", SERVER[0], "--grpc-server-key=/nope"),
     "--grpc-server-key '/nope' cannot be read: No such file or directory"),
    (("--grpc-use-ssl-mutual=true", *SERVER, f"--grpc-root-cert={FILES / 'README.md'}"),
     "README.md' holds no PEM certificates"),
])  # fmt: skip
def test_files_that_cannot_be_used_stop_the_start(
    flags: tuple[str, ...], text: str, tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "troupe", "serve", f"--model-repository={tmp_path}", *flags]
    ended = subprocess.run(
        [*command, "--http-port=0", "--grpc-port=0", "--metrics-port=0"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=Path(__file__).parents[2],
    )

    assert ended.returncode == 1
    assert "error: creating server: Invalid argument" in ended.stderr
    assert text in ended.stderr
    assert "Traceback" not in ended.stderr
