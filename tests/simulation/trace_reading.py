"""Reads the trace files that tests have had written."""

from __future__ import annotations

import json
from pathlib import Path


def objects(file: Path) -> list[dict[str, object]]:
    found = json.loads(file.read_text())
    assert isinstance(found, list)
    return found


def times(file: Path) -> dict[int, dict[str, float]]:
    """Per trace the seconds at which things happened, in the order of the file."""
    found: dict[int, dict[str, float]] = {}
    for item in objects(file):
        stamps = item.get("timestamps", [])
        assert isinstance(stamps, list)
        number = item["id"]
        assert isinstance(number, int)
        for stamp in stamps:
            found.setdefault(number, {})[stamp["name"]] = stamp["ns"] / 1e9
    return found


def heads(file: Path) -> list[dict[str, object]]:
    return [item for item in objects(file) if "model_name" in item]


def ran(start: float, compute: float, end: float) -> dict[str, float]:
    """A request that came at `start`, and was executed from `compute` to `end`."""
    return {
        "REQUEST_START": start,
        "QUEUE_START": start,
        "COMPUTE_START": compute,
        "COMPUTE_INPUT_END": compute,
        "COMPUTE_OUTPUT_START": end,
        "COMPUTE_END": end,
        "REQUEST_END": end,
    }
