"""Where options come from: the command line, the environment, and a file in TOML.

Owns the three ways of writing an option down. Each becomes a `Setting`, which remembers where it
stands, so that a mistake can be shown to whoever made it. What a value means is the flag's matter,
and which source prevails is `actors/settings/command_line.py`'s.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from actors.settings.flag_values import BadOption, boolean
from actors.settings.flags import FLAGS, Flag

ENVIRONMENT_PREFIX: Final = "TROUPE_"
# Settings that are read before there are options, or that no file may name.
NOT_IN_A_FILE: Final = ("help", "config")
# A configuration is a page of text; whatever is longer is the wrong file.
MAX_FILE_BYTES: Final = 1 << 20

_BY_NAME: Final = {flag.name: flag for flag in FLAGS}
_BY_VARIABLE: Final = {
    ENVIRONMENT_PREFIX + flag.name.replace("-", "_").upper(): flag
    for flag in FLAGS
    if flag.name != "help"
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One option as somebody wrote it; `place` is how a message names it."""

    flag: Flag
    text: str
    place: str

    def mistake(self, reason: str) -> BadOption:
        return BadOption(f"Bad option: {self.place}.\n{reason}")


def from_arguments(arguments: Sequence[str]) -> list[Setting]:
    """Long options only, `--x=v` or `--x v`, unambiguous prefixes accepted. Raises BadOption."""
    found: list[Setting] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        if not argument.startswith("--") or argument == "--":
            raise BadOption(f"Unexpected argument: {argument}")
        name, equals, text = argument[2:].partition("=")
        flag = _resolve(name)
        place = f'"--{flag.name}"'
        if not flag.takes_value:
            if equals:
                raise BadOption(f"Bad option: {place}.\nit doesn't allow a value")
        elif not equals:
            if not rest:
                raise BadOption(f"Bad option: {place}.\nmissing value")
            text = rest.pop(0)
        found.append(Setting(flag, text, place))
    return found


def _resolve(name: str) -> Flag:
    flag = _BY_NAME.get(name)
    if flag is not None:
        return flag
    candidates = [flag for flag in FLAGS if name and flag.name.startswith(name)]
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        names = ", ".join(f"--{flag.name}" for flag in candidates)
        raise BadOption(f'Bad option: "--{name}".\nambiguous, it may be {names}')
    raise BadOption(f'Bad option: "--{name}".\nunrecognized option')


def from_environment(environment: Mapping[str, str]) -> list[Setting]:
    """Variables such as TROUPE_HTTP_PORT; a repeatable option has one value on each line."""
    return [
        setting
        for variable, flag in _BY_VARIABLE.items()
        if variable in environment
        for setting in _variable(flag, environment[variable], f"{variable} in the environment")
    ]


def unknown_variables(environment: Mapping[str, str]) -> list[str]:
    """What looks like an option of ours in the environment and is none."""
    return sorted(
        name
        for name in environment
        if name.startswith(ENVIRONMENT_PREFIX) and name not in _BY_VARIABLE
    )


def _variable(flag: Flag, text: str, place: str) -> Iterator[Setting]:
    if flag.takes_value:
        for line in text.splitlines() if flag.repeated else (text,):
            yield Setting(flag, line, place)
        return
    try:
        wanted = boolean(text)
    except ValueError as error:
        raise BadOption(f"Bad option: {place}.\n{error}") from None
    if wanted:
        yield Setting(flag, "", place)


def from_file(path: str) -> list[Setting]:
    """A TOML file of `name = value` by the flags' names. Raises BadOption."""
    try:
        with Path(path).open("rb") as file:
            source = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise BadOption(f"Bad option: {path}.\nit cannot be read: {error.strerror}") from None
    if len(source) > MAX_FILE_BYTES:
        raise BadOption(f"Bad option: {path}.\nit is longer than {MAX_FILE_BYTES} bytes")
    try:
        text = source.decode()
        table = tomllib.loads(text)
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise BadOption(f"Bad option: {path}.\n{error}") from None
    return [
        setting
        for name, value in table.items()
        for setting in _entry(name, value, f"{name} at {path}:{_line_of(name, text)}")
    ]


def _entry(name: str, value: object, place: str) -> Iterator[Setting]:
    flag = _BY_NAME.get(name.replace("_", "-"))
    if flag is None or flag.name in NOT_IN_A_FILE:
        raise BadOption(f"Bad option: {place}.\nunrecognized option")
    if isinstance(value, list):
        if not flag.repeated:
            raise BadOption(f"Bad option: {place}.\nit takes one value, not a list")
        for each in value:
            yield Setting(flag, _as_text(each, place), place)
    elif flag.takes_value:
        yield Setting(flag, _as_text(value, place), place)
    elif not isinstance(value, bool):
        raise BadOption(f"Bad option: {place}.\ninvalid value for bool option: {value}")
    elif value:
        yield Setting(flag, "", place)


def _as_text(value: object, place: str) -> str:
    """A value as the command line would spell it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    raise BadOption(f"Bad option: {place}.\na value is a text, a number, true or false")


def _line_of(name: str, text: str) -> int:
    """Where a top-level key stands; TOML allows it once only, and tables come last."""
    key = re.compile(rf"""\s*(["']?){re.escape(name)}\1\s*=|\s*\[+\s*(["']?){re.escape(name)}\2""")
    for number, line in enumerate(text.splitlines(), 1):
        if key.match(line):
            return number
    return 1
