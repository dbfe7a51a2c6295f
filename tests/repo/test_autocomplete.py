"""What a model's files may add to its configuration, and what they may not."""

from __future__ import annotations

import logging

import pytest

from protocol.status import ServerError, StatusCode
from repo.autocomplete import (
    GraphTensor,
    accept_completed,
    complete_from_graph,
    default_max_batch_size,
    needs_graph,
)
from repo.config_json import to_dict
from repo.model_config import ModelConfig, dynamic_batching, is_set, scheduling_choice
from repo.pbtxt import parse_config

B = GraphTensor("B", "FP32", (-1, 16))
A = GraphTensor("A", "BYTES", (-1,))
OUT = GraphTensor("OUT", "INT64", (-1, 2, 3))


def _completed(
    text: str = "", *tensors: GraphTensor, default: int = 4, out: GraphTensor = OUT
) -> ModelConfig:
    config = parse_config(f'name: "m" {text}', "x")
    return complete_from_graph(config, tensors or (B, A), [out], default)


def test_a_graph_that_batches_gives_everything() -> None:
    config = _completed()

    assert config.max_batch_size == 4
    assert scheduling_choice(config) == "dynamic_batching"
    assert [(one.name, list(one.dims)) for one in config.input] == [("A", [1]), ("B", [16])]
    assert is_set(config.input[0].reshape)
    assert not config.input[0].reshape.shape
    assert not is_set(config.input[1].reshape)
    assert list(config.output[0].dims) == [2, 3]
    types = [one["data_type"] for one in to_dict(config)["input"]]  # type: ignore[union-attr,index,call-overload]  # JSON
    assert types == ["TYPE_STRING", "TYPE_FP32"]


def test_a_scalar_output_of_a_batch_is_reshaped_too() -> None:
    config = _completed(out=GraphTensor("O", "FP32", (-1,)))

    assert list(config.output[0].dims) == [1]
    assert is_set(config.output[0].reshape)


@pytest.mark.parametrize("tensor", [GraphTensor("A", "FP32", (1, 4)), GraphTensor("A", "FP32", ())])
def test_a_graph_that_cannot_batch_keeps_its_whole_shapes(tensor: GraphTensor) -> None:
    config = _completed("", tensor)

    assert config.max_batch_size == 0
    assert scheduling_choice(config) == ""
    assert list(config.input[0].dims) == list(tensor.shape or (1,))
    assert not is_set(config.input[0].reshape)
    assert list(config.output[0].dims) == [-1, 2, 3]


def test_a_graph_that_cannot_batch_must_not_be_asked_to() -> None:
    with pytest.raises(ServerError) as failure:
        _completed("max_batch_size: 2", GraphTensor("A", "FP32", (1, 4)))

    assert failure.value.status is StatusCode.INVALID_ARG
    assert failure.value.message == (
        "autofill failed for model 'm': model does not support batching while non-zero "
        "max_batch_size is specified"
    )


@pytest.mark.parametrize(("default", "expected"), [(0, 0), (1, 1)])
def test_small_default_batches_need_no_batcher(default: int, expected: int) -> None:
    config = _completed(default=default)

    assert config.max_batch_size == expected
    assert scheduling_choice(config) == ""
    assert len(config.input[1].dims) == 2 - expected


def test_what_the_configuration_says_stays() -> None:
    config = _completed('max_batch_size: 2 sequence_batching { } input { name: "X" }')

    assert config.max_batch_size == 2
    assert scheduling_choice(config) == "sequence_batching"
    assert [one.name for one in config.input] == ["X"]
    assert [out.name for out in config.output] == ["OUT"]

    config = _completed('output { name: "Y" }')
    assert [one.name for one in config.input] == ["A", "B"]
    assert [out.name for out in config.output] == ["Y"]


def test_a_complete_configuration_needs_no_graph(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "troupe.repo")

    assert needs_graph(parse_config("input { }", "x"))
    assert needs_graph(parse_config("output { }", "x"))
    assert not needs_graph(parse_config('name: "m" batch_input { } output { }', "x"))
    assert caplog.messages == [
        "skipping model configuration auto-complete for 'm': inputs and outputs already specified"
    ]


@pytest.mark.parametrize(("text", "expected"), [("7", 7), ("-1", 0), ("0", 0)])
def test_the_default_batch_size_is_a_setting(text: str, expected: int) -> None:
    assert default_max_batch_size({"default-max-batch-size": text}) == expected
    assert default_max_batch_size({}) == 4


def test_the_default_batch_size_is_a_number() -> None:
    with pytest.raises(ServerError, match="must be an integer, got 'many'"):
        default_max_batch_size({"default-max-batch-size": "many"})


CONFIG = 'name: "m" backend: "b" max_batch_size: 1 input { name: "A" } parameters { key: "k" }'


def test_only_some_fields_are_taken_over() -> None:
    completed = parse_config(
        'name: "other" backend: "c" max_batch_size: 8 input { name: "B" } output { name: "C" } '
        "model_transaction_policy { decoupled: true } instance_group { }",
        "x",
    )

    result = accept_completed(parse_config(CONFIG, "x"), completed)

    assert (result.name, result.backend, result.max_batch_size) == ("m", "b", 8)
    assert [one.name for one in result.input] == ["B"]
    assert [out.name for out in result.output] == ["C"]
    assert result.model_transaction_policy.decoupled
    assert not result.instance_group
    assert set(result.parameters) == {"k"}


@pytest.mark.parametrize("choice", ["dynamic_batching", "sequence_batching", "ensemble_scheduling"])
def test_a_scheduler_may_be_added(choice: str) -> None:
    completed = parse_config(f"{CONFIG} {choice} {{ }}", "x")

    assert scheduling_choice(accept_completed(parse_config(CONFIG, "x"), completed)) == choice


def test_a_chosen_scheduler_may_not_be_changed() -> None:
    config = parse_config(f"{CONFIG} dynamic_batching {{ max_queue_delay_microseconds: 5 }}", "x")

    with pytest.raises(ServerError) as failure:
        accept_completed(config, parse_config(f"{CONFIG} sequence_batching {{ }}", "x"))
    assert failure.value.status is StatusCode.INTERNAL
    assert failure.value.message == (
        "Cannot update scheduling choice from dynamic_batching to sequence_batching when "
        "auto-completing."
    )

    kept = dynamic_batching(
        accept_completed(config, parse_config(f"{CONFIG} dynamic_batching {{ }}", "x"))
    )
    assert kept is not None
    assert kept.max_queue_delay_microseconds == 5
