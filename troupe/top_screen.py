"""What `troupe top` shows: the console's JSON as lines of text, and nothing about terminals.

Whatever a client or a model wrote is cleared of control characters: a terminal obeys what it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast

Json = Mapping[str, object]
SortKey = Literal["rate", "latency", "waiting", "name"]

# Rows of a screen that slow requests and busy actors may take before models get the rest.
SLOW_ROWS: Final = 6
ACTOR_ROWS: Final = 5
# Wide enough for any line, where nobody has a screen to fit it to.
NO_WIDTH: Final = 10_000

_MODELS: Final = (
    ("MODEL", 24), ("STATE", 11), ("REQ/S", -8), ("P50", -9), ("P99", -9), ("BATCH", -6),
    ("WAITING", -7), ("OLDEST", -8), ("EXECUTING", -9), ("SUCCEEDED", -10), ("FAILED", -7),
    ("REASON", 0),
)  # fmt: skip
_SLOW: Final = (
    ("SLOW REQUEST OF", 24), ("ID", 16), ("WHOLE", -9), ("QUEUE", -9), ("BATCH", -5), ("WHY", 0),
)  # fmt: skip
_ACTORS: Final = (("ACTOR", 36), ("MAILBOX", -8), ("OLDEST", -8))


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the screen; a header stands out."""

    text: str
    is_header: bool = False
    is_bad: bool = False


def clean(value: object) -> str:
    """Text of others, in one line and without anything that a terminal would act on."""
    return "".join(
        letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value)
    )


def micros(value: object) -> str:
    """A duration in the unit that fits; "" for none."""
    if not isinstance(value, int | float):
        return ""
    if value >= 1e6:
        return f"{value / 1e6:.2f} s"
    return f"{value / 1e3:.1f} ms" if value >= 1e3 else f"{value:.0f} µs"


def seconds(value: object) -> str:
    """The same of seconds; "" for none at all."""
    return micros(value * 1e6) if isinstance(value, int | float) and value else ""


def screen(told: Json, *, sort: SortKey, columns: int, rows: int | None) -> list[Line]:
    """The whole screen; without `rows` there is a line for everything."""
    server = _object(told["server"])
    state = "exiting" if server["exiting"] else "ready" if server["ready"] else "starting"
    title = f"Troupe, {clean(server['id'])} {clean(server['version'])}: {state}, up "
    title += f"{_number(server, 'uptime_seconds'):.0f} s"
    tick = _number(told, "tick")
    models = [(_model(row, tick), row["state"] == "UNAVAILABLE") for row in _ordered(told, sort)]
    slow = [_slow(row) for row in _rows(told, "slow")]
    busy = sorted(
        (row for row in _rows(told, "actors") if row["depth"]),
        key=lambda row: -_number(row, "depth"),
    )
    if rows is not None:
        slow, busy = slow[:SLOW_ROWS], busy[:ACTOR_ROWS]
        below = sum(len(part) + 2 for part in (slow, busy) if part)
        models = models[: max(1, rows - 3 - below)]
    lines = [Line(title), Line(""), _line(_MODELS, [name for name, _ in _MODELS], header=True)]
    lines += [_line(_MODELS, cells, bad=is_bad) for cells, is_bad in models]
    if slow:
        lines += [Line(""), _line(_SLOW, [name for name, _ in _SLOW], header=True)]
        lines += [_line(_SLOW, cells) for cells in slow]
    if busy:
        lines += [Line(""), _line(_ACTORS, [name for name, _ in _ACTORS], header=True)]
        lines += [_line(_ACTORS, _actor(row)) for row in busy]
    return [Line(line.text[:columns], line.is_header, line.is_bad) for line in lines[:rows]]


def _ordered(told: Json, sort: SortKey) -> list[Json]:
    """Models by name, and before that by what is asked for, the most first."""
    tick = _number(told, "tick")
    keys: Mapping[SortKey, Callable[[Json], float]] = {
        "rate": lambda row: -_rate(row, tick),
        "latency": lambda row: -_number(row, "p99_us"),
        "waiting": lambda row: -_number(row, "pending"),
        "name": lambda _: 0,
    }
    by_name = sorted(_rows(told, "models"), key=lambda row: (str(row["name"]), row["version"]))
    return sorted(by_name, key=keys[sort])


def _model(row: Json, tick: float) -> list[str]:
    name = clean(row["name"]) + (f"/{row['version']}" if row["version"] else "")
    if "counts" not in row:
        return [name, clean(row["state"]), *[""] * 9, clean(row["reason"])]
    counts = _object(row["counts"])
    failures = _object(counts["failures"])
    failed = sum(_number(failures, reason) for reason in failures)
    point = _point(row, tick)
    executions = _number(point, "executions")
    return [
        name,
        clean(row["state"]),
        f"{_rate(row, tick):.1f}",
        micros(row.get("p50_us")),
        micros(row.get("p99_us")),
        f"{_number(point, 'inferences') / executions:.1f}" if executions else "",
        f"{_number(row, 'pending'):.0f}",
        seconds(row.get("oldest_seconds")),
        f"{_number(row, 'executing'):.0f}",
        f"{_number(counts, 'success'):.0f}",
        f"{failed:.0f}",
        clean(row["reason"]),
    ]


def _slow(row: Json) -> list[str]:
    return [
        f"{clean(row['model'])}/{row['version']}",
        clean(row["id"]) or "-",
        micros(row["total_us"]),
        micros(row["queue_us"]),
        str(row["batch_size"]),
        clean(row["why"]) + (f" {clean(row['error'])}" if row["error"] else ""),
    ]


def _actor(row: Json) -> list[str]:
    return [clean(row["actor"]), str(row["depth"]), seconds(row["oldest_seconds"])]


def _rate(row: Json, tick: float) -> float:
    point = _point(row, tick)
    return _number(point, "requests") / _number(point, "seconds") if point else 0.0


def _point(row: Json, tick: float) -> Json:
    """What happened in the last second; empty when nothing did."""
    points = _rows(row, "points") if "points" in row else []
    return points[-1] if points and points[-1]["tick"] == tick else {}


def _line(
    columns: Sequence[tuple[str, int]],
    cells: Sequence[str],
    *,
    header: bool = False,
    bad: bool = False,
) -> Line:
    """Cells under their columns: a negative width stands to the right, 0 takes what is left."""
    parts = [
        cell.rjust(-width) if width < 0 else cell.ljust(width)
        for cell, (_, width) in zip(cells, columns, strict=True)
    ]
    return Line(" ".join(parts).rstrip(), header, bad)


def _object(value: object) -> Json:
    assert isinstance(value, dict), "the admin port tells an object here"
    return cast("Json", value)


def _rows(told: Json, name: str) -> list[Json]:
    value = told[name]
    assert isinstance(value, list), "the admin port tells a list here"
    return [_object(each) for each in value]


def _number(row: Json, name: str) -> float:
    value = row.get(name)
    return value if isinstance(value, int | float) else 0.0
