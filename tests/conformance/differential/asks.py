"""What both servers are asked: for every model of `models/`, which requests, in which order.

Nothing here knows of a server. A model whose inputs are a WORD is asked every word that its class
answers to, found by reading its file; the others have their requests listed below.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

MODELS: Final = Path(__file__).parent / "models"
PROBES: Final = Path(__file__).parent / "probes.py"

_TEXT: Final = np.object_


@dataclass(frozen=True)
class Input:
    name: str
    datatype: str
    array: npt.NDArray[Any]


@dataclass(frozen=True)
class Ask:
    """One request; `options` are what the client libraries call them."""

    model: str
    what: str  # names it within its model
    inputs: Sequence[Input]
    options: Mapping[str, Any] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    is_stream: bool = False
    over_http: bool = False  # as well as over gRPC

    @property
    def key(self) -> str:
        return f"{self.model}/{self.what}"


@dataclass(frozen=True)
class Together:
    """Requests that are sent before any is answered, so that they may share a batch."""

    what: str
    asks: Sequence[Ask]


def word(text: str, shape: Sequence[int] = (1,)) -> Input:
    return Input("WORD", "BYTES", np.full(shape, text.encode(), _TEXT))


def words_of(model: str) -> list[str]:
    """The public methods of a model's class, in the order of its file."""
    path = max((MODELS / model / "1").glob("*.py"), key=lambda one: one.name == "model.py")
    known = {"initialize", "execute", "finalize", "is_ready", "auto_complete_config", "note"}
    return [
        function.name
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name == "TritonPythonModel"
        for function in node.body
        if isinstance(function, ast.FunctionDef)
        and function.name not in known
        and not function.name.startswith("_")
    ]


# What ends the whole Triton 2.51 process, some of it not every time: by an exception that nothing
# catches there, or by a segmentation fault.
ENDS_TRITON: Final = frozenset(
    {
        "controls/is_version_word_ready",
        "controls/load_broken",
        "controls/load_nothing",
        "controls/load_outside",
        "controls/load_unknown",
        "controls/load_with_bad_json",
        "controls/load_with_files_alone",
        "controls/load_with_files_outside",
        "late/then_raises",
        "late/then_raises:found",
        "metrics/counter_below_zero",
        "metrics/counter_does_not_observe",
        "metrics/counter_is_not_set",
        "metrics/family_bad_name",
        "metrics/family_of_another_kind",
        "metrics/gauge_does_not_observe",
        "requests/cancelled_of_own_request",
    }
)

# Models that are asked every word that they know, by unary requests.
WORDS: Final = (
    "tensors", "tensors_from_numpy", "requests", "responses", "raises", "raises_in_finalize",
    "returns_from_initialize",
    "initialized", "helpers", "calls", "controls", "metrics", "histograms", "logs", "layout",
    "another_name", "completes_everything", "completes_nothing", "completes_partly",
    "completes_larger_batch", "completes_optional",
)  # fmt: skip
RETURNS: Final = (
    "good", "short", "good", "long", "tuple", "number", "text", "dictionary", "response",
    "generator", "number_inside", "text_inside", "list_inside", "tensor_inside", "error_inside",
    "false",
    "empty_response", "error", "error_and_tensors", "error_without_text", "long_error",
)  # fmt: skip
OUTPUTS: Final = (
    "both", "turned_round", "missing", "none", "extra", "twice", "wrong_datatype", "integers",
    "wrong_shape", "no_elements", "a_scalar", "many_dimensions", "not_contiguous", "large",
    "big_endian",
)  # fmt: skip
STRINGS: Final = (
    "given", "same", "bytes", "texts", "numbers", "mixed", "fixed_bytes", "numpy_bytes",
    "numpy_text", "lists", "matrix", "nothing", "long", "lone_surrogate", "unicode_array",
    "bytearrays",
)  # fmt: skip

