"""Loads, swaps, namespaces, polls and updates of a real server, as its clients see them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import grpc
import numpy as np
import pytest
import trio
import tritonclient.grpc as grpcclient
from tritonclient.utils import InferenceServerException

from actors.settings.options import ServerOptions
from protocol.inference import InferRequest, Tensor
from protocol.proto import messages
from protocol.status import ServerError
from troupe.server import Server

ROOT: Final = Path(__file__).parent.parent.parent
SWAPS: Final = 100
REQUESTS: Final = 10_000
WINDOW: Final = 32  # requests under way per connection
CONNECTIONS: Final = 2
PATIENCE_SECONDS: Final = 20

StartServer = Callable[..., Any]


def identity(
    repository: Path, name: str, *, kind: str = "FP32", dims: str = "-1", more: str = ""
) -> Path:
    directory = repository / name
    (directory / "1").mkdir(parents=True)
    (directory / "config.pbtxt").write_text(
        f'backend: "identity" input {{ name: "INPUT0" data_type: TYPE_{kind} dims: [ {dims} ] }} '
        f'output {{ name: "OUTPUT0" data_type: TYPE_{kind} dims: [ {dims} ] }} {more}'
    )
    return directory


def ensemble(repository: Path, name: str, member: str, kind: str = "FP32") -> None:
    directory = repository / name
    (directory / "1").mkdir(parents=True)
    (directory / "config.pbtxt").write_text(
        f'platform: "ensemble" input {{ name: "X" data_type: TYPE_{kind} dims: [ -1 ] }} '
        f'output {{ name: "Y" data_type: TYPE_{kind} dims: [ -1 ] }} '
        f'ensemble_scheduling {{ step {{ model_name: "{member}" model_version: -1 '
        'input_map { key: "INPUT0" value: "X" } output_map { key: "OUTPUT0" value: "Y" } } }'
    )


def ask(client: Any, model: str, *, name: str = "INPUT0", kind: str = "FP32") -> Any:
    given = grpcclient.InferInput(name, [1], kind)
    given.set_data_from_numpy(np.ones(1, {"FP32": np.float32, "INT32": np.int32}[kind]))
    return client.infer(model, [given])


def until(condition: Callable[[], bool]) -> None:
    """Ask again until something that the server does by itself has happened."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        assert time.monotonic() < deadline


# --- swaps ---------------------------------------------------------------------------------------


class Load:
    """Requests over one connection, as many under way as the window allows, until told to end."""

    def __init__(self, target: str) -> None:
        request = messages.ModelInferRequest(model_name="m")
        tensor = request.inputs.add(name="INPUT0", datatype="FP32", shape=[4])
        request.raw_input_contents.append(np.ones(4, np.float32).tobytes())
        assert tensor.shape
        self._bytes = request.SerializeToString()
        self._channel = grpc.insecure_channel(target)
        self._infer = self._channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        self._room = threading.Semaphore(WINDOW)
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.count = 0
        self.failed: list[str] = []
        self._thread.start()

    def _run(self) -> None:
        while not self._ending.is_set():
            self._room.acquire()
            self._infer.future(self._bytes).add_done_callback(self._take)
        for _ in range(WINDOW):
            self._room.acquire()

    def _take(self, call: Any) -> None:
        error = call.exception()
        if error is not None:
            self.failed.append(str(error))
        self.count += 1
        self._room.release()

    def end(self) -> None:
        self._ending.set()
        self._thread.join()
        self._channel.close()


def test_no_request_fails_while_its_model_is_swapped(
    tmp_path: Path, start_server: StartServer
) -> None:
    directory = identity(tmp_path, "m")
    server = start_server(tmp_path, "--model-control-mode=explicit", "--load-model=m")
    loads = [Load(server.grpc) for _ in range(CONNECTIONS)]
    with grpcclient.InferenceServerClient(server.grpc) as client:
        for number in range(SWAPS):
            (directory / "1" / "weights").write_text(str(number))
            client.load_model("m")
        until(lambda: sum(load.count for load in loads) >= REQUESTS)
    for load in loads:
        load.end()

    assert [failure for load in loads for failure in load.failed] == []
    swaps = [line for line in server.lines if "successfully loaded 'm' version 1" in line]
    assert len(swaps) == 1 + SWAPS


# --- updates -------------------------------------------------------------------------------------

COUNTING: Final = """
import pathlib
import triton_python_backend_utils as pb_utils

LOG = pathlib.Path(__file__).parent.parent.parent.parent / "log"


def note(word):
    with LOG.open("a") as file:
        file.write(word + "\\n")


class TritonPythonModel:
    def initialize(self, args):
        note("initialize")

    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [pb_utils.Tensor("OUTPUT0", one.inputs()[0].as_numpy())]
            )
            for one in requests
        ]

    def finalize(self):
        note("finalize")
"""


