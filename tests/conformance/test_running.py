"""A server as its operator sees it: start, tables, signals, files, and the status it ends with."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.conformance import grpc_models
from tests.conformance.conftest import ROOT, StartServer
from tests.conformance.http_rest import Rest, connect, hear_out, tensor, wait_for
from troupe.serve import serve

FREE = ("--http-port=0", "--grpc-port=0", "--metrics-port=0", "--http-address=127.0.0.1")


def run(*arguments: str, environment: dict[str, str] | None = None) -> tuple[int, str, str]:
    """A server that ends by itself: its status, standard output and standard error."""
    ended = subprocess.run(
        [sys.executable, "-m", "troupe", "serve", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
    )
    return ended.returncode, ended.stdout, ended.stderr


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    grpc_models.link_sample(path, "simple")
    return path


def said(server: Any, text: str) -> None:
    wait_for(lambda: any(text in line for line in server.lines))


def count(server: Any, text: str) -> int:
    return sum(text in line for line in server.lines)


# --- start ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "text"), [
    (("--help",), "Usage: troupe serve [options]"),
    (("--http-port=abc",), 'Bad option: "--http-port".\nInvalid option value. Got abc'),
    (("--nope",), 'Bad option: "--nope".\nunrecognized option'),
    ((), "error: creating server: Invalid argument - --model-repository must be specified"),
    (("--model-repository=x", "--log-file=/nope/x", *FREE),
     "error: creating server: Invalid argument - --log-file '/nope/x' cannot be written: "),
])  # fmt: skip
def test_case_57_what_cannot_be_obeyed_ends_with_1(
    arguments: tuple[str, ...], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert serve(arguments) == 1

    out, err = capsys.readouterr()
    assert out == ""
    assert text in err


def test_a_model_that_does_not_load_ends_the_start(tmp_path: Path) -> None:
    grpc_models.write_model(tmp_path, "broken", 'backend: "nope"')

    status, out, err = run(f"--model-repository={tmp_path}", *FREE)

    assert status == 1
    assert "error: creating server: Internal - failed to load all models" in err
    assert "Traceback" not in err
    assert re.search(r"^\| broken +\| 1 .*\| .*nope", out, re.MULTILINE)  # the operator sees which


def test_a_taken_port_ends_the_start(repository: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, _, err = run(f"--model-repository={repository}", *FREE, f"--http-port={port}")

    assert status == 1
    assert err.endswith(f"Socket '127.0.0.1:{port}' already in use \n")


def test_options_of_the_environment_and_of_a_file_are_obeyed(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_server: StartServer
) -> None:
    config = tmp_path / "troupe.toml"
    config.write_text('id = "of the file"\nlog-format = "ISO8601"\n')
    monkeypatch.setenv("TROUPE_CONFIG", str(config))
    monkeypatch.setenv("TROUPE_LOG_VERBOSE", "1")
    server = start_server(repository)
    client = Rest(server.http)

    assert client.get("/v2").json()["name"] == "of the file"
    assert client.get("/v2/logging").json()["log_verbose_level"] == 1
    assert any(re.match(r"\d{4}-\d\d-\d\dT", line) for line in server.lines)
    client.close()


def test_tables_and_ready_lines_come_in_triton_s_order(
    repository: Path, start_server: StartServer
) -> None:
    server = start_server(repository, "--backend-config=python,a=b", "--rate-limit=off")
    text = "".join(server.lines)
    found = [
        text.index(word)
        for word in (
            "| Repository Agent | Path",
            "| Backend ",
            "| Model ",
            "| Option ",
            "Started GRPCInferenceService at 127.0.0.1:",
            "Started HTTPService at 127.0.0.1:",
            "Started Metrics Service at 127.0.0.1:",
        )
    ]

    assert found == sorted(found)
    assert re.search(r"^\| simple +\| 1 +\| READY +\|$", text, re.MULTILINE)
    for option, value in (
        ("server_id", "triton"),
        ("model_repository_path[0]", str(repository)),
        ("model_control_mode", "MODE_NONE"),
        ("strict_model_config", "0"),
        ("rate_limit", "OFF"),
        ("pinned_memory_pool_byte_size", "268435456"),
        ("strict_readiness", "1"),
        ("exit_timeout", "30"),
        ("cache_enabled", "0"),
    ):
        assert re.search(
            rf"^\| {re.escape(option)} +\| {re.escape(value)} +\|$", text, re.MULTILINE
        )


# --- signals -------------------------------------------------------------------------------------


@pytest.fixture
def busy(tmp_path: Path, start_server: StartServer) -> Any:
    """A server with one inference under way, the thread that waits for it, and its answers."""
    notes = tmp_path / "notes"
    notes.mkdir()
    grpc_models.write_patient(tmp_path / "patient", notes)
    server = start_server(tmp_path / "patient")
    answers: list[bytes] = []
    body = b'{"id":"it","inputs":[{"name":"IN","datatype":"FP32","shape":[1],"data":[1.5]}]}'

    def ask() -> None:
        with connect(server.http) as peer:
            peer.sendall(
                b"POST /v2/models/patient/infer HTTP/1.1\r\nHost: x\r\n"
                b"Content-Length: %d\r\n\r\n%s" % (len(body), body)
            )
            answers.append(hear_out(peer))

    asking = threading.Thread(target=ask)
    asking.start()
    wait_for((notes / "began it").exists)
    return server, asking, answers


def test_the_first_signal_stops_in_order_and_a_second_changes_nothing(busy: Any) -> None:
    server, asking, answers = busy

    server.process.send_signal(signal.SIGTERM)
    said(server, "Signal (15) received.")
    server.process.send_signal(signal.SIGINT)
    said(server, "Signal (2) received.")

    assert server.stop() == 0
    asking.join()
    assert answers[0].startswith(b"HTTP/1.1 200 OK")
    text = "".join(server.lines)
    assert "Timeout 30: Found 1 HTTP service connections" in text
    assert "Waiting for in-flight requests to complete." in text
    assert "Traceback" not in text


SLOW_TO_LOAD = """
import pathlib, time
class TritonPythonModel:
    def initialize(self, args):
        pathlib.Path({note!r}).touch()
        time.sleep(30)