VALUES: Final[Mapping[str, npt.NDArray[Any]]] = {
    "BOOL": np.array([True, False, True]),
    "UINT8": np.array([0, 255], np.uint8),
    "UINT16": np.array([0, 65535], np.uint16),
    "UINT32": np.array([0, 2**32 - 1], np.uint32),
    "UINT64": np.array([0, 2**64 - 1], np.uint64),
    "INT8": np.array([-128, 127], np.int8),
    "INT16": np.array([-32768, 32767], np.int16),
    "INT32": np.array([-(2**31), 2**31 - 1], np.int32),
    "INT64": np.array([-(2**63), 2**63 - 1], np.int64),
    "FP16": np.array([-1.5, 65504], np.float16),
    "FP32": np.array([-1.5, 3e38, np.inf], np.float32),
    "FP64": np.array([-1.5, 1e308, -np.inf], np.float64),
    "BF16": np.array([-1.5, 3e38], ml_dtypes.bfloat16),
    "BYTES": np.array([b"a", b"", b"\xff\x00"], _TEXT),
}


def _datatypes() -> Iterator[Ask]:
    for model in ("datatypes", "datatypes_dlpack"):
        for datatype, array in VALUES.items():
            given = [Input(f"X_{datatype}", datatype, array)]
            yield Ask(model, datatype, given, over_http=datatype != "BF16")
            empty = [Input(f"X_{datatype}", datatype, array[:0])]
            yield Ask(model, f"{datatype}_empty", empty)
        two = [Input("X_INT8", "INT8", VALUES["INT8"]), Input("X_FP32", "FP32", VALUES["FP32"])]
        yield Ask(model, "two", two)
        yield Ask(model, "none", [])
        pruned = ["Y_FP32"]
        yield Ask(model, "pruned", two, outputs=pruned, over_http=True)
        yield Ask(model, "unknown_output", two, outputs=["NOTHING"])
        yield Ask(model, "unknown_input", [Input("MORE", "INT8", VALUES["INT8"])])
        yield Ask(model, "wrong_datatype", [Input("X_INT8", "FP32", VALUES["FP32"])])
        large = np.arange(500_000, dtype=np.int32)
        yield Ask(model, "large", [Input("X_INT32", "INT32", large)])


def _received() -> Iterator[Ask]:
    a = Input("A", "FP32", np.zeros((1, 2), np.float32))
    all_three = [
        a,
        Input("B", "BYTES", np.array([b"x", b"yz"], _TEXT)),
        Input("C", "INT64", np.array([5])),
    ]
    options: dict[str, Mapping[str, Any]] = {
        "plain": {},
        "id": {"request_id": "a request"},
        "unicode_id": {"request_id": "für"},
        "timeout": {"timeout": 9_000_000},
        "priority": {"priority": 3},
        "correlation": {"sequence_id": 77},
        "correlation_name": {"sequence_id": "a name"},
        "largest_correlation": {"sequence_id": 2**63 - 1},
        "start": {"sequence_id": 5, "sequence_start": True},
        "end": {"sequence_id": 5, "sequence_end": True},
        "both_ends": {"sequence_id": 5, "sequence_start": True, "sequence_end": True},
        "parameters": {"parameters": {"s": "text", "i": -7, "b": True, "f": False, "e": ""}},
        "float_parameter": {"parameters": {"d": 1.5}},
    }
    for what, each in options.items():
        yield Ask("received", what, [a], each, over_http=True)
    yield Ask("received", "all_inputs", all_three)
    yield Ask("received", "no_inputs", [])
    yield Ask("received", "only_optional", all_three[1:])
    yield Ask("received", "output_named", [a], outputs=["ANSWER"])
    yield Ask("received", "other_output_named", [a], outputs=["OTHER"])
    yield Ask("received", "both_outputs_named", [a], outputs=["OTHER", "ANSWER"])
    wrong = Input("A", "FP32", np.zeros((1, 3), np.float32))
    yield Ask("received", "wrong_shape", [wrong])


def _sequences() -> Iterator[Ask]:
    for model, name in (("sequences", 901), ("named_sequences", "nine"), ("sequences", 902)):
        last = 2 if name != 902 else 0
        for step in range(last + 1):
            options = {
                "sequence_id": name, "sequence_start": step == 0, "sequence_end": step == last,
            }  # fmt: skip
            given = [Input("X", "INT32", np.array([[step]], np.int32))]
            yield Ask(model, f"{name}_{step}", given, options)
    one = [Input("X", "INT32", np.array([[1]], np.int32))]
    yield Ask("sequences", "without_start", one, {"sequence_id": 990})
    yield Ask("sequences", "without_id", one)
    yield Ask("sequences", "name_for_a_number", one, {"sequence_id": "x", "sequence_start": True})


