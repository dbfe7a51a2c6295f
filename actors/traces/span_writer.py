"""Gives traces to an OpenTelemetry collector, as spans in batches.

Owns the queue of spans and the exporter. An export blocks a thread; while it does, spans wait.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from functools import partial

import trio

from actors.messages import TracerMessage
from actors.policy.span_queue import SpanQueue
from actors.policy.tracing import Close
from actors.traces.ports import RunInThread, SpanExporter
from actors.traces.tracing import Tracing
from protocol.trace_spans import Span, spans_of

log = logging.getLogger(__name__)


class SpanWriter:
    """A TraceWriter."""

    def __init__(
        self,
        settings: Mapping[str, str],
        *,
        exporter: SpanExporter,
        in_thread: RunInThread,
        offset_ns: Callable[[float], int],
        new_id: Callable[[], int],
        tracing: Tracing,
    ) -> None:
        """`settings` are those of the mode opentelemetry, by their names on the command line."""
        self._queue = SpanQueue(
            max_queue=int(settings["bsp_max_queue_size"]),
            delay_seconds=int(settings["bsp_schedule_delay"]) / 1e3,
            max_batch=int(settings["bsp_max_export_batch_size"]),
        )
        self._exporter = exporter
        self._in_thread = in_thread
        self._offset_ns = offset_ns
        self._new_id = new_id
        self._tracing = tracing
        self._unsent = 0  # of those that were taken out of the queue

    @property
    def next_wake(self) -> float:
        return self._queue.next_wake

    def take(self, message: TracerMessage, now: float) -> None:
        if isinstance(message, Close):
            return  # spans know no files
        self._queue.add(spans_of(message.group, self._new_id), now)
        self._tracing.forget(message.group)

    async def work(self, now: float, *, everything: bool = False) -> None:
        batches = self._queue.take(now, everything=everything)
        self._unsent = sum(map(len, batches))
        for batch in batches:
            await self._export(batch, now)
            self._unsent -= len(batch)
        if self._queue.dropped and not len(self._queue):
            log.warning("%d spans were dropped, because the queue was full", self._queue.dropped)
            self._queue.dropped = 0

    async def _export(self, batch: list[Span], now: float) -> None:
        export = partial(self._exporter.export, batch, self._offset_ns(now))
        try:
            await self._in_thread(export)
        except OSError as error:
            log.error("%d spans are lost: %s", len(batch), error)
        except Exception:  # ring boundary: whatever an exporter does, serving goes on
            log.exception("%d spans are lost", len(batch))

    async def finish(self) -> None:
        await self.work(trio.current_time(), everything=True)

    def close(self) -> None:
        self._exporter.close()
        if lost := self._unsent + len(self._queue):
            log.error("%d spans are lost: the collector does not answer in time", lost)
