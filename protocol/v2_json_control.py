"""REST bodies of the control plane: repository index, load and unload, trace, logging.

Owns what each body may hold and the texts for what it may not. Whether a change makes sense (is the
model there, is the resulting trace setting valid) is for the actor that owns the state. Shared
memory has `protocol.v2_json_shared_memory`.
"""

from __future__ import annotations

import binascii
import enum
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from protocol.json_text import (
    JsonValue,
    as_array,
    as_bool,
    as_string,
    as_unsigned,
    members_of,
    parse,
)
from protocol.status import ServerError, internal, invalid_arg, unavailable, unsupported
from protocol.v2_json_memory import check_json_size

LOG_FORMATS: Final = ("default", "ISO8601")

MAX_BASE64_CHARACTERS: Final = 2**31 - 1  # INT_MAX, as the text of the refusal says

_INT_MAX: Final = 2**31 - 1
_UINT32_MAX: Final = 2**32 - 1
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")


def parse_object(
    body: bytes | memoryview, max_size: int, *, may_be_empty: bool = False
) -> dict[str, JsonValue]:
    """The members of the object in `body`; anything but an object has none. Raises ServerError."""
    if not body and may_be_empty:
        return {}
    check_json_size(len(body), max_size)
    return members_of(parse(body))


# Repository


def parse_index(body: bytes | memoryview, max_size: int) -> bool:
    """Whether only ready models are asked for. Raises ServerError."""
    ready = parse_object(body, max_size, may_be_empty=True).get("ready", False)
    if not isinstance(ready, bool):
        raise invalid_arg("Invalid value for 'ready': expected a boolean")
    return ready


def parse_load(body: bytes | memoryview, max_size: int) -> dict[str, str | bytes]:
    """The parameters of a load: `config` as JSON text, `file:<version>/<path>` as file content.

    Raises ServerError.
    """
    root = parse_object(body, max_size, may_be_empty=True)
    loaded: dict[str, str | bytes] = {}
    for name, value in _parameters(root).items():
        text = as_string(value, name)
        if name == "config":
            loaded[name] = text
        elif name.startswith("file:"):
            loaded[name] = _decode_base64(name, text)
        else:
            raise internal("unexpected error on creating Triton parameter")
    return loaded


def parse_unload(body: bytes | memoryview, max_size: int) -> bool:
    """Whether the models it is composed of are unloaded too. Raises ServerError."""
    parameters = _parameters(parse_object(body, max_size, may_be_empty=True))
    return as_bool(parameters.get("unload_dependents", False), "unload_dependents")


def check_model_name(name: str) -> None:
    """Raise INVALID_ARG for a name that is no directory's own name."""
    trimmed = name.strip()
    if not trimmed:
        raise invalid_arg("Model name cannot be empty. Please enter a valid name to deploy.")
    # A backslash or NUL names no directory either, and means something to other file systems.
    if trimmed in (".", "..") or any(character in trimmed for character in "/\\\0"):
        raise invalid_arg(
            f"invalid model name '{name}', model name must not contain path traversal characters"
        )


def _parameters(root: dict[str, JsonValue]) -> dict[str, JsonValue]:
    value = root.get("parameters", {})
    if not isinstance(value, dict):
        raise internal("attempt to get members for non-object")
    return value


def _decode_base64(name: str, text: str) -> bytes:
    """Lenient, as Triton's decoder: characters outside of the alphabet are skipped."""
    if len(text) > MAX_BASE64_CHARACTERS:
        raise invalid_arg(f"'{name}' exceeds the maximum allowed data size limit INT_MAX")
    try:
        return binascii.a2b_base64(text.encode("utf-8", "surrogateescape") + b"==")
    except binascii.Error as error:
        raise invalid_arg(f"'{name}' is not base64: {error}") from None


# Trace settings


class Clear(enum.Enum):
    """The value of a setting that falls back to the next more general one."""

    CLEAR = enum.auto()


@dataclass(frozen=True, slots=True)
class TraceUpdate:
    """Trace settings to change; None leaves one as it is. An empty `level` is OFF."""

    level: tuple[str, ...] | Clear | None = None
    rate: int | Clear | None = None
    count: int | Clear | None = None
    log_frequency: int | Clear | None = None


TRACE_LEVELS: Final = ("TIMESTAMPS", "TENSORS")


