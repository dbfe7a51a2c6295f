"""Ensembles: the refusals of their steps, alone and together with their members."""

from __future__ import annotations

import pytest

from protocol.status import ServerError, StatusCode
from repo.config_rules import check_complete_config
from repo.ensemble_rules import check_ensemble_members, with_transaction_policy
from repo.model_config import ModelConfig
from repo.normalise import normalise
from repo.pbtxt import parse_config

HEAD = 'name: "E" platform: "ensemble" '
IO = (
    HEAD + 'input { name: "X" data_type: TYPE_FP32 dims: 4 } '
    'output { name: "Z" data_type: TYPE_FP32 dims: 4 } '
)


def _step(model: str, inputs: dict[str, str], outputs: dict[str, str]) -> str:
    maps = [
        f'{field} {{ key: "{key}" value: "{value}" }}'
        for field, entries in (("input_map", inputs), ("output_map", outputs))
        for key, value in entries.items()
    ]
    return f'step {{ model_name: "{model}" model_version: -1 {" ".join(maps)} }}'


def _ensemble(*steps: str, io: str = IO, batch: int = 0) -> ModelConfig:
    text = f"{io} max_batch_size: {batch} ensemble_scheduling {{ {' '.join(steps)} }}"
    return normalise(parse_config(text, "x"))


def _member(
    name: str,
    *,
    dims: str = "4",
    out_type: str = "TYPE_FP32",
    batch: int = 0,
    decoupled: bool = False,
    extra: str = "",
) -> ModelConfig:
    return parse_config(
        f"""
        name: "{name}" backend: "b" max_batch_size: {batch}
        input {{ name: "i" data_type: TYPE_FP32 dims: [ {dims} ] }} {extra}
        output {{ name: "o" data_type: {out_type} dims: [ {dims} ] }}
        model_transaction_policy {{ decoupled: {str(decoupled).lower()} }}
        """,
        "x",
    )


def _members(*members: ModelConfig) -> dict[str, ModelConfig]:
    return {member.name: member for member in members}


A_TO_B = (_step("A", {"i": "X"}, {"o": "Y"}), _step("B", {"i": "Y"}, {"o": "Z"}))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            _ensemble(*A_TO_B, io=IO + "instance_group { }"),
            "instance group should not be specified for ensemble 'E'",
        ),
        (
            _ensemble(*A_TO_B, io=IO + "optimization { }"),
            "optimization should not be specified for ensemble 'E'",
        ),
        (
            _ensemble(*A_TO_B, io=IO + "model_warmup { }"),
            "model_warmup can not be specified for ensemble 'E'",
        ),
        (_ensemble(), "must specify 'step' for ensemble 'E'"),
        (_ensemble("step { }"), "must specify 'model_name' in step 0 of ensemble 'E'"),
        (
            _ensemble(A_TO_B[0], _step("B", {}, {"o": "Z"})),
            "must specify 'input_map' in step 1 of ensemble 'E'",
        ),
        (
            _ensemble(_step("A", {"i": "X"}, {})),
            "must specify 'output_map' in step 0 of ensemble 'E'",
        ),
        (
            _ensemble(_step("A", {"i": "X"}, {"o": "Z"}), _step("B", {"i": "X"}, {"o": "Z"})),
            "ensemble tensor 'Z' can appear in an output map only once for ensemble 'E' step 1",
        ),
        (
            _ensemble(*A_TO_B, _step("C", {"i": "X"}, {"o": "W"})),
            "ensemble tensor 'W' is unused in ensemble 'E'",
        ),
        (
            _ensemble(_step("A", {"i": "W"}, {"o": "Z"})),
            "ensemble input 'X' for ensemble E' is not used",
        ),
        (
            _ensemble(_step("A", {"i": "X"}, {"o": "Y"})),
            "ensemble output 'Z' for ensemble E' is not used",
        ),
        (
            _ensemble(_step("A", {"i": "X", "j": "W"}, {"o": "Z"})),
            (
                "output 'Z' for ensemble 'E' is not written: at least one of its depending "
                "tensors, 'W', is not connected"
            ),
        ),
        (
            _ensemble(_step("A", {"i": "X", "j": "Z"}, {"o": "Y"}), io=IO),
            "output 'Z' for ensemble 'E' is not written",
        ),
        (
            _ensemble(
                *A_TO_B,
                _step("C", {"i": "P"}, {"o": "Q"}),
                _step("D", {"i": "Q"}, {"o": "P"}),
            ),
            "ensemble tensor 'P' is unused in ensemble 'E'",
        ),
    ],
)
def test_an_ensemble_is_refused(config: ModelConfig, message: str) -> None:
    with pytest.raises(ServerError) as failure:
        check_complete_config(config)

    assert failure.value.status is StatusCode.INVALID_ARG
    assert failure.value.message == message


