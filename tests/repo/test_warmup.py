"""Warm-up requests: what they carry, and what is wrong with those that cannot be built."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from protocol.status import ServerError, StatusCode, internal
from repo.pbtxt import parse_config
from repo.warmup import WarmupSample, warmup_failure, warmup_samples

MODEL = """
name: "m" max_batch_size: 8
input { name: "A" data_type: TYPE_FP32 dims: [ -1, 2 ] }
input { name: "S" data_type: TYPE_STRING dims: 2 optional: true }
input { name: "B" data_type: TYPE_BOOL dims: 64 optional: true }
input { name: "I" data_type: TYPE_INT16 dims: 64 optional: true }
input { name: "H" data_type: TYPE_BF16 dims: 64 optional: true }
"""
A = 'inputs { key: "A" value { data_type: TYPE_FP32 dims: [ 3, 2 ] zero_data: true } } '


def _samples(warmup: str, directory: Path = Path(), model: str = MODEL) -> list[WarmupSample]:
    return warmup_samples(parse_config(f"{model} {warmup}", "x"), directory)


def _one(name: str, value: str) -> str:
    return f'inputs {{ key: "{name}" value {{ {value} }} }} '


def test_a_batch_is_made_of_single_requests() -> None:
    (sample,) = _samples(f'model_warmup {{ name: "w" batch_size: 3 count: 2 {A} }}')

    assert (sample.name, sample.count, sample.batch_size) == ("w", 2, 1)
    assert len(sample.requests) == 3
    assert len({id(request.inputs) for request in sample.requests}) == 3
    (tensor,) = sample.requests[0].inputs
    assert (tensor.name, tensor.datatype, tensor.shape) == ("A", "FP32", (1, 3, 2))
    assert not tensor.array.any()


def test_no_batch_is_no_sample_and_no_count_is_one() -> None:
    samples = _samples(f"model_warmup {{ batch_size: 0 {A} }} model_warmup {{ batch_size: 1 {A} }}")

    assert [sample.count for sample in samples] == [1]


def test_without_batching_shapes_are_whole() -> None:
    (sample,) = _samples(
        f"model_warmup {{ batch_size: 1 {A} }}",
        model='input { name: "A" data_type: TYPE_FP32 dims: [ -1, 2 ] }',
    )

    assert sample.batch_size == 0
    assert sample.requests[0].inputs[0].shape == (3, 2)


def test_an_undeclared_input_is_taken_as_it_is() -> None:
    control = _one("START", "data_type: TYPE_INT32 dims: 1 zero_data: true")
    (sample,) = _samples(f"model_warmup {{ batch_size: 1 {control} {A} }}")

    shapes = {tensor.name: tensor.shape for tensor in sample.requests[0].inputs}
    assert shapes == {"A": (1, 3, 2), "START": (1,)}


def test_a_string_correlation_id_does_not_disturb() -> None:
    controls = """sequence_batching { control_input { name: "ID"
        control { kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_STRING } } }"""

    assert _samples(f"{controls} model_warmup {{ batch_size: 1 {A} }}")


def test_the_model_sees_the_reshaped_input() -> None:
    (sample,) = _samples(
        "model_warmup { batch_size: 1 "
        + _one("A", "data_type: TYPE_FP32 dims: 1 zero_data: 1")
        + "}",
        model='max_batch_size: 1 input { name: "A" data_type: TYPE_FP32 dims: 1 reshape { } }',
    )

    assert sample.requests[0].inputs[0].shape == (1,)


@pytest.mark.parametrize(
    ("name", "data_type"), [("B", "TYPE_BOOL"), ("I", "TYPE_INT16"), ("H", "TYPE_BF16")]
)
def test_random_data_is_valid_and_repeatable(name: str, data_type: str) -> None:
    text = (
        "model_warmup { batch_size: 1 "
        + A
        + _one(name, f"data_type: {data_type} dims: 64 random_data: true")
        + "}"
    )
    arrays = [_samples(text)[0].requests[0].inputs[1].array for _ in range(2)]

    assert np.array_equal(arrays[0], arrays[1])
    assert len(np.unique(arrays[0])) > 1


def test_random_floats_are_finite() -> None:
    (sample,) = _samples(f"model_warmup {{ batch_size: 1 {A.replace('zero', 'random')} }}")

    array = sample.requests[0].inputs[0].array
    assert array.dtype == np.float32
    assert np.isfinite(array).all()
    assert array.any()


@pytest.mark.parametrize("source", ["zero_data: false", "random_data: true"])
def test_made_up_strings_are_empty(source: str) -> None:
    value = f"data_type: TYPE_STRING dims: 2 {source}"
    (sample,) = _samples(f"model_warmup {{ batch_size: 1 {A} {_one('S', value)} }}")

    assert sample.requests[0].inputs[1].raw == bytes(8)


def _file(data_type: str, dims: str, name: str = "data") -> str:
    return f'data_type: {data_type} dims: [ {dims} ] input_data_file: "{name}"'


def test_a_file_gives_the_first_bytes_it_has(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "data").write_bytes(np.arange(8, dtype=np.float32).tobytes())

    text = f"model_warmup {{ batch_size: 1 {_one('A', _file('TYPE_FP32', '3, 2'))} }}"
    (sample,) = _samples(text, tmp_path)

    assert sample.requests[0].inputs[0].array.tolist() == [[[0, 1], [2, 3], [4, 5]]]


def test_a_string_file_is_taken_whole(tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "data").write_bytes(b"\1\0\0\0a\0\0\0\0")

    strings = _one("S", _file("TYPE_STRING", "2"))
    (sample,) = _samples(f"model_warmup {{ batch_size: 1 {A} {strings} }}", tmp_path)

    assert sample.requests[0].inputs[1].array.tolist() == [[b"a", b""]]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "data_type: TYPE_FP32 dims: [ -1, 2 ] zero_data: true",
            "warmup setting expects all variable-size dimensions are specified for input 'A'",
        ),
        (
            "data_type: TYPE_FP32 dims: [ 3, 2 ]",
            "warmup setting expects input 'A' to have input_data_type set",
        ),
        (
            "dims: [ 3, 2 ] zero_data: true",
            "warmup setting expects input 'A' to have data_type set",
        ),
        (
            _file("TYPE_FP32", "3, 2"),
            "warmup setting expects 24 bytes, but the data provided from dataonly has 5 bytes",
        ),
        (
            "data_type: TYPE_INT32 dims: [ 3, 2 ] zero_data: true",
            (
                "[request id: <id_unknown>] inference input 'A' data-type is 'INT32', but model "
                "'m' expects 'FP32'"
            ),
        ),
    ],
)
def test_a_sample_that_cannot_be_built_is_refused(value: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "warmup").mkdir()
    (tmp_path / "warmup" / "data").write_bytes(b"short")

    with pytest.raises(ServerError) as failure:
        _samples(f"model_warmup {{ batch_size: 1 {_one('A', value)} }}", tmp_path)

    assert failure.value.status is StatusCode.INVALID_ARG
    assert failure.value.message == message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("../a", "warmup data file '../a' of input 'A' is outside {0}"),
        ("b", "failed to open text file for read {0}/b: No such file or directory"),
    ],
)
def test_files_come_from_the_warmup_directory_only(tmp_path: Path, name: str, message: str) -> None:
    text = f"model_warmup {{ batch_size: 1 {_one('A', _file('TYPE_FP32', '3, 2', name))} }}"

    with pytest.raises(ServerError) as failure:
        _samples(text, tmp_path)
    assert failure.value.message == message.format(tmp_path / "warmup")


def test_a_failed_sample_says_which_it_was() -> None:
    failure = warmup_failure("w", internal("broken"))

    assert failure.status is StatusCode.INTERNAL
    assert failure.message == "failed to run warmup sample 'w': broken; "
