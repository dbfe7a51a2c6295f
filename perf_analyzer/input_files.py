"""Input data from files: a directory with a file per tensor, or JSON with streams of steps.

Owns both formats and their error texts. Raises BadInput for whatever does not fit the model.
"""

from __future__ import annotations

import base64
import binascii
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from perf_analyzer.inputs import BadInput, DataSet, Step, TensorData, byte_strings, fixed_shape
from perf_analyzer.model import ModelInfo, TensorSpec
from protocol.datatypes import BYTES, ELEMENT_SIZE, numpy_dtype

# Keys of a step that name no tensor.
MODEL_KEY: Final = "model"
TIMESTAMP_KEY: Final = "timestamp"
FLOATS: Final = frozenset({"FP32", "FP64"})
RAW_ONLY: Final = frozenset({"FP16", "BF16"})


def read_directory(
    directory: Path, model: ModelInfo, shapes: Mapping[str, tuple[int, ...]]
) -> DataSet:
    """One stream of one step, from files named like inputs and, for what is expected, outputs."""
    inputs: dict[str, TensorData] = {}
    expected: dict[str, TensorData] = {}
    known = {spec.name: (spec, inputs) for spec in model.inputs}
    known |= {spec.name: (spec, expected) for spec in model.outputs if spec.name not in known}
    for path in sorted(directory.iterdir()):
        if path.name not in known:
            raise BadInput(
                f"The input or output '{path.name}' is not found in the model configuration"
            )
        spec, into = known[path.name]
        into[path.name] = _file_tensor(path, spec, shapes, is_input=into is inputs)
    step = _checked(Step(inputs, expected), model, 0, 0)
    return DataSet(((step,),))


def _file_tensor(
    path: Path, spec: TensorSpec, shapes: Mapping[str, tuple[int, ...]], *, is_input: bool
) -> TensorData:
    if spec.datatype == BYTES:
        lines = path.read_bytes().splitlines()
        shape = fixed_shape(spec, shapes) if is_input else (len(lines),)
        if len(lines) != math.prod(shape):
            raise BadInput(
                f"provided data for input {spec.name} has {len(lines)} elements, expect "
                f"{math.prod(shape)}"
            )
        return TensorData(byte_strings(lines), shape)
    raw = path.read_bytes()
    if not is_input:
        return TensorData(raw, ())
    shape = fixed_shape(spec, shapes)
    _check_size(spec, raw, shape)
    return TensorData(raw, shape)


def _check_size(spec: TensorSpec, raw: bytes, shape: tuple[int, ...]) -> None:
    wanted = math.prod(shape) * ELEMENT_SIZE[spec.datatype]
    if len(raw) != wanted:
        raise BadInput(
            f"mismatch in the data provided for {spec.name}. Expected: {wanted} bytes, "
            f"Got: {len(raw)} bytes"
        )


def read_json(
    paths: Sequence[Path],
    model: ModelInfo,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    fixed_schedule: bool = False,
) -> DataSet:
    """The streams of all files, one after another."""
    streams: list[tuple[Step, ...]] = []
    for path in paths:
        document = _load(path)
        data = document.get("data")
        if not isinstance(data, list):
            raise BadInput("The json file doesn't contain data field")
        inputs = _streams(data)
        validation = document.get("validation_data")
        expected = _streams(validation) if validation is not None else []
        if validation is not None and [len(s) for s in inputs] != [len(s) for s in expected]:
            raise BadInput(
                "The 'validation_data' field doesn't align with 'data' field in the json file"
            )
        for offset, steps in enumerate(inputs):
            number = len(streams)
            after = expected[offset] if expected else [{} for _ in steps]
            streams.append(
                tuple(
                    _step(
                        entry,
                        wanted,
                        model,
                        shapes,
                        place=(number, place),
                        fixed_schedule=fixed_schedule,
                    )
                    for place, (entry, wanted) in enumerate(zip(steps, after, strict=True))
                )
            )
    if not streams or not all(streams):
        raise BadInput("no data was provided")
    return DataSet(tuple(streams))


