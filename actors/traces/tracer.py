"""Writes traces: into Triton's files, or to an OpenTelemetry collector.

Owns everything that has been traced and not written. Hears `TraceEnded` and `Close`, writes in a
thread, and says nothing: whoever sends does not wait, and what its door cannot hold is dropped and
counted by the sender. When it is stopped it writes what there is, and ends; a file system or a
collector that hangs keeps it no longer than the server's own stop may last.
"""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final, Protocol

import trio

from actors.channels import Door, Mailbox
from actors.messages import TracerMessage
from actors.policy.trace_files import TraceFiles, WriteTraces
from actors.policy.tracing import Close
from actors.traces.ports import RunInThread
from actors.traces.tracing import Tracing
from protocol.trace_json import encode_groups

log = logging.getLogger(__name__)

# What is left when the server stops has this long to be written or sent, and no longer than until
# the deadline of the stop.
LAST_WRITE_SECONDS: Final = 5.0
# Where that deadline has passed, traces of whatever took so long are still worth a local write.
LAST_CHANCE_SECONDS: Final = 0.25


class TraceWriter(Protocol):
    """Where traces go."""

    @property
    def next_wake(self) -> float:
        """When to call `work` though nothing has come; may be infinite."""

    def take(self, message: TracerMessage, now: float) -> None:
        """Decide what becomes of it."""

    async def work(self, now: float) -> None:
        """Do what is due."""

    async def finish(self) -> None:
        """Nothing more will come: write everything."""

    def close(self) -> None:
        """Nothing more will be written; give up what is under way."""


class Tracer:
    """The actor: one door in, files or spans out."""

    def __init__(
        self,
        *,
        mailbox: Mailbox,
        traces: Door[TracerMessage],
        tracing: Tracing,
        writer: TraceWriter,
    ) -> None:
        self._mailbox = mailbox
        self._traces = traces
        self._tracing = tracing
        self._writer = writer
        self._stopping = trio.Event()
        self._ended = trio.Event()
        self.was_stopped = False  # and not cancelled before

    def stop(self) -> None:
        """Nothing will be traced any more: write what is left, and end."""
        self.was_stopped = True
        self._stopping.set()
        self._mailbox.ring()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write until stopped, and then what is left."""
        writing = trio.CancelScope(shield=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write, writing)
            task_status.started()
            try:
                await self._stopping.wait()
            finally:  # nobody who cancels it has any time left
                now, stop_by = trio.current_time(), trio.current_effective_deadline()
                writing.deadline = max(
                    min(now + LAST_WRITE_SECONDS, stop_by), now + LAST_CHANCE_SECONDS
                )
                self._stopping.set()
                self._mailbox.ring()
            with trio.CancelScope(shield=True):
                await self._ended.wait()

    async def _write(self, writing: trio.CancelScope) -> None:
        writer = self._writer
        try:
            with writing:
                while not self._stopping.is_set():
                    with trio.move_on_at(writer.next_wake):
                        await self._mailbox.wait()
                    self._take(trio.current_time())
                    await writer.work(trio.current_time())
                self._take(trio.current_time())
                self._mailbox.close()
                await writer.finish()
        finally:
            self._mailbox.close()
            writer.close()
            self._tracing.say_dropped(last=True)
            self._ended.set()

    def _take(self, now: float) -> None:
        for message in self._traces.drain():
            self._writer.take(message, now)


class FileWriter:
    """Triton's own mode."""

    next_wake = math.inf

    def __init__(
        self,
        path: str,
        *,
        in_thread: RunInThread,
        offset_ns: Callable[[float], int],
        tracing: Tracing,
    ) -> None:
        self._files = TraceFiles(path)
        self._in_thread = in_thread
        self._offset_ns = offset_ns
        self._tracing = tracing
        self._due: list[WriteTraces] = []

    def take(self, message: TracerMessage, now: float) -> None:
        del now
        if isinstance(message, Close):
            self._due += self._files.close(message)
        else:
            self._due += self._files.add(message.collection, message.group)

    async def work(self, now: float) -> None:
        while self._due:
            write = self._due[0]
            try:
                work = partial(write_traces, write, self._offset_ns(now))
                await self._in_thread(work)
            except OSError as error:
                log.error(
                    "%d traces are lost, file '%s' cannot be written: %s",
                    len(write.groups),
                    write.path,
                    error.strerror,
                )
            except Exception:  # ring boundary: a trace that cannot be told never ends the server
                log.exception("%d traces are lost", len(write.groups))
            del self._due[0]
            for group in write.groups:
                self._tracing.forget(group)

    async def finish(self) -> None:
        self._due += self._files.close_all()
        await self.work(trio.current_time())

    def close(self) -> None:
        for write in [*self._due, *self._files.close_all()]:
            log.error(
                "%d traces are lost, file '%s' is not written in time",
                len(write.groups),
                write.path,
            )


def write_traces(write: WriteTraces, offset_ns: int) -> None:
    """Make the file, or add to its array; it is whole JSON before and after. Raises OSError."""
    text = encode_groups(write.groups, offset_ns=offset_ns).encode()
    path = Path(write.path)
    if write.begins or not path.exists():
        path.write_bytes(b"[" + text + b"]")
        return
    with path.open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"," + text + b"]")