"""


def test_a_stop_does_not_wait_for_models_that_load(tmp_path: Path) -> None:
    note = tmp_path / "loading"
    code = SLOW_TO_LOAD.format(note=str(note))
    grpc_models.write_model(tmp_path / "models", "slow", grpc_models.TENSORS, code)
    arguments = [f"--model-repository={tmp_path / 'models'}", "--exit-timeout-secs=1", *FREE]
    with subprocess.Popen(
        [sys.executable, "-m", "troupe", "serve", *arguments],
        cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as process:  # fmt: skip
        wait_for(note.exists)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=20)

    assert process.returncode == 1
    assert "Exit timeout expired. Exiting immediately." in err
    assert "Traceback" not in err


def test_a_server_that_has_no_time_ends_at_once(
    repository: Path, start_server: StartServer
) -> None:
    server = start_server(repository, "--exit-timeout-secs=0")

    assert server.stop() == 1
    assert count(server, "failed to stop server: Internal - Exit timeout expired.") == 1


def test_a_client_that_never_shakes_hands_holds_nobody_up(
    repository: Path, start_server: StartServer
) -> None:
    tls = Path(__file__).parent / "tls"
    flags = [
        f"--{port}-{flag}"
        for port in ("http", "grpc")
        for flag in (
            "use-ssl=true",
            f"server-cert={tls / 'server.pem'}",
            f"server-key={tls / 'server.key'}",
        )
    ]
    server = start_server(repository, *flags, "--exit-timeout-secs=10")
    with connect(server.http), connect(server.grpc):
        wait_for(lambda: server.open_files() > 0)
        assert server.stop() == 0


def test_a_hang_up_opens_the_log_file_anew(repository: Path, tmp_path: Path) -> None:
    path = tmp_path / "log"
    # The ready lines go into the file, so the server is found by what it puts there.
    process = subprocess.Popen(
        [
            sys.executable, "-m", "troupe", "serve", f"--model-repository={repository}",
            f"--log-file={path}", *FREE,
        ],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: path.exists() and "Started Metrics Service" in path.read_text())
        path.rename(tmp_path / "log.1")
        process.send_signal(signal.SIGHUP)
        wait_for(path.exists)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    assert "Waiting for in-flight requests to complete." in path.read_text()
    assert "Waiting for" not in (tmp_path / "log.1").read_text()


def test_systemd_hears_what_becomes_of_the_server(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_server: StartServer
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        server = start_server(repository)
        assert manager.recv(100) == b"READY=1"
        server.process.send_signal(signal.SIGHUP)
        assert re.fullmatch(rb"RELOADING=1\nMONOTONIC_USEC=\d+", manager.recv(100))
        assert manager.recv(100) == b"READY=1"
        assert server.stop() == 0
        assert manager.recv(100) == b"STOPPING=1"


# --- the log -------------------------------------------------------------------------------------


TALKATIVE = """
import sys
import triton_python_backend_utils as pb_utils
class TritonPythonModel:
    def execute(self, requests):
        for request in requests:
            print("printed\\x1b[31m by " + request.request_id(), flush=True)
            print("complained", file=sys.stderr, flush=True)
            pb_utils.Logger.log_warn("warned\\nI1124 00:00:00.000000 1 x.cc:1] forged")
        return [
            pb_utils.InferenceResponse([
                pb_utils.Tensor("OUT", pb_utils.get_input_tensor_by_name(each, "IN").as_numpy())
            ])
            for each in requests
        ]
