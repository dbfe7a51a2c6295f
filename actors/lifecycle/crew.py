"""The instances of one model version: which there are, and how that changes while they serve.

Owns their indexes and their tasks, which live in the nursery of their version. An update starts
what is new beside what is old; only when all of it has loaded do the surplus ones retire. They end
with what they were given, or, of a sequence batcher, with the last of their sequences.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import trio

from actors.channels import Door
from actors.companions.rate_limiter import LimiterSeat
from actors.failures import root_cause
from actors.messages import (
    AddInstance,
    Control,
    Drain,
    Execute,
    ForgetInstance,
    Grant,
    RetireInstance,
)
from actors.policy.lifecycle import reconcile
from actors.street.instance import Instance
from protocol.status import ServerError, unavailable
from repo.instance_groups import InstanceSpec
from repo.preparation import ModelDescription


@dataclass(frozen=True, slots=True, eq=False)
class Recruit:
    """One instance, wired, what it is made from, and the way to it."""

    spec: InstanceSpec
    instance: Instance
    execute: Door[Execute | Drain]
    grants: int  # that it may have out at a time


Recruiter = Callable[[ModelDescription, InstanceSpec, int], Recruit]
"""Wires the instance with a new index, by what a description says. Raises ServerError."""


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """An update whose new instances have been loaded: it can be made to hold, or be dropped."""

    added: Mapping[int, Recruit]
    surplus: Sequence[int]


class Crew:
    """The instances of a version; `run` belongs to its nursery."""

    def __init__(
        self,
        description: ModelDescription,
        *,
        recruiter: Recruiter,
        control: Door[Control],
        grants: Door[Grant],
        seat: LimiterSeat | None,
    ) -> None:
        """Raises ServerError where an instance cannot be made."""
        self._recruiter = recruiter
        self._control = control
        self._grants = grants
        self._seat = seat
        self._indexes = itertools.count(len(description.instances))
        self._street: trio.Nursery | None = None
        self._current = {
            index: recruiter(description, spec, index)
            for index, spec in enumerate(description.instances)
        }
        self._alive: dict[int, Recruit] = {}  # those that were retired and still work included
        self._retired: set[int] = set()  # of which the scheduler has been told
        # Room for every grant that the instances can have out, so that granting never waits.
        grants.capacity = max(1, self.grants)

    @property
    def grants(self) -> int:
        """How many executions may be under way at a time."""
        return sum(recruit.grants for recruit in self._current.values())

    @property
    def instances(self) -> Sequence[Instance]:
        """Those that serve, by their index."""
        return [recruit.instance for recruit in self._current.values()]

    @property
    def execute(self) -> Sequence[Door[Execute | Drain]]:
        """The ways to them, in the same order."""
        return [recruit.execute for recruit in self._current.values()]

    @property
    def in_flight(self) -> int:
        """How many requests its instances have and have not answered."""
        return sum(recruit.instance.executing for recruit in self._alive.values())

    async def start(self, street: trio.Nursery) -> None:
        """Load every instance; their tasks go on in `street`. Raises what loading raises."""
        self._street = street
        await self._register(self._current)
        async with trio.open_nursery() as loading:
            for index in self._current:
                loading.start_soon(street.start, self._serve, index, self._current[index])

    def leave(self) -> None:
        """All tasks have ended, or never begun."""
        for recruit in self._current.values():
            recruit.instance.close()
        if self._seat is not None:
            self._seat.leave()

    async def draft(self, description: ModelDescription) -> Draft:
        """Load what `description` has more. Raises ServerError, and then nothing has changed."""
        assert self._street is not None, "only a version that serves is updated"
        running = {index: recruit.spec for index, recruit in self._current.items()}
        change = reconcile(running, description.instances)
        added = {
            index: self._recruiter(description, spec, index)
            for spec, index in zip(change.missing, self._indexes, strict=False)
        }
        draft = Draft(added, change.surplus)
        await self._register(added)
        try:
            for index, recruit in added.items():
                self._grants.capacity += recruit.grants
                is_passive = recruit.spec.passive
                self._tell(AddInstance(index, recruit.instance, recruit.execute, is_passive))
            async with trio.open_nursery() as loading:
                for index, recruit in added.items():
                    loading.start_soon(self._street.start, self._serve, index, recruit)
        except Exception as error:  # ring boundary: the version goes on as it was
            self.drop(draft)
            cause = root_cause(error)
            raise cause if isinstance(cause, ServerError) else error from error
        return draft

    def commit(self, draft: Draft) -> None:
        """From now on the new instances belong here, and the surplus ones end."""
        self._current |= draft.added
        for index in draft.surplus:
            del self._current[index]
            self._retire(index)

    def drop(self, draft: Draft) -> None:
        """The new instances are not wanted after all."""
        for index, recruit in draft.added.items():
            self._retire(index)
            if index not in self._alive:
                self._forget(index, recruit)

    async def _register(self, recruits: Mapping[int, Recruit]) -> None:
        if self._seat is not None and recruits:
            await self._seat.register(
                {index: recruit.spec for index, recruit in recruits.items()}, self._grants
            )

    async def _serve(
        self,
        index: int,
        recruit: Recruit,
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        self._alive[index] = recruit
        try:
            await recruit.instance.run(task_status=task_status)
        finally:
            del self._alive[index]
            if index in self._retired:
                self._forget(index, recruit)

    def _retire(self, index: int) -> None:
        self._retired.add(index)
        with contextlib.suppress(ServerError):  # the scheduler has gone, and every instance ends
            self._tell(RetireInstance(index))

    def _forget(self, index: int, recruit: Recruit) -> None:
        self._retired.discard(index)
        recruit.instance.close()
        if self._seat is not None:
            self._seat.forget(index)
        with contextlib.suppress(ServerError):
            self._tell(ForgetInstance(index, recruit.grants))

    def _tell(self, message: Control) -> None:
        """The control door has room for whatever operators can think of."""
        try:
            self._control.send_nowait(message)
        except trio.BrokenResourceError:
            raise unavailable("the model is being unloaded") from None
