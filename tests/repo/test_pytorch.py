"""The PyTorch backend over small TorchScript models: loading, running, batching, refusing."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pytest

from protocol.inference import InferRequest, InferResponse, Tensor
from protocol.status import ServerError, StatusCode
from repo.backends import registry
from repo.backends.base import Backend, ExecuteRequest, InstanceContext, Outcome, Timings
from repo.backends.pytorch_settings import ThreadCounts
from repo.pbtxt import parse_config

if TYPE_CHECKING:
    import torch
else:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed; .ci/run installs it")

pytestmark = [
    pytest.mark.torch,
    # PyTorch asks for torch.export wherever TorchScript is used, and Triton's users have .pt files.
    pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning"),
]


def save(directory: Path, module: Any, name: str = "model.pt") -> Path:
    (directory / "1").mkdir(parents=True, exist_ok=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), str(directory / "1" / name))
    return directory


def tensor(direction: str, name: str, dims: str = "2", kind: str = "FP32", extra: str = "") -> str:
    return f'{direction} {{ name: "{name}" data_type: TYPE_{kind} dims: [ {dims} ] {extra} }} '


def parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }} '


def context(
    directory: Path, text: str = "", *, kind: str = "CPU", instance: str = "m_0"
) -> InstanceContext:
    return InstanceContext(
        config=parse_config(
            f'name: "m" backend: "pytorch" platform: "pytorch_libtorch" {text}', "x"
        ),
        version=1,
        model_directory=directory,
        instance_name=instance,
        kind=kind,
    )


def loaded(directory: Path, text: str, **more: Any) -> Backend:
    backend = registry.create_backend(context(directory, text, **more))
    backend.load()
    return backend


class Unused:
    """A sender that a backend with one response per request leaves alone."""

    def send(self, outcome: Outcome | None, *, final: bool) -> None:
        raise AssertionError

    def is_cancelled(self) -> bool:
        return False


def request(*tensors: Tensor, batch_size: int = 0, wanted: tuple[str, ...] = ()) -> ExecuteRequest:
    given = InferRequest("m", id="7", inputs=list(tensors), requested_outputs=wanted)
    return ExecuteRequest(given, batch_size, Unused())


def floats(name: str, *rows: object) -> Tensor:
    return Tensor.from_array(name, np.array(rows, np.float32))


def raw(one: Tensor) -> Tensor:
    return Tensor(one.name, one.datatype, one.shape, raw=bytes(one.raw))


def outputs(outcome: Outcome | None) -> dict[str, Any]:
    assert isinstance(outcome, InferResponse), outcome
    return {one.name: one.array.tolist() for one in outcome.outputs}


def answer(backend: Backend, *tensors: Tensor, **more: Any) -> dict[str, Any]:
    (outcome,) = backend.execute([request(*tensors, **more)], Timings())
    return outputs(outcome)


def load_refused(directory: Path, text: str, **more: Any) -> ServerError:
    with pytest.raises(ServerError) as failure:
        loaded(directory, text, **more)
    return failure.value


def run_refused(backend: Backend, *requests: ExecuteRequest) -> ServerError:
    with pytest.raises(ServerError) as failure:
        backend.execute(list(requests), Timings())
    return failure.value


class Difference(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x - y, x + y


BOTH = tensor("output", "D") + tensor("output", "S")


def pair(first: str, second: str, results: str = BOTH) -> str:
    return f"max_batch_size: 8 {tensor('input', first)} {tensor('input', second)} {results}"


X, Y = [[5.0, 7.0]], [[1.0, 2.0]]


# Running.


@pytest.mark.parametrize(("first", "second", "expected"), [
    ("y", "x", [-4, -5]),  # by argument: the first one given is y
    ("A__1", "B__0", [-4, -5]),  # by index
    ("foo", "y", [4, 5]),  # in the order of the configuration
])  # fmt: skip
def test_inputs_reach_their_arguments(
    tmp_path: Path, first: str, second: str, expected: list[float]
) -> None:
    backend = loaded(save(tmp_path, Difference()), pair(first, second))

    found = answer(backend, floats(first, *X), floats(second, *Y), batch_size=1)

    assert found == {"D": [expected], "S": [[6, 9]]}
    backend.unload()


def test_a_response_tells_whose_it_is(tmp_path: Path) -> None:
    backend = loaded(save(tmp_path, Difference()), pair("x", "y"))
    timings = Timings()

    (outcome,) = backend.execute(
        [request(floats("x", *X), floats("y", *Y), batch_size=1, wanted=("S",))], timings
    )

    assert isinstance(outcome, InferResponse)
    assert (outcome.model_name, outcome.model_version, outcome.id) == ("m", "1", "7")
    assert [(one.name, one.datatype, one.shape) for one in outcome.outputs] == [
        ("S", "FP32", (1, 2))
    ]
    assert timings.input_ns > 0
    assert timings.infer_ns > 0
    assert timings.output_ns > 0


def test_fewer_outputs_than_the_model_gives_may_be_configured(tmp_path: Path) -> None:
    backend = loaded(save(tmp_path, Difference()), pair("x", "y", tensor("output", "O__1")))

    assert answer(backend, floats("x", *X), floats("y", *Y), batch_size=1) == {"O__1": [[6, 9]]}


@pytest.mark.parametrize("encoded", [True, False])
def test_a_batch_is_joined_and_cut(tmp_path: Path, encoded: bool) -> None:
    backend = loaded(save(tmp_path, Difference()), pair("x", "y"))
    requests = [
        request(floats("x", [1, 2]), floats("y", [1, 1]), batch_size=1),
        request(
            floats("y", [1, 1], [2, 2]), floats("x", [3, 4], [5, 6]), batch_size=2, wanted=("D",)
        ),
        request(floats("x", [7, 8]), floats("y", [0, 0]), batch_size=1),
    ]
    if encoded:
        for one in requests:
            one.request.inputs = [raw(given) for given in one.request.inputs]

    first, second, third = backend.execute(requests, Timings())

    assert outputs(first) == {"D": [[0, 1]], "S": [[2, 3]]}
    assert outputs(second) == {"D": [[2, 3], [3, 4]]}
    assert outputs(third) == {"D": [[7, 8]], "S": [[7, 8]]}


def test_a_batch_beyond_the_maximum_is_refused(tmp_path: Path) -> None:
    backend = loaded(save(tmp_path, Difference()), pair("x", "y"))
    five = request(floats("x", *X * 5), floats("y", *Y * 5), batch_size=5)

    error = run_refused(backend, five, five)

    assert (error.status, error.message) == (
        StatusCode.INTERNAL,
        "batch size 10 for 'm_0', max allowed is 8",
    )


def test_what_the_model_raises_is_internal(tmp_path: Path) -> None:
    backend = loaded(save(tmp_path, Difference()), pair("x", "y"))

    error = run_refused(backend, request(floats("x", *X), floats("y", [1, 2, 3]), batch_size=1))

    assert error.status is StatusCode.INTERNAL
    assert error.message.startswith("PyTorch execute failure: ")
    assert "must match the size of tensor b" in error.message


class Keyed(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        return tensors["a"] - tensors["b"]


def test_a_dictionary_is_filled_by_name(tmp_path: Path) -> None:
    text = tensor("input", "b") + tensor("input", "a") + tensor("output", "D")
    backend = loaded(save(tmp_path, Keyed()), text)

    assert answer(backend, floats("b", 1, 2), floats("a", 5, 7)) == {"D": [4, 5]}


class Increment(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    """Writes into its input, and answers with a buffer that the next call changes."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("total", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.total += x.add_(1)
        return self.total


