"""The life of one model version: its actors in a nursery of their own.

This is the model ring of supervision. A load that fails, or an actor that crashes, ends this
nursery and nothing else; the outcome travels to ModelRepository as a return value or an exception.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import trio

from actors.channels import Door
from actors.instance import Instance
from actors.messages import Drain
from actors.model_index import ServingVersion
from actors.scheduler import Control, Scheduler


@dataclass(frozen=True, slots=True, eq=False)
class VersionActors:
    """The actors of one version, wired but not yet running."""

    serving: ServingVersion
    scheduler: Scheduler
    instances: Sequence[Instance]
    control: Door[Control]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load every instance, report `started`, serve until drained.

        Raises ServerError when an instance does not load, or whatever an actor crashed with.
        """
        async with trio.open_nursery() as nursery:
            async with trio.open_nursery() as loading:
                for instance in self.instances:
                    loading.start_soon(nursery.start, instance.run)
            nursery.start_soon(self.scheduler.run)
            task_status.started()

    def drain(self) -> None:
        """Refuse new work, finish what was accepted, then let `run` return."""
        try:
            self.control.send_nowait(Drain())
        except trio.BrokenResourceError:
            return  # the scheduler has already left
