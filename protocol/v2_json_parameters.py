"""Request parameters over HTTP: the members of `parameters`, and request headers forwarded as such.

Owns which names have a meaning of their own, which are reserved, and the kinds a custom parameter
may have. A model sees the custom ones only.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Final

from protocol.inference import InferRequest, ParameterValue, SequenceFlag, sequence_name
from protocol.json_text import (
    MAX_INT64,
    MAX_UINT64,
    MIN_INT64,
    JsonValue,
    as_bool,
    as_string,
    as_unsigned,
)
from protocol.status import internal, invalid_arg

RESERVED_NAMES: Final = frozenset((
    "sequence_id", "sequence_start", "sequence_end", "priority", "timeout", "headers",
    "binary_data_output",
))  # fmt: skip
RESERVED_PREFIX: Final = "triton_"


def apply_parameters(
    request: InferRequest, value: JsonValue, reject_oversized: Callable[[], None]
) -> bool:
    """Put the `parameters` object of a request into it; returns its `binary_data_output`.

    `reject_oversized` is called if a number was read as infinity: it raises if a literal was too
    big for a double. Raises ServerError.
    """
    if not isinstance(value, dict):
        raise internal("failed to get request params.: attempt to get members for non-object")
    binary = False
    for name, given in value.items():
        if name.startswith(RESERVED_PREFIX):
            raise invalid_arg(
                f"parameter keys starting with '{RESERVED_PREFIX}' are reserved for Triton usage "
                "and should not be specified."
            )
        match name:
            case "sequence_id":
                request.correlation_id = (
                    given
                    if type(given) is int and 0 <= given <= MAX_UINT64
                    else sequence_name(as_string(given, name))
                )
            case "sequence_start":
                _set_flag(request, SequenceFlag.START, on=as_bool(given, name))
            case "sequence_end":
                _set_flag(request, SequenceFlag.END, on=as_bool(given, name))
            case "priority":
                request.priority = as_unsigned(given, name)
            case "timeout":
                request.timeout_us = as_unsigned(given, name)
            case "binary_data_output":
                binary = as_bool(given, name)
            case _:
                parameter = custom_parameter(name, given)
                if isinstance(parameter, float) and math.isinf(parameter):
                    reject_oversized()
                request.parameters[name] = parameter
    return binary


def _set_flag(request: InferRequest, flag: SequenceFlag, *, on: bool) -> None:
    if on:
        request.sequence_flags |= flag


def custom_parameter(name: str, value: JsonValue) -> ParameterValue:
    """The value of a custom parameter; an integer beyond 64 bits becomes a double.

    Raises INVALID_ARG for null, an array or an object.
    """
    if isinstance(value, (bool, float, str)):
        return value
    if isinstance(value, int):
        if MIN_INT64 <= value <= MAX_INT64:
            return value
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    raise invalid_arg(
        f"parameter '{name}' has invalid type. It should be either 'int', 'bool', or 'string'."
    )


class HeaderForwarding:
    """Which request headers become string parameters: those that match the operator's pattern."""

    def __init__(self, pattern: str = "") -> None:
        """`pattern` is searched for in a name, ignoring case unless it starts with `(?-i)`.

        An empty one forwards nothing. Raises ValueError for a malformed pattern.
        """
        case_sensitive = pattern.startswith("(?-i)")
        try:
            self._pattern = (
                re.compile(pattern.removeprefix("(?-i)"), 0 if case_sensitive else re.IGNORECASE)
                if pattern
                else None
            )
        except re.error as error:
            raise ValueError(f"invalid header forward pattern '{pattern}': {error}") from None
        self.is_on = self._pattern is not None
        """Whether any header may be forwarded."""

        self.is_on = self._pattern is not None
        """Whether any header may be forwarded."""

    def apply(self, request: InferRequest, lines: Iterable[tuple[str, str]]) -> None:
        """Add matching headers, by the names they came with. A reserved one is INVALID_ARG."""
        if self._pattern is None:
            return
        for name, value in lines:
            if self._pattern.search(name) is None:
                continue
            if name in RESERVED_NAMES or name.startswith(RESERVED_PREFIX):
                raise invalid_arg(
                    f"Header '{name}' is reserved for Triton usage and cannot be forwarded."
                )
            request.parameters[name] = value
