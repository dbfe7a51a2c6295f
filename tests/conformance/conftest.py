"""Real servers for tests that speak to one as its users do: as a process, over sockets."""

from __future__ import annotations

import contextlib
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
READY = re.compile(r"Started (\w+ ?\w*) at 127\.0\.0\.1:(\d+)")
START_SECONDS = 60
STOP_SECONDS = 40


class ServerProcess:
    """`troupe serve` on free loopback ports, ended by its own process id."""

    def __init__(self, repository: Path | str, *arguments: str) -> None:
        self.lines: list[str] = []
        self._ports: dict[str, int] = {}
        self._started = threading.Event()
        self._said = threading.Condition()
        self.process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "troupe",
                "serve",
                f"--model-repository={repository}",
                "--http-address=127.0.0.1",
                "--grpc-address=127.0.0.1",
                "--http-port=0",
                "--grpc-port=0",
                "--metrics-port=0",
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=ROOT,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._started.wait(START_SECONDS) or "Metrics Service" not in self._ports:
            self.stop()
            raise AssertionError("the server did not start:\n" + "".join(self.lines))

    @property
    def http(self) -> str:
        return f"127.0.0.1:{self._ports['HTTPService']}"

    @property
    def grpc(self) -> str:
        return f"127.0.0.1:{self._ports['GRPCInferenceService']}"

    @property
    def metrics(self) -> str:
        return f"127.0.0.1:{self._ports['Metrics Service']}"

    @property
    def admin(self) -> str:
        return f"127.0.0.1:{self._ports['Admin Service']}"

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._said:
                self.lines.append(line)
                self._said.notify_all()
            found = READY.search(line)
            if found:
                self._ports[found[1]] = int(found[2])
                if found[1] == "Metrics Service":  # the last one
                    self._started.set()
        self._started.set()

    def wait_for(self, text: str, *, times: int = 1) -> None:
        """Until so many lines of its output hold `text`."""
        with self._said:
            found = self._said.wait_for(
                lambda: sum(text in line for line in self.lines) >= times, START_SECONDS
            )
        assert found, f"the server never said {text!r}:\n" + "".join(self.lines)

    def stop(self) -> int:
        """SIGTERM, and the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            status = self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError("the server did not stop:\n" + "".join(self.lines)) from None
        self._reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def descendants(self) -> list[int]:
        """The process ids of its children, their children, and so on; some may have ended since."""
        found = [self.process.pid]
        for parent in found:
            with contextlib.suppress(OSError):
                for task in Path(f"/proc/{parent}/task").iterdir():
                    found += map(int, (task / "children").read_text().split())
        return found[1:]

    def workers(self) -> list[int]:
        """The process ids of its workers, but not of the zygote that may have forked them."""
        return [pid for pid in self.descendants() if _runs_batches(pid)]

    def open_files(self) -> int:
        return len(list(Path(f"/proc/{self.process.pid}/fd").iterdir()))


def _runs_batches(pid: int) -> bool:
    """Whether a process shares the word with its server that every worker shares."""
    try:
        return "memfd:troupe-progress" in Path(f"/proc/{pid}/maps").read_text()
    except OSError:
        return False


StartServer = Callable[..., ServerProcess]


@pytest.fixture
def start_server() -> Iterator[StartServer]:
    """Start servers that end with the test."""
    servers: list[ServerProcess] = []

    def start(repository: Path = ROOT / "sample_repository", *arguments: str) -> ServerProcess:
        servers.append(ServerProcess(repository, *arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@contextlib.contextmanager
def _run_server(repository: Path, *arguments: str) -> Iterator[ServerProcess]:
    server = ServerProcess(repository, *arguments)
    try:
        yield server
    finally:
        status = server.stop()
    assert status == 0


@pytest.fixture(scope="session")
def run_server() -> Callable[..., contextlib.AbstractContextManager[ServerProcess]]:
    """Servers for the fixtures of whole modules: `with run_server(repository, *arguments)`."""
    return _run_server


@pytest.fixture(scope="session")
def sample_server() -> Iterator[ServerProcess]:
    """One server over the sample repository, shared by the tests that only ask."""
    server = ServerProcess(ROOT / "sample_repository")
    yield server
    assert server.stop() == 0