def _load(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError as error:
        raise BadInput(f"failed to open file for reading provided data: {error}") from None
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BadInput(f"failed to parse the specified json file: {error}") from None
    if not isinstance(document, dict):
        raise BadInput("The json file doesn't contain data field")
    return document


def _streams(data: list[Any]) -> list[list[Mapping[str, Any]]]:
    """One stream per inner list, or the whole list as one stream."""
    if all(isinstance(each, dict) for each in data):
        return [data]
    if not all(
        isinstance(each, list) and all(isinstance(step, dict) for step in each) for each in data
    ):
        raise BadInput("Inconsistency in input-data provided. Can not have a combination of objects"
                       " and arrays inside of the Data array")  # fmt: skip
    return data


def _step(
    entry: Mapping[str, Any],
    wanted: Mapping[str, Any],
    model: ModelInfo,
    shapes: Mapping[str, tuple[int, ...]],
    *,
    place: tuple[int, int],
    fixed_schedule: bool,
) -> Step:
    delay_ms = 0
    if fixed_schedule:
        entry = dict(entry)
        delay_ms = _timestamp(entry.pop(TIMESTAMP_KEY, None))
    specs = {spec.name: spec for spec in model.inputs}
    results = {spec.name: spec for spec in model.outputs}
    for name in [*entry, *wanted]:
        if name != MODEL_KEY and name not in specs and name not in results:
            raise BadInput(f"The input or output '{name}' is not found in the model configuration")
    inputs = {
        name: _tensor(specs[name], value, shapes) for name, value in entry.items() if name in specs
    }
    expected = {
        name: _expected(results[name], value) for name, value in wanted.items() if name in results
    }
    return _checked(Step(inputs, expected, delay_ms), model, *place)


def _timestamp(value: Any) -> int:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise BadInput("a fixed schedule needs an integer 'timestamp' in milliseconds in each step")
    return value


def _checked(step: Step, model: ModelInfo, stream: int, place: int) -> Step:
    for spec in model.inputs:
        if spec.name not in step.inputs and not spec.optional:
            raise BadInput(
                f"missing tensor {spec.name} ( Location stream id: {stream}, step id: {place})"
            )
    return step


def _split(spec: TensorSpec, value: Any) -> tuple[bytes, tuple[int, ...] | None]:
    """The bytes of a tensor value and its own shape, if it gives one."""
    shape = None
    content = value
    if isinstance(value, dict):
        if "shape" in value:
            shape = _shape(spec, value["shape"])
        content = value.get("content", value)
        if content is value and "b64" not in value:
            raise BadInput(
                "The tensor values are not supported. Expected a b64 or content member for "
                f"{spec.name}"
            )
    if isinstance(content, dict):
        return _base64(spec, content.get("b64")), shape
    if not isinstance(content, list):
        raise BadInput(f"The tensor values are not supported. Expected an array or b64 string for"
                       f" {spec.name}")  # fmt: skip
    return _elements(spec, content), shape


def _shape(spec: TensorSpec, value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or not all(type(each) is int and each >= 0 for each in value):
        raise BadInput(f"shape values must be integers for {spec.name}")
    shape = tuple(value)
    fits = len(shape) == len(spec.shape) and all(
        want in {-1, have} for want, have in zip(spec.shape, shape, strict=True)
    )
    if not fits:
        raise BadInput(
            f"mismatch in the shape provided for {spec.name}. Expected: {list(spec.shape)}, "
            f"Got: {list(shape)}"
        )
    return shape


def _base64(spec: TensorSpec, text: Any) -> bytes:
    if not isinstance(text, str):
        raise BadInput(f"b64 of {spec.name} is not a string")
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadInput(f"unable to decode the b64 data of {spec.name}") from None


def _elements(spec: TensorSpec, content: list[Any]) -> bytes:
    """A flat list as wire bytes. Integers are welcome where floats are wanted."""
    if spec.datatype in RAW_ONLY:
        raise BadInput(f"data type {spec.datatype} of {spec.name} is supported as b64 only")
    if spec.datatype == BYTES:
        if not all(isinstance(each, str) for each in content):
            raise BadInput("unable to find string data in json")
        return byte_strings([each.encode("utf-8", "surrogateescape") for each in content])
    kinds: tuple[type, ...]
    if spec.datatype in FLOATS:
        kinds, word = (float, int), "float"
    elif spec.datatype == "BOOL":
        kinds, word = (bool,), "bool"
    else:
        kinds, word = (int,), "int"
    if not all(type(each) in kinds for each in content):
        raise BadInput(f"unable to find {word} data in json")
    try:
        return np.array(content, dtype=numpy_dtype(spec.datatype)).tobytes()
    except OverflowError:
        raise BadInput(f"a value of {spec.name} is out of the range of {spec.datatype}") from None


def _tensor(spec: TensorSpec, value: Any, shapes: Mapping[str, tuple[int, ...]]) -> TensorData:
    raw, shape = _split(spec, value)
    if shape is None:
        shape = fixed_shape(spec, shapes)
    if spec.datatype == BYTES:
        count = _count_strings(spec, raw)
        if count != math.prod(shape):
            raise BadInput(
                f"mismatch in the data provided for {spec.name}. Expected: {math.prod(shape)} "
                f"elements, Got: {count} elements"
            )
    else:
        _check_size(spec, raw, shape)
    return TensorData(raw, shape)


def _count_strings(spec: TensorSpec, raw: bytes) -> int:
    position = count = 0
    while position < len(raw):
        position += 4 + int.from_bytes(raw[position : position + 4], "little")
        count += 1
    if position != len(raw):
        raise BadInput(f"the elements of {spec.name} need a length of 4 bytes, little-endian, each")
    return count


def _expected(spec: TensorSpec, value: Any) -> TensorData:
    if isinstance(value, dict):  # what comes back is compared byte by byte, whatever its shape
        value = {key: each for key, each in value.items() if key != "shape"}
    raw, shape = _split(spec, value)
    return TensorData(raw, shape or ())
