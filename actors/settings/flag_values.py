"""What the text of a flag may say, by kind, and Triton's words for what it may not.

Each function takes a value as written and returns it as meant. It raises ValueError with the
reason, or BadOption where Triton prints a line of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from actors.policy.limiting import declared_resource

_LEADING_INTEGER: Final = re.compile(r"\s*([+-]?[0-9]+)")
_MOST_32: Final = 2**31 - 1
_MOST_64: Final = 2**63 - 1
_MOST_WORKERS = 64
_MOST_PORT: Final = 2**16 - 1
# More digits than any bound has; Python refuses to read very many of them.
_MOST_DIGITS: Final = 32


class BadOption(Exception):  # it is named for what it says on the terminal
    """The options cannot be obeyed; `str()` is the text that goes to standard error."""


def boolean(text: str) -> bool:
    word = text.lower()
    if word in ("true", "on", "1"):
        return True
    if word in ("false", "off", "0"):
        return False
    raise ValueError(f"invalid value for bool option: {text}")


def _number(text: str, least: int, most: int) -> int:
    """As C's `stoi`: what follows the digits is not looked at."""
    found = _LEADING_INTEGER.match(text)
    if found is None:
        raise ValueError(f"Invalid option value. Got {text}")
    value = int(found[1]) if len(found[1]) <= _MOST_DIGITS else most + 1
    if not least <= value <= most:
        raise ValueError(f"Provided option value is out of bound. Got {text}")
    return value


def integer(text: str) -> int:
    """A count or a duration: none of them means anything below zero."""
    return _number(text, 0, _MOST_32)


def long_integer(text: str) -> int:
    """A number of bytes."""
    return _number(text, 0, _MOST_64)


def workers(text: str) -> int:
    """A number of processes, each of which costs some 60 MB."""
    return _number(text, 0, _MOST_WORKERS)


def port(text: str) -> int:
    """A port; 0 asks the system for a free one."""
    return _number(text, 0, _MOST_PORT)


def decimal(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"Invalid option value. Got {text}") from None


def positive(flag: str) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = _number(text, -_MOST_64 - 1, _MOST_64)
        if value <= 0:
            raise BadOption(f"Error: --{flag} must be greater than 0.")
        return value

    return parse


def verbosity(text: str) -> int:
    """--log-verbose takes a level, or true for level 1."""
    try:
        return int(boolean(text))
    except ValueError:
        return integer(text)


def infer_threads(text: str) -> int:
    value = integer(text)
    if not 2 <= value <= 128:
        raise ValueError(
            "invalid argument for --grpc_infer_thread_count. Must be in the range 2 to 128."
        )
    return value


def one_of(flag: str, *words: str) -> Callable[[str], str]:
    """One of some lower-case words, however it is written."""

    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"invalid argument for --{flag}")
        return text.lower()

    return parse


def log_format(text: str) -> str:
    if text not in ("default", "ISO8601"):
        raise ValueError("invalid argument for --log-format")
    return text


def cache_size(text: str) -> str:
    return f"local,size={long_integer(text)}"


def resource(text: str) -> str:
    declared_resource(text)
    return text


def per_gpu(read: Callable[[str], object]) -> Callable[[str], str]:
    """`<gpu>:<value>`, whose value `read` accepts."""

    def parse(text: str) -> str:
        gpu, colon, value = text.partition(":")
        if not colon:
            raise ValueError(f"option format is '<gpu>:<value>'. Got {text}")
        integer(gpu)
        read(value)
        return text

    return parse


def not_empty(flag: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if not text:
            raise BadOption(f"Error: empty argument for --{flag}")
        return text

    return parse


def trace_setting(setting: str) -> Callable[[str], str]:
    """An older flag's value, in the words of --trace-config."""
    return lambda text: f"{setting}={text}"
