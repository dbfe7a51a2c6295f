"""Which traces go into which file, in Triton's own mode.

Owns what has been collected and not written yet, per setting, and the numbering of files. The
traces of a setting go into the one file when the setting is over; into numbered ones, `FILE.0` and
so on, whenever `log_frequency` of them have come, and when a limited number has been used up.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from actors.policy.tracing import Close, Collection
from protocol.tracing import TraceGroup

# Traces of one setting that wait for their file to be complete. Some kilobytes each; beyond this
# number they are written in pieces.
MAX_HELD: Final = 4096


class WriteTraces(NamedTuple):
    """Write these to the file at `path`: into a new one if it `begins`, else behind what it has."""

    path: str
    groups: Sequence[TraceGroup]
    begins: bool


@dataclass(slots=True, eq=False)
class _Collected:
    """What there is of one setting."""

    collection: Collection
    held: list[TraceGroup] = field(default_factory=list)
    numbered_file: str = ""  # one that has been begun and is not complete
    in_file: int = 0  # traces that it has, or will have with those held


class TraceFiles:
    """See the module's docstring."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._numbers = itertools.count()
        self._has_begun = False  # the file without a number
        self._collected: dict[int, _Collected] = {}  # one per setting that is not over

    def add(self, collection: Collection, group: TraceGroup) -> list[WriteTraces]:
        """A trace is complete; what is to be written now."""
        collected = self._collected.get(collection.number)
        if collected is None:
            collected = self._collected[collection.number] = _Collected(collection)
        collected.held.append(group)
        collected.in_file += 1
        if collection.log_frequency and collected.in_file >= collection.log_frequency:
            return self._write(collected, numbered=True, completes=True)
        if len(collected.held) >= MAX_HELD:
            numbered = collection.log_frequency > 0 or collection.is_limited
            return self._write(collected, numbered=numbered, completes=False)
        return []

    def close(self, close: Close) -> list[WriteTraces]:
        """No trace of a setting is to come."""
        collected = self._collected.pop(close.number, None)
        if collected is None:
            return []
        numbered = close.to_indexed_file or collected.collection.log_frequency > 0
        return self._write(collected, numbered=numbered, completes=True)

    def close_all(self) -> list[WriteTraces]:
        """No trace of any setting is to come."""
        numbers = list(self._collected)
        return [
            write
            for number in numbers
            for write in self.close(Close(number, to_indexed_file=False))
        ]

    def _write(
        self, collected: _Collected, *, numbered: bool, completes: bool
    ) -> list[WriteTraces]:
        groups, collected.held = collected.held, []
        if not groups:
            return []
        path, begins = self._path, not self._has_begun
        if collected.numbered_file:
            path, begins = collected.numbered_file, False
        elif numbered:
            path, begins = f"{self._path}.{next(self._numbers)}", True
        else:
            self._has_begun = True
        collected.numbered_file = path if numbered and not completes else ""
        if completes:
            collected.in_file = 0
        return [WriteTraces(path, groups, begins)]
