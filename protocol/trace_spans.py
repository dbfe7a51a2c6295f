"""A traced inference as spans, the way OpenTelemetry sees it.

Owns which spans there are, how they nest and what each says: one around everything that the server
did for its client, one for each request, and one for its execution. Instants stay instants.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from protocol.tracing import (
    COMPUTE_END,
    COMPUTE_INPUT_END,
    COMPUTE_OUTPUT_START,
    COMPUTE_START,
    Stamp,
    Trace,
    TraceGroup,
)

ROOT_NAME: Final = "InferRequest"
COMPUTE_NAME: Final = "compute"

_COMPUTE: Final = (COMPUTE_START, COMPUTE_INPUT_END, COMPUTE_OUTPUT_START, COMPUTE_END)
_OWN: Final = ("REQUEST_START", "REQUEST_END")


class Span(NamedTuple):
    """One span; `parent_id` 0 is none. `is_remote`: the parent is another server's."""

    name: str
    trace_id: int
    span_id: int
    parent_id: int
    is_remote: bool
    state: str
    attributes: Mapping[str, str | int]
    events: Sequence[Stamp]
    start_at: float
    end_at: float


def spans_of(group: TraceGroup, new_id: Callable[[], int]) -> list[Span]:
    """The spans of a group, parents first; `new_id` names those that nobody has heard of yet."""
    remote = group.remote
    instants = [at for _, at in group.frontend]
    instants += [at for trace in group.traces for _, at in trace.stamps]
    root = Span(
        ROOT_NAME,
        group.trace_id,
        group.span_id,
        remote.span_id if remote is not None else 0,
        remote is not None,
        remote.state if remote is not None else "",
        {},
        group.frontend,
        min(instants),
        max(instants),
    )
    return [root, *(span for trace in group.traces for span in _of_trace(root, trace, new_id))]


def _of_trace(root: Span, trace: Trace, new_id: Callable[[], int]) -> Iterator[Span]:
    parent_id = trace.parent.span_id if trace.parent is not None else root.span_id
    compute = [stamp for stamp in trace.stamps if stamp[0] in _COMPUTE]
    custom, rest = _custom(trace.stamps)
    attributes: dict[str, str | int] = {
        "triton.model_name": trace.model_name,
        "triton.model_version": trace.model_version,
        "triton.trace_id": trace.id,
        "triton.trace_parent_id": trace.parent_id,
    }
    if trace.request_id:
        attributes["triton.request_id"] = trace.request_id
    start_at, end_at = trace.stamps[0][1], trace.stamps[-1][1]

    def child(name: str, events: Sequence[Stamp], of: int) -> Span:
        return Span(
            name, root.trace_id, new_id(), of, False, root.state, {}, events,
            events[0][1], events[-1][1],
        )  # fmt: skip

    yield Span(
        trace.model_name, root.trace_id, trace.span_id, parent_id, False, root.state,
        attributes, rest, start_at, end_at,
    )  # fmt: skip
    inner = trace.span_id
    if compute:
        span = child(COMPUTE_NAME, compute, trace.span_id)
        inner = span.span_id
        yield span
    for name, events in custom.items():
        yield child(name, events, inner)


def _custom(stamps: Sequence[Stamp]) -> tuple[dict[str, list[Stamp]], list[Stamp]]:
    """Activities of a model's own that have a beginning and an end are spans; others are events."""
    names = {name for name, _ in stamps}
    custom: dict[str, list[Stamp]] = {}
    rest: list[Stamp] = []
    for name, at in stamps:
        base, _, edge = name.rpartition("_")
        if name in _COMPUTE:
            continue
        if (
            name not in _OWN
            and edge in ("START", "END")
            and {f"{base}_START", f"{base}_END"} <= names
        ):
            custom.setdefault(base, []).append((name, at))
        else:
            rest.append((name, at))
    return custom, rest
