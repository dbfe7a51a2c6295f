"""Parameters and settings in the control plane's RPCs: messages ↔ what the control plane takes.

Owns what a map of them may hold over gRPC, and the texts for what it may not; REST has the same in
`protocol.v2_json_control`. It changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import betterproto

from protocol.proto.generated import inference as pb
from protocol.status import invalid_arg
from protocol.v2_json_control import (
    LOG_FORMATS,
    Clear,
    LogUpdate,
    TraceUpdate,
    log_file_is_fixed,
    trace_file_is_fixed,
    trace_level,
    trace_number,
)

RepositoryParameters = Mapping[str, pb.ModelRepositoryParameter]


def load_parameters(given: RepositoryParameters) -> dict[str, str | bytes]:
    """`config` as JSON text, `file:<version>/<path>` as file content. Raises INVALID_ARG."""
    loaded: dict[str, str | bytes] = {}
    for name, parameter in given.items():
        if name == "config":
            loaded[name] = _text(_repository_parameter("load", name, parameter, "string_param"))
        elif name.startswith("file:"):
            content = _repository_parameter("load", name, parameter, "bytes_param")
            assert isinstance(content, bytes), "betterproto keeps the kinds apart"
            loaded[name] = content
        else:
            raise invalid_arg(f"unrecognized load parameter '{name}'.")
    return loaded


def unload_dependents(given: RepositoryParameters) -> bool:
    """Whether the models it is composed of are unloaded too. Raises INVALID_ARG."""
    name = "unload_dependents"
    if name not in given:
        return False
    return bool(_repository_parameter("unload", name, given[name], "bool_param"))


def _repository_parameter(
    verb: str, name: str, parameter: pb.ModelRepositoryParameter, expected: str
) -> object:
    kind, value = betterproto.which_one_of(parameter, "parameter_choice")
    if kind != expected:
        # Triton says "load" of both.
        subject = f"{verb} parameter '{name}'" if verb == "load" else f"'{name}' parameter"
        raise invalid_arg(f"invalid value type for {subject}, expected {expected}.")
    return value


def _text(value: object) -> str:
    assert isinstance(value, str), "betterproto keeps the kinds apart"
    return value


# --- logging -------------------------------------------------------------------------------------


def log_update(settings: Mapping[str, pb.LogSettingsRequestSettingValue]) -> LogUpdate:
    """The settings to change: all of them or, after an error, none. Raises ServerError."""
    if "log_file" in settings:
        raise log_file_is_fixed()
    level = _log_setting(settings, "log_verbose_level", "uint32_param", "int32")
    style = _log_setting(settings, "log_format", "string_param", "string")
    if style is not None and style not in LOG_FORMATS:
        raise invalid_arg(f"invalid argument for log_format, got: {style}")
    assert level is None or isinstance(level, int), "betterproto keeps the kinds apart"
    return LogUpdate(
        info=_switch(settings, "log_info"),
        warning=_switch(settings, "log_warning"),
        error=_switch(settings, "log_error"),
        verbose_level=level,
        format=None if style is None else _text(style),
    )


def _switch(settings: Mapping[str, pb.LogSettingsRequestSettingValue], name: str) -> bool | None:
    value = _log_setting(settings, name, "bool_param", "boolean")
    return None if value is None else bool(value)


def _log_setting(
    settings: Mapping[str, pb.LogSettingsRequestSettingValue], name: str, expected: str, noun: str
) -> object:
    if name not in settings:
        return None
    kind, value = betterproto.which_one_of(settings[name], "parameter_choice")
    if kind != expected:
        raise invalid_arg(f"expect {noun} for '{name}'")
    return value


def log_settings_reply(body: Mapping[str, object]) -> pb.LogSettingsResponse:
    """All settings, each in the kind it is set by."""
    reply = pb.LogSettingsResponse()
    for name, value in body.items():
        match value:
            case bool():
                setting = pb.LogSettingsResponseSettingValue(bool_param=value)
            case int():
                setting = pb.LogSettingsResponseSettingValue(uint32_param=value)
            case _:
                setting = pb.LogSettingsResponseSettingValue(string_param=_text(value))
        reply.settings[name] = setting
    return reply


# --- tracing -------------------------------------------------------------------------------------


def trace_update(settings: Mapping[str, pb.TraceSettingRequestSettingValue]) -> TraceUpdate:
    """The settings to change; one without a value is to be cleared. Raises ServerError."""
    if "trace_file" in settings:
        raise trace_file_is_fixed()
    level: tuple[str, ...] | Clear | None = None
    if "trace_level" in settings:
        words = settings["trace_level"].value
        level = trace_level(words) if words else Clear.CLEAR
    return TraceUpdate(
        level,
        _trace_number(settings, "trace_rate"),
        _trace_number(settings, "trace_count"),
        _trace_number(settings, "log_frequency"),
    )


def _trace_number(
    settings: Mapping[str, pb.TraceSettingRequestSettingValue], name: str
) -> int | Clear | None:
    if name not in settings:
        return None
    values = settings[name].value
    if not values:
        return Clear.CLEAR
    if len(values) > 1:
        raise invalid_arg(f"expect only 1 value for '{name}'")
    return trace_number(name, values[0], separator=" ")


def trace_setting_reply(body: Mapping[str, object]) -> pb.TraceSettingResponse:
    """All settings as lists of text."""
    reply = pb.TraceSettingResponse()
    for name, value in body.items():
        words = value if isinstance(value, list) else [_text(value)]
        reply.settings[name] = pb.TraceSettingResponseSettingValue(value=words)
    return reply
