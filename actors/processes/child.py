"""A child process: its descriptors, its output as log lines, its end.

Owns the process id and the read ends of its standard output and error. It knows nothing of what
the child is for. A child never outlives the scope that runs it.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

import trio

from actors.processes.ports import Log, LogLevel

# A line without an end is cut here, so that a child cannot make the server buffer without limit.
MAX_LINE_BYTES: Final = 64 << 10

_READ_BYTES: Final = 64 << 10

# Output still in a pipe after the child's end; its own children may hold the pipe open for ever.
_LAST_READS: Final = 16


class Child:
    """A started process. Call `run` once, in a nursery; `kill` is safe at any time."""

    def __init__(
        self,
        pid: int,
        pidfd: int,
        *,
        output: int,
        errors: int,
        log: Log,
        popen: subprocess.Popen[bytes] | None = None,
    ) -> None:
        """Takes over the three descriptors, and `popen` when the process is our own child."""
        self.pid = pid
        self._pidfd = pidfd
        self._output = output
        self._errors = errors
        self._log = log
        self._popen = popen
        self._ended = False
        self._exited = trio.Event()

    def kill(self) -> None:
        """End it at once, unless it has ended."""
        if not self._ended:
            # By pidfd, which never means another process, even if nobody has reaped this one.
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def wait(self) -> None:
        """Return once it has ended and its last output is in the log."""
        await self._exited.wait()

    async def run(self) -> None:
        """Pass its output on until it ends; when cancelled, kill it. It is always reaped."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pass_on, self._output, "INFO")
                nursery.start_soon(self._pass_on, self._errors, "WARNING")
                await trio.lowlevel.wait_readable(self._pidfd)
                self._ended = True
                nursery.cancel_scope.cancel()
        finally:
            self.kill()
            with trio.CancelScope(shield=True):
                await trio.lowlevel.wait_readable(self._pidfd)
            self._ended = True
            if self._popen is not None:
                self._popen.wait()
            for descriptor in (self._pidfd, self._output, self._errors):
                os.close(descriptor)
            self._exited.set()

    async def _pass_on(self, pipe: int, level: LogLevel) -> None:
        """Lines from a pipe into the log, one read per turn, to the last after the child's end."""
        os.set_blocking(pipe, False)
        pending = b""
        while True:
            try:
                await trio.lowlevel.wait_readable(pipe)
            except trio.Cancelled:
                if self._ended:
                    break
                raise
            content = os.read(pipe, _READ_BYTES)
            if not content:
                break
            pending = self._say_lines(level, pending + content)
        for _ in range(_LAST_READS):
            try:
                content = os.read(pipe, _READ_BYTES)
            except BlockingIOError:
                break
            if not content:
                break
            pending = self._say_lines(level, pending + content)
        if pending:
            self._say(level, pending)

    def _say_lines(self, level: LogLevel, content: bytes) -> bytes:
        """Log what is complete, or too long to wait for its end; the rest is returned."""
        *lines, rest = content.split(b"\n")
        if len(rest) > MAX_LINE_BYTES:
            lines.append(rest)
            rest = b""
        for line in lines:
            self._say(level, line)
        return rest

    def _say(self, level: LogLevel, line: bytes) -> None:
        self._log(level, line.decode("utf-8", "replace"))


def start_child(
    command: Sequence[str],
    environment: Mapping[str, str],
    descriptors: Sequence[int],
    *,
    log: Log,
) -> Child:
    """Start a process that inherits `descriptors`. Raises OSError.

    It is started from this very thread, because the kernel signals the death of a parent when the
    thread that forked ends; trio's own `open_process` would fork from a short-lived one.
    """
    output, output_end = os.pipe()
    errors, errors_end = os.pipe()
    try:
        popen = subprocess.Popen(  # noqa: S603  # the command is the server's own
            command,
            stdin=subprocess.DEVNULL,
            stdout=output_end,
            stderr=errors_end,
            env=environment,
            pass_fds=descriptors,
        )
    except BaseException:
        os.close(output)
        os.close(errors)
        raise
    finally:
        os.close(output_end)
        os.close(errors_end)
    pidfd = os.pidfd_open(popen.pid)
    return Child(popen.pid, pidfd, output=output, errors=errors, log=log, popen=popen)
