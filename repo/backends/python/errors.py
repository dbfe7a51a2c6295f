"""What goes wrong in a model: the two classes a model knows, and how an exception is printed."""

from __future__ import annotations

import enum
import os

_OURS = os.path.dirname(__file__) + os.sep  # the model's author has no use for our frames


class TritonModelException(Exception):  # the name is Triton's
    """Raised by a model for anything, and by this package for what Triton refuses."""


class ErrorCode(enum.IntEnum):
    """Triton's codes, by Triton's numbers."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7


class TritonError:
    """The error that a response carries instead of tensors."""

    UNKNOWN = ErrorCode.UNKNOWN
    INTERNAL = ErrorCode.INTERNAL
    NOT_FOUND = ErrorCode.NOT_FOUND
    INVALID_ARG = ErrorCode.INVALID_ARG
    UNAVAILABLE = ErrorCode.UNAVAILABLE
    UNSUPPORTED = ErrorCode.UNSUPPORTED
    ALREADY_EXISTS = ErrorCode.ALREADY_EXISTS
    CANCELLED = ErrorCode.CANCELLED

    def __init__(self, message: str, code: ErrorCode = ErrorCode.INTERNAL) -> None:
        expect(message, str, "message")
        expect(code, ErrorCode, "code")
        self._message = message
        self._code = code

    def message(self) -> str:
        return self._message

    def code(self) -> ErrorCode:
        return self._code


class ModelRefusal(Exception):  # a fact about what the model returned
    """The model broke the contract of `execute`; printed without a traceback."""


def expect(value: object, kind: type | tuple[type, ...], name: str) -> None:
    """Raise TypeError unless `value` is a `kind`; a bool never passes for an int."""
    if isinstance(value, kind) and (kind is not int or not isinstance(value, bool)):
        return
    names = kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)
    raise TypeError(f"{name} must be {names}, not {type(value).__name__}")


def describe(error: BaseException) -> str:
    """The text that reaches a client: type, message, and the model's frames, innermost first.

    The frames are those that were being executed where it was raised, callers included: what its
    traceback lacks because an import has trimmed it is there all the same.
    """
    if isinstance(error, ModelRefusal):
        return str(error)
    frames: list[str] = []
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    frame = None if trace is None else trace.tb_frame
    while frame is not None:
        code = frame.f_code
        if not _is_ours(code.co_filename):
            frames.append(f"  {code.co_filename}({frame.f_lineno}): {code.co_name}\n")
        frame = frame.f_back
    text = f"{type(error).__name__}: {_message(error)}"
    return text + "\n\nAt:\n" + "".join(frames) if frames else text


def _is_ours(file_name: str) -> bool:
    return file_name.startswith(_OURS) or file_name == "<string>"  # the command line's


def _message(error: BaseException) -> str:
    try:
        return str(error) or "<EMPTY MESSAGE>"
    except BaseException as failure:  # noqa: BLE001  # model code may raise anything
        return f"<MESSAGE UNAVAILABLE DUE TO EXCEPTION: {type(failure).__name__}: {failure}>"
