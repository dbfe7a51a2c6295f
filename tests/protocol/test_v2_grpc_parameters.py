"""The parameters of requests, inputs and outputs: what they mean, and what is wrong with them."""

from __future__ import annotations

import pytest

from protocol.inference import OutputPlan, SequenceFlag, SharedMemoryRef
from protocol.proto.messages import ModelInferRequest
from tests.protocol.v2_grpc_edits import Edit, decoded, input_setting, refused, setting


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("int64_param", 5, 5),
        ("int64_param", -1, 2**64 - 1),
        ("string_param", "one", "one"),
        ("string_param", "", ""),
    ],
)
def test_correlation_ids(kind: str, value: object, expected: object) -> None:
    assert decoded(setting("sequence_id", kind, value)).request.correlation_id == expected


def test_sequence_flags_that_are_false() -> None:
    edits = [setting(f"sequence_{end}", "bool_param", False) for end in ("start", "end")]
    assert decoded(*edits).request.sequence_flags is SequenceFlag.NONE


@pytest.mark.parametrize("wanted", [True, False])
def test_empty_final_is_accepted_and_is_no_model_parameter(wanted: bool) -> None:
    result = decoded(setting("triton_enable_empty_final_response", "bool_param", wanted))
    assert result.empty_final is wanted
    assert result.request.parameters == {}


@pytest.mark.parametrize("kind", ["int64_param", "uint64_param"])
def test_priority_may_be_signed_or_not(kind: str) -> None:
    assert decoded(setting("priority", kind, 2)).request.priority == 2


# ---- parameters --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "kind", "value", "text"),
    [
        (
            "priority",
            "string_param",
            "1",
            "invalid value type for 'priority' parameter, expected int64_param or uint64_param.",
        ),
        ("priority", "int64_param", -1, "invalid value for 'priority', expected value >= 0."),
        (
            "timeout",
            "uint64_param",
            1,
            "invalid value type for 'timeout' parameter, expected int64_param.",
        ),
        ("timeout", "int64_param", -1, "invalid value for 'timeout', expected value >= 0."),
        (
            "sequence_start",
            "int64_param",
            1,
            "invalid value type for 'sequence_start' parameter, expected bool_param.",
        ),
        (
            "sequence_end",
            "string_param",
            "",
            "invalid value type for 'sequence_end' parameter, expected bool_param.",
        ),
        (
            "sequence_id",
            "bool_param",
            True,
            "invalid value type for 'sequence_id' parameter, expected int64_param or string_param.",
        ),
        (
            "triton_enable_empty_final_response",
            "int64_param",
            1,
            (
                "invalid value type for 'triton_enable_empty_final_response' parameter, "
                "expected bool_param."
            ),
        ),
        (
            "triton_foo",
            "bool_param",
            True,
            (
                "parameter keys starting with 'triton_' are reserved for Triton usage. Only the "
                "following keys starting with 'triton_' are allowed: "
                "triton_enable_empty_final_response"
            ),
        ),
        (
            "k",
            "uint64_param",
            1,
            (
                "invalid value type for 'k' parameter, expected int64_param, bool_param, or "
                "string_param."
            ),
        ),
    ],
)
def test_bad_parameters(name: str, kind: str, value: object, text: str) -> None:
    """Case 39."""
    assert refused(setting(name, kind, value)) == text


def test_a_parameter_without_a_value() -> None:
    assert refused(lambda request: request.parameters["k"].SetInParent()) == (
        "invalid value type for 'k' parameter, expected int64_param, bool_param, or string_param."
    )


# ---- requested outputs -------------------------------------------------------------------------


def output(**parameters: tuple[str, object]) -> Edit:
    def edit(request: ModelInferRequest) -> None:
        wanted = request.outputs.add(name="OUTPUT0")
        for name, (kind, value) in parameters.items():
            setattr(wanted.parameters[name], kind, value)

    return edit


def test_an_output_in_shared_memory() -> None:
    edit = output(
        shared_memory_region=("string_param", "region"),
        shared_memory_byte_size=("int64_param", 64),
    )
    result = decoded(edit)
    ref = SharedMemoryRef("region", 0, 64)
    assert result.plan.outputs == (OutputPlan("OUTPUT0", shared_memory=ref),)
    assert result.request.requested_outputs == ("OUTPUT0",)


@pytest.mark.parametrize("count", [0, -1])
def test_a_classification_of_nothing(count: int) -> None:
    assert refused(output(classification=("int64_param", count))) == (
        "invalid value for 'classification' parameter, expected >= 0"
    )


def test_a_classification_that_is_no_number() -> None:
    assert refused(output(classification=("string_param", "1"))) == (
        "invalid value type for 'classification' parameter, expected int64_param"
    )


def test_a_classification_in_shared_memory() -> None:
    edit = output(
        classification=("int64_param", 1),
        shared_memory_region=("string_param", "region"),
        shared_memory_byte_size=("int64_param", 64),
    )
    assert refused(edit) == ("output can't set both 'shared_memory_region' and 'classification'")


# ---- shared memory ---


@pytest.mark.parametrize(
    ("edits", "text"),
    [
        (
            [input_setting(0, "shared_memory_region", "int64_param", 1)],
            (
                "invalid value type for 'shared_memory_region' parameter for tensor 'INPUT0', "
                "expected string_param."
            ),
        ),
        (
            [
                input_setting(0, "shared_memory_region", "string_param", "region"),
                input_setting(0, "shared_memory_offset", "string_param", "0"),
            ],
            (
                "invalid value type for 'shared_memory_offset' parameter for tensor 'INPUT0', "
                "expected int64_param."
            ),
        ),
        (
            [
                input_setting(0, "shared_memory_region", "string_param", "region"),
                input_setting(0, "shared_memory_byte_size", "uint64_param", 4),
            ],
            (
                "invalid value type for 'shared_memory_byte_size' parameter for tensor 'INPUT0', "
                "expected int64_param."
            ),
        ),
        (
            [input_setting(0, "shared_memory_offset", "int64_param", 0)],
            (
                "'shared_memory_offset' can not be specified without 'shared_memory_region' "
                "parameter for tensor 'INPUT0'"
            ),
        ),
        (
            [input_setting(1, "shared_memory_byte_size", "int64_param", 0)],
            (
                "'shared_memory_byte_size' can not be specified without 'shared_memory_region' "
                "parameter for tensor 'INPUT1'"
            ),
        ),
        (
            [input_setting(0, "shared_memory_region", "string_param", "region")],
            (
                "'shared_memory_byte_size' must be specified along with 'shared_memory_region' "
                "parameter for tensor 'INPUT0'"
            ),
        ),
    ],
)
def test_bad_shared_memory_parameters(edits: list[Edit], text: str) -> None:
    assert refused(*edits) == text
