"""PyTorch models through a real server, and a server that has no PyTorch."""

from __future__ import annotations

import importlib.util
import json
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import tritonclient.grpc as grpcclient
import tritonclient.http as httpclient
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

ROOT = Path(__file__).parent.parent.parent
REPOSITORY = ROOT / "sample_repository_torch"

needs_torch = [
    pytest.mark.torch,
    pytest.mark.skipif(
        importlib.util.find_spec("torch") is None,
        reason="PyTorch is not installed; .ci/run installs it",
    ),
]

CLIENTS = [pytest.param(grpcclient, id="grpc"), pytest.param(httpclient, id="http")]

MODULE = """
import torch


class Twice(torch.nn.Module):
    def forward(self, x):
        return 2 * x
"""

MODULE_CONFIG = """
backend: "pytorch" runtime: "model.py" max_batch_size: 4
input { name: "x" data_type: TYPE_FP32 dims: 2 }
output { name: "y" data_type: TYPE_FP32 dims: 2 }
instance_group { kind: KIND_CPU }
parameters {
  key: "TORCH_COMPILE_OPTIONAL_PARAMETERS" value { string_value: "{\\"disable\\": true}" }
}
"""


@pytest.fixture(name="server", scope="module")
def _server(
    tmp_path_factory: pytest.TempPathFactory,
    run_server: Callable[..., AbstractContextManager[Any]],
) -> Iterator[Any]:
    modules = tmp_path_factory.mktemp("modules")
    (modules / "twice" / "1").mkdir(parents=True)
    (modules / "twice" / "config.pbtxt").write_text(MODULE_CONFIG)
    (modules / "twice" / "1" / "model.py").write_text(MODULE)
    with run_server(REPOSITORY, f"--model-repository={modules}") as server:
        yield server


def connect(client: ModuleType, server: Any) -> Any:
    return client.InferenceServerClient(server.grpc if client is grpcclient else server.http)


def tensor(client: ModuleType, name: str, array: npt.NDArray[np.float32]) -> Any:
    given = client.InferInput(name, list(array.shape), "FP32")
    given.set_data_from_numpy(array)
    return given


class TestServed:
    pytestmark = needs_torch

    @pytest.mark.parametrize("client", CLIENTS)
    def test_held_out_digits_are_read(self, client: ModuleType, server: Any) -> None:
        pixels, labels = load_digits(return_X_y=True)
        _, held_out, _, expected = train_test_split(
            pixels, labels, test_size=0.2, random_state=1797, stratify=labels
        )
        right = 0
        with connect(client, server) as triton:
            for start in range(0, len(held_out), 64):
                batch = held_out[start : start + 64].astype(np.float32)
                answer = triton.infer("digits_torch", [tensor(client, "INPUT__0", batch)])
                found = answer.as_numpy("OUTPUT__0").argmax(axis=1)
                right += int((found == expected[start : start + 64]).sum())

        assert right == 354

    def test_classes_have_labels(self, server: Any) -> None:
        pixels, labels = load_digits(return_X_y=True)
        wanted = grpcclient.InferRequestedOutput("OUTPUT__0", class_count=1)
        image = pixels[:1].astype(np.float32)
        with connect(grpcclient, server) as triton:
            answer = triton.infer(
                "digits_torch", [tensor(grpcclient, "INPUT__0", image)], outputs=[wanted]
            )

        probability, index, label = answer.as_numpy("OUTPUT__0")[0, 0].decode().split(":")
        assert (int(index), label) == (labels[0], "zero")
        assert float(probability) > 0.5

    def test_a_module_is_served_from_a_worker(self, server: Any) -> None:
        with connect(grpcclient, server) as triton:
            answer = triton.infer(
                "twice", [tensor(grpcclient, "x", np.array([[1, 2]], np.float32))]
            )

        assert answer.as_numpy("y").tolist() == [[2, 4]]


def test_a_server_without_torch_tells_why_and_serves_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start_server: Callable[..., Any]
) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError(\"No module named 'torch'\")\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    server = start_server(
        REPOSITORY, f"--model-repository={ROOT / 'sample_repository'}", "--exit-on-error=false"
    )

    asked = urllib.request.Request(f"http://{server.http}/v2/repository/index", method="POST")
    with urllib.request.urlopen(asked, timeout=10) as answer:
        rows = {row["name"]: row for row in json.load(answer)}

    assert rows["digits"]["state"] == "READY"
    assert rows["digits_torch"]["state"] == "UNAVAILABLE"
    assert rows["digits_torch"]["reason"].endswith(
        "unable to load model 'digits_torch', PyTorch cannot be imported (No module named "
        "'torch'); install it with: pip install 'troupe[torch]'"
    )