@pytest.mark.parametrize("encoded", [True, False])
def test_a_model_changes_neither_its_callers_tensors_nor_earlier_answers(
    tmp_path: Path, encoded: bool
) -> None:
    directory = save(tmp_path, Increment())
    text = tensor("input", "x") + tensor("output", "S") + parameter("INFERENCE_MODE", "false")
    backend = loaded(directory, text)
    given = raw(floats("x", 1, 2)) if encoded else floats("x", 1, 2)

    (first,) = backend.execute([request(given)], Timings())
    (second,) = backend.execute([request(given)], Timings())

    assert (outputs(first), outputs(second)) == ({"S": [2, 3]}, {"S": [4, 6]})
    assert given.array.tolist() == [1, 2]


class Everything(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.transpose(0, 1)


@pytest.mark.parametrize(
    "kind", ["BOOL", "UINT8", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64"]
)
def test_every_datatype_goes_through(tmp_path: Path, kind: str) -> None:
    text = tensor("input", "x", "2, 1", kind) + tensor("output", "S", "1, 2", kind)
    backend = loaded(save(tmp_path, Everything()), text)
    dtype = {"BOOL": np.bool_, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64}.get(
        kind, np.dtype(kind.lower()) if "INT" in kind else None
    )

    (outcome,) = backend.execute(
        [request(Tensor.from_array("x", np.array([[0], [1]], dtype)))], Timings()
    )

    assert outputs(outcome) == {"S": [[0, 1]]}
    assert isinstance(outcome, InferResponse)
    assert outcome.outputs[0].datatype == kind
    assert len(outcome.outputs[0].raw) == outcome.outputs[0].byte_size


def test_a_tensor_without_elements_goes_through(tmp_path: Path) -> None:
    text = tensor("input", "x", "-1, 2") + tensor("output", "S", "2, -1")
    backend = loaded(save(tmp_path, Everything()), text)

    assert answer(backend, Tensor("x", "FP32", (0, 2), raw=b"")) == {"S": [[], []]}


class Flat(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, x: torch.Tensor, n: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x, n


RAGGED = f"""
max_batch_size: 8
{tensor("input", "x", "-1", extra="allow_ragged_batch: true")}
batch_input {{
  kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "n" data_type: TYPE_FP32 source_input: "x"
}}
{tensor("output", "S", "-1")}
batch_output {{ target_name: "S" kind: BATCH_SCATTER_WITH_INPUT_SHAPE source_input: "x" }}
{tensor("output", "C", "1", extra="reshape { }")}
"""


@pytest.mark.parametrize("encoded", [True, False])
def test_ragged_inputs_are_flat_and_their_outputs_scattered(tmp_path: Path, encoded: bool) -> None:
    backend = loaded(save(tmp_path, Flat()), RAGGED)
    tensors = [floats("x", [1, 2]), floats("x", [3, 4, 5])]
    requests = [request(raw(one) if encoded else one, batch_size=1) for one in tensors]

    first, second = backend.execute(requests, Timings())

    assert outputs(first) == {"S": [[1, 2]], "C": [[2]]}
    assert outputs(second) == {"S": [[3, 4, 5]], "C": [[5]]}
    (alone,) = backend.execute(requests[1:], Timings())
    assert outputs(alone) == {"S": [[3, 4, 5]], "C": [[3]]}


# Strings.


class Strings(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, x: list[str]) -> tuple[list[str], torch.Tensor]:
        return [one + "!" for one in x], torch.tensor([len(one) for one in x])


def strings(*elements: bytes, encoded: bytes | None = None) -> ExecuteRequest:
    array = np.array(elements or (b"",), np.object_)
    given = Tensor.from_array("x", array)
    if encoded is not None:
        given = Tensor("x", "BYTES", array.shape, raw=encoded)
    return request(given, batch_size=len(array))


STRINGS = (
    "max_batch_size: 8 "
    + tensor("input", "x", "1", "STRING", "reshape { }")
    + tensor("output", "T", "1", "STRING", "reshape { }")
    + tensor("output", "N", "1", "INT64", "reshape { }")
)


def test_strings_are_joined_and_cut(tmp_path: Path) -> None:
    backend = loaded(save(tmp_path, Strings()), STRINGS)

    first, second = backend.execute([strings(b"a", "ü".encode()), strings(b"")], Timings())

    assert outputs(first) == {"T": [[b"a!"], ["ü!".encode()]], "N": [[1], [2]]}
    assert outputs(second) == {"T": [[b"!"]], "N": [[0]]}


@pytest.mark.parametrize(
    ("encoded", "message"),
    [
        (
            b"\5\0\0\0ab",
            (
                "incomplete string data for inference input 'x', expecting string of length 5 but "
                "only 2 bytes available"
            ),
        ),
        (
            b"\1\0\0\0\xff",
            ("string element for inference input 'x' is not UTF-8, which PyTorch for Python needs"),
        ),
    ],
)
def test_a_broken_string_fails_alone(tmp_path: Path, encoded: bytes, message: str) -> None:
    backend = loaded(save(tmp_path, Strings()), STRINGS)

    good, broken = backend.execute([strings(b"a", b"b"), strings(encoded=encoded)], Timings())

    assert outputs(good)["T"] == [[b"a!"], [b"b!"]]
    assert isinstance(broken, ServerError)
    assert (broken.status, broken.message) == (StatusCode.INVALID_ARG, message)


# Results that cannot be responses.


class Many(NamedTuple):
    """A tuple like another."""

    first: torch.Tensor
    second: torch.Tensor


class Named(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, x: torch.Tensor) -> Many:
        return Many(x, x + 1)


class Number(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, x: torch.Tensor) -> int:
        rows: int = x.shape[0]
        return rows


class Mapped(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"x": x}


class Listed(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [x]


class Nested(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        return x, [x]


class Total(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.sum()


class Copy(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


class Integers(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.long()


class Words(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, x: torch.Tensor) -> list[str]:
        return ["a", "b"]


class Half(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.to(torch.bfloat16)


class Complex(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.complex(x, x)


NEITHER = (
    "PyTorch execute failure: output must be of type Tensor, List[str] or Tuple containing one of "
    "these two types. It should not be a List / Dictionary of Tensors or a Scalar"
)
ONE = tensor("input", "x") + tensor("output", "S")


@pytest.mark.parametrize(
    ("module", "message", "status"),
    [
        (Number(), NEITHER, StatusCode.INTERNAL),
        (Mapped(), NEITHER, StatusCode.INTERNAL),
        (
            Listed(),
            (
                "PyTorch execute failure: output must be of type Tensor or List[str], received "
                "List[Tensor]"
            ),
            StatusCode.INTERNAL,
        ),
        (
            Nested(),
            (
                "PyTorch execute failure: output at index 1 must be of type Tensor or List[str], "
                "received List[Tensor]"
            ),
            StatusCode.INTERNAL,
        ),
        (Total(), "output 'S' is a scalar which is not supported.", StatusCode.INVALID_ARG),
        (
            Integers(),
            ("configuration expects datatype TYPE_FP32 for output 'S', model provides TYPE_INT64"),
            StatusCode.INVALID_ARG,
        ),
        (
            Words(),
            ("configuration expects datatype TYPE_FP32 for output 'S', model provides TYPE_STRING"),
            StatusCode.INVALID_ARG,
        ),
        (
            Half(),
            "configuration expects datatype TYPE_FP32 for output 'S', model provides TYPE_BF16",
            StatusCode.INVALID_ARG,
        ),
        (
            Complex(),
            (
                "configuration expects datatype TYPE_FP32 for output 'S', model provides "
                "TYPE_<invalid>"
            ),
            StatusCode.INVALID_ARG,
        ),
    ],
)
def test_what_cannot_be_a_response_is_refused(
    tmp_path: Path, module: Any, message: str, status: StatusCode
) -> None:
    error = run_refused(loaded(save(tmp_path, module), ONE), request(floats("x", 1, 2)))

    assert (error.message, error.status) == (message, status)


def test_a_named_tuple_is_a_tuple(tmp_path: Path) -> None:
    backend = loaded(save(tmp_path, Named()), ONE + tensor("output", "T"))

    assert answer(backend, floats("x", 1, 2)) == {"S": [1, 2], "T": [2, 3]}


def test_an_output_that_the_model_does_not_give(tmp_path: Path) -> None:
    text = tensor("input", "x") + tensor("output", "S__0") + tensor("output", "T__2")

    error = run_refused(loaded(save(tmp_path, Named()), text), request(floats("x", 1, 2)))

    assert (error.message, error.status) == (
        (
            "The output T__2 in the model configuration refers to an output index which doesn't "
            "exist. This model has 2 outputs"
        ),
        StatusCode.INVALID_ARG,
    )


def test_an_output_without_its_rows_cannot_be_cut(tmp_path: Path) -> None:
    class First(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x[:1]

    backend = loaded(save(tmp_path, First()), "max_batch_size: 8 " + ONE)
    one = request(floats("x", [1, 2]), batch_size=1)

    assert run_refused(backend, one, one).message == (
        "failed to split the output tensor 'S' in responses: expected batch size of at least 2 in "
        "model output, got 1"
    )


# Loading.


class Optional(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, x: torch.Tensor, factor: int = 2) -> torch.Tensor:
        return x * factor


class TwoKinds(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
    def forward(self, x: torch.Tensor, d: dict[str, torch.Tensor]) -> torch.Tensor:
        return x + d["y"]


@pytest.mark.parametrize(
    ("module", "text", "message", "status"),
    [
        (
            Difference(),
            ONE,
            "unable to load model 'm', configuration expects 1 inputs, model provides 2",
            StatusCode.INVALID_ARG,
        ),
        (
            Optional(),
            ONE,
            (
                "An input of type 'int' was detected in the model. Only a single input of type "
                "Dict(str, Tensor) or input(s) of type Tensor are supported."
            ),
            StatusCode.INTERNAL,
        ),
        (
            TwoKinds(),
            ONE,
            (
                "Multiple inputs of kind DictType were detected. Only a single input of type "
                "Dict(str, Tensor) is supported."
            ),
            StatusCode.INTERNAL,
        ),
        (
            Copy(),
            tensor("input", "x", kind="UINT16") + tensor("output", "S"),
            "unsupported datatype TYPE_UINT16 for input 'x' for model 'm'",
            StatusCode.INTERNAL,
        ),
    ],
)
def test_models_that_do_not_fit_their_configuration(
    tmp_path: Path, module: Any, text: str, message: str, status: StatusCode
) -> None:
    error = load_refused(save(tmp_path, module), text)

    assert (error.message, error.status) == (message, status)


def test_a_missing_file_is_unavailable(tmp_path: Path) -> None:
    error = load_refused(tmp_path, ONE)

    assert error.status is StatusCode.UNAVAILABLE
    assert error.message == f"unable to find '{tmp_path}/1/model.pt' for model instance 'm'"


def test_a_broken_file_does_not_load(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.pt").write_bytes(b"this is no model")

    error = load_refused(tmp_path, ONE)

    assert error.status is StatusCode.INTERNAL
    assert error.message.startswith("failed to load model 'm': ")


def test_another_file_may_be_named(tmp_path: Path) -> None:
    save(tmp_path, Copy(), "net.pt")

    backend = loaded(tmp_path, 'default_model_filename: "net.pt" ' + ONE)

    assert answer(backend, floats("x", 1, 2)) == {"S": [1, 2]}


def test_instances_share_weights_only_where_they_are_told_to(tmp_path: Path) -> None:
    directory = save(tmp_path, Increment())
    text = tensor("input", "x") + tensor("output", "S") + parameter("INFERENCE_MODE", "false")
    shared = text + parameter("ENABLE_WEIGHT_SHARING", "true")
    x = floats("x", 1, 2)

    first, second = (loaded(directory, text, instance=name) for name in ("m_0", "m_1"))
    assert answer(first, x) == {"S": [2, 3]}
    assert answer(second, x) == {"S": [2, 3]}

    one, two = (loaded(directory, shared, instance=name) for name in ("m_0", "m_1"))
    assert answer(one, x) == {"S": [2, 3]}
    assert answer(two, x) == {"S": [4, 6]}

    save(tmp_path, Copy())
    assert answer(loaded(directory, shared), x) == {"S": [1, 2]}


@pytest.mark.parametrize("mode", ["true", "false"])
def test_gradients_are_never_kept(tmp_path: Path, mode: str) -> None:
    class Kept(torch.nn.Module):  # type: ignore[misc]  # torch is an extra
        def __init__(self) -> None:
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(2))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * self.weight
            return torch.tensor([float(y.requires_grad), float(y.is_inference())])

    backend = loaded(save(tmp_path, Kept()), ONE + parameter("INFERENCE_MODE", mode))

    assert answer(backend, floats("x", 1, 2)) == {"S": [0, float(mode == "true")]}


def test_the_executor_is_set_up_as_configured(tmp_path: Path) -> None:
    before = torch._C._get_graph_executor_optimize()
    profiling = torch._C._jit_set_profiling_mode(True)
    executor = torch._C._jit_set_profiling_executor(True)
    fuser = torch._C._jit_texpr_fuser_enabled()
    text = ONE + "".join(
        parameter(key, value)
        for key, value in (
            ("DISABLE_OPTIMIZED_EXECUTION", "true"), ("ENABLE_JIT_EXECUTOR", "false"),
            ("ENABLE_JIT_PROFILING", "false"), ("ENABLE_TENSOR_FUSER", "false"),
            ("ENABLE_CACHE_CLEANING", "true"), ("DISABLE_CUDNN", "true"),
        )
    )  # fmt: skip
    try:
        assert answer(loaded(save(tmp_path, Copy()), text), floats("x", 1, 2)) == {"S": [1, 2]}

        assert not torch._C._get_graph_executor_optimize()
        assert not torch._C._jit_set_profiling_mode(profiling)
        assert not torch._C._jit_set_profiling_executor(executor)
        assert not torch._C._jit_texpr_fuser_enabled()
    finally:
        torch._C._set_graph_executor_optimize(before)
        torch._C._jit_set_texpr_fuser_enabled(fuser)


def test_the_first_model_s_thread_count_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("repo.backends.pytorch.THREAD_COUNTS", ThreadCounts())
    before = torch.get_num_threads()
    save(tmp_path, Copy())
    try:
        loaded(tmp_path, ONE + parameter("INTRA_OP_THREAD_COUNT", "3"))
        loaded(tmp_path, ONE + parameter("INTRA_OP_THREAD_COUNT", "5"))

        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_a_model_instance_places_itself(tmp_path: Path) -> None:
    backend = loaded(save(tmp_path, Difference()), pair("x", "y"), kind="MODEL")

    assert answer(backend, floats("x", *X), floats("y", *Y), batch_size=1)["D"] == [[4, 5]]


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a CUDA device")
def test_a_gpu_instance_needs_a_gpu(tmp_path: Path) -> None:
    error = load_refused(save(tmp_path, Copy()), ONE, kind="GPU")

    assert (error.status, error.message) == (
        StatusCode.UNAVAILABLE,
        ("unable to load model 'm', the installed PyTorch finds no CUDA device for instance 'm_0'"),
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
@pytest.mark.parametrize("kind", ["GPU", "MODEL"])
def test_a_device_has_a_stream_for_the_instance(tmp_path: Path, kind: str) -> None:
    backend = loaded(save(tmp_path, Difference()), pair("x", "y"), kind=kind)

    assert answer(backend, floats("x", *X), floats("y", *Y), batch_size=1)["D"] == [[4, 5]]
    assert torch.cuda.current_stream() != torch.cuda.default_stream()
    backend.unload()


def test_states_leave_with_every_response(tmp_path: Path) -> None:
    text = (
        f"max_batch_size: 4 {tensor('input', 'X__0')} {tensor('output', 'D__0')} "
        "sequence_batching { state { input_name: 'S__1' output_name: 'S__1' "
        "data_type: TYPE_FP32 dims: 2 } }"
    )
    backend = loaded(save(tmp_path, Difference()), text)

    found = answer(backend, floats("X__0", *X), floats("S__1", *Y), batch_size=1, wanted=("D__0",))

    assert found == {"D__0": [[4, 5]], "S__1": [[6, 9]]}
