"""Starting, waiting for, measuring and ending child processes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "bench"))

from processes import ServerFailed, cpu_seconds, free_ports, memory, process_tree, running

# Serves on the port it is given, and keeps a child that would outlive it.
SERVER = """
import subprocess, sys
from http.server import HTTPServer, SimpleHTTPRequestHandler
subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
HTTPServer(("127.0.0.1", int(sys.argv[1])), SimpleHTTPRequestHandler).serve_forever()
"""
SECONDS = 10.0


def is_alive(pid: int) -> bool:
    """Whether it runs; an orphan that nobody waits for may still be listed as ended."""
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().split()[2] != "Z"


def test_free_ports_are_all_different() -> None:
    assert len(set(free_ports(5))) == 5


def test_a_server_is_measured_and_ended_with_its_children(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-c", SERVER, str(port)]
    with running("server", command, log=tmp_path / "log", directory=tmp_path) as server:
        server.wait_ready(f"http://127.0.0.1:{port}/", SECONDS)
        tree = process_tree(server.pid)

        assert len(tree) == 2
        assert 0 < server.ready_seconds < SECONDS
        assert cpu_seconds(server.pid) > 0
        held = memory(server.pid)
        assert 0 < held.pss <= held.rss

    for pid in tree:
        assert not is_alive(pid)


def test_a_server_that_ends_is_reported_with_its_last_words(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; sys.exit('no model')"]
    with (
        running("server", command, log=tmp_path / "log") as server,
        pytest.raises(ServerFailed, match="server ended with 1 before it was ready\nno model"),
    ):
        server.wait_ready("http://127.0.0.1:9/", SECONDS)


def test_a_server_that_never_answers_is_given_up(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    command = [sys.executable, "-c", "import signal; signal.pause()"]
    with (
        running("server", command, log=tmp_path / "log") as server,
        pytest.raises(ServerFailed, match=r"was not ready within 0.05 s"),
    ):
        server.wait_ready(f"http://127.0.0.1:{port}/", 0.05)
    assert not is_alive(server.pid)


def test_the_tree_of_this_process_holds_itself() -> None:
    assert os.getpid() in process_tree(os.getpid())
