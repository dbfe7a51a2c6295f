"""Models that are a `torch.nn.Module` in a model.py: in real workers, and the finding of them."""

from __future__ import annotations

import importlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from protocol.inference import InferResponse, Tensor
from repo.backends import registry
from repo.backends.base import InstanceContext
from repo.backends.python.launch import WorkerSpec, worker_spec
from repo.backends.python.loading import publish_modules
from repo.config_json import to_json
from repo.pbtxt import parse_config
from tests.actors.process_rig import load_error, request, running

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; .ci/run installs it")

pytestmark = [
    pytest.mark.torch,
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]

# Without a C++ compiler at work, which would take longer than all the rest.
TRACED = {"TORCH_COMPILE_OPTIONAL_PARAMETERS": '{"backend": "eager", "dynamic": true}'}
UNCOMPILED = {"TORCH_COMPILE_OPTIONAL_PARAMETERS": '{"disable": true}'}

SCALE = """
import torch
from torch.nn import Linear  # another module, which is not meant

from beside import FACTOR


class Scale(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.factor = torch.nn.Parameter(torch.zeros(1))

    def forward(self, x, y):
        return x * self.factor, y.long() + FACTOR, x * 0 + torch.get_num_threads()
"""

CONFIG = """
max_batch_size: 8
input { name: "first" data_type: TYPE_FP32 dims: 2 }
input { name: "second" data_type: TYPE_INT32 dims: 1 }
output { name: "scaled" data_type: TYPE_FP32 dims: 2 }
output { name: "raised" data_type: TYPE_INT64 dims: 1 }
"""


def spec(directory: Path, text: str, parameters: dict[str, str], kind: str = "CPU") -> WorkerSpec:
    written = "".join(
        f'parameters {{ key: "{key}" value {{ string_value: {json.dumps(value)} }} }} '
        for key, value in parameters.items()
    )
    config = parse_config(f'name: "m" backend: "pytorch" runtime: "model.py" {text} {written}', "x")
    context = InstanceContext(config, 1, directory, "m_0", kind)
    return worker_spec(
        context, to_json(config), backend_directory=registry.worker_module(config, {})
    )


def write(directory: Path, source: str = SCALE, **files: str) -> Path:
    version = directory / "1"
    version.mkdir(parents=True, exist_ok=True)
    (version / "model.py").write_text(source)
    for name, content in files.items():
        (version / f"{name}.py").write_text(content)
    return directory


def tensors(rows: int, start: float = 0) -> list[Tensor]:
    first = np.arange(start, start + 2 * rows, dtype=np.float32).reshape(rows, 2)
    return [
        Tensor.from_array("second", np.full((rows, 1), 7, np.int32)),
        Tensor.from_array("first", first),
    ]


def values(outcome: object) -> dict[str, Any]:
    assert isinstance(outcome, InferResponse), outcome
    return {one.name: one.array.tolist() for one in outcome.outputs}


async def test_a_module_serves_batches_with_its_weights(tmp_path: Path) -> None:
    write(tmp_path, beside="FACTOR = 10")
    torch.save({"factor": torch.tensor([2.0])}, tmp_path / "1" / "model.pt")

    async with running(spec(tmp_path, CONFIG, TRACED)) as rig:
        one, two = await rig.outcomes(
            request(inputs=tensors(1)), request(inputs=tensors(2, start=10))
        )
        (alone,) = await rig.outcomes(request(inputs=tensors(1)))

    assert values(one) == {"scaled": [[0, 2]], "raised": [[17]]}
    assert values(two) == {"scaled": [[20, 22], [24, 26]], "raised": [[17], [17]]}
    assert values(alone) == values(one)


async def test_a_module_has_one_thread_and_no_weights_of_its_own(tmp_path: Path) -> None:
    write(tmp_path, beside="FACTOR = 10")
    text = CONFIG + 'output { name: "threads" data_type: TYPE_FP32 dims: 2 }'
    text = text.replace("max_batch_size: 8", "").replace("dims: 2", "dims: [ 1, 2 ]")

    async with running(spec(tmp_path, text, UNCOMPILED, "MODEL")) as rig:
        (found,) = await rig.outcomes(request(inputs=tensors(1)))

    assert values(found)["scaled"] == [[0, 0]]
    assert values(found)["threads"] == [[1, 1]]