def _iterations() -> Iterator[Ask]:
    for count in (0, 3, 15):
        given = [Input("X", "INT32", np.array([[count]], np.int32))]
        yield Ask("iterates", str(count), given)
        yield Ask("iterates_in_a_stream", str(count), given, is_stream=True)
    given = [Input("X", "INT32", np.array([[1]], np.int32))]
    yield Ask("iterates_wrongly", "answers", given)
    yield Ask("reschedules_without_leave", "x", [word("x")])


def _parameters() -> Iterator[Ask]:
    for what, parameters in (
        ("own", {}),
        ("returned", {"theirs": "x"}),
        ("replaced", {"number": 5}),
    ):
        yield Ask(
            "response_parameters", what, [word("x")], {"parameters": parameters}, over_http=True
        )


def _reshaped() -> Iterator[Ask]:
    for rows in (1, 3):
        given = [Input("X", "INT32", np.arange(rows, dtype=np.int32).reshape(rows, 1))]
        yield Ask("reshapes", f"rows_{rows}", given)
    yield Ask("reshapes", "flat", [Input("X", "INT32", np.zeros((2,), np.int32))])
    yield Ask("reshapes", "too_many", [Input("X", "INT32", np.zeros((5, 1), np.int32))])


def _late() -> Iterator[Ask]:
    for text in words_of("late"):
        if text == "found":
            continue
        yield Ask("late", text, [word(text)])
        yield Ask("late", f"{text}:found", [word("found")])


def _streams() -> Iterator[Ask]:
    for text in words_of("streams"):
        yield Ask("streams", text, [word(text)], {"request_id": "s"}, is_stream=True)
        if text in {"after_final", "wrong_flags"}:
            yield Ask("streams", f"{text}:found", [word("found")], is_stream=True)
    yield Ask("streams", "unary", [word("one")])
    yield Ask("async_streams", "three", [word("three")], is_stream=True)
    yield Ask("completes_decoupled", "works", [word("works")], is_stream=True)
    yield Ask("async_model", "in_a_stream", [word("x")], is_stream=True)
    yield Ask("raises", "in_a_stream", [word("value_error")], is_stream=True)


def _each_word(model: str, words: Sequence[str], *, over_http: bool = False) -> Iterator[Ask]:
    counts: dict[str, int] = {}
    for text in words:
        counts[text] = counts.get(text, 0) + 1
        what = text if counts[text] == 1 else f"{text}:{counts[text]}"
        yield Ask(model, what, [word(text)], over_http=over_http)


def asks() -> Iterator[Ask]:
    """Every request by itself, in the order in which they are to be sent."""
    for model in WORDS:
        yield from _each_word(model, words_of(model))
    yield from _each_word("returns", RETURNS, over_http=True)
    yield from _each_word("outputs", OUTPUTS)
    yield from _each_word("strings", STRINGS, over_http=True)
    yield from _each_word("async_model", ["hello", "raises", "returns_short", "hello"])
    yield from _each_word("no_execute", ["x", "y"])
    yield Ask("completes_batching", "works", [word("works", (1, 1))])
    for code in range(8):
        given = [Input("CODE", "INT32", np.array([code], np.int32))]
        yield Ask("error_codes", str(code), given, over_http=True)
    yield from _datatypes()
    yield from _received()
    yield from _parameters()
    yield from _reshaped()
    yield from _late()
    yield from _streams()
    yield from _sequences()
    yield from _iterations()


def _batch(*rows: Sequence[Sequence[int]]) -> list[Ask]:
    return [
        Ask("batches", str(place), [Input("X", "INT32", np.array(each, np.int32))])
        for place, each in enumerate(rows)
    ]


TOGETHER: Final = (
    Together("three_of_one", _batch([[1, 2]], [[3, 4]], [[5, 6]])),
    Together("two_of_several_rows", _batch([[1, 2], [3, 4]], [[5, 6]])),
    Together("errors_alone", _batch([[-1, 2]], [[3, 4]], [[5, -6]])),
    Together("a_full_batch", _batch([[1, 2]] * 8)),
)
