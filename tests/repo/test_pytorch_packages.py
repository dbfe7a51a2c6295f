"""The PyTorch backend over .pt2 packages: exported programs, and what AOTInductor compiled."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from protocol.inference import InferRequest, InferResponse, Tensor
from protocol.status import ServerError, StatusCode
from repo.backends import registry
from repo.backends.base import Backend, ExecuteRequest, InstanceContext, Outcome, Timings
from repo.pbtxt import parse_config

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; .ci/run installs it")

pytestmark = [
    pytest.mark.torch,
    # The packages are written by code of PyTorch that PyTorch itself deprecates.
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore:.torch.jit:DeprecationWarning"),
]

# Exports in a process of its own, because compiling leaves worker processes behind; it is the one
# way in which users make such packages.
EXPORT = """
import sys
import torch

class Nested(torch.nn.Module):
    def forward(self, x, others, *, factor):
        return {"sum": x + others["y"], "rest": [x * factor, (x - factor,)]}

rows = torch.export.Dim("rows", min=1, max=8)
# Three tensors: one and the same would be one input.
x, y, factor = torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3)
dynamic = {"x": {0: rows}, "others": {"y": {0: rows}}, "factor": {0: rows}}
program = torch.export.export(
    Nested().eval(), (x, {"y": y}), {"factor": factor}, dynamic_shapes=dynamic
)
kind, path = sys.argv[1:]
if kind == "exported":
    torch.export.save(program, path)
else:
    fast = {"aot_inductor.compile_wrapper_opt_level": "O0"}
    torch._inductor.aoti_compile_and_package(program, package_path=path, inductor_configs=fast)