"""


def test_cve_2024_0095_nobody_forges_a_line(tmp_path: Path, start_server: StartServer) -> None:
    grpc_models.write_model(tmp_path, "talkative", grpc_models.TENSORS, TALKATIVE)
    server = start_server(
        tmp_path, "--model-control-mode=explicit", "--load-model=talkative", "--log-verbose=1"
    )
    client = Rest(server.http)
    forged = "x%0AI1124%2000:00:00.000000%201%20x.cc:1]%20forged"
    given = {"inputs": [tensor("IN", "FP32", [1], [1.0])], "id": "a\nI1124 00:00:00.000000 forged"}
    assert client.infer("talkative", given).status == 200
    assert client.post(f"/v2/repository/models/{forged}/load").status >= 400
    said(server, "warned")
    said(server, "printed")
    said(server, "complained")
    client.close()
    server.stop()

    entry = re.compile(r'[EWI]\d{4} \d\d:\d\d:\d\d\.\d{6} \d+ \w+\.py:\d+\] ".*"$')
    table = re.compile(r"[|+]")
    for line in server.lines:
        text = line.rstrip("\n")
        assert entry.match(text) or table.match(text) or text.startswith("Signal ("), text
        assert "\x1b" not in text
    assert any(line.startswith("W") and "warned\\nI1124" in line for line in server.lines)


def test_lines_go_where_they_belong_and_may_be_left_as_they_are(tmp_path: Path) -> None:
    grpc_models.write_model(tmp_path / "bad", "bro\u2028ken", 'backend: "nope"')
    arguments = (f"--model-repository={tmp_path / 'bad'}", *FREE)

    _, out, err = run(*arguments)
    assert re.search(r"^E.*bro\\u2028ken\'", err, re.MULTILINE)
    assert not re.search(r"^[EW]\d{4} ", out, re.MULTILINE)
    _, _, raw = run(*arguments, environment={"TRITON_SERVER_ESCAPE_LOG_MESSAGES": "0"})
    assert "'bro\u2028ken'" in raw
