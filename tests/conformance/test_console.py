"""The console in a real browser: a server, its page, and what an operator sees on it."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.conformance import grpc_models
from tests.conformance.browser import Browser, browser, find_chromium
from tests.conformance.conftest import ROOT
from tests.conformance.http_rest import IDENTITY, PATIENCE, Rest, tensor, wait_for

pytestmark = pytest.mark.skipif(
    find_chromium() is None, reason="no chromium to open the console in (apt-get install chromium)"
)

PLAIN = IDENTITY % (8, "TYPE_FP32", "[ -1 ]", "TYPE_FP32", "[ -1 ]", "")
PATIENT = PLAIN + "dynamic_batching { max_queue_delay_microseconds: 100000 }"
SCRIPT = "<img src=x onerror=document.title='owned'>"
# No backend has this name, so that its model does not load, and says so with the name in it.
HOSTILE = f'backend: "{SCRIPT}" max_batch_size: 8 ' + PLAIN.split("max_batch_size: 8")[1]


@pytest.fixture(scope="module")
def server(
    tmp_path_factory: pytest.TempPathFactory, run_server: Callable[..., Any]
) -> Iterator[Any]:
    repository = tmp_path_factory.mktemp("console")
    for name, config in (("plain", PLAIN), ("patient", PATIENT), ("hostile", HOSTILE)):
        grpc_models.write_model(repository, name, config)
    with run_server(repository, "--admin-port=0", "--exit-on-error=false") as running:
        yield running


@pytest.fixture(scope="module")
def page(server: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.open(f"http://{server.admin}/")
        opened.until("document.querySelectorAll('#models tbody tr').length === 3")
        yield opened


def ask(server: Any, model: str, request_id: str = "") -> None:
    rest = Rest(server.http)
    body = {"id": request_id, "inputs": [tensor("INPUT0", "FP32", [1, 1], [1.0])]}
    assert rest.infer(model, body).status == 200
    rest.close()


def cell(model: str, number: int) -> str:
    """What stands in a model's row, as an expression."""
    return f"document.querySelector('#models tr[data-model={model}]').cells[{number}].textContent"


def test_models_stand_there_with_state_and_reason(page: Browser) -> None:
    assert page.value(cell("plain", 0)) == "plain / 1"
    assert page.value(cell("plain", 1)) == "READY"
    assert page.value(cell("plain", 2)) == "default, identity"
    state = page.value(cell("hostile", 1))
    assert state.startswith("UNAVAILABLE")
    assert SCRIPT in state
    assert page.value("document.title") == "Troupe console"
    assert page.value("document.querySelectorAll('td img').length") == 0


def test_numbers_move_with_requests(server: Any, page: Browser) -> None:
    assert page.value(cell("plain", 10)) == "0"
    for _ in range(5):
        ask(server, "plain")
    page.until(f"{cell('plain', 10)} === '5'")
    assert page.value(cell("plain", 4)).endswith(("µs", "ms"))
    rates = "document.querySelector('#throughput polyline').getAttribute('points')"
    assert len(page.value(rates).split()) == 120
    assert page.value("document.querySelectorAll('#latency rect').length") > 0
    assert page.value("document.querySelectorAll('#batches rect').length") == 1
    actors = "[...document.querySelectorAll('#actors tr')].map((row) => row.dataset.actor)"
    assert {"statistics", "model repository", "scheduler plain/1"} <= set(page.value(actors))


def test_a_slow_request_stands_there_with_its_reason(server: Any, page: Browser) -> None:
    ask(server, "patient", SCRIPT)
    row = "document.querySelector('#slow tr[data-model=patient]')"
    why = page.until(f"{row}?.cells[7].textContent")
    assert why.startswith("It waited 10")
    assert why.endswith(
        "for requests to share its batch; its batch of 1 left because the queue delay had passed."
    )
    assert page.value(f"{row}.cells[1].textContent") == SCRIPT
    assert page.value("document.title") == "Troupe console"


def test_one_model_can_be_looked_at(page: Browser) -> None:
    title = "document.getElementById('charts-title').textContent"
    page.value("document.querySelector('#models tr[data-model=patient] button').click()")
    assert page.value(title) == "patient / 1"
    assert page.value("document.querySelectorAll('#models tr.selected').length") == 1
    page.value("document.getElementById('all').click()")
    assert page.value(title) == "All models"
    filter_by = "const box = document.getElementById('filter'); box.value = %s; %s"
    event = "box.dispatchEvent(new Event('input'))"
    page.value(f"{{ {filter_by % (json.dumps('PAT'), event)} }}")
    assert page.value("document.querySelectorAll('#models tbody tr').length") == 1
    page.value(f"{{ {filter_by % (json.dumps(''), event)} }}")
    assert page.value("document.querySelectorAll('#models tbody tr').length") == 3