"""


def export(kind: str, directory: Path) -> Path:
    path = directory / "1" / "model.pt2"
    path.parent.mkdir(parents=True)
    subprocess.run(
        [sys.executable, "-W", "ignore", "-c", EXPORT, kind, str(path)],
        check=True,
        timeout=300,
        cwd=directory,
    )
    return directory


@pytest.fixture(name="exported", scope="module")
def _exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export("exported", tmp_path_factory.mktemp("exported"))


@pytest.fixture(name="compiled", scope="module")
def _compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export("compiled", tmp_path_factory.mktemp("compiled"))


NEEDS_COMPILER = pytest.mark.skipif(
    shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler"
)


@pytest.fixture(name="package", params=["exported", pytest.param("compiled", marks=NEEDS_COMPILER)])
def _package(request: pytest.FixtureRequest) -> Path:
    found: Path = request.getfixturevalue(request.param)
    return found


def tensor(direction: str, name: str, kind: str = "FP32") -> str:
    return f'{direction} {{ name: "{name}" data_type: TYPE_{kind} dims: 3 }} '


def config(inputs: tuple[str, ...], outputs: tuple[str, ...]) -> str:
    return "".join(tensor("input", name) for name in inputs) + "".join(
        tensor("output", name) for name in outputs
    )


def loaded(directory: Path, text: str, kind: str = "CPU") -> Backend:
    context = InstanceContext(
        parse_config(f'name: "m" backend: "pytorch" platform: "torch_aoti" {text}', "x"),
        1,
        directory,
        "m_0",
        kind,
    )
    backend = registry.create_backend(context)
    backend.load()
    return backend


class Unused:
    """A sender that a backend with one response per request leaves alone."""

    def send(self, outcome: Outcome | None, *, final: bool) -> None:
        raise AssertionError

    def is_cancelled(self) -> bool:
        return False


def asked(batch_size: int, **arrays: object) -> ExecuteRequest:
    inputs = [Tensor.from_array(name, np.array(rows, np.float32)) for name, rows in arrays.items()]
    return ExecuteRequest(InferRequest("m", inputs=inputs), batch_size, Unused())


def outputs(outcome: Outcome | None) -> dict[str, Any]:
    assert isinstance(outcome, InferResponse), outcome
    return {one.name: one.array.tolist() for one in outcome.outputs}


PLACES = ("KWARGS[factor]", "ARGS[0]", "ARGS[1][y]")
RESULTS = ("RESULT[rest][1][0]", "RESULT[sum]")


@pytest.mark.parametrize("kind", ["CPU", "MODEL"])
def test_tensors_are_named_by_their_place_in_the_call(package: Path, kind: str) -> None:
    backend = loaded(package, "max_batch_size: 8 " + config(PLACES, RESULTS), kind)
    arrays = {
        "ARGS[0]": [[1, 2, 3]], "ARGS[1][y]": [[10, 10, 10]], "KWARGS[factor]": [[2, 2, 2]]
    }  # fmt: skip
    more = {name: rows * 2 for name, rows in arrays.items()}

    one, two = backend.execute([asked(1, **arrays), asked(2, **more)], Timings())

    assert outputs(one) == {"RESULT[rest][1][0]": [[-1, 0, 1]], "RESULT[sum]": [[11, 12, 13]]}
    assert outputs(two)["RESULT[sum]"] == [[11, 12, 13]] * 2


def test_tensors_are_named_by_their_number(package: Path) -> None:
    text = config(("INPUT__2", "INPUT__0", "INPUT__1"), ("OUTPUT__1",))
    text = text.replace("dims: 3", "dims: [ -1, 3 ]")

    (outcome,) = loaded(package, text).execute(
        [asked(0, INPUT__0=[[1, 2, 3]], INPUT__1=[[0, 0, 0]], INPUT__2=[[2, 2, 2]])], Timings()
    )

    assert outputs(outcome) == {"OUTPUT__1": [[2, 4, 6]]}


def test_instances_may_share_a_package(package: Path) -> None:
    text = "max_batch_size: 8 " + config(PLACES, RESULTS)
    text += 'parameters { key: "ENABLE_WEIGHT_SHARING" value { string_value: "1" } }'
    first, second = loaded(package, text), loaded(package, text)
    arrays: dict[str, object] = {name: [[1, 1, 1]] for name in PLACES}

    for backend in (first, second):
        (outcome,) = backend.execute([asked(1, **arrays)], Timings())
        assert outputs(outcome)["RESULT[sum]"] == [[2, 2, 2]]


def test_a_call_that_fails_is_internal(exported: Path) -> None:
    backend = loaded(exported, "max_batch_size: 8 " + config(PLACES, RESULTS))
    arrays: dict[str, object] = {name: [[1, 1, 1]] for name in PLACES}
    arrays["ARGS[0]"] = [[1, 1]]

    with pytest.raises(ServerError) as failure:
        backend.execute([asked(1, **arrays)], Timings())

    assert failure.value.status is StatusCode.INTERNAL
    assert failure.value.message.startswith("PyTorch execute failure: ")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            config(("ARGS[0]", "KWARGS[factor]"), RESULTS),
            "unable to load model 'm', configuration expects 2 inputs, model provides 3",
        ),
        (
            config(("ARGS[0]", "KWARGS[factor]", "y"), RESULTS),
            (
                "unexpected inference input 'y', allowed inputs are: ARGS[0], ARGS[1][y], "
                "INPUT__0, INPUT__1, INPUT__2, KWARGS[factor]"
            ),
        ),
        (
            config(PLACES, ("RESULT",)),
            (
                "unexpected inference output 'RESULT', allowed outputs are: OUTPUT__0, OUTPUT__1, "
                "OUTPUT__2, RESULT[rest][0], RESULT[rest][1][0], RESULT[sum]"
            ),
        ),
    ],
)
def test_names_that_the_package_does_not_have(package: Path, text: str, message: str) -> None:
    with pytest.raises(ServerError) as failure:
        loaded(package, text)

    assert failure.value.message == message


def test_a_file_of_another_kind_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.pt2").write_bytes(b"this is no package")

    with pytest.raises(ServerError) as failure:
        loaded(tmp_path, config(PLACES, RESULTS))

    assert failure.value.status is StatusCode.INTERNAL
    assert failure.value.message == "failed to load model 'm': File is not a zip file"


def test_arguments_that_are_no_tensors_are_refused(tmp_path: Path) -> None:
    class Power(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
        def forward(self, x: torch.Tensor, exponent: int) -> torch.Tensor:
            return x**exponent

    (tmp_path / "1").mkdir()
    program = torch.export.export(Power().eval(), (torch.ones(3), 2))
    torch.export.save(program, str(tmp_path / "1" / "model.pt2"))

    with pytest.raises(ServerError) as failure:
        loaded(tmp_path, config(("ARGS[0]", "ARGS[1]"), ("RESULT",)))

    assert failure.value.message == (
        "An input of type 'int' was detected in the model. Only a single input of type "
        "Dict(str, Tensor) or input(s) of type Tensor are supported."
    )