def test_cases_14_to_17_of_python_instances(tmp_path: Path, start_server: StartServer) -> None:
    directory = identity(tmp_path / "models", "m")
    (directory / "1" / "model.py").write_text(COUNTING)
    log = tmp_path / "log"

    def configure(count: int, more: str = "") -> None:
        text = (directory / "config.pbtxt").read_text().partition("instance_group")[0]
        (directory / "config.pbtxt").write_text(
            f"{text.replace('identity', 'python')} "
            f"instance_group {{ count: {count} kind: KIND_CPU }} {more}"
        )

    def told() -> tuple[int, int]:
        words = log.read_text().split() if log.exists() else []
        return words.count("initialize"), words.count("finalize")

    configure(1)
    server = start_server(tmp_path / "models", "--model-control-mode=explicit", "--load-model=m")
    with grpcclient.InferenceServerClient(server.grpc) as client:
        assert told() == (1, 0)
        configure(3)
        client.load_model("m")
        assert told() == (3, 0)  # two more, and nothing ends
        client.load_model("m")
        assert told() == (3, 0)  # nothing has changed
        configure(1)
        client.load_model("m")
        until(lambda: told() == (3, 2))
        configure(0)
        client.load_model("m")
        assert told() == (3, 2)  # none is the default, which is one
        configure(1)
        (directory / ".config.pbtxt.swp").write_text("")
        client.load_model("m")
        until(lambda: told() == (4, 3))  # an editor's file makes the load a full one
        ask(client, "m")


# --- several repositories ------------------------------------------------------------------------


def test_case_5_ensembles_use_the_members_of_their_own_namespace(
    tmp_path: Path, start_server: StartServer
) -> None:
    for place, kind in (("r", "FP32"), ("s", "INT32")):
        identity(tmp_path / place, "member", kind=kind)
        ensemble(tmp_path / place, f"of_{place}", "member", kind)
    identity(tmp_path / "s", "single")
    ensemble(tmp_path / "r", "abroad", "single")
    server = start_server(
        tmp_path / "r", f"--model-repository={tmp_path / 's'}", "--model-namespacing=true"
    )
    with grpcclient.InferenceServerClient(server.grpc) as client:
        assert ask(client, "of_r", name="X").as_numpy("Y").dtype == np.float32
        assert ask(client, "of_s", name="X", kind="INT32").as_numpy("Y").dtype == np.int32
        assert ask(client, "abroad", name="X").as_numpy("Y") is not None
        assert ask(client, "single").as_numpy("OUTPUT0") is not None
        assert ask(client, f"{tmp_path / 'r'}::member").as_numpy("OUTPUT0") is not None
        with pytest.raises(InferenceServerException) as caught:
            ask(client, "member")
        assert caught.value.message() == (
            "There are 2 identifiers of model 'member' in global map, model namespace must be "
            "provided to resolve ambiguity."
        )
        with pytest.raises(InferenceServerException) as caught:
            ask(client, "nobody")
        assert caught.value.message() == "Request for unknown model: 'nobody' is not found"
        names = {each.name for each in client.get_model_repository_index().models}
        shared = {f"{tmp_path / place}::member" for place in ("r", "s")}
        assert names == {"of_r", "of_s", "abroad", "single"} | shared


def test_case_4_a_duplicate_is_out_of_service_until_one_copy_goes(
    tmp_path: Path, start_server: StartServer
) -> None:
    for place in ("r", "s"):
        identity(tmp_path / place, "m")
    server = start_server(
        tmp_path / "r",
        f"--model-repository={tmp_path / 's'}",
        "--model-control-mode=poll",
        "--repository-poll-secs=1",
        "--exit-on-error=false",
    )
    with grpcclient.InferenceServerClient(server.grpc) as client:

        def rows() -> list[tuple[str, str, str]]:
            index = client.get_model_repository_index().models
            return [(each.version, each.state, each.reason) for each in index]

        assert rows() == [("", "UNAVAILABLE", "model appears in two or more repositories")]
        assert not client.is_server_ready()
        (tmp_path / "s" / "m").rename(tmp_path / "elsewhere")
        until(lambda: rows() == [("1", "READY", "")])
        assert client.is_server_ready()
        (tmp_path / "elsewhere").rename(tmp_path / "s" / "other")
        until(lambda: client.is_model_ready("other"))


