"""`pb_utils.ModelConfig`: what auto_complete_config may fill in, and the refusals word for word."""

from __future__ import annotations

import json
from typing import Any

import pytest

from repo.backends.python.configuration import ModelConfig

IN = "in auto-complete-config function for model 'm'"


def config(**fields: Any) -> ModelConfig:
    return ModelConfig(
        json.dumps({"name": "m", "max_batch_size": 0, "input": [], "output": [], **fields})
    )


def refused(call: Any, *arguments: Any) -> str:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  # its text is what is compared
        call(*arguments)
    return str(caught.value)


def test_an_empty_configuration_is_completed() -> None:
    made = config()
    made.set_max_batch_size(8)
    made.set_dynamic_batching()
    made.set_dynamic_batching()
    made.add_input({"name": "A", "data_type": "TYPE_FP32", "dims": [4], "optional": True})
    made.add_output({"name": "B", "data_type": "TYPE_STRING", "dims": [-1]})
    made.set_model_transaction_policy({"decoupled": True})
    made.set_model_transaction_policy({})
    assert json.loads(made.as_json()) == made.as_dict()
    assert made.as_dict() == {
        "name": "m",
        "max_batch_size": 8,
        "dynamic_batching": {},
        "input": [{"name": "A", "data_type": "TYPE_FP32", "dims": [4], "optional": True}],
        "output": [{"name": "B", "data_type": "TYPE_STRING", "dims": [-1]}],
        "model_transaction_policy": {"decoupled": True},
    }


def test_a_partial_tensor_is_completed_in_place() -> None:
    made = config(
        input=[{"name": "A", "data_type": "TYPE_INVALID", "dims": []}],
        output=[{"name": "B", "data_type": "TYPE_FP32", "dims": ["4"], "label_filename": "l"}],
    )
    made.add_input({"name": "A", "data_type": "TYPE_INT8", "dims": [1, 2]})
    made.add_output({"name": "B", "data_type": "TYPE_FP32", "dims": [4]})
    assert made.as_dict()["input"] == [{"name": "A", "data_type": "TYPE_INT8", "dims": [1, 2]}]
    assert made.as_dict()["output"] == [
        {"name": "B", "data_type": "TYPE_FP32", "dims": [4], "label_filename": "l"}
    ]


def test_a_configured_batch_size_is_no_larger() -> None:
    made = config(max_batch_size=6)
    assert refused(made.set_max_batch_size, 4) == (
        "configuration specified max_batch_size 6, but in auto-complete-config function for model "
        "'m' specified max_batch_size 4"
    )
    made.set_max_batch_size(6)
    made.set_max_batch_size(7)
    assert made.as_dict()["max_batch_size"] == 7


@pytest.mark.parametrize("scheduler", ["sequence_batching", "ensemble_scheduling"])
def test_another_scheduler_excludes_dynamic_batching(scheduler: str) -> None:
    assert refused(config(**{scheduler: {}}).set_dynamic_batching) == (
        f"Configuration specified scheduling_choice as '{scheduler}', but auto-complete-config "
        "function for model 'm' tries to set scheduling_choice as 'dynamic_batching'"
    )


FULL: dict[str, Any] = {"name": "A", "data_type": "TYPE_FP32", "dims": [4]}


def test_a_tensor_has_certain_properties_and_no_others() -> None:
    made = config()
    assert refused(made.add_input, {**FULL, "x": 1}) == (
        f"input 'A' {IN} contains property other than 'name', 'data_type', 'dims' and 'optional'."
    )
    assert refused(made.add_output, {**FULL, "optional": True}) == (
        f"output 'A' {IN} contains property other than 'name', 'data_type' and 'dims'."
    )
    for kind, add in (("input", made.add_input), ("output", made.add_output)):
        for key in FULL:
            partial = {name: value for name, value in FULL.items() if name != key}
            subject = kind if key == "name" else f"{kind} 'A'"
            assert refused(add, partial) == f"{subject} {IN} is missing '{key}' property."


def test_a_tensor_does_not_contradict_the_configuration() -> None:
    existing = {"name": "A", "data_type": "TYPE_INT32", "dims": [16], "optional": False}
    made = config(input=[dict(existing)], output=[dict(existing)])
    for kind, add in (("input", made.add_input), ("output", made.add_output)):
        assert refused(add, FULL) == (
            "unable to load model 'm', configuration expects datatype TYPE_INT32 for "
            f"{kind} 'A', model provides TYPE_FP32"
        )
        assert refused(add, {**FULL, "data_type": "TYPE_INT32"}) == (
            "model 'm', tensor 'A': the model expects dims [4] but the model configuration "
            "specifies dims [16]"
        )
    tensor = {"name": "A", "data_type": "TYPE_INT32", "dims": [16], "optional": True}
    assert refused(made.add_input, tensor) == (
        "model 'm', tensor 'A': the model expects optional True but the model configuration "
        "specifies optional False"
    )


def test_a_decoupled_model_stays_one() -> None:
    made = config(model_transaction_policy={"decoupled": False})
    assert refused(made.set_model_transaction_policy, {"decoupled": True}) == (
        "trying to change decoupled property in auto-complete-config for model 'm', which is "
        "already set to 'False'."
    )
    assert refused(made.set_model_transaction_policy, {"other": True}) == (
        "model transaction property in auto-complete-config function for model 'm' contains "
        "property other than 'decoupled'."
    )
