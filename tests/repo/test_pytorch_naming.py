"""Names of PyTorch tensors, settings and thread counts: all that is decided without torch."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from protocol.status import ServerError, StatusCode
from repo.backends import registry
from repo.backends.base import InstanceContext
from repo.backends.pytorch import PyTorchBackend
from repo.backends.pytorch_call_spec import plan_call_spec
from repo.backends.pytorch_naming import Argument, Plan, plan_forward
from repo.backends.pytorch_settings import ThreadCounts, TorchSettings, model_file
from repo.model_config import ModelConfig
from repo.pbtxt import parse_config
from repo.platforms import autofill


def tensor(
    direction: str, name: str, data_type: str = "TYPE_FP32", dims: str = "2", extra: str = ""
) -> str:
    return f'{direction} {{ name: "{name}" data_type: {data_type} dims: [ {dims} ] {extra} }} '


def config(*inputs: str, outputs: tuple[str, ...] = ("S",), extra: str = "") -> ModelConfig:
    text = "".join(tensor("input", name) for name in inputs)
    text += "".join(tensor("output", name) for name in outputs)
    return parse_config(f'name: "m" backend: "pytorch" {text} {extra}', "x")


def arguments(*names: str) -> list[Argument]:
    return [Argument(name, "TensorType", "Tensor") for name in names]


def refused(wanted: ModelConfig, given: list[Argument], message: str, status: StatusCode) -> None:
    with pytest.raises(ServerError) as failure:
        plan_forward(wanted, given)
    assert failure.value.message == message
    assert failure.value.status is status


INTERNAL, INVALID = StatusCode.INTERNAL, StatusCode.INVALID_ARG


# TorchScript: who is which argument.


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (("y", "x"), ("x", "y")),  # argument names
        (("A__1", "B__0"), ("B__0", "A__1")),  # indices
        (("A__1", "y__0__9"), ("A__1", "y__0__9")),  # 0__9 is no index: configured order
        (("foo", "y"), ("foo", "y")),  # y is no index: configured order
        (("A__", "B__1"), ("A__", "B__1")),  # no digits are 0
        (("y__0", "x__1"), ("y__0", "x__1")),  # no argument has such a name
    ],
)
def test_inputs_are_bound_by_name_by_index_or_in_order(
    names: tuple[str, ...], order: tuple[str, ...]
) -> None:
    assert plan_forward(config(*names), arguments("x", "y")).arguments == order


def test_a_dictionary_is_the_only_argument() -> None:
    plan = plan_forward(config("b", "a"), [Argument("d", "DictType", "Dict(str, Tensor)")])

    assert plan == Plan(("b", "a"), {"S": 0}, by_key=True)


@pytest.mark.parametrize(
    ("outputs", "places"),
    [
        (("A__1", "B__0"), {"A__1": 1, "B__0": 0}),
        (("A__2",), {"A__2": 2}),
        (("A__1", "B"), {"A__1": 0, "B": 1}),
    ],
)
def test_outputs_are_bound_by_index_or_in_order(
    outputs: tuple[str, ...], places: dict[str, int]
) -> None:
    assert plan_forward(config("x", outputs=outputs), arguments("x")).results == places


def test_a_name_with_a_mark_but_no_index_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    plan_forward(config("A__x"), arguments("x"))

    assert "falling back to the order of the configuration" in caplog.text


def test_batch_inputs_follow_the_convention_of_the_inputs() -> None:
    def batch(target: str, source: str) -> str:
        return (
            f'batch_input {{ kind: BATCH_ELEMENT_COUNT target_name: "{target}" '
            f'data_type: TYPE_FP32 source_input: "{source}" }}'
        )

    named = config("x", extra=batch("n", "x"))
    assert plan_forward(named, arguments("n", "x")).arguments == ("n", "x")
    indexed = config("A__1", extra=batch("N__0", "A__1"))
    assert plan_forward(indexed, arguments("n", "x")).arguments == ("N__0", "A__1")
    ordered = config("A", extra=batch("N", "A"))
    assert plan_forward(ordered, arguments("x", "n")).arguments == ("A", "N")
    refused(
        named, arguments("x", "k"), "unexpected inference input 'n', allowed inputs are: k, x",
        INVALID,
    )  # fmt: skip
    refused(
        config("A__1", extra=batch("N", "A__1")), arguments("n", "x"),
        "input 'N' does not follow <name>__<index> naming convention.", INTERNAL,
    )  # fmt: skip


def sequence(control: str, states: str = "", kind: str = "START") -> str:
    values = "data_type: TYPE_UINT64" if kind == "CORRID" else "int32_false_true: [ 0, 1 ]"
    return (
        f'sequence_batching {{ control_input {{ name: "{control}" control {{ '
        f"kind: CONTROL_SEQUENCE_{kind} {values} }} }} {states} }}"
    )


def state(given: str, returned: str, data_type: str = "TYPE_FP32") -> str:
    return (
        f'state {{ input_name: "{given}" output_name: "{returned}" '
        f"data_type: {data_type} dims: 1 }}"
    )


def test_controls_and_states_have_indices() -> None:
    wanted = config("X__2", outputs=("Y__1",), extra=sequence("START__0", state("IN__1", "OUT__0")))

    plan = plan_forward(wanted, arguments("start", "state", "x"))

    assert plan.arguments == ("START__0", "IN__1", "X__2")
    assert plan.results == {"Y__1": 1, "OUT__0": 0}


STATES_NEED_INDICES = (
    "PyTorch model 'm' is using sequence batching with state but not all inputs and outputs "
    "follow the <name>__<index> naming convention. "
)


@pytest.mark.parametrize(
    ("wanted", "message", "status"),
    [
        (
            config("X__0", extra=sequence("START")),
            "input 'START' does not follow <name>__<index> naming convention.",
            INTERNAL,
        ),
        (
            config("X__0", extra=sequence("START__b")),
            "input 'START__b' does not follow <name>__<index> naming convention.",
            INTERNAL,
        ),
        (
            config("X__0", extra=sequence("ID__1", kind="CORRID")),
            "input 'ID__1' type 'TYPE_UINT64' is not supported by PyTorch.",
            INTERNAL,
        ),
        (
            config("X", outputs=("Y__0",), extra=sequence("START__1", state("A__2", "B__1"))),
            STATES_NEED_INDICES,
            INVALID,
        ),
        (
            config("X__0", outputs=("Y",), extra=sequence("START__1", state("A__2", "B__1"))),
            STATES_NEED_INDICES,
            INVALID,
        ),
        (
            config("X__0", outputs=("Y__0",), extra=sequence("START__1", state("A", "B__1"))),
            (
                "PyTorch model 'm' is using sequence batching with state but state 'A' does not "
                "follow the <name>__<index> naming convention. "
            ),
            INVALID,
        ),
        (
            config(
                "X__0",
                outputs=("Y__0",),
                extra=sequence("START__1", state("A__2", "B__1", "TYPE_UINT16")),
            ),
            "unsupported datatype TYPE_UINT16 for input state 'A__2' for model 'm'",
            INTERNAL,
        ),
    ],
)
def test_sequences_are_refused_without_indices(
    wanted: ModelConfig, message: str, status: StatusCode
) -> None:
    count = 3 if wanted.sequence_batching.state else 2
    refused(wanted, arguments(*"xyz"[:count]), message, status)


@pytest.mark.parametrize(
    ("given", "message", "status"),
    [
        (
            [*arguments("x"), Argument("d", "DictType", "Dict(str, Tensor)")],
            (
                "Multiple inputs of kind DictType were detected. Only a single input of type "
                "Dict(str, Tensor) is supported."
            ),
            INTERNAL,
        ),
        (
            [*arguments("x"), Argument("k", "IntType", "int")],
            (
                "An input of type 'int' was detected in the model. Only a single input of type "
                "Dict(str, Tensor) or input(s) of type Tensor are supported."
            ),
            INTERNAL,
        ),
        (
            arguments("x"),
            "unable to load model 'm', configuration expects 2 inputs, model provides 1",
            INVALID,
        ),
        (
            arguments("x", "y", "z"),
            "unable to load model 'm', configuration expects 2 inputs, model provides 3",
            INVALID,
        ),
    ],
)
def test_arguments_that_are_not_configured(
    given: list[Argument], message: str, status: StatusCode
) -> None:
    refused(config("x", "y"), given, message, status)


@pytest.mark.parametrize(("names", "places"), [
    (("A__0", "B__2"), "'A__0' is 0, 'B__2' is 2"), (("A__1", "B__1"), "'A__1' is 1, 'B__1' is 1"),
])  # fmt: skip
def test_indices_leave_no_gap(names: tuple[str, ...], places: str) -> None:
    refused(
        config(*names),
        arguments("x", "y"),
        f"unable to load model 'm', its inputs must take the places 0 to 1, each once: {places}",
        INVALID,
    )


@pytest.mark.parametrize(
    ("text", "message", "status"),
    [
        (
            tensor("output", "S"),
            "model configuration must contain at least one input, none were specified.",
            INTERNAL,
        ),
        (
            tensor("input", "x"),
            "model configuration must contain at least one output, none were specified.",
            INTERNAL,
        ),
        (
            tensor("input", "x", "TYPE_UINT16") + tensor("output", "S"),
            "unsupported datatype TYPE_UINT16 for input 'x' for model 'm'",
            INTERNAL,
        ),
        (
            tensor("input", "x") + tensor("output", "S", "TYPE_BF16"),
            "unsupported datatype TYPE_BF16 for output 'S' for model 'm'",
            INTERNAL,
        ),
        (
            tensor("input", "x", extra="optional: true") + tensor("output", "S"),
            (
                "'optional' is set to true for input 'x' while the backend model doesn't support "
                "optional input"
            ),
            INVALID,
        ),
        (
            "max_batch_size: 2 " + tensor("input", "x", "TYPE_STRING", "1") + tensor("output", "S"),
            "Triton only supports 1 dimensional List of String as input for 'x' for model 'm'",
            INTERNAL,
        ),
        (
            tensor("input", "x") + tensor("output", "S", "TYPE_STRING", "1, 1"),
            "Triton only supports 1 dimensional List of String as output for 'S' for model 'm'",
            INTERNAL,
        ),
    ],
)
def test_tensors_that_pytorch_has_no_room_for(text: str, message: str, status: StatusCode) -> None:
    wanted = parse_config(f'name: "m" backend: "pytorch" {text}', "x")
    refused(wanted, arguments("x")[: len(wanted.input)], message, status)


def test_strings_of_one_dimension_are_welcome() -> None:
    reshaped = tensor("input", "x", "TYPE_STRING", "1", "reshape { }")
    text = f'name: "m" max_batch_size: 2 {reshaped} {tensor("output", "S")}'

    plan = plan_forward(parse_config(text, "x"), [Argument("x", "ListType", "List[str]")])

    assert plan.arguments == ("x",)


# .pt2: the places of a call specification.


def leaf() -> object:
    return {"type": None, "context": None, "children_spec": []}


def node(kind: str, children: list[object], keys: list[str] | None = None) -> object:
    context = "null" if keys is None else json.dumps(keys)
    return {"type": f"builtins.{kind}", "context": context, "children_spec": children}


def call(positional: list[object], keywords: dict[str, object] | None = None) -> str:
    given = keywords or {}
    tree = node(
        "tuple", [node("tuple", positional), node("dict", list(given.values()), list(given))]
    )
    return json.dumps([1, tree])


def result(tree: object) -> str:
    return json.dumps([1, tree])


def test_a_call_specification_names_every_tensor() -> None:
    given = call([leaf(), node("dict", [leaf(), leaf()], ["a", "b"])], {"k": leaf()})
    returned = result(node("dict", [leaf(), node("list", [leaf(), leaf()])], ["sum", "rest"]))
    names = ("KWARGS[k]", "ARGS[1][b]", "ARGS[1][a]", "INPUT__0")

    plan = plan_call_spec(
        config(*names, outputs=("RESULT[rest][1]", "RESULT[sum]", "OUTPUT__1")), given, returned
    )

    assert plan.arguments == ("INPUT__0", "ARGS[1][a]", "ARGS[1][b]", "KWARGS[k]")
    assert plan.results == {"RESULT[rest][1]": 2, "RESULT[sum]": 0, "OUTPUT__1": 1}


def test_one_tensor_is_the_result_itself() -> None:
    plan = plan_call_spec(config("ARGS[0]", outputs=("RESULT",)), call([leaf()]), result(leaf()))

    assert plan.results == {"RESULT": 0}


@pytest.mark.parametrize(
    ("wanted", "given", "returned", "message"),
    [
        (
            config("x"), call([leaf()]), result(leaf()),
            "unexpected inference input 'x', allowed inputs are: ARGS[0], INPUT__0",
        ),
        (
            config("ARGS[0]"), call([leaf()]), result(leaf()),
            "unexpected inference output 'S', allowed outputs are: OUTPUT__0, RESULT",
        ),
        (
            config("ARGS[0]"), call([leaf(), leaf()]), result(leaf()),
            "unable to load model 'm', configuration expects 1 inputs, model provides 2",
        ),
        (
            config("ARGS[0]"), call([node("set", [])]), result(leaf()),
            "a model's tensors may stand in tuples, lists and dictionaries, got 'builtins.set'",
        ),
        (
            config("ARGS[0]"), json.dumps([1, node("tuple", [])]), result(leaf()),
            "a call specification has arguments and keywords, got 0",
        ),
        (
            parse_config(
                f'name: "m" {tensor("input", "ARGS[0]", "TYPE_STRING")} {tensor("output", "S")}',
                "x",
            ),
            call([leaf()]), result(leaf()),
            "unsupported datatype TYPE_STRING for input 'ARGS[0]' for model 'm'",
        ),
    ],
)  # fmt: skip
def test_packages_that_do_not_fit(
    wanted: ModelConfig, given: str, returned: str, message: str
) -> None:
    with pytest.raises(ServerError) as failure:
        plan_call_spec(wanted, given, returned)

    assert failure.value.message == message


# Settings and files.


def parameters(**values: str) -> str:
    return "".join(
        f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }} '
        for key, value in values.items()
    )


def test_every_parameter_has_its_default() -> None:
    assert TorchSettings.of(config("x")) == TorchSettings(
        inference_mode=True,
        optimized_execution=True,
        cudnn=True,
        weight_sharing=False,
        cache_cleaning=False,
        jit_executor=None,
        jit_profiling=None,
        tensor_fuser=None,
        intra_op_threads=0,
        inter_op_threads=0,
    )


def test_every_parameter_is_read() -> None:
    text = parameters(
        INFERENCE_MODE="off", DISABLE_OPTIMIZED_EXECUTION="true", DISABLE_CUDNN="1",
        ENABLE_WEIGHT_SHARING="on", ENABLE_CACHE_CLEANING="TRUE", ENABLE_JIT_EXECUTOR="false",
        ENABLE_JIT_PROFILING="true", ENABLE_TENSOR_FUSER="0", INTRA_OP_THREAD_COUNT="3",
        INTER_OP_THREAD_COUNT="2",
    )  # fmt: skip

    assert TorchSettings.of(config("x", extra=text)) == TorchSettings(
        inference_mode=False,
        optimized_execution=False,
        cudnn=False,
        weight_sharing=True,
        cache_cleaning=True,
        jit_executor=False,
        jit_profiling=True,
        tensor_fuser=False,
        intra_op_threads=3,
        inter_op_threads=2,
    )


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("INFERENCE_MODE", "failed to convert 'maybe' to boolean"),
        ("INTRA_OP_THREAD_COUNT", "failed to convert 'maybe' to integral number"),
    ],
)
def test_misspelt_parameters_are_refused(key: str, message: str) -> None:
    with pytest.raises(ServerError) as failure:
        TorchSettings.of(config("x", extra=parameters(**{key: "maybe"})))

    assert failure.value.message == message


@dataclass
class Torch:
    """The two functions of torch that set thread counts; `started` pools refuse."""

    started: bool = False
    calls: list[tuple[str, int]] = field(default_factory=list)

    def set_num_threads(self, count: int) -> None:
        self.calls.append(("intra", count))

    def set_num_interop_threads(self, count: int) -> None:
        if self.started:
            raise RuntimeError("cannot set number of interop threads")
        self.calls.append(("inter", count))


def test_the_first_model_chooses_the_thread_counts(caplog: pytest.LogCaptureFixture) -> None:
    counts, torch = ThreadCounts(), Torch()

    counts.choose(torch, TorchSettings(), "none")
    counts.choose(torch, TorchSettings(intra_op_threads=3, inter_op_threads=-1), "first")
    counts.choose(torch, TorchSettings(intra_op_threads=3), "same")
    counts.choose(torch, TorchSettings(intra_op_threads=5, inter_op_threads=2), "other")

    assert torch.calls == [("intra", 3), ("inter", 2)]
    assert caplog.messages == [
        (
            "model 'other' asks for 5 intra-op threads, but another model was first and chose 3 "
            "for the whole process"
        )
    ]


def test_a_pool_that_runs_keeps_its_size(caplog: pytest.LogCaptureFixture) -> None:
    counts = ThreadCounts()
    counts.choose(Torch(started=True), TorchSettings(inter_op_threads=2), "m")

    assert caplog.messages == [
        "model 'm' cannot choose inter-op threads: cannot set number of interop threads"
    ]


def context(directory: Path, text: str = "", kind: str = "CPU") -> InstanceContext:
    return InstanceContext(
        parse_config(f'name: "m" backend: "pytorch" {text}', "x"), 1, directory, "m_0", kind
    )


def test_a_gpu_may_have_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "1").mkdir()
    for name in ("model.pt", "h.pt"):
        (tmp_path / "1" / name).touch()
    text = 'cc_model_filenames { key: "9.0" value: "h.pt" }'

    for kind, capability, expected in (
        ("GPU", "9.0", "h.pt"), ("GPU", "8.0", "model.pt"), ("CPU", "9.0", "model.pt"),
        ("MODEL", "9.0", "model.pt"),
    ):  # fmt: skip
        found = model_file(context(tmp_path, text, kind), "model.pt", capability)
        assert found == tmp_path / "1" / expected


def test_a_missing_file_is_unavailable(tmp_path: Path) -> None:
    with pytest.raises(ServerError) as failure:
        model_file(context(tmp_path, 'default_model_filename: "net.pt"'), "model.pt", "")

    assert failure.value.status is StatusCode.UNAVAILABLE
    assert failure.value.message == (f"unable to find '{tmp_path}/1/net.pt' for model instance 'm'")


def test_without_torch_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    backend = registry.create_backend(context(tmp_path, tensor("input", "x")))

    with pytest.raises(ServerError) as failure:
        backend.load()

    assert failure.value.status is StatusCode.UNAVAILABLE
    assert failure.value.message == (
        "unable to load model 'm', PyTorch cannot be imported (import of torch halted; None in "
        "sys.modules); install it with: pip install 'troupe[torch]'"
    )
    backend.unload()


@dataclass
class Cuda:
    """torch.cuda on a machine with two devices, as far as streams go."""

    current: int = 1
    streams: list[int] = field(default_factory=list)

    def is_available(self) -> bool:
        return True

    def device_count(self) -> int:
        return 2

    def Stream(self, device: int) -> int:  # noqa: N802  # torch's name
        return device

    def set_stream(self, stream: int) -> None:
        self.streams.append(stream)
        self.current = stream

    def set_device(self, device: int) -> None:
        self.current = device


@pytest.mark.parametrize(
    ("kind", "device", "streams", "current"),
    [("GPU", 1, [1], 1), ("MODEL", 0, [0, 1], 0), ("CPU", 0, [], 1)],
)
def test_an_instance_has_streams_of_its_own(
    tmp_path: Path, kind: str, device: int, streams: list[int], current: int
) -> None:
    cuda = Cuda()
    backend = PyTorchBackend(replace(context(tmp_path, kind=kind), device_id=device))
    backend._torch = SimpleNamespace(cuda=cuda, device=lambda *where: where)

    assert backend._own_streams() == streams
    assert (cuda.streams, cuda.current) == (streams, current)
    assert backend._device() == {"GPU": ("cuda", 1), "CPU": ("cpu",), "MODEL": None}[kind]


def test_nothing_is_completed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = context(tmp_path)

    assert bytes(registry.auto_complete(given)) == bytes(given.config)
    assert caplog.messages == [
        "skipping model configuration auto-complete for 'm': not supported for pytorch backend"
    ]


@pytest.mark.parametrize(
    ("text", "files", "expected"),
    [
        ('backend: "pytorch"', ("model.pt",), ("pytorch_libtorch", "model.pt")),
        ('backend: "pytorch"', ("model.pt2",), ("torch_aoti", "model.pt2")),
        ('platform: "torch_aoti"', (), ("torch_aoti", "model.pt2")),
        ('platform: "pytorch_libtorch"', (), ("pytorch_libtorch", "")),
        (
            'backend: "pytorch" runtime: "model.py"',
            ("model.py", "model.pt"),
            ("pytorch_libtorch", ""),
        ),
    ],
)
def test_platform_and_file_are_filled_in(
    text: str, files: tuple[str, ...], expected: tuple[str, str]
) -> None:
    filled = autofill(parse_config(text, "x"), "m", dict.fromkeys(files, False))

    assert (filled.platform, filled.default_model_filename) == expected
    assert filled.backend == "pytorch"
