"""Connections in processes of their own: what operators and clients see of --frontend-workers."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

from tests.conformance.conftest import ROOT, ServerProcess, StartServer
from tests.conformance.http_rest import wait_for

FLAGS = ("--frontend-workers=2", "--model-control-mode=explicit", "--load-model=simple_identity")


def frontends(server: ServerProcess) -> list[int]:
    """The process ids of its frontends that live."""
    found = []
    for pid in server.descendants():
        with contextlib.suppress(OSError):  # it has ended meanwhile
            if b"troupe.frontend" in Path(f"/proc/{pid}/cmdline").read_bytes():
                found.append(pid)
    return found


@pytest.fixture(scope="module")
def server() -> Iterator[ServerProcess]:
    one = ServerProcess(ROOT / "sample_repository", *FLAGS)
    yield one
    one.stop()


def strings(count: int, size: int) -> np.ndarray[tuple[int, int], np.dtype[np.object_]]:
    return np.array([[b"x" * size] * count], dtype=np.object_)


def ask_grpc(address: str, words: np.ndarray[tuple[int, int], np.dtype[np.object_]]) -> object:
    with grpcclient.InferenceServerClient(address) as client:
        tensor = grpcclient.InferInput("INPUT0", list(words.shape), "BYTES")
        tensor.set_data_from_numpy(words)
        return client.infer("simple_identity", [tensor]).as_numpy("OUTPUT0")


def ask_http(address: str, words: np.ndarray[tuple[int, int], np.dtype[np.object_]]) -> object:
    with httpclient.InferenceServerClient(address) as client:
        tensor = httpclient.InferInput("INPUT0", list(words.shape), "BYTES")
        tensor.set_data_from_numpy(words)
        return client.infer("simple_identity", [tensor]).as_numpy("OUTPUT0")


def test_large_tensors_leave_nothing_behind(server: ServerProcess) -> None:
    words = strings(6, 100_000)  # 600 kB
    for _ in range(3):
        assert (ask_grpc(server.grpc, words) == words).all()
        assert (ask_http(server.http, words) == words).all()
    files = server.open_files()
    for _ in range(10):
        assert (ask_grpc(server.grpc, words) == words).all()
        assert (ask_http(server.http, words) == words).all()
    assert server.open_files() <= files + 4  # segments for one more request at the same time


def test_a_killed_frontend_takes_only_its_own_connections_along(server: ServerProcess) -> None:
    words = strings(1, 4)
    victims = frontends(server)
    assert len(victims) == 2
    stop = threading.Event()
    failures: list[str] = []
    answered = [0]

    def ask_on() -> None:
        while not stop.is_set():
            try:
                ask_http(server.http, words)
                answered[0] += 1
            except Exception as error:  # noqa: BLE001  # what a client sees is counted
                failures.append(str(error))
                # While the victim is dying the kernel still deals out connections to it.
                wait_for(lambda: not Path(f"/proc/{victims[0]}").exists())

    threads = [threading.Thread(target=ask_on) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for(lambda: answered[0] > 20)
    os.kill(victims[0], signal.SIGKILL)
    wait_for(lambda: len(frontends(server)) == 2 and victims[0] not in frontends(server))
    before = answered[0]
    wait_for(lambda: answered[0] > before + 20)
    stop.set()
    for thread in threads:
        thread.join()

    assert len(failures) <= len(threads)  # each may have had a connection to the victim
    server.wait_for("a frontend process ended with status -9; another one starts in 0.1 s")
    assert server.process.poll() is None


def test_whatever_is_loaded_or_unloaded_holds_on_every_connection(server: ServerProcess) -> None:
    clients = [httpclient.InferenceServerClient(server.http) for _ in range(6)]
    for _ in range(3):
        clients[0].load_model("simple")
        assert all(client.is_model_ready("simple") for client in clients)
        for client in clients:
            numbers = np.zeros((1, 16), np.int32)
            inputs = [
                httpclient.InferInput(name, [1, 16], "INT32") for name in ("INPUT0", "INPUT1")
            ]
            for tensor in inputs:
                tensor.set_data_from_numpy(numbers)
            client.infer("simple", inputs)
        clients[0].unload_model("simple")
        for client in clients:
            with pytest.raises(InferenceServerException, match="has no available versions"):
                client.infer("simple", inputs)
    for client in clients:
        client.close()


def test_a_deadline_is_kept(server: ServerProcess) -> None:
    with grpcclient.InferenceServerClient(server.grpc) as client:
        words = strings(1, 4)
        tensor = grpcclient.InferInput("INPUT0", [1, 1], "BYTES")
        tensor.set_data_from_numpy(words)
        with pytest.raises(InferenceServerException, match="Deadline Exceeded"):
            client.infer("simple_identity", [tensor], client_timeout=1e-6)


def test_the_end_is_in_order(start_server: StartServer) -> None:
    server = start_server(ROOT / "sample_repository", *FLAGS)
    words = strings(1, 4)
    assert (ask_grpc(server.grpc, words) == words).all()
    mine = frontends(server)

    assert server.stop() == 0
    assert not any(Path(f"/proc/{pid}").exists() for pid in mine)


def test_frontends_do_not_outlive_their_core(start_server: StartServer) -> None:
    server = start_server(ROOT / "sample_repository", *FLAGS)
    mine = frontends(server)

    server.process.kill()

    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in mine))


def test_a_port_that_somebody_has_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AssertionError, match=f"Socket '127.0.0.1:{port}' already in use"):
            ServerProcess(ROOT / "sample_repository", *FLAGS, f"--http-port={port}")
