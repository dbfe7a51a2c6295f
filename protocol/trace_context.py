"""W3C trace context: the two headers with which one server tells the next whose part it does.

Owns their syntax, by the recommendation of 2021: what is malformed is as if it were not there.
"""

from __future__ import annotations

import json
import re
from typing import Final, NamedTuple

TRACEPARENT: Final = "traceparent"
TRACESTATE: Final = "tracestate"

# Longer than 512 characters need not be passed on, and is what nobody sends.
_MAX_STATE: Final = 512
_PARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")


class SpanContext(NamedTuple):
    """A span as others know it: 128 bits for the trace, 64 for the span, and their own words."""

    trace_id: int
    span_id: int
    state: str = ""


def parse_context(parent: str | None, state: str | None = None) -> SpanContext | None:
    """The span that these headers name, or None without, or with a malformed, `traceparent`."""
    found = _PARENT.fullmatch(parent.strip()) if parent else None
    if found is None:
        return None
    version, trace_id, span_id, _, more = found.groups()
    # Version 00 has exactly four fields; later ones may add to them, and ff is forbidden.
    if version == "ff" or (version == "00" and more):
        return None
    context = SpanContext(int(trace_id, 16), int(span_id, 16))
    if not (context.trace_id and context.span_id):
        return None
    if state and len(state) <= _MAX_STATE:
        context = context._replace(state=state.strip())
    return context


def propagated(context: SpanContext) -> str:
    """The headers for whoever is called on behalf of this span, as a JSON object; sampled."""
    carrier = {TRACEPARENT: f"00-{context.trace_id:032x}-{context.span_id:016x}-01"}
    if context.state:
        carrier[TRACESTATE] = context.state
    return json.dumps(carrier, separators=(",", ":"))