def test_the_page_can_be_read_without_eyes_or_a_mouse(page: Browser) -> None:
    labels = "[...document.querySelectorAll('svg')].map((one) => one.getAttribute('aria-label'))"
    assert all(": " in label for label in page.value(labels))
    assert page.value("document.querySelectorAll('th:not([scope])').length") == 0
    assert page.value("document.getElementById('link').getAttribute('role')") == "status"
    assert page.value("document.documentElement.lang") == "en"
    unnamed = "[...document.querySelectorAll('button')].filter((one) => !one.textContent).length"
    assert page.value(unnamed) == 0
    for scheme in ("dark", "light"):
        page.ask(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )
        colours = "(({color, backgroundColor}) => [color, backgroundColor])"
        ink, paper = page.value(f"{colours}(getComputedStyle(document.body))")
        assert (sum(_channels(ink)) > sum(_channels(paper))) is (scheme == "dark")


def _channels(colour: str) -> list[int]:
    return [int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")]


def test_the_rest_api_is_described(server: Any, page: Browser) -> None:
    page.open(f"http://{server.admin}/api-docs")
    page.until("document.querySelectorAll('#operations code').length > 20")
    text = page.value("document.getElementById('operations').textContent")
    assert "POST /v2/models/{model}/infer" in text
    page.open(f"http://{server.admin}/")
    page.until("document.querySelectorAll('#models tbody tr').length === 3")


def test_no_other_host_was_asked_and_nothing_was_complained_of(server: Any, page: Browser) -> None:
    """The last one: it looks back on all of the above."""
    page.value("1")  # whatever the browser has said by now is heard
    hosts = {urlsplit(url).netloc for url in page.requested() if not url.startswith("data:")}
    assert hosts == {server.admin}
    assert page.complaints() == []


def test_the_console_sees_that_the_server_has_gone(
    tmp_path: Path, run_server: Callable[..., Any]
) -> None:
    repository = tmp_path / "models"
    repository.mkdir()
    grpc_models.write_model(repository, "plain", PLAIN)
    with browser(tmp_path / "profile") as page:
        with run_server(repository, "--admin-port=0") as running:
            page.open(f"http://{running.admin}/")
            page.until("document.getElementById('link').textContent === 'live'")
        page.until("document.getElementById('link').classList.contains('lost')")


def test_the_admin_port_is_off_unless_it_is_wanted(sample_server: Any) -> None:
    wait_for(lambda: any("Metrics Service" in line for line in sample_server.lines))
    assert not any("Admin Service" in line for line in sample_server.lines)


def test_top_shows_the_same_in_a_terminal(server: Any) -> None:
    command = [sys.executable, "-m", "troupe", "top", f"--url={server.admin}"]
    once = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert "plain/1" in once.stdout
    assert "\x1b" not in once.stdout

    ours, theirs = pty.openpty()
    program = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=ROOT)
    os.close(theirs)
    seen = b""
    try:
        while b"q quit" not in seen:
            seen += os.read(ours, 4096)
        os.write(ours, b"q")
        while b"\x1b[?1049l" not in seen:  # the screen is given back
            seen += os.read(ours, 4096)
        assert program.wait(PATIENCE) == 0
    finally:
        program.kill()
        program.wait()
        os.close(ours)
    assert b"plain/1" in seen


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (b"\x16\x03\x01\x02\x00", b"400"),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * (1 << 18), b"431"),
        (b"GET / HTTP/1.0\r\n\r\n", b"421"),
        (b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n", b"421"),
        (b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\nx", b"405"),
        (
            (b"GET /api/events HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\n"
            b"Connection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
            b"Sec-WebSocket-Version: 13\r\n\r\n"),
            b"403",
        ),
    ],
)  # fmt: skip
def test_hostile_bytes_get_an_answer_and_no_more(said: bytes, status: bytes, server: Any) -> None:
    host, port = server.admin.split(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE) as peer:
        with contextlib.suppress(OSError):  # the server may hang up before it has heard all
            peer.sendall(said)
        assert peer.recv(12) == b"HTTP/1.1 " + status


def test_connections_are_counted(server: Any) -> None:
    rest, metrics = Rest(server.http), Rest(server.metrics)
    assert rest.get("/v2/health/live").status == 200
    page = metrics.get("/metrics").body.decode()
    assert re.search(r'^troupe_connections{protocol="http"} [1-9]', page, re.MULTILINE)
    assert 'troupe_connections{protocol="grpc"} 0\n' in page
    rest.close()
    metrics.close()