async def test_a_script_is_served_by_position(tmp_path: Path) -> None:
    class Difference(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
        def forward(self, b: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
            return b - second

    (tmp_path / "1").mkdir()
    torch.jit.save(torch.jit.script(Difference()), str(tmp_path / "1" / "model.pt"))
    text = CONFIG.partition('output { name: "raised"')[0]

    async with running(spec(tmp_path, text, {"NUM_THREADS": "2"})) as rig:
        (found,) = await rig.outcomes(request(inputs=tensors(1, start=10)))

    assert values(found) == {"scaled": [[3, 4]]}


@pytest.mark.parametrize(
    ("source", "parameters", "message"),
    [
        ("FACTOR = 1", {}, "Cannot find a subclass of torch.nn.Module"),
        (SCALE, {"NUM_THREADS": "many"}, "failed to convert 'many' to integral number"),
    ],
)
async def test_a_module_that_does_not_load(
    tmp_path: Path, source: str, parameters: dict[str, str], message: str
) -> None:
    error = await load_error(spec(write(tmp_path, source, beside=""), CONFIG, parameters))

    assert message in error.message


# What can be judged without a worker.

MODULE = "repo.backends.pytorch_worker.model"


@pytest.fixture(name="backend", scope="module")
def _backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The worker's model.py as a module of this process; pb_utils as in a worker."""
    patch = pytest.MonkeyPatch()
    for name in ("triton_python_backend_utils", "c_python_backend_utils", MODULE):
        patch.delitem(sys.modules, name, raising=False)
    publish_modules(str(tmp_path_factory.mktemp("version")))
    module = importlib.import_module(MODULE)
    yield module
    for name in ("triton_python_backend_utils", "c_python_backend_utils", MODULE):
        del sys.modules[name]
    patch.undo()


def refused(backend: Any, call: Callable[[], object]) -> str:
    with pytest.raises(backend.pb_utils.TritonModelException) as failure:
        call()
    return str(failure.value)


def parameters(**given: str) -> dict[str, Any]:
    return {"parameters": {key: {"string_value": value} for key, value in given.items()}}


def test_options_of_the_compiler(backend: Any) -> None:
    key = "TORCH_COMPILE_OPTIONAL_PARAMETERS"

    assert backend._compile_options(parameters()) == {}
    assert backend._compile_options(parameters(**{key: '{"dynamic": true}'})) == {"dynamic": True}
    for text, message in (
        ('{"model": 1}', "'model' is not an optional parameter for 'torch.compile'"),
        ("[]", f"parameter '{key}' must be a JSON object, got '[]'"),
        (
            "{",
            (
                f"failed to parse parameter '{key}': Expecting property name enclosed in double "
                "quotes: line 1 column 2 (char 1)"
            ),
        ),
    ):
        given = parameters(**{key: text})
        assert refused(backend, partial(backend._compile_options, given)) == message


def test_files_are_looked_for_in_order(backend: Any, tmp_path: Path) -> None:
    message = f"No model found in {tmp_path}/['net.py', 'model.py', 'model.pt']"
    assert refused(backend, lambda: backend._model_path(tmp_path, "net.py")) == message

    for name in ("model.pt", "model.py", "net.py"):
        (tmp_path / name).touch()
        assert backend._model_path(tmp_path, "net.py") == tmp_path / name


def test_a_module_of_the_file_is_preferred_to_an_imported_one(backend: Any, tmp_path: Path) -> None:
    path = tmp_path / "model.py"
    path.write_text("from torch.nn import Linear\nimport torch\nclass Own(torch.nn.Module): ...\n")
    assert backend._module_class(path).__name__ == "Own"

    path.write_text("from torch.nn import Linear\nfrom torch.nn import Conv1d\n")
    os.utime(path, ns=(1, 1))  # another time than the compiled file of the first
    assert backend._module_class(path).__name__ == "Conv1d"


def test_a_module_without_weights_is_nowhere(backend: Any) -> None:
    message = refused(backend, lambda: backend._device("MODEL", "0", torch.nn.ReLU()))

    assert message == "Cannot determine model device"
    assert backend._device("GPU", "1", None) == torch.device("cuda", 1)


def test_every_configured_output_is_given(backend: Any) -> None:
    model = backend.TritonPythonModel()
    model._outputs, model._call = ["a", "b"], lambda: (1, 2, 3)
    assert model._results([]) == [1, 2]

    model._call = lambda: 1
    assert refused(backend, lambda: model._results([])) == (
        "The output b in the model configuration refers to an output index which doesn't exist. "
        "This model has 1 outputs"
    )


def test_only_a_module_has_a_worker() -> None:
    def place(text: str) -> Path | None:
        return registry.worker_module(parse_config(text, "x"), {})

    assert place('backend: "pytorch"') is None
    assert place('backend: "identity" runtime: "model.py"') is None
    found = place('backend: "pytorch" runtime: "model.py"')
    assert found is not None
    assert (found / "model.py").is_file()
