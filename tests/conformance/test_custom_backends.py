"""Backends from a package of its own, installed by pip and served by the real server process."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from tritonclient.utils import InferenceServerException

ROOT = Path(__file__).parent.parent.parent
EXAMPLE = ROOT / "examples" / "troupe_example_backends"
WAIT_SECONDS = 20.0

CLIENTS = [pytest.param(grpcclient, id="grpc"), pytest.param(httpclient, id="http")]


@pytest.fixture(name="installed", scope="module")
def _installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory into which pip has installed the example, without a network."""
    source = tmp_path_factory.mktemp("source") / "example"  # building leaves files behind
    shutil.copytree(EXAMPLE, source)
    target = tmp_path_factory.mktemp("installed")
    arguments = ["--quiet", "--no-deps", "--no-index", "--no-build-isolation", f"--target={target}"]
    subprocess.run(
        [sys.executable, "-m", "pip", "install", *arguments, source], check=True, timeout=120
    )
    return target


@contextlib.contextmanager
def python_path(path: Path) -> Iterator[None]:
    """Servers started meanwhile find packages in `path`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(path), os.environ.get("PYTHONPATH", "")]))
        yield


@pytest.fixture(name="server", scope="module")
def _server(
    installed: Path, run_server: Callable[..., AbstractContextManager[Any]]
) -> Iterator[Any]:
    with python_path(installed), run_server(EXAMPLE / "models") as server:
        yield server


def connect(client: ModuleType, server: Any) -> Any:
    return client.InferenceServerClient(server.grpc if client is grpcclient else server.http)


def tensor(client: ModuleType, name: str, values: object, datatype: str) -> Any:
    dtype = np.float32 if datatype == "FP32" else np.int32
    array = np.array(values, dtype)
    given = client.InferInput(name, list(array.shape), datatype)
    given.set_data_from_numpy(array)
    return given


@pytest.mark.parametrize("client", CLIENTS)
def test_an_installed_backend_answers(client: ModuleType, server: Any) -> None:
    with connect(client, server) as triton:
        answer = triton.infer(
            "scaled", [tensor(client, "INPUT", [[1, 2], [3, 4]], "FP32")], request_id="7"
        )

    assert answer.as_numpy("OUTPUT").tolist() == [[2.5, 5], [7.5, 10]]


def test_it_has_completed_its_configuration(server: Any) -> None:
    with connect(httpclient, server) as triton:
        config = triton.get_model_config("scaled")

    (given,), (returned,) = config["input"], config["output"]
    assert (given["name"], given["data_type"], given["dims"]) == ("INPUT", "TYPE_FP32", [-1])
    assert (returned["name"], returned["dims"]) == ("OUTPUT", [-1])


def test_one_request_of_it_fails_alone(server: Any) -> None:
    with connect(grpcclient, server) as triton:
        with pytest.raises(InferenceServerException, match="INPUT must be finite"):
            triton.infer("scaled", [tensor(grpcclient, "INPUT", [[np.inf]], "FP32")])
        answer = triton.infer("scaled", [tensor(grpcclient, "INPUT", [[2]], "FP32")])

    assert answer.as_numpy("OUTPUT").tolist() == [[5]]


def test_a_decoupled_backend_streams(server: Any) -> None:
    results: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
    with connect(grpcclient, server) as triton:
        triton.start_stream(lambda result, error: results.put((result, error)))
        triton.async_stream_infer(
            "countdown",
            [tensor(grpcclient, "N", [3], "INT32")],
            enable_empty_final_response=True,
        )
        found = [results.get(timeout=WAIT_SECONDS) for _ in range(4)]
        triton.stop_stream()

    assert [error for _, error in found] == [None] * 4
    *numbers, last = (result for result, _ in found)
    assert [int(one.as_numpy("LEFT")[0]) for one in numbers] == [3, 2, 1]
    assert last.get_response().parameters["triton_final_response"].bool_param
    assert not last.get_response().outputs


BROKEN = """
from troupe.backends import Backend


class Half(Backend):
    def load(self):
        pass


class Dropping(Backend):
    def load(self):
        raise OSError("the device is gone")

    def execute(self, requests, timings):
        return []


Number = 5
"""


def test_broken_backends_tell_why_and_leave_the_others_alone(
    tmp_path: Path, installed: Path, run_server: Callable[..., AbstractContextManager[Any]]
) -> None:
    shutil.copytree(installed, tmp_path / "site")
    (tmp_path / "site" / "broken_backends.py").write_text(BROKEN)
    metadata = tmp_path / "site" / "broken-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[troupe.backends]\nhalf = broken_backends:Half\nnumber = broken_backends:Number\n"
        "gone = broken_backends:Gone\ndropping = broken_backends:Dropping\n"
    )
    models = tmp_path / "models"
    shutil.copytree(EXAMPLE / "models" / "scaled", models / "scaled")
    for backend in ("half", "number", "gone", "dropping", "absent"):
        (models / backend / "1").mkdir(parents=True)
        (models / backend / "config.pbtxt").write_text(
            f'backend: "{backend}" input {{ name: "I" data_type: TYPE_FP32 dims: 1 }} '
            'output { name: "O" data_type: TYPE_FP32 dims: 1 }'
        )

    with (
        python_path(tmp_path / "site"),
        run_server(models, "--exit-on-error=false") as server,
    ):
        asked = urllib.request.Request(f"http://{server.http}/v2/repository/index", method="POST")
        with urllib.request.urlopen(asked, timeout=WAIT_SECONDS) as answer:
            reasons = {row["name"]: row.get("reason", "") for row in json.load(answer)}
        with connect(httpclient, server) as triton:
            answered = triton.infer("scaled", [tensor(httpclient, "INPUT", [[2]], "FP32")])
        log = "".join(server.lines)

    assert answered.as_numpy("OUTPUT").tolist() == [[5]]
    for backend, message in (
        ("half", "backend 'half' ('broken_backends:Half') does not define execute"),
        (
            "number",
            (
                "backend 'number' is no troupe.backends.Backend; its entry point "
                "'broken_backends:Number' in 'troupe.backends' must name one"
            ),
        ),
        (
            "gone",
            (
                "backend 'gone' cannot be imported from 'broken_backends:Gone': AttributeError: "
                "module 'broken_backends' has no attribute 'Gone'"
            ),
        ),
        ("dropping", "OSError: the device is gone"),
        (
            "absent",
            (
                "unable to find backend library for backend 'absent', try specifying runtime "
                "on the model configuration."
            ),
        ),
    ):
        assert message in log
        assert message in reasons[backend], reasons
