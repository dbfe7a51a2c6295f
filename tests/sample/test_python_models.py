"""The model.py files of sample_repository, run with a stand-in for Triton's utilities module."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pytest

SAMPLES = Path(__file__).parents[2] / "sample_repository"


class Tensor:
    """A named array, as `pb_utils.Tensor`."""

    def __init__(self, name: str, array: npt.NDArray[np.generic]) -> None:
        self._name = name
        self._array = array

    def name(self) -> str:
        return self._name

    def as_numpy(self) -> npt.NDArray[np.generic]:
        return self._array


class InferenceRequest:
    def __init__(self, *inputs: Tensor) -> None:
        self.inputs = {tensor.name(): tensor for tensor in inputs}


class InferenceResponse:
    def __init__(self, output_tensors: list[Tensor]) -> None:
        self.outputs = {tensor.name(): tensor.as_numpy() for tensor in output_tensors}


def get_input_tensor_by_name(request: InferenceRequest, name: str) -> Tensor | None:
    return request.inputs.get(name)


class PythonModel(Protocol):
    def execute(self, requests: list[InferenceRequest]) -> list[InferenceResponse]: ...


@pytest.fixture
def load_model(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], PythonModel]:
    """Makes `TritonPythonModel` of the named sample model."""
    utilities = ModuleType("triton_python_backend_utils")
    for part in (Tensor, InferenceResponse, get_input_tensor_by_name):
        setattr(utilities, part.__name__, part)
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", utilities)

    def load(model: str) -> PythonModel:
        path = SAMPLES / model / "1" / "model.py"
        spec = importlib.util.spec_from_file_location(f"sample_{model}", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        made: PythonModel = module.TritonPythonModel()
        return made

    return load


def test_add_sub_answers_each_request_of_a_batch_by_itself(
    load_model: Callable[[str], PythonModel],
) -> None:
    left = np.arange(48, dtype=np.float32).reshape(3, 16)
    right = np.full((3, 16), 0.5, np.float32)
    first, second = load_model("add_sub").execute(
        [
            InferenceRequest(Tensor("INPUT0", left), Tensor("INPUT1", right)),
            InferenceRequest(Tensor("INPUT1", right[:1]), Tensor("INPUT0", left[2:])),
        ]
    )

    np.testing.assert_array_equal(first.outputs["OUTPUT0"], left + right)
    np.testing.assert_array_equal(first.outputs["OUTPUT1"], left - right)
    np.testing.assert_array_equal(second.outputs["OUTPUT0"], left[2:] + 0.5)
    np.testing.assert_array_equal(second.outputs["OUTPUT1"], left[2:] - 0.5)


def test_simple_identity_returns_the_bytes_as_they_came(
    load_model: Callable[[str], PythonModel],
) -> None:
    strings = np.array([[b"", b"a\x00b", "é".encode(), b"\xff"]], object)
    (response,) = load_model("simple_identity").execute(
        [InferenceRequest(Tensor("INPUT0", strings))]
    )

    assert list(response.outputs) == ["OUTPUT0"]
    assert response.outputs["OUTPUT0"].tolist() == strings.tolist()
