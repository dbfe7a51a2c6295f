"""The life of one model version: its actors in a nursery of their own.

This is the model ring of supervision. A load that fails, or an actor that crashes, ends this
nursery and nothing else; the outcome travels to ModelRepository as a return value or an exception.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import trio

from actors.channels import Door
from actors.ensemble import Ensemble
from actors.instance import Instance
from actors.messages import Control, Drain, Grant
from actors.model_index import ServingVersion
from actors.rate_limiter import LimiterSeat
from actors.resequencer import OrderedReplies
from actors.scheduler import Scheduler
from actors.sequence_batcher import SequenceBatcher
from repo.instance_groups import InstanceSpec


@dataclass(frozen=True, slots=True, eq=False)
class VersionActors:
    """The actors of one version, wired but not yet running."""

    serving: ServingVersion
    scheduler: Scheduler | SequenceBatcher | Ensemble
    instances: Sequence[Instance]
    control: Door[Control]
    ordering: OrderedReplies | None
    seat: LimiterSeat | None
    grants: Door[Grant] | None  # None: an ensemble, which has no instances
    specs: Sequence[InstanceSpec]
    closers: Sequence[Callable[[], None]]  # what is to be done once everybody has ended
    members: frozenset[str] = frozenset()  # of an ensemble: the models of its steps

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load every instance, report `started`, serve until drained.

        Raises ServerError when an instance does not load, or whatever an actor crashed with.
        """
        try:
            if self.seat is not None:
                assert self.grants is not None, "whoever has a seat has instances"
                await self.seat.register(self.specs, self.grants)
            async with trio.open_nursery() as companions:
                if self.ordering is not None:
                    await companions.start(self.ordering.run)
                async with trio.open_nursery() as street:
                    async with trio.open_nursery() as loading:
                        for instance in self.instances:
                            loading.start_soon(street.start, instance.run)
                    street.start_soon(self.scheduler.run)
                    task_status.started()
                if self.ordering is not None:
                    await self.ordering.flush()
                companions.cancel_scope.cancel()
        finally:
            if self.seat is not None:
                self.seat.leave()
            for close in self.closers:
                close()

    def drain(self) -> None:
        """Refuse new work, finish what was accepted, then let `run` return."""
        try:
            self.control.send_nowait(Drain())
        except trio.BrokenResourceError:
            return  # the scheduler has already left
