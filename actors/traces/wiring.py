"""The map of tracing: the tracer's door, the actor, and where it writes.

callers ─ stamps ─▶ Tracing ─ TraceEnded, Close ─▶ Tracer ─▶ files, or a collector
"""

from __future__ import annotations

from typing import Final

from actors.channels import Door, Mailbox
from actors.messages import TracerMessage
from actors.policy.tracing import OPENTELEMETRY
from actors.settings.trace_options import parse_trace_config
from actors.traces.ports import TracePorts
from actors.traces.span_writer import SpanWriter
from actors.traces.tracer import FileWriter, Tracer, TraceWriter
from actors.traces.tracing import Tracing

# Traces that are complete and not taken yet. A writer that is so far behind will not catch up, and
# what comes then is dropped: serving goes on.
TRACES_DOOR: Final = 4096


def wire_tracing(
    flags: tuple[str, ...], ports: TracePorts, mailbox: Mailbox
) -> tuple[Tracing, Tracer]:
    """Who notes traces and who writes them. Raises ServerError where there is no exporter."""
    defaults = parse_trace_config(flags, ports.environment)
    traces: Door[TracerMessage] = mailbox.door(TRACES_DOOR)
    tracing = Tracing(defaults, traces=traces, new_id=ports.new_id)
    writer: TraceWriter
    if defaults.mode == OPENTELEMETRY:
        writer = SpanWriter(
            defaults.exporter,
            exporter=ports.make_exporter(defaults.exporter),
            in_thread=ports.in_thread,
            offset_ns=ports.wall_offset_ns,
            new_id=ports.new_id,
            tracing=tracing,
        )
    else:
        writer = FileWriter(
            defaults.file,
            in_thread=ports.in_thread,
            offset_ns=ports.steady_offset_ns,
            tracing=tracing,
        )
    return tracing, Tracer(mailbox=mailbox, traces=traces, tracing=tracing, writer=writer)