@pytest.mark.parametrize(
    ("batch", "members", "message"),
    [
        (
            0,
            _members(_member("A", out_type="TYPE_INT32"), _member("B")),
            (
                "in ensemble E, ensemble tensor Y: inconsistent data type: TYPE_INT32 is inferred "
                "from model A while TYPE_FP32 is inferred from model B"
            ),
        ),
        (
            8,
            _members(_member("A", dims="16", batch=8), _member("B", batch=8)),
            (
                "in ensemble E, ensemble tensor X: inconsistent shape: [-1,4] is inferred from "
                "model E while [-1,16] is inferred from model A"
            ),
        ),
        (
            0,
            _members(_member("A"), _member("B", dims="4, 4")),
            (
                "in ensemble E, ensemble tensor Y: inconsistent shape: [4] is inferred from model "
                "A while [4,4] is inferred from model B"
            ),
        ),
        (
            8,
            _members(_member("A", batch=8), _member("B", batch=4)),
            (
                "ensemble E allows maximum batch size 8, but it contains model B which only allows "
                "maximum batch size to be 4"
            ),
        ),
        (
            0,
            _members(
                _member("A"),
                _member("B", extra='input { name: "j" data_type: TYPE_FP32 dims: 4 }'),
            ),
            "in ensemble E, input j in model B is not mapped to any ensemble tensors",
        ),
    ],
)
def test_members_that_do_not_fit_are_refused(
    batch: int, members: dict[str, ModelConfig], message: str
) -> None:
    with pytest.raises(ServerError) as failure:
        check_ensemble_members(_ensemble(*A_TO_B, batch=batch), members)

    assert failure.value.status is StatusCode.INVALID_ARG
    assert failure.value.message == message


@pytest.mark.parametrize(
    ("step", "message"),
    [
        (
            _step("A", {"i": "X", "k": "X"}, {"o": "Z"}),
            "in ensemble E, ensemble tensor X is mapping to non-existing input k in model A",
        ),
        (
            _step("A", {"i": "X"}, {"p": "Z"}),
            "in ensemble E, ensemble tensor Z is mapped from non-existing output p in model A",
        ),
    ],
)
def test_maps_name_tensors_of_the_member(step: str, message: str) -> None:
    with pytest.raises(ServerError) as failure:
        check_ensemble_members(_ensemble(step), _members(_member("A")))

    assert failure.value.message == message


@pytest.mark.parametrize(
    ("batch", "members"),
    [
        (0, _members(_member("A"), _member("B"))),
        (0, _members(_member("A", dims="-1"), _member("B"))),
        (8, _members(_member("A", batch=8), _member("B", batch=16))),
        # Without batching a member takes the full shape.
        (8, _members(_member("A", dims="-1, 4"), _member("B", dims="-1, 4"))),
        (
            0,
            _members(
                _member("A"),
                _member(
                    "B", extra='input { name: "j" data_type: TYPE_INT8 dims: 1 optional: true }'
                ),
            ),
        ),
    ],
)
def test_members_that_fit_are_accepted(batch: int, members: dict[str, ModelConfig]) -> None:
    config = _ensemble(*A_TO_B, batch=batch)

    check_complete_config(config)
    check_ensemble_members(config, members)


DIAMOND = (
    _step("A", {"i": "X"}, {"o": "P"}),
    _step("B", {"i": "X"}, {"o": "Q"}),
    _step("C", {"i": "P", "j": "Q"}, {"o": "Z"}),
)
J = 'input { name: "j" data_type: TYPE_FP32 dims: 4 }'


def test_two_decoupled_origins_cannot_meet() -> None:
    members = _members(
        _member("A", decoupled=True), _member("B", decoupled=True), _member("C", extra=J)
    )

    with pytest.raises(ServerError) as failure:
        check_ensemble_members(_ensemble(*DIAMOND), members)
    assert failure.value.message == (
        "in ensemble E, step of model 'C' receives inputs originated from different decoupled "
        "models"
    )


def test_one_decoupled_origin_may_branch_and_meet_again() -> None:
    steps = (
        _step("S", {"i": "X"}, {"o": "W"}),
        _step("A", {"i": "W"}, {"o": "P"}),
        _step("B", {"i": "W"}, {"o": "Q"}),
        DIAMOND[2],
    )
    members = _members(
        _member("S", decoupled=True), _member("A"), _member("B"), _member("C", extra=J)
    )

    check_ensemble_members(_ensemble(*steps), members)


def test_an_ensemble_is_decoupled_exactly_if_a_step_is() -> None:
    config = _ensemble(*A_TO_B, io=IO + "model_transaction_policy { decoupled: true }")
    plain = _members(_member("A"), _member("B"))
    decoupled = _members(_member("A"), _member("B", decoupled=True))

    assert not with_transaction_policy(config, plain).model_transaction_policy.decoupled
    assert with_transaction_policy(config, decoupled).model_transaction_policy.decoupled
    assert config.model_transaction_policy.decoupled