async def test_a_program_registers_repositories(tmp_path: Path) -> None:
    (tmp_path / "r").mkdir()
    identity(tmp_path / "s", "inside")
    place = str(tmp_path / "s")
    options = ServerOptions(
        model_repository=(str(tmp_path / "r"),),
        model_control_mode="explicit",
        allow_http=False,
        allow_grpc=False,
        allow_metrics=False,
    )
    request = InferRequest("shown", inputs=[Tensor.from_array("INPUT0", np.ones(1, np.float32))])
    async with trio.open_nursery() as nursery:
        server = Server(options)
        await nursery.start(server.run)
        control = server.core.control_plane
        await server.register_repository(place, {"shown": "inside"})
        assert control.index_rows(ready_only=False) == [{"name": "shown"}]
        await control.load_model("", "shown", {})
        assert (await server.infer(request)).outputs
        with pytest.raises(ServerError, match="has already been registered"):
            await server.register_repository(place)
        await server.unregister_repository(place)
        assert (await server.infer(request)).outputs  # what is loaded goes on
        with pytest.raises(ServerError, match=f"failed to unregister '{place}'"):
            await server.unregister_repository(place)
        server.stop()


async def test_repositories_are_registered_in_explicit_mode_only(tmp_path: Path) -> None:
    options = ServerOptions(
        model_repository=(str(tmp_path),), allow_http=False, allow_grpc=False, allow_metrics=False
    )
    async with trio.open_nursery() as nursery:
        server = Server(options)
        await nursery.start(server.run)
        with pytest.raises(ServerError) as caught:
            await server.register_repository(str(tmp_path))
        assert caught.value.message == (
            "repository registration is not allowed if model control mode is not EXPLICIT"
        )
        server.stop()


# --- at start ------------------------------------------------------------------------------------


def fails_to_start(repository: Path, *arguments: str) -> str:
    ended = subprocess.run(
        [
            sys.executable, "-m", "troupe", "serve", f"--model-repository={repository}",
            "--http-address=127.0.0.1", "--http-port=0", "--grpc-port=0", "--metrics-port=0",
            *arguments,
        ],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    return ended.stderr


def test_case_10_one_broken_model_ends_the_server_unless_told_otherwise(
    tmp_path: Path, start_server: StartServer
) -> None:
    identity(tmp_path, "good")
    (identity(tmp_path, "broken") / "config.pbtxt").write_text("nonsense")

    assert "error: creating server: Internal - failed to load all models" in fails_to_start(
        tmp_path
    )
    server = start_server(tmp_path, "--exit-on-error=false")
    with grpcclient.InferenceServerClient(server.grpc) as client:
        ask(client, "good")
        assert not client.is_server_ready()


def test_case_8_everything_is_asked_for_alone(tmp_path: Path) -> None:
    identity(tmp_path, "a")
    explicit = ("--model-control-mode=explicit", "--load-model=*", "--load-model=a")

    assert (
        fails_to_start(tmp_path, *explicit)
        .rstrip()
        .endswith(
            "error: creating server: Invalid argument - Wildcard model name '*' must be the ONLY "
            "startup model if specified at all."
        )
    )


# --- other people's code -------------------------------------------------------------------------

ECHO: Final = """
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    @staticmethod
    def auto_complete_config(config):
        config.add_input({"name": "INPUT0", "data_type": "TYPE_FP32", "dims": [-1]})
        config.add_output({"name": "OUTPUT0", "data_type": "TYPE_FP32", "dims": [-1]})
        return config

    def initialize(self, args):
        with open(pb_utils.get_model_dir() + "/factor") as file:
            self.factor = float(file.read())

    def execute(self, requests):
        return [
            pb_utils.InferenceResponse(
                [
                    pb_utils.Tensor(
                        "OUTPUT0", self.factor * one.inputs()[0].as_numpy()
                    )
                ]
            )
            for one in requests
        ]
"""


def test_a_python_based_backend_serves_models_without_code(
    tmp_path: Path, start_server: StartServer
) -> None:
    (tmp_path / "backends" / "echo").mkdir(parents=True)
    (tmp_path / "backends" / "echo" / "model.py").write_text(ECHO)
    version = tmp_path / "models" / "m" / "1"
    version.mkdir(parents=True)
    (version.parent / "config.pbtxt").write_text('backend: "echo"')
    (version / "factor").write_text("3")
    server = start_server(tmp_path / "models", f"--backend-directory={tmp_path / 'backends'}")
    with grpcclient.InferenceServerClient(server.grpc) as client:
        given = grpcclient.InferInput("INPUT0", [2], "FP32")
        given.set_data_from_numpy(np.array([1, 2], np.float32))
        assert client.infer("m", [given]).as_numpy("OUTPUT0").tolist() == [3.0, 6.0]
