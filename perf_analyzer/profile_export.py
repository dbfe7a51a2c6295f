"""The profile export: every request of every level as one line of JSON.

Owns the document's schema. Instants are nanoseconds of the system's clock. Pure: values in, text
out.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Final

from google.protobuf.message import DecodeError

from perf_analyzer.calls import Body
from perf_analyzer.model import ModelInfo
from perf_analyzer.options import Mode, Options
from perf_analyzer.recorder import Kept
from perf_analyzer.responses import Output, Shown, shown, shown_inputs

UNLIMITED: Final = 2**64 - 1
# What an export of periodic concurrency has for window boundaries: there are no windows.
NO_WINDOWS: Final = (0, UNLIMITED)

ParseOutputs = Callable[[Body], list[Output]]


@dataclass(frozen=True)
class Experiment:
    """One level: its requests, and the edges of all its windows in seconds of the run's clock."""

    value: Fraction
    requests: Sequence[Kept]
    windows: Sequence[tuple[float, float]]


def _outputs(bodies: Iterable[Body], parse: ParseOutputs, names: Sequence[str]) -> list[object]:
    found: list[object] = []
    for body in bodies:
        try:
            outputs = parse(body)
        except (ValueError, KeyError, DecodeError):
            outputs = []
        if outputs:
            found.append({each.name: shown(each.datatype, each.raw) for each in outputs})
        else:  # the last message of a decoupled request has no outputs
            found.append(dict.fromkeys(names, ""))
    return found


def document(
    options: Options,
    model: ModelInfo,
    experiments: Sequence[Experiment],
    *,
    to_ns: Callable[[float], int],
    parse: ParseOutputs,
    version: str,
) -> str:
    """The whole file. `to_ns` turns an instant of the run's clock into system time."""
    datatypes = {spec.name: spec.datatype for spec in model.inputs}
    names = [spec.name for spec in model.outputs]
    inputs: dict[int, dict[str, Shown]] = {}  # payloads are few and repeat
    written = []
    for experiment in experiments:
        requests = []
        for kept in experiment.requests:
            key = id(kept.payload)
            if key not in inputs:
                inputs[key] = shown_inputs(kept.payload, datatypes)
            entry: dict[str, object] = {"timestamp": to_ns(kept.begun_at)}
            if kept.sequence_id:
                entry["sequence_id"] = kept.sequence_id
            entry["request_inputs"] = inputs[key]
            entry["response_timestamps"] = [to_ns(at) for at in kept.response_times]
            entry["response_outputs"] = (
                [None] * len(kept.response_times)
                if kept.bodies is None
                else _outputs(kept.bodies, parse, names)
            )
            requests.append(entry)
        edges: list[int] = []
        for begun_at, ended_at in experiment.windows:
            edges += [to_ns(begun_at), to_ns(ended_at)]
        written.append(
            {
                "experiment": _experiment(options, experiment),
                "requests": requests,
                "window_boundaries": edges or list(NO_WINDOWS),
            }
        )
    whole = {
        "experiments": written,
        "version": version,
        "service_kind": options.service_kind,
        "endpoint": "",
    }
    return json.dumps(whole, separators=(",", ":"), ensure_ascii=False)


def _experiment(options: Options, experiment: Experiment) -> dict[str, object]:
    if options.is_open_loop:
        value = 0.0 if options.mode is Mode.FIXED_SCHEDULE else float(experiment.value)
        return {"mode": "request_rate", "value": value}
    return {"mode": "concurrency", "value": int(experiment.value)}
