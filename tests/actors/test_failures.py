"""What a failed load is told."""

from __future__ import annotations

import pytest

from actors.failures import load_failure, root_cause
from protocol.status import ServerError, StatusCode, invalid_arg


def test_a_foreseen_failure_is_its_own_answer(caplog: pytest.LogCaptureFixture) -> None:
    foreseen = invalid_arg("no")

    assert load_failure("m", foreseen) is foreseen
    assert load_failure("m", ExceptionGroup("", [ExceptionGroup("", [foreseen])])) is foreseen
    assert not caplog.messages


def test_a_defect_is_an_answer_too_and_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    error = load_failure("m", ValueError("embedded null byte"))

    assert isinstance(error, ServerError)
    assert error.status is StatusCode.INTERNAL
    assert error.message == "loading failed with ValueError: embedded null byte"
    assert caplog.messages == ["loading model 'm' failed by a defect"]


def test_the_first_of_several_is_the_cause() -> None:
    first = KeyError("x")

    assert root_cause(BaseExceptionGroup("", [first, ValueError()])) is first
