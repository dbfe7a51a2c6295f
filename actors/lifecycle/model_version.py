"""The life of one model version: its actors in a nursery of their own.

This is the model ring of supervision. A load that fails, or an actor that crashes, ends this
nursery and nothing else; the outcome travels to ModelRepository as a return value or an exception.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import trio

from actors.channels import Door
from actors.companions.resequencer import OrderedReplies
from actors.ensembles.ensemble import Ensemble
from actors.lifecycle.crew import Crew, Draft
from actors.lifecycle.model_index import ServingVersion
from actors.messages import Control, Drain
from actors.sequences.batcher import SequenceBatcher
from actors.street.scheduler import Scheduler
from repo.preparation import ModelDescription


@dataclass(slots=True, eq=False)
class VersionActors:
    """The actors of one version, wired but not yet running."""

    serving: ServingVersion  # replaced when an update changes its instances
    scheduler: Scheduler | SequenceBatcher | Ensemble
    crew: Crew | None  # None: an ensemble, which has no instances
    control: Door[Control]
    ordering: OrderedReplies | None
    closers: list[Callable[[], None]]  # what is to be done once everybody has ended
    under_way: Callable[[], int] = lambda: 0  # of an ensemble: the requests that have begun
    members: frozenset[str] = frozenset()  # of an ensemble: the models of its steps

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Load every instance, report `started`, serve until drained.

        Raises ServerError when an instance does not load, or whatever an actor crashed with.
        """
        try:
            async with trio.open_nursery() as companions:
                if self.ordering is not None:
                    await companions.start(self.ordering.run)
                async with trio.open_nursery() as street:
                    if self.crew is not None:
                        await self.crew.start(street)
                    street.start_soon(self.scheduler.run)
                    task_status.started()
                if self.ordering is not None:
                    await self.ordering.flush()
                companions.cancel_scope.cancel()
        finally:
            if self.crew is not None:
                self.crew.leave()
            for close in self.closers:
                close()

    @property
    def in_flight(self) -> int:
        """How many requests it was given and has not answered."""
        waiting = self.scheduler.pending()
        return waiting + (self.crew.in_flight if self.crew else self.under_way())

    async def draft(self, description: ModelDescription) -> Draft:
        """Load the instances that `description` has more. Raises ServerError."""
        assert self.crew is not None, "an ensemble is never updated"
        return await self.crew.draft(description)

    def update(self, description: ModelDescription, draft: Draft) -> None:
        """Go on with the instances of `draft`; requests notice nothing of it."""
        assert self.crew is not None, "an ensemble is never updated"
        self.crew.commit(draft)
        description.retain()
        self.closers.append(description.release)
        self.serving = replace(
            self.serving,
            config=description.config,
            config_json=description.config_json,
            instances=self.crew.instances,
        )

    def drop(self, draft: Draft) -> None:
        """Let the instances of `draft` end."""
        assert self.crew is not None, "an ensemble is never updated"
        self.crew.drop(draft)

    def drain(self) -> None:
        """Refuse new work, finish what was accepted, then let `run` return."""
        try:
            self.control.send_nowait(Drain())
        except trio.BrokenResourceError:
            return  # the scheduler has already left
