"""What `--trace-config` asks for, as the defaults of tracing.

Owns the flag's grammar, `[<mode>,]<setting>=<value>`, and the settings of the exporter with their
defaults. Plain data comes out; nothing is opened or sent here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

from actors.policy.tracing import OPENTELEMETRY, TRITON, TraceDefaults, TraceValues
from protocol.tracing import TENSORS, TIMESTAMPS

DEFAULT_URL: Final = "http://localhost:4318/v1/traces"

# The batch processor's settings, with the variables that stand in for flags and the defaults, as
# OpenTelemetry has them.
_PROCESSOR: Final = {
    "bsp_max_queue_size": ("OTEL_BSP_MAX_QUEUE_SIZE", 2048),
    "bsp_schedule_delay": ("OTEL_BSP_SCHEDULE_DELAY", 5000),
    "bsp_max_export_batch_size": ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512),
}

_OFF: Final = ("false", "off")
_LEVELS: Final = {
    **dict.fromkeys(("true", "on", "min", "max", "timestamps"), TIMESTAMPS),
    "tensors": TENSORS,
}
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,12}", re.ASCII)


def parse_trace_config(flags: Sequence[str], environment: Mapping[str, str]) -> TraceDefaults:
    """From the values of the repeatable flag. Raises ValueError with the command line's text."""
    given: dict[str, dict[str, list[str]]] = {"": {}, TRITON: {}, OPENTELEMETRY: {}}
    for text in flags:
        mode, setting, value = _split(text)
        given[mode].setdefault(setting, []).append(value)
    general, exporter = given[""], given[OPENTELEMETRY]
    _refuse_unknown("", general, ("level", "rate", "count", "mode"))
    _refuse_unknown(TRITON, given[TRITON], ("file", "log-frequency"))
    _refuse_unknown(OPENTELEMETRY, exporter, ("url", "resource", *_PROCESSOR))
    mode = general.get("mode", [TRITON])[-1]
    if mode not in (TRITON, OPENTELEMETRY):
        raise ValueError(f"invalid trace mode, expected '{TRITON}' or '{OPENTELEMETRY}': {mode}")
    values = TraceValues(
        _level(general.get("level", [])),
        _number(general, "rate", 1000, 0, 2**32 - 1),
        _number(general, "count", -1, -1, 2**31 - 1),
        _number(given[TRITON], "log-frequency", 0, 0, 2**32 - 1),
    )
    settings = _exporter(exporter, environment) if mode == OPENTELEMETRY else {}
    return TraceDefaults(values, mode, given[TRITON].get("file", [""])[-1], settings)


def _split(text: str) -> tuple[str, str, str]:
    name, equals, value = text.partition("=")
    mode, comma, setting = name.partition(",")
    if not comma:
        mode, setting = "", name
    if not (equals and setting and (mode or not comma)):
        raise ValueError(f"--trace-config option format is [<mode>,]<setting>=<value>. Got {text}")
    if mode not in ("", TRITON, OPENTELEMETRY):
        raise ValueError(f"invalid trace mode, expected '{TRITON}' or '{OPENTELEMETRY}': {mode}")
    return mode, setting, value


def _refuse_unknown(mode: str, given: Mapping[str, object], known: Sequence[str]) -> None:
    for setting in given:
        if setting not in known:
            whose = f" for mode '{mode}'" if mode else ""
            raise ValueError(f"unknown trace setting{whose}: {setting}")


def _level(words: Sequence[str]) -> tuple[str, ...]:
    """Which levels are asked for; OFF among them turns all of them off."""
    found = set()
    for word in words:
        if word.lower() in _OFF:
            return ()
        level = _LEVELS.get(word.lower())
        if level is None:
            raise ValueError(f"invalid value for trace level option: {word}")
        found.add(level)
    return tuple(level for level in (TIMESTAMPS, TENSORS) if level in found)


def _number(
    given: Mapping[str, Sequence[str]], setting: str, default: int, low: int, high: int
) -> int:
    if setting not in given:
        return default
    text = given[setting][-1]
    if not _INTEGER.fullmatch(text):
        raise ValueError(f"Invalid option value. Got {text}")
    if not low <= int(text) <= high:
        raise ValueError(f"trace {setting} is out of range [ {low}, {high} ], got: {text}")
    return int(text)


def _exporter(
    given: Mapping[str, Sequence[str]], environment: Mapping[str, str]
) -> Mapping[str, str]:
    """The exporter's settings by name, in the order in which they are shown."""
    settings = {"url": given.get("url", [DEFAULT_URL])[-1]}
    for name, (variable, default) in _PROCESSOR.items():
        source = given if name in given else {}
        if not source and environment.get(variable):
            source = {name: [environment[variable]]}
        settings[name] = str(_number(source, name, default, 1, 2**31 - 1))
    if int(settings["bsp_max_export_batch_size"]) > int(settings["bsp_max_queue_size"]):
        raise ValueError("bsp_max_export_batch_size must not be greater than bsp_max_queue_size")
    resources = given.get("resource", [])
    for text in resources:
        key, equals, _ = text.partition("=")
        if not (key and equals):
            raise ValueError(f"trace resource format is resource=<key>=<value>. Got {text}")
    if resources:
        settings["resource"] = ",".join(resources)
    return settings
