"""The configuration of a model as a file: `config.pbtxt`, `config.json` or `config.yaml`.

Owns which files count, the reading of the two that are no text format, and the writing of all
three. What a configuration says is judged by the same rules whatever form it has.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Final

from google.protobuf import json_format, text_format

from protocol.proto import messages
from protocol.status import ServerError, internal, invalid_arg
from repo.config_json import set_fields, spell_enums
from repo.config_text.json_text import read_json
from repo.config_text.json_values import json_value
from repo.config_text.nodes import Fields, MalformedText
from repo.config_text.schema import Syntax, survey
from repo.config_text.text_format import read_text_format
from repo.config_text.yaml_text import read_yaml, write_yaml
from repo.model_config import ModelConfig
from repo.pbtxt import MAX_CONFIG_BYTES, MAX_REASON_LENGTH, from_proto, parse_config, to_proto

SUFFIXES: Final[dict[str, Syntax]] = {".pbtxt": "pbtxt", ".json": "json", ".yaml": "yaml"}
CONFIG_FILES: Final = tuple(f"config{suffix}" for suffix in SUFFIXES)

READERS: Final[dict[Syntax, Callable[[str], Fields]]] = {
    "pbtxt": read_text_format, "json": read_json, "yaml": read_yaml,
}  # fmt: skip

_WORDS: Final[dict[Syntax, str]] = {"pbtxt": "text proto", "json": "JSON", "yaml": "YAML"}


def config_files(stem: str) -> tuple[str, ...]:
    """The names that the configuration called `stem` may have."""
    return tuple(f"{stem}{suffix}" for suffix in SUFFIXES)


def only_one(found: Collection[str], model: str) -> str | None:
    """The one configuration of those that were found. Raises ServerError for several."""
    if len(found) > 1:
        names = ", ".join(sorted(found))
        raise invalid_arg(f"model '{model}' has more than one configuration: {names}; keep one")
    return next(iter(found), None)


def read_config(path: Path) -> ModelConfig:
    """The configuration in the file at `path`, by its suffix. Raises ServerError INTERNAL."""
    return parse_file(read_raw(path), path)


def read_raw(path: Path) -> bytes:
    """The bytes of a configuration file, one more than allowed at most. Raises INTERNAL."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise internal(f"failed to open text file for read {path}: {error.strerror}") from error


def parse_file(raw: bytes, path: Path) -> ModelConfig:
    """The configuration in `raw`, which stands at `path`. Raises ServerError INTERNAL."""
    return parse_text(raw, SUFFIXES.get(path.suffix, "pbtxt"), str(path))


def parse_text(raw: bytes, syntax: Syntax, source: str) -> ModelConfig:
    """The configuration in `raw`; `source` names the file in messages.

    Raises ServerError INTERNAL `failed to read <form> from <source>[:line:column]: <reason>`.
    """
    if syntax == "pbtxt":
        return parse_config(raw, source)
    if len(raw) > MAX_CONFIG_BYTES:
        raise _failure(syntax, source, f"file exceeds the maximum of {MAX_CONFIG_BYTES} bytes")
    try:
        root = READERS[syntax](raw.decode("utf-8"))
        parsed = spell_enums(json_value(root, syntax), messages.ModelConfig.DESCRIPTOR)
    except MalformedText as error:
        raise _failure(syntax, source, error.reason, error.line, error.column) from error
    except ValueError as error:  # bytes that are no UTF-8, or a number of thousands of digits
        raise _failure(syntax, source, str(error)) from error
    message = messages.ModelConfig()
    try:
        json_format.ParseDict(parsed, message, descriptor_pool=messages.POOL)
        return from_proto(message)
    except (ValueError, json_format.ParseError) as error:
        # protobuf says what; the schema knows where.
        findings = survey(root, syntax).findings
        if not findings:
            raise _failure(syntax, source, str(error)) from error
        first = findings[0]
        raise _failure(syntax, source, first.text, first.place.line, first.place.column) from error


def _failure(
    syntax: Syntax, source: str, reason: str, line: int = 0, column: int = 0
) -> ServerError:
    place = f":{line}:{column}" if line else ""
    words = _WORDS[syntax]
    return internal(f"failed to read {words} from {source}{place}: {reason[:MAX_REASON_LENGTH]}")


def write_config(config: ModelConfig, syntax: Syntax) -> str:
    """The text of a configuration file that says just what `config` says."""
    message = to_proto(config)
    if syntax == "pbtxt":
        return text_format.MessageToString(message, as_utf8=True)
    fields = set_fields(message)
    if syntax == "json":
        return json.dumps(fields, ensure_ascii=False, indent=2) + "\n"
    return write_yaml(fields)
