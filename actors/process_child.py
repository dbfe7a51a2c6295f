"""A child process: its descriptors, its output as log lines, its end.

Owns the process id and the read ends of its standard output and error. It knows nothing of what
the child is for. A child never outlives the scope that runs it.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from typing import Final

import trio

from actors.process_ports import Log, LogLevel

# A line without an end is cut here, so that a child cannot make the server buffer without limit.
MAX_LINE_BYTES: Final = 64 << 10

_READ_BYTES: Final = 64 << 10

# Output still in a pipe after the child's end; its own children may hold the pipe open for ever.
_LAST_READS: Final = 16


class Child:
    """A started process. Call `run` once, in a nursery; `kill` is safe at any time."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Log) -> None:
        self._popen = popen
        self._log = log
        self._pidfd = os.pidfd_open(popen.pid)
        self._exited = trio.Event()

    @classmethod
    def spawn(
        cls,
        command: Sequence[str],
        environment: Mapping[str, str],
        descriptors: Sequence[int],
        *,
        log: Log,
    ) -> Child:
        """Start a process that inherits `descriptors`. Raises OSError.

        It is started from this very thread, because the kernel signals the death of a parent when
        the thread that forked ends; trio's own `open_process` would fork from a short-lived one.
        """
        popen = subprocess.Popen(  # noqa: S603  # the command is the server's own
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            pass_fds=descriptors,
            bufsize=0,
        )
        return cls(popen, log)

    @property
    def pid(self) -> int:
        return self._popen.pid

    def kill(self) -> None:
        """End it at once, unless it has ended."""
        if self._popen.returncode is None:
            self._popen.send_signal(signal.SIGKILL)

    async def wait(self) -> None:
        """Return once it has ended and its last output is in the log."""
        await self._exited.wait()

    async def run(self) -> None:
        """Pass its output on until it ends; when cancelled, kill it. It is always reaped."""
        stdout, stderr = self._popen.stdout, self._popen.stderr
        assert stdout is not None, "spawn asks for pipes"
        assert stderr is not None, "spawn asks for pipes"
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pass_on, stdout.fileno(), "INFO")
                nursery.start_soon(self._pass_on, stderr.fileno(), "WARNING")
                await trio.lowlevel.wait_readable(self._pidfd)
                self._popen.poll()
                nursery.cancel_scope.cancel()
        finally:
            self.kill()
            with trio.CancelScope(shield=True):
                await trio.lowlevel.wait_readable(self._pidfd)
            self._popen.wait()
            os.close(self._pidfd)
            stdout.close()
            stderr.close()
            self._exited.set()

    async def _pass_on(self, pipe: int, level: LogLevel) -> None:
        os.set_blocking(pipe, False)
        pending = b""
        reads_left = _LAST_READS
        while True:
            try:
                content = os.read(pipe, _READ_BYTES)
            except BlockingIOError:
                if self._popen.returncode is not None:
                    break
                try:
                    await trio.lowlevel.wait_readable(pipe)
                except trio.Cancelled:
                    if self._popen.returncode is None:
                        raise
                continue
            if not content:
                break
            if self._popen.returncode is not None:
                reads_left -= 1
                if not reads_left:
                    break
            *lines, pending = (pending + content).split(b"\n")
            if len(pending) > MAX_LINE_BYTES:
                lines.append(pending)
                pending = b""
            for line in lines:
                self._say(level, line)
        if pending:
            self._say(level, pending)
        # A pipe that its writer has closed is readable for ever; a cancelled scope ends this task.
        await trio.lowlevel.checkpoint_if_cancelled()

    def _say(self, level: LogLevel, line: bytes) -> None:
        self._log(level, line.decode("utf-8", "replace"))
