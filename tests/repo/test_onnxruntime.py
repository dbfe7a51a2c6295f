"""The ONNX Runtime backend over small real models: loading, running, batching, completing."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from protocol.inference import InferRequest, InferResponse, Tensor
from protocol.status import ServerError, StatusCode
from repo.backends import registry
from repo.backends.base import Backend, ExecuteRequest, InstanceContext, Outcome, Timings
from repo.backends.onnxruntime_session import (
    model_file,
    providers,
    run_options,
    runtime_error,
    session_options,
)
from repo.model_config import scheduling_choice
from repo.pbtxt import parse_config

FLOAT, STRING, BFLOAT16 = TensorProto.FLOAT, TensorProto.STRING, TensorProto.BFLOAT16
Shape = Sequence[int | str | None]
Spec = tuple[str, int, Shape]


def _save(
    directory: Path,
    nodes: Sequence[tuple[str, list[str], list[str]]],
    inputs: Sequence[Spec],
    outputs: Sequence[Spec],
    initializers: Sequence[Any] = (),
) -> None:
    graph = helper.make_graph(
        [helper.make_node(kind, sources, targets) for kind, sources, targets in nodes],
        "g",
        [helper.make_tensor_value_info(*spec) for spec in inputs],
        [helper.make_tensor_value_info(*spec) for spec in outputs],
        list(initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (directory / "1").mkdir(parents=True)
    onnx.save(model, directory / "1" / "model.onnx")


def _identity(directory: Path, shape: Sequence[int | str | None], element: int = FLOAT) -> Path:
    _save(directory, [("Identity", ["A"], ["S"])], [("A", element, shape)], [("S", element, shape)])
    return directory


@pytest.fixture(name="add_sub")
def _add_sub(tmp_path: Path) -> Path:
    """S = A + B and D = A - B, batched."""
    shape: Shape = ["b", 2]
    _save(
        tmp_path,
        [("Add", ["A", "B"], ["S"]), ("Sub", ["A", "B"], ["D"])],
        [("B", FLOAT, shape), ("A", FLOAT, shape)],
        [("S", FLOAT, shape), ("D", FLOAT, shape)],
    )
    return tmp_path


def _tensor(name: str, dims: str, data_type: str = "TYPE_FP32", extra: str = "") -> str:
    return f'{{ name: "{name}" data_type: {data_type} dims: [ {dims} ] {extra} }} '


ADD_SUB = (
    f"max_batch_size: 8 input {_tensor('A', '2')} input {_tensor('B', '2')} "
    f"output {_tensor('S', '2')} output {_tensor('D', '2')} "
)
ONE = f"input {_tensor('A', '2')} output {_tensor('S', '2')} "


def _parameter(key: str, value: str) -> str:
    return f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }} '


def _context(
    directory: Path, text: str = "", *, kind: str = "CPU", **settings: str
) -> InstanceContext:
    return InstanceContext(
        config=parse_config(f'name: "m" backend: "onnxruntime" {text}', "x"),
        version=1,
        model_directory=directory,
        instance_name="m_0",
        kind=kind,
        settings={key.replace("_", "-"): value for key, value in settings.items()},
    )


def _loaded(directory: Path, text: str) -> Backend:
    backend = registry.create_backend(_context(directory, text))
    backend.load()
    return backend


class Unused:
    """A sender that a backend with one response per request leaves alone."""

    def send(self, outcome: Outcome | None, *, final: bool) -> None:
        raise AssertionError

    def is_cancelled(self) -> bool:
        return False


def _request(*tensors: Tensor, batch_size: int = 0, wanted: tuple[str, ...] = ()) -> ExecuteRequest:
    request = InferRequest("m", id="7", inputs=list(tensors), requested_outputs=wanted)
    return ExecuteRequest(request, batch_size, Unused())


def _floats(name: str, *rows: object) -> Tensor:
    return Tensor.from_array(name, np.array(rows, np.float32))


def _raw(tensor: Tensor) -> Tensor:
    return Tensor(tensor.name, tensor.datatype, tensor.shape, raw=tensor.raw)


def _outputs(outcome: Outcome | None) -> dict[str, Any]:
    assert isinstance(outcome, InferResponse), outcome
    return {one.name: one.array.tolist() for one in outcome.outputs}


def _pair(a: list[list[float]], b: list[list[float]], **more: Any) -> ExecuteRequest:
    return _request(_floats("A", *a), _floats("B", *b), batch_size=len(a), **more)


# Running.


def test_one_request_runs_without_a_copy_of_its_outputs(add_sub: Path) -> None:
    backend = _loaded(add_sub, ADD_SUB)
    timings = Timings()

    (outcome,) = backend.execute([_pair([[1, 2]], [[3, 5]])], timings)

    assert _outputs(outcome) == {"S": [[4, 7]], "D": [[-2, -3]]}
    assert isinstance(outcome, InferResponse)
    assert (outcome.model_name, outcome.model_version, outcome.id) == ("m", "1", "7")
    assert [(one.datatype, one.shape) for one in outcome.outputs] == [("FP32", (1, 2))] * 2
    assert timings.input_ns > 0
    assert timings.infer_ns > 0
    assert timings.output_ns > 0
    backend.unload()


@pytest.mark.parametrize("encoded", [True, False])
def test_a_batch_is_joined_and_cut(add_sub: Path, encoded: bool) -> None:
    backend = _loaded(add_sub, ADD_SUB)
    requests = [
        _pair([[1, 2]], [[1, 1]]),
        _pair([[3, 4], [5, 6]], [[1, 1], [2, 2]], wanted=("S",)),
        _pair([[7, 8]], [[0, 0]]),
    ]
    if encoded:
        for request in requests:
            request.request.inputs = [_raw(tensor) for tensor in request.request.inputs]

    one, two, three = backend.execute(requests, Timings())

    assert _outputs(one) == {"S": [[2, 3]], "D": [[0, 1]]}
    assert _outputs(two) == {"S": [[4, 5], [7, 8]]}
    assert _outputs(three) == {"S": [[7, 8]], "D": [[7, 8]]}


def test_a_batch_beyond_the_maximum_is_refused(add_sub: Path) -> None:
    request = _pair([[1, 2]] * 5, [[1, 1]] * 5)

    with pytest.raises(ServerError) as failure:
        _loaded(add_sub, ADD_SUB).execute([request, request], Timings())

    assert failure.value.status is StatusCode.INTERNAL
    assert failure.value.message == "batch size 10 for 'm_0', max allowed is 8"


def test_what_onnx_runtime_refuses_is_internal(add_sub: Path) -> None:
    request = _request(_floats("A", [1, 2, 3]), _floats("B", [1, 2, 3]), batch_size=1)

    with pytest.raises(ServerError) as failure:
        _loaded(add_sub, ADD_SUB).execute([request], Timings())

    assert failure.value.status is StatusCode.INTERNAL
    assert failure.value.message.startswith("onnx runtime error 2: Got invalid dimensions")


def test_an_error_of_another_form_is_internal_too() -> None:
    assert runtime_error(ValueError("odd")).message == "onnx runtime error 1: odd"


def test_a_subset_of_the_outputs_may_be_configured(add_sub: Path) -> None:
    text = ADD_SUB.replace(f"output {_tensor('D', '2')}", "")
    (outcome,) = _loaded(add_sub, text).execute([_pair([[1, 2]], [[3, 5]])], Timings())

    assert _outputs(outcome) == {"S": [[4, 7]]}


def test_an_output_without_its_rows_cannot_be_cut(tmp_path: Path) -> None:
    _save(
        tmp_path,
        [("Slice", ["A", "zero", "one", "zero"], ["S"])],  # the first row
        [("A", FLOAT, ["b", 2])],
        [("S", FLOAT, ["c", 2])],
        [
            helper.make_tensor(name, TensorProto.INT64, [1], [value])
            for name, value in (("zero", 0), ("one", 1))
        ],
    )
    request = _request(_floats("A", [1, 2]), batch_size=1)

    with pytest.raises(ServerError) as failure:
        _loaded(tmp_path, "max_batch_size: 8 " + ONE).execute([request] * 2, Timings())

    assert failure.value.message == (
        "failed to split the output tensor 'S' in responses: expected batch size of at least 2 in "
        "model output, got 1"
    )


# Strings.


def _bytes(*elements: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(one)) + one for one in elements)


STRINGS = (
    f"max_batch_size: 8 input {_tensor('A', '1', 'TYPE_STRING')} "
    f"output {_tensor('S', '1', 'TYPE_STRING')} "
)


def _strings(*elements: bytes, raw: bytes | None = None) -> ExecuteRequest:
    count = max(len(elements), 1)
    tensor = Tensor("A", "BYTES", (count, 1), raw=_bytes(*elements) if raw is None else raw)
    return _request(tensor, batch_size=count)


def test_strings_come_back_as_bytes(tmp_path: Path) -> None:
    backend = _loaded(_identity(tmp_path, [None, 1], STRING), STRINGS)

    (outcome,) = backend.execute([_strings("ü\0x".encode(), b"")], Timings())

    assert _outputs(outcome) == {"S": [["ü\0x".encode()], [b""]]}
    texts = Tensor.from_array("A", np.array([["ü"]], np.object_))
    (outcome,) = backend.execute([_request(texts, batch_size=1)], Timings())
    assert _outputs(outcome) == {"S": [["ü".encode()]]}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (
            b"\5\0\0\0ab",
            (
                "incomplete string data for inference input 'A', expecting string of length 5 but "
                "only 2 bytes available"
            ),
        ),
        (
            _bytes(b"a", b"b"),
            "unexpected number of string elements 2 for inference input 'A', expecting 1",
        ),
        (
            _bytes(b"\xff"),
            (
                "string element for inference input 'A' is not UTF-8, which ONNX Runtime for "
                "Python needs"
            ),
        ),
    ],
)
def test_a_broken_string_fails_alone(tmp_path: Path, raw: bytes, message: str) -> None:
    backend = _loaded(_identity(tmp_path, [None, 1], STRING), STRINGS)

    good, broken, last = backend.execute(
        [_strings(b"a", b"b"), _strings(raw=raw), _strings(b"c")], Timings()
    )

    assert _outputs(good) == {"S": [[b"a"], [b"b"]]}
    assert _outputs(last) == {"S": [[b"c"]]}
    assert isinstance(broken, ServerError)
    assert broken.status is StatusCode.INVALID_ARG
    assert broken.message == message


# Scalars, BF16, ragged inputs, optional inputs.


def test_a_scalar_has_one_dim_outside(tmp_path: Path) -> None:
    text = f"input {_tensor('A', '1, 1')} output {_tensor('S', '1')} "
    backend = _loaded(_identity(tmp_path, []), text)

    (outcome,) = backend.execute([_request(_floats("A", [5]))], Timings())

    assert _outputs(outcome) == {"S": [5]}


def test_an_empty_reshape_is_a_scalar_per_row(tmp_path: Path) -> None:
    reshaped = "reshape { }"
    text = (
        f"max_batch_size: 8 input {_tensor('A', '1', extra=reshaped)} "
        f"output {_tensor('S', '1', extra=reshaped)} "
    )
    backend = _loaded(_identity(tmp_path, ["b"]), text)

    (outcome,) = backend.execute([_request(_floats("A", 1, 2, 3), batch_size=3)], Timings())

    assert _outputs(outcome) == {"S": [[1], [2], [3]]}


def test_bf16_keeps_its_bits(tmp_path: Path) -> None:
    text = (
        f"max_batch_size: 8 input {_tensor('A', '2', 'TYPE_BF16')} "
        f"output {_tensor('S', '2', 'TYPE_BF16')} "
    )
    backend = _loaded(_identity(tmp_path, [None, 2], BFLOAT16), text)
    bits = Tensor("A", "BF16", (1, 2), raw=b"\x80\x3f\xff\x7f")

    one, two = backend.execute([_request(bits, batch_size=1)] * 2, Timings())

    for outcome in (one, two):
        assert isinstance(outcome, InferResponse)
        assert outcome.outputs[0].datatype == "BF16"
        assert outcome.outputs[0].raw == bits.raw


RAGGED = f"""
max_batch_size: 8
input {_tensor("A", "-1", extra="allow_ragged_batch: true")}
output {_tensor("S", "-1")}
batch_input {{
  kind: BATCH_ACCUMULATED_ELEMENT_COUNT target_name: "N" data_type: TYPE_FP32 source_input: "A"
}}
batch_output {{ target_name: "S" kind: BATCH_SCATTER_WITH_INPUT_SHAPE source_input: "A" }}
output {_tensor("C", "1", extra="reshape { }")}
"""


@pytest.fixture(name="ragged")
def _ragged(tmp_path: Path) -> Path:
    _save(
        tmp_path,
        [("Identity", ["A"], ["S"]), ("Identity", ["N"], ["C"])],
        [("A", FLOAT, [None]), ("N", FLOAT, [None])],
        [("S", FLOAT, [None]), ("C", FLOAT, [None])],
    )
    return tmp_path


@pytest.mark.parametrize("encoded", [True, False])
def test_ragged_inputs_are_flat_and_their_outputs_scattered(ragged: Path, encoded: bool) -> None:
    backend = _loaded(ragged, RAGGED)
    tensors = [_floats("A", [1, 2]), _floats("A", [3, 4, 5])]
    requests = [_request(_raw(tensor) if encoded else tensor, batch_size=1) for tensor in tensors]

    one, two = backend.execute(requests, Timings())

    assert _outputs(one) == {"S": [[1, 2]], "C": [[2]]}
    assert _outputs(two) == {"S": [[3, 4, 5]], "C": [[5]]}
    (alone,) = backend.execute(requests[1:], Timings())
    assert _outputs(alone) == {"S": [[3, 4, 5]], "C": [[3]]}


def test_an_optional_input_is_an_initialiser(tmp_path: Path) -> None:
    _save(
        tmp_path,
        [("Add", ["A", "B"], ["S"])],
        [("A", FLOAT, [2]), ("B", FLOAT, [2])],
        [("S", FLOAT, [2])],
        [helper.make_tensor("B", FLOAT, [2], [10, 20])],
    )
    optional = f"input {_tensor('B', '2', extra='optional: true')}"
    backend = _loaded(tmp_path, ONE + optional)

    (default,) = backend.execute([_request(_floats("A", 1, 2))], Timings())
    (given,) = backend.execute([_request(_floats("A", 1, 2), _floats("B", 0, 0))], Timings())

    assert (_outputs(default), _outputs(given)) == ({"S": [11, 22]}, {"S": [1, 2]})
    _refused(
        tmp_path,
        "max_batch_size: 1 input " + _tensor("A", "2") + optional + "output " + _tensor("S", "2"),
        "unable to load model 'm', optional input 'B' is not supported for models that support "
        "batching",
        before_shapes=True,
    )


# Refusals at load.


def _refused(
    directory: Path,
    text: str,
    message: str,
    status: StatusCode = StatusCode.INVALID_ARG,
    *,
    before_shapes: bool = False,
) -> None:
    if before_shapes:  # a model whose required input batches, so that the optional one is reached
        for path in sorted((directory / "1").iterdir()):
            path.unlink()
        (directory / "1").rmdir()
        _save(
            directory,
            [("Add", ["A", "B"], ["S"])],
            [("A", FLOAT, [None, 2]), ("B", FLOAT, [2])],
            [("S", FLOAT, [None, 2])],
            [helper.make_tensor("B", FLOAT, [2], [10, 20])],
        )
    with pytest.raises(ServerError) as failure:
        _loaded(directory, text)
    assert failure.value.message == message
    assert failure.value.status is status


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            ADD_SUB.replace(f"input {_tensor('B', '2')}", ""),
            "unable to load model 'm', configuration expects 1 inputs, model provides 2",
        ),
        (
            ADD_SUB + 'sequence_batching { control_input { name: "R" control { '
            "kind: CONTROL_SEQUENCE_READY int32_false_true: [ 0, 1 ] } } "
            'state { input_name: "I" output_name: "O" data_type: TYPE_FP32 dims: 2 } }',
            "unable to load model 'm', configuration expects 4 inputs, model provides 2",
        ),
        (
            ADD_SUB.replace('"B"', '"X"'),
            "unexpected inference input 'X', allowed inputs are: A, B",
        ),
        (
            ADD_SUB.replace('"D"', '"X"'),
            "unexpected inference output 'X', allowed outputs are: D, S",
        ),
        (
            ADD_SUB.replace(_tensor("B", "2"), _tensor("B", "2", "TYPE_INT32")),
            (
                "unable to load model 'm', configuration expects datatype TYPE_INT32 for input "
                "'B', model provides TYPE_FP32"
            ),
        ),
        (
            ADD_SUB.replace(_tensor("D", "2"), _tensor("D", "2", "TYPE_FP64")),
            (
                "unable to load model 'm', configuration expects datatype TYPE_FP64 for output "
                "'D', model provides TYPE_FP32"
            ),
        ),
        (
            ADD_SUB.replace(_tensor("B", "2"), _tensor("B", "3")),
            (
                "model 'm', tensor 'B': the model expects 2 dimensions (shape [-1,2]) but the "
                "model configuration specifies 2 dimensions (an initial batch dimension because "
                "max_batch_size > 0 followed by the explicit tensor shape, making complete shape "
                "[-1,3])"
            ),
        ),
        (
            ADD_SUB.replace("max_batch_size: 8", "max_batch_size: 0"),
            (
                "model 'm', tensor 'A': the model expects 2 dimensions (shape [-1,2]) but the "
                "model configuration specifies 1 dimensions (shape [2])"
            ),
        ),
        (
            ADD_SUB.replace(_tensor("B", "2"), _tensor("B", "2", extra="allow_ragged_batch: true")),
            (
                "unable to load model 'm', configuration expects model to have shape [-1] for "
                "ragged input 'B', model provides [-1,2]"
            ),
        ),
    ],
)
def test_a_configuration_must_fit_its_model(add_sub: Path, text: str, message: str) -> None:
    _refused(add_sub, text, message)


def test_an_input_may_be_narrower_than_its_model_an_output_may_not(tmp_path: Path) -> None:
    _identity(tmp_path, [None, None])

    text = f"max_batch_size: 1 input {_tensor('A', '16')} output {_tensor('S', '-1')}"
    assert _loaded(tmp_path, text)
    _refused(
        tmp_path,
        text.replace("-1", "16"),
        "model 'm', tensor 'S': the model expects 2 dimensions (shape [-1,-1]) but the model "
        "configuration specifies 2 dimensions (an initial batch dimension because max_batch_size "
        "> 0 followed by the explicit tensor shape, making complete shape [-1,16])",
    )


def test_a_model_that_does_not_batch_must_not_be_asked_to(tmp_path: Path) -> None:
    _refused(
        _identity(tmp_path, [1, 2]),
        "max_batch_size: 1 " + ONE,
        "model 'm', tensor 'A': for the model to support batching the shape should have at least "
        "1 dimension and the first dimension must be -1; but shape expected by the model is [1,2]",
    )


def test_what_is_no_tensor_is_unsupported(tmp_path: Path) -> None:
    graph = helper.make_graph(
        [helper.make_node("SequenceConstruct", ["A"], ["S"])],
        "g",
        [helper.make_tensor_value_info("A", FLOAT, [2])],
        [helper.make_tensor_sequence_value_info("S", FLOAT, None)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    (tmp_path / "1").mkdir()
    onnx.save(model, tmp_path / "1" / "model.onnx")

    _refused(
        tmp_path,
        ONE,
        "Unsupported ONNX Type 'ONNX_TYPE_SEQUENCE' for I/O 'S', expected 'ONNX_TYPE_TENSOR'.",
        StatusCode.UNSUPPORTED,
    )


def test_controls_and_states_are_inputs_of_the_model(tmp_path: Path) -> None:
    _save(
        tmp_path,
        [("Add", ["A", "I"], ["O"]), ("Mul", ["O", "R"], ["S"])],
        [("A", FLOAT, [None, 1]), ("I", FLOAT, [None, 1]), ("R", FLOAT, [None, 1])],
        [("S", FLOAT, [None, 1]), ("O", FLOAT, [None, 1])],
    )
    backend = _loaded(
        tmp_path,
        f"max_batch_size: 8 input {_tensor('A', '1')} output {_tensor('S', '1')} "
        'sequence_batching { control_input { name: "R" control { '
        "kind: CONTROL_SEQUENCE_READY fp32_false_true: [ 0, 1 ] } } "
        'state { input_name: "I" output_name: "O" data_type: TYPE_FP32 dims: 1 } }',
    )
    request = _request(
        _floats("A", [1]), _floats("I", [10]), _floats("R", [1]), batch_size=1, wanted=("S",)
    )

    outcomes = backend.execute([request, request], Timings())

    # The new state is given whether the client asked for it or not.
    assert [_outputs(outcome) for outcome in outcomes] == [{"S": [[11]], "O": [[11]]}] * 2


# The file.


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    _refused(
        tmp_path,
        ONE,
        f"unable to find '{tmp_path}/1/model.onnx' for model instance 'm'",
        StatusCode.UNAVAILABLE,
    )


def test_a_model_may_be_a_directory(tmp_path: Path) -> None:
    _identity(tmp_path / "m", [2])
    (tmp_path / "m" / "1" / "model.onnx").rename(tmp_path / "file")
    (tmp_path / "m" / "1" / "model.onnx").mkdir()
    (tmp_path / "file").rename(tmp_path / "m" / "1" / "model.onnx" / "model.onnx")

    (outcome,) = _loaded(tmp_path / "m", ONE).execute([_request(_floats("A", 1, 2))], Timings())
    assert _outputs(outcome) == {"S": [1, 2]}


def test_a_gpu_instance_takes_the_file_of_its_compute_capability(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    for name in ("h.onnx", "d.onnx"):
        (tmp_path / "1" / name).write_text("")
    text = 'default_model_filename: "d.onnx" cc_model_filenames { key: "9.0" value: "h.onnx" }'

    def chosen(kind: str, capability: str) -> str:
        return model_file(_context(tmp_path, text, kind=kind, compute_capability=capability)).name

    assert chosen("GPU", "9.0") == "h.onnx"
    assert chosen("GPU", "8.0") == "d.onnx"
    assert chosen("CPU", "9.0") == "d.onnx"


def test_a_broken_file_is_internal(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "model.onnx").write_bytes(b"no model")

    with pytest.raises(ServerError) as failure:
        _loaded(tmp_path, ONE)
    assert failure.value.status is StatusCode.INTERNAL
    assert failure.value.message.startswith("onnx runtime error 7: ")


# Options.


@pytest.mark.parametrize(
    ("level", "expected"),
    [
        ("", "ORT_ENABLE_ALL"),
        ("graph { level: 0 }", "ORT_ENABLE_ALL"),
        ("graph { level: -1 }", "ORT_ENABLE_BASIC"),
        ("graph { level: 1 }", "ORT_ENABLE_EXTENDED"),
        ("graph { level: 2 }", "ORT_DISABLE_ALL"),
    ],
)
def test_the_graph_level_chooses_optimisation(level: str, expected: str) -> None:
    options = session_options(parse_config(f"optimization {{ {level} }}", "x"), {})

    assert options.graph_optimization_level == getattr(ort.GraphOptimizationLevel, expected)


def test_parameters_become_session_options() -> None:
    config = parse_config(
        _parameter("execution_mode", "1")
        + _parameter("intra_op_thread_count", "2")
        + _parameter("inter_op_thread_count", "3")
        + _parameter("enable_mem_arena", "off")
        + _parameter("enable_mem_pattern", "FALSE")
        + _parameter("session.use_device_allocator_for_initializers", "1"),
        "x",
    )
    options = session_options(config, {})

    assert options.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert options.intra_op_num_threads == 2
    assert options.inter_op_num_threads == 3
    assert not options.enable_cpu_mem_arena
    assert not options.enable_mem_pattern
    key = "session.use_device_allocator_for_initializers"
    assert options.get_session_config_entry(key) == "1"


def test_without_parameters_onnx_runtime_decides() -> None:
    options, fresh = session_options(parse_config("", "x"), {}), ort.SessionOptions()

    for name in (
        "execution_mode", "intra_op_num_threads", "inter_op_num_threads", "enable_cpu_mem_arena",
        "enable_mem_pattern", "use_per_session_threads",
    ):  # fmt: skip
        assert getattr(options, name) == getattr(fresh, name)


def test_a_global_pool_replaces_those_of_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[tuple[int, int]] = []
    monkeypatch.setattr(ort, "set_global_thread_pool_sizes", lambda *size: sizes.append(size))
    config = parse_config(_parameter("intra_op_thread_count", "2"), "x")

    options = session_options(
        config, {"enable-global-threadpool": "1", "intra_op_thread_count": "4"}
    )

    assert sizes == [(4, 0)]
    assert not options.use_per_session_threads
    assert options.intra_op_num_threads == 0


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "execution_mode",
            "3",
            (
                "Invalid configuration value provided. Expected values for  execution_mode are 0 "
                "or 1 but got 3 ."
            ),
        ),
        ("enable_mem_arena", "maybe", "failed to convert 'maybe' to boolean"),
        ("intra_op_thread_count", "many", "failed to convert 'many' to integral number"),
    ],
)
def test_a_misspelt_parameter_fails_the_load(
    add_sub: Path, key: str, value: str, message: str
) -> None:
    _refused(add_sub, ADD_SUB + _parameter(key, value), message)


def test_a_missing_custom_operator_library_fails_the_load(add_sub: Path) -> None:
    with pytest.raises(ServerError, match=r"onnx runtime error \d+: .*/missing\.so"):
        _loaded(add_sub, ADD_SUB + 'model_operations { op_library_filename: "/missing.so" }')


def test_arena_shrinkage_is_asked_for_in_every_run() -> None:
    key = "memory.enable_memory_arena_shrinkage"
    options = run_options(parse_config(_parameter(key, "cpu:0"), "x"))

    assert options.get_run_config_entry(key) == "cpu:0"


def _providers(text: str, kind: str = "GPU") -> list[tuple[str, dict[str, str]]]:
    return providers(_context(Path(), text, kind=kind))


CUDA_DEFAULTS = {
    "device_id": "0",
    "cudnn_conv_algo_search": "EXHAUSTIVE",
    "arena_extend_strategy": "kNextPowerOfTwo",
    "do_copy_in_default_stream": "1",
}
CPU: tuple[str, dict[str, str]] = ("CPUExecutionProvider", {})


def _accelerator(place: str, name: str, **parameters: str) -> str:
    entries = "".join(
        f'parameters {{ key: "{key}" value: "{value}" }} ' for key, value in parameters.items()
    )
    return (
        f"optimization {{ execution_accelerators {{ {place}_execution_accelerator "
        f'{{ name: "{name}" {entries} }} }} }} '
    )


@pytest.mark.parametrize("kind", ["CPU", "MODEL"])
def test_only_gpu_instances_use_a_gpu(kind: str) -> None:
    assert _providers(_accelerator("gpu", "tensorrt"), kind) == [CPU]
    assert _providers(_accelerator("cpu", "openvino"), kind) == [
        ("OpenVINOExecutionProvider", {"device_type": "CPU"}),
        CPU,
    ]


def test_a_gpu_instance_falls_back_in_order() -> None:
    assert _providers("") == [("CUDAExecutionProvider", CUDA_DEFAULTS), CPU]
    text = _accelerator(
        "gpu",
        "tensorrt",
        precision_mode="FP16",
        max_workspace_size_bytes="9",
        trt_engine_cache_enable="1",
    )
    tensorrt = {
        "device_id": "0",
        "trt_fp16_enable": "1",
        "trt_max_workspace_size": "9",
        "trt_engine_cache_enable": "1",
    }
    assert _providers(text) == [
        ("TensorrtExecutionProvider", tensorrt),
        ("CUDAExecutionProvider", CUDA_DEFAULTS),
        CPU,
    ]


def test_the_accelerators_own_value_wins_over_the_old_parameter() -> None:
    text = (
        _parameter("cudnn_conv_algo_search", "1")
        + _parameter("gpu_mem_limit", "5")
        + _parameter("arena_extend_strategy", "1")
        + _parameter("do_copy_in_default_stream", "0")
    )
    options = {
        "device_id": "0",
        "gpu_mem_limit": "5",
        "cudnn_conv_algo_search": "HEURISTIC",
        "arena_extend_strategy": "kSameAsRequested",
        "do_copy_in_default_stream": "0",
    }
    assert _providers(text)[0] == ("CUDAExecutionProvider", options)

    own = _accelerator("gpu", "cuda", cudnn_conv_algo_search="DEFAULT")
    assert _providers(text + own)[0][1]["cudnn_conv_algo_search"] == "DEFAULT"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (_accelerator("gpu", "x"), "unknown Execution Accelerator 'x' is requested"),
        (_accelerator("cpu", "x"), "unknown Execution Accelerator 'x' is requested"),
        (
            _accelerator("gpu", "tensorrt", colour="red"),
            "unknown parameter 'colour' is provided for TensorRT Execution Accelerator",
        ),
        (
            _accelerator("gpu", "tensorrt", precision_mode="FP9"),
            "unsupported precision mode 'FP9' is requested",
        ),
        (
            _parameter("cudnn_conv_algo_search", "7"),
            "unsupported cudnn_conv_algo_search value '7' is requested",
        ),
        (
            _parameter("arena_extend_strategy", "7"),
            "unsupported arena_extend_strategy value '7' is requested",
        ),
    ],
)
def test_an_unknown_accelerator_or_value_is_refused(text: str, message: str) -> None:
    with pytest.raises(ServerError) as failure:
        _providers(text)

    assert failure.value.status is StatusCode.INVALID_ARG
    assert failure.value.message == message


def test_a_provider_that_is_not_installed_is_named(
    add_sub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    backend = registry.create_backend(_context(add_sub, ADD_SUB, kind="GPU"))

    with pytest.raises(ServerError) as failure:
        backend.load()

    assert failure.value.status is StatusCode.UNAVAILABLE
    assert failure.value.message == (
        "unable to load model 'm', the installed onnxruntime has no CUDAExecutionProvider. It "
        "has: CPUExecutionProvider"
    )


# Completing the configuration.


def test_the_model_completes_its_configuration(add_sub: Path) -> None:
    config = registry.auto_complete(_context(add_sub))

    assert config.max_batch_size == 4
    assert scheduling_choice(config) == "dynamic_batching"
    assert [one.name for one in config.input] == ["A", "B"]
    assert [out.name for out in config.output] == ["D", "S"]
    small = registry.auto_complete(_context(add_sub, default_max_batch_size="1"))
    assert (small.max_batch_size, scheduling_choice(small)) == (1, "")


def test_a_complete_configuration_opens_no_model(tmp_path: Path) -> None:
    context = _context(tmp_path, ADD_SUB)

    assert bytes(registry.auto_complete(context)) == bytes(context.config)


def test_a_completed_model_loads_and_runs(add_sub: Path) -> None:
    context = _context(add_sub)
    config = registry.auto_complete(context)
    backend = registry.create_backend(
        InstanceContext(config, 1, add_sub, "m_0", "CPU", settings=context.settings)
    )
    backend.load()

    (outcome,) = backend.execute([_pair([[1, 2]], [[3, 5]])], Timings())
    assert _outputs(outcome) == {"D": [[-2, -3]], "S": [[4, 7]]}