def parse_trace_update(body: bytes | memoryview, max_size: int) -> TraceUpdate:
    """The settings that a POST to `trace/setting` changes; the body may not be empty.

    Raises ServerError.
    """
    root = parse_object(body, max_size)
    if "trace_file" in root:
        raise trace_file_is_fixed()
    level: tuple[str, ...] | Clear | None = None
    if "trace_level" in root:
        value = root["trace_level"]
        level = Clear.CLEAR if value is None else trace_level(
            [as_string(word, "trace_level") for word in as_array(value, "trace_level")]
        )  # fmt: skip
    numbers: dict[str, int | Clear | None] = {
        name: None if name not in root else _trace_setting(name, root[name])
        for name in ("trace_rate", "trace_count", "log_frequency")
    }
    return TraceUpdate(
        level, numbers["trace_rate"], numbers["trace_count"], numbers["log_frequency"]
    )


def _trace_setting(name: str, value: JsonValue) -> int | Clear:
    return Clear.CLEAR if value is None else trace_number(name, as_string(value, name))


def trace_file_is_fixed() -> ServerError:
    """The trace file was to be changed over the network, which would write any file."""
    return unsupported("trace file location can not be updated through network protocol")


def trace_level(words: Sequence[str]) -> tuple[str, ...]:
    """The levels among `words`, in a fixed order; unknown words do not count. INVALID_ARG."""
    if "OFF" in words and len(words) > 1:
        raise invalid_arg("Expect only one trace level 'OFF' is specified")
    return tuple(level for level in TRACE_LEVELS if level in words)


def trace_number(name: str, text: str, *, separator: str = "") -> int:
    """The number in `trace_rate`, `trace_count` or `log_frequency`. Raises INVALID_ARG.

    `separator` stands between "got:" and a count below -1: gRPC has a space there, HTTP none.
    """
    low, high = (-1, _INT_MAX) if name == "trace_count" else (0, _UINT32_MAX)
    if not _INTEGER.fullmatch(text):
        raise invalid_arg(f"Unable to parse '{name}', got: {text}")
    # Twenty characters are enough for any 64-bit number; converting more would be work for nothing.
    number = int(text) if len(text) <= 20 else high + 1
    if name == "trace_count" and -(2**31) <= number < low:
        raise invalid_arg(
            f"Unable to parse '{name}'. Expecting value >= -1, got:{separator}{number}"
        )
    if not low <= number <= high:
        raise invalid_arg(
            f"Unable to parse '{name}', value is out of range [ {low}, {high} ], got: {text}"
        )
    return number


def trace_settings_body(
    *,
    level: Sequence[str],
    rate: int,
    count: int,
    log_frequency: int,
    file: str,
    mode: str = "triton",
    opentelemetry: Mapping[str, str] | None = None,
) -> dict[str, str | list[str]]:
    """Trace settings as both protocols show them: numbers as text, the level as a list.

    In mode `opentelemetry` its own settings stand in place of the file and its frequency.
    """
    body: dict[str, str | list[str]] = {
        "trace_level": list(level) or ["OFF"],
        "trace_rate": str(rate),
        "trace_count": str(count),
    }
    if mode == "opentelemetry":
        body.update(opentelemetry or {})
    else:
        body["log_frequency"] = str(log_frequency)
        body["trace_file"] = file
    body["trace_mode"] = mode
    return body


# Log settings


@dataclass(frozen=True, slots=True)
class LogUpdate:
    """Log settings to change; None leaves one as it is."""

    info: bool | None = None
    warning: bool | None = None
    error: bool | None = None
    verbose_level: int | None = None
    format: str | None = None


def parse_log_update(body: bytes | memoryview, max_size: int) -> LogUpdate:
    """The settings that a POST to `logging` changes: all of them or, after an error, none.

    Raises ServerError.
    """
    given = {
        name: value for name, value in parse_object(body, max_size).items() if value is not None
    }
    if "log_file" in given:
        raise log_file_is_fixed()
    level = given.get("log_verbose_level")
    style = given.get("log_format")
    if style is not None and as_string(style, "log_format") not in LOG_FORMATS:
        raise unavailable(f"invalid argument for --log_format, got: {style}")
    return LogUpdate(
        info=_switch(given, "log_info"),
        warning=_switch(given, "log_warning"),
        error=_switch(given, "log_error"),
        verbose_level=None if level is None else as_unsigned(level, "log_verbose_level"),
        format=None if style is None else as_string(style, "log_format"),
    )


def _switch(given: Mapping[str, JsonValue], name: str) -> bool | None:
    return as_bool(given[name], name) if name in given else None


def log_file_is_fixed() -> ServerError:
    """The log file was to be changed over the network, which would write any file."""
    return unsupported("log file location can not be updated through network protocol")


def log_settings_body(
    *, file: str, info: bool, warning: bool, error: bool, verbose_level: int, style: str
) -> dict[str, str | bool | int]:
    """Log settings as REST shows them; `style` is one of LOG_FORMATS."""
    return {
        "log_file": file,
        "log_info": info,
        "log_warning": warning,
        "log_error": error,
        "log_verbose_level": verbose_level,
        "log_format": style,
    }
