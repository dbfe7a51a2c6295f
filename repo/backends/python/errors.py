"""What goes wrong in a model: the two classes a model knows, and how an exception is printed."""

from __future__ import annotations

import os

_OURS = os.path.dirname(__file__) + os.sep  # the model's author has no use for our frames


class TritonModelException(Exception):  # the name is Triton's
    """Raised by a model for anything, and by this package for what Triton refuses."""


class TritonError:
    """The error that a response carries instead of tensors."""

    UNKNOWN = 0
    INTERNAL = 1
    NOT_FOUND = 2
    INVALID_ARG = 3
    UNAVAILABLE = 4
    UNSUPPORTED = 5
    ALREADY_EXISTS = 6
    CANCELLED = 7

    def __init__(self, message: str, code: int = INTERNAL) -> None:
        expect(message, str, "message")
        expect(code, int, "code")
        self._message = message
        self._code = code

    def message(self) -> str:
        return self._message

    def code(self) -> int:
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
    """The text that reaches a client: type, message, and the model's frames, innermost first."""
    if isinstance(error, ModelRefusal):
        return str(error)
    frames: list[str] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if not code.co_filename.startswith(_OURS):
            frames.append(f"  {code.co_filename}({trace.tb_lineno}): {code.co_name}\n")
        trace = trace.tb_next
    text = f"{type(error).__name__}: {error}"
    return text + "\n\nAt:\n" + "".join(reversed(frames)) if frames else text
