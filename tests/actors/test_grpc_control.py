"""Parameters and settings of the control plane's RPCs, as values."""

from __future__ import annotations

import pytest

from actors.grpc import control as convert
from protocol.proto.generated import inference as pb
from protocol.status import ServerError, StatusCode
from protocol.v2_json_control import Clear, LogUpdate, TraceUpdate

Parameter = pb.ModelRepositoryParameter
Log = pb.LogSettingsRequestSettingValue
Trace = pb.TraceSettingRequestSettingValue


def test_a_load_brings_a_configuration_and_files() -> None:
    given = {
        "config": Parameter(string_param="{}"),
        "file:1/model.onnx": Parameter(bytes_param=b"\x00\xff"),
    }

    assert convert.load_parameters(given) == {"config": "{}", "file:1/model.onnx": b"\x00\xff"}
    assert convert.load_parameters({}) == {}


@pytest.mark.parametrize("parameter", [Parameter(), Parameter(bool_param=True)])
def test_a_configuration_is_text(parameter: Parameter) -> None:
    with pytest.raises(ServerError) as caught:
        convert.load_parameters({"config": parameter})
    assert caught.value.status is StatusCode.INVALID_ARG


@pytest.mark.parametrize("dependents", [True, False])
def test_an_unload_may_take_dependents_along(dependents: bool) -> None:
    given = {"unload_dependents": Parameter(bool_param=dependents)}

    assert convert.unload_dependents(given) is dependents
    assert convert.unload_dependents({}) is False


def test_a_log_update_names_what_it_changes() -> None:
    assert convert.log_update({}) == LogUpdate()
    given = {
        "log_info": Log(bool_param=False),
        "log_warning": Log(bool_param=True),
        "log_verbose_level": Log(uint32_param=0),
        "log_format": Log(string_param="ISO8601"),
        "unheard_of": Log(),
    }
    assert convert.log_update(given) == LogUpdate(
        info=False, warning=True, verbose_level=0, format="ISO8601"
    )
    with pytest.raises(ServerError, match="expect boolean for 'log_error'"):
        convert.log_update({"log_error": Log()})


def test_a_trace_setting_without_a_value_is_cleared() -> None:
    given = {
        "trace_level": Trace(value=[]),
        "trace_rate": Trace(value=[]),
        "trace_count": Trace(value=["5"]),
    }

    assert convert.trace_update(given) == TraceUpdate(Clear.CLEAR, Clear.CLEAR, 5, None)
    assert convert.trace_update({"trace_level": Trace(value=["TENSORS", "x"])}) == TraceUpdate(
        level=("TENSORS",)
    )
