"""Whole runs of the load generator in virtual time, against a fake server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import trio
import trio.testing

from perf_analyzer.command_line import parse
from perf_analyzer.cuda_memory import CudaMemory
from perf_analyzer.model import SetupError
from perf_analyzer.options import Options
from perf_analyzer.session import Ports, Session
from perf_analyzer.setup import Target
from perf_analyzer.timer import PlainSleeper

WALL_NS = 1_700_000_000_000_000_000


class Server(Protocol):
    """A fake server of either protocol."""

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None: ...

    def target(self, _options: Options) -> Target: ...


@dataclass
class Run:
    """What a run printed and how it ended."""

    status: int = -1
    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    began_at: float = 0.0

    def out(self, line: str) -> None:
        self.lines.append(line)

    def error(self, line: str) -> None:
        self.errors.append(line)

    def progress(self, text: str) -> None:
        """Nobody watches."""

    @property
    def text(self) -> str:
        return "\n".join(self.lines)

    def value(self, label: str) -> float:
        """The number behind the first `label: ` of the report."""
        line = next(each for each in self.lines if each.strip().startswith(f"{label}:"))
        return float(line.partition(":")[2].split()[0].rstrip("%"))


def run(
    server: Server,
    arguments: str,
    *,
    meanwhile: Callable[[Session], Awaitable[None]] | None = None,
    cuda: Callable[[], CudaMemory] = CudaMemory,
) -> Run:
    """Run `perf -m m <arguments>` against `server`; `meanwhile` is a task beside it."""
    seen = Run()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            await nursery.start(server.run)
            options = parse(["-m", "m", *arguments.split()])
            ports = Ports(
                wall_ns=lambda: WALL_NS,
                find=server.target,
                connect_to=lambda _host, _port: server.target(options).connect,
                sleeper=PlainSleeper,
                listens_to_signals=False,
                cuda=cuda,
            )
            session = Session(options, ports, seen)
            if meanwhile is not None:
                nursery.start_soon(meanwhile, session)
            try:
                seen.status = await session.run()
            except SetupError as error:
                seen.errors.append(f"error: {error}")
                seen.status = 99
            nursery.cancel_scope.cancel()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    return seen
