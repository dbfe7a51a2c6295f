"""Spans to an OpenTelemetry collector, by OTLP over HTTP.

Owns the exporter of the OpenTelemetry SDK, an optional extra that is imported on first use, and
what spans look like there. Every call blocks: it belongs into a thread.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from protocol.status import unsupported
from protocol.trace_spans import Span

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import ReadableSpan

TRACER_NAME: Final = "triton-server"
SERVICE_NAME: Final = "triton-inference-server"

_NS: Final = 1_000_000_000


class OtlpExporter:
    """A SpanExporter."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        """`settings` are those of the mode opentelemetry, by their names on the command line.

        Raises ServerError UNSUPPORTED where the extra is not installed.
        """
        if not _is_installed("opentelemetry.exporter.otlp.proto.http"):
            raise unsupported(
                "trace mode 'opentelemetry' needs the OpenTelemetry exporter: install troupe[otel]"
            )
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        attributes = {"service.name": SERVICE_NAME, **_resource(settings.get("resource", ""))}
        self._exporter = OTLPSpanExporter(endpoint=settings["url"])
        self._resource = Resource.create(attributes)
        self._scope = InstrumentationScope(TRACER_NAME)
        self._url = settings["url"]

    def export(self, spans: Sequence[Span], offset_ns: int) -> None:
        from opentelemetry.sdk.trace.export import SpanExportResult

        result = self._exporter.export([self.readable(span, offset_ns) for span in spans])
        if result is not SpanExportResult.SUCCESS:
            raise OSError(f"the collector at {self._url} did not take them")

    def close(self) -> None:
        self._exporter.shutdown()

    def readable(self, span: Span, offset_ns: int) -> ReadableSpan:
        """The span as the SDK has it; `offset_ns` as in `export`."""
        from opentelemetry.sdk.trace import Event, ReadableSpan
        from opentelemetry.trace import SpanContext, SpanKind, TraceFlags, TraceState

        flags, state = TraceFlags(TraceFlags.SAMPLED), TraceState.from_header([span.state])
        parent = None
        if span.parent_id:
            parent = SpanContext(span.trace_id, span.parent_id, span.is_remote, flags, state)
        return ReadableSpan(
            str(_printable(span.name)),
            context=SpanContext(
                span.trace_id, span.span_id, is_remote=False, trace_flags=flags, trace_state=state
            ),
            parent=parent,
            resource=self._resource,
            attributes={name: _printable(value) for name, value in span.attributes.items()},
            events=[Event(name, timestamp=_ns(at, offset_ns)) for name, at in span.events],
            kind=SpanKind.SERVER,
            start_time=_ns(span.start_at, offset_ns),
            end_time=_ns(span.end_at, offset_ns),
            instrumentation_scope=self._scope,
        )


def _resource(text: str) -> dict[str, str]:
    """The attributes in `key=value,key=value`; a value may have commas, but no more of this."""
    attributes: dict[str, str] = {}
    key = ""
    for piece in filter(None, text.split(",")):
        if "=" in piece:
            key, _, attributes[key] = piece.partition("=")
        else:
            attributes[key] += f",{piece}"
    return attributes


def _printable(value: str | int) -> str | int:
    """A client's id may hold half a character, for which there is no UTF-8."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else value


def _ns(at: float, offset_ns: int) -> int:
    return round(at * _NS) + offset_ns


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False  # not even the package that it is part of
