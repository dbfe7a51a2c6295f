"""The values of flags: text to typed values, with the original's words for what is wrong.

Owns one parser per kind of value; each takes the flag as it is spelled and the text.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from perf_analyzer.options import ONE, BadOption
from perf_analyzer.search import Range
from protocol.inference import ParameterValue


def failed(flag: str, text: str) -> BadOption:
    return BadOption(f"Failed to parse {flag}. Invalid value provided: {text}")


def integer(flag: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise failed(flag, text) from None


def positive(flag: str, text: str) -> int:
    value = integer(flag, text)
    if value <= 0:
        raise BadOption(f"Failed to parse {flag}. The value must be > 0.")
    return value


def at_least(least: int) -> Callable[[str, str], int]:
    def parse(flag: str, text: str) -> int:
        value = integer(flag, text)
        if value < least:
            raise BadOption(f"Failed to parse {flag}. The value must be >= {least}.")
        return value

    return parse


def number_of(*allowed: int) -> Callable[[str, str], int]:
    def parse(flag: str, text: str) -> int:
        value = integer(flag, text)
        if value not in allowed:
            listed = ", ".join(map(str, allowed))
            raise BadOption(f"Failed to parse {flag}. The value must be one of {listed}.")
        return value

    return parse


def positive_decimal(flag: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise failed(flag, text) from None
    if not 0 <= value < float("inf"):
        raise BadOption(f"Failed to parse {flag}. The value must be >= 0.0.")
    return value


def percentile(flag: str, text: str) -> int | None:
    value = integer(flag, text)
    if value == -1:
        return None
    if not 1 <= value <= 99:
        raise BadOption(f"Failed to parse {flag}. The value must be -1 for not reporting or in"
                        " range (0, 100).")  # fmt: skip
    return value


def one_of(*words: str) -> Callable[[str, str], str]:
    by_lower = {word.lower(): word for word in words}

    def parse(flag: str, text: str) -> str:
        if text.lower() not in by_lower:
            listed = ", ".join(f"'{word}'" for word in words)
            raise BadOption(
                f"Failed to parse {flag}. Unsupported value provided: '{text}'. "
                f"The available options are {listed}."
            )
        return by_lower[text.lower()]

    return parse


def service_kind(flag: str, text: str) -> str:
    kinds = {
        "triton": "triton",
        "triton_c_api": "triton_c_api",
        "in_process": "triton_c_api",
        "in-process": "triton_c_api",
    }
    if text.lower() in {"openai", "tfserving", "torchserve", "dynamic_grpc"}:
        raise BadOption(f"{flag} {text} is not supported: this tool drives KServe v2 servers")
    if text.lower() not in kinds:
        raise BadOption(
            f"Failed to parse {flag}. Unsupported type provided: '{text}'. The available options"
            " are 'triton' and 'triton_c_api' (also: 'in-process')."
        )
    return kinds[text.lower()]


def file(flag: str, text: str) -> str:
    if not Path(text).is_file():
        raise BadOption(f"{flag}: failed to open '{text}'")
    return text


def plot_file(flag: str, text: str) -> str:
    if Path(text).suffix.lower() not in {".svg", ".html", ".htm"}:
        raise BadOption(f"{flag} takes a name that ends in .svg or .html, not '{text}'")
    return text


def _parts(flag: str, text: str) -> list[Fraction]:
    parts = text.split(":")
    if len(parts) > 3:
        raise BadOption(f"option {flag} can have maximum of three elements")
    try:
        return [Fraction(part) for part in parts]
    except (ValueError, ZeroDivisionError):
        raise failed(flag, text) from None


def whole_range(flag: str, text: str) -> Range:
    """start[:end[:step]] of whole numbers; the end defaults to the start."""
    parts = _parts(flag, text)
    if any(part.denominator != 1 for part in parts):
        raise failed(flag, text)
    return _range(flag, parts)


def decimal_range(flag: str, text: str) -> Range:
    """start[:end[:step]] of decimals."""
    return _range(flag, _parts(flag, text))


def _range(flag: str, parts: list[Fraction]) -> Range:
    start = parts[0]
    end = parts[1] if len(parts) > 1 else start
    step = parts[2] if len(parts) > 2 else ONE
    if start <= 0:
        raise BadOption(f"The start of {flag} must be > 0")
    if end < 0 or step <= 0:
        raise BadOption(f"The end of {flag} must be >= 0 and its step > 0")
    return Range(start, end, step)


def id_range(flag: str, text: str) -> tuple[int, int]:
    """(first id, how many ids)."""
    parts = text.split(":")
    if len(parts) > 2:
        raise BadOption(f"option {flag} can have maximum of two elements")
    numbers = [integer(flag, part) for part in parts]
    if any(number < 0 for number in numbers):
        raise BadOption(f"{flag} can not be negative")
    if len(numbers) == 1:
        return numbers[0], 2**32
    if numbers[0] > numbers[1]:
        raise BadOption(f"The start of {flag} can not be greater than its end")
    return numbers[0], numbers[1] - numbers[0]


def shape(_flag: str, text: str) -> tuple[str, tuple[int, ...]]:
    """name:d1,d2, split at the last colon, since names may have colons."""
    name, colon, dims = text.rpartition(":")
    if not colon or not name:
        raise BadOption(f"failed to parse input shape. There must be a colon after input name:"
                        f" '{text}'")  # fmt: skip
    extents = []
    for part in dims.split(","):
        if not part.strip().isdecimal() or int(part) == 0:
            raise BadOption(f"failed to parse input shape: '{text}', dimensions must be integers"
                            " > 0")  # fmt: skip
        extents.append(int(part))
    return name, tuple(extents)


def header(flag: str, text: str) -> tuple[str, str]:
    name, colon, value = text.partition(":")
    if not colon or not name.strip():
        raise BadOption(f"{flag} must be Name:Value, not '{text}'")
    if any(character in text for character in "\r\n"):
        raise BadOption(f"{flag} can not contain line ends")
    return name.strip(), value.strip()


def request_parameter(flag: str, text: str) -> tuple[str, ParameterValue]:
    parts = text.split(":")
    if len(parts) != 3:
        raise BadOption(f"The {flag} must be in the form of name:value:type")
    name, value, kind = parts
    if kind == "bool":
        if value.lower() not in {"true", "false", "1", "0"}:
            raise failed(flag, text)
        return name, value.lower() in {"true", "1"}
    if kind == "int":
        return name, integer(flag, value)
    if kind == "string":
        return name, value
    raise BadOption(f"Unsupported type '{kind}' for {flag}; use bool, int or string")


def composing(_flag: str, text: str) -> tuple[tuple[str, str], ...]:
    """a[:version],b with blanks ignored."""
    found = []
    for part in text.replace(" ", "").split(","):
        if part:
            name, _, version = part.partition(":")
            found.append((name, version))
    return tuple(found)
