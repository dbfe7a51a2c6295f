"""Hands out executions where resources are shared: `--rate-limit=execution_count`.

Wired in only with that flag. Owns the resources and who holds them, by its policy. A scheduler says
how many executions it could use, an instance that it has finished one; the answer to both is a
`Grant` at the scheduler's door. Nobody waits here, so no two models can wait for each other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import assert_never

import trio

from actors.channels import Door, Mailbox
from actors.messages import (
    Grant,
    LendResources,
    LimiterMessage,
    RegisterInstances,
    ReleaseGrant,
    RequestExecution,
    RequestGrants,
    TakeBackResources,
    UnregisterInstances,
)
from actors.policy.limiting import RateLimiter, Resource
from protocol.status import ServerError
from repo.instance_groups import InstanceSpec


@dataclass(frozen=True, slots=True, eq=False)
class _Member:
    """Where an instance's grants go, and what its scheduler calls it."""

    grants: Door[Grant]
    index: int


class RateLimiterActor:
    """The one owner of every resource."""

    def __init__(
        self, *, mailbox: Mailbox, messages: Door[LimiterMessage], policy: RateLimiter
    ) -> None:
        self._mailbox = mailbox
        self._messages = messages
        self._policy = policy
        self._members: dict[int, _Member] = {}
        self._leaving: set[int] = set()  # they have been granted something, for the last time

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        task_status.started()
        try:
            while True:
                await self._mailbox.wait()
                for message in self._messages.drain():
                    self._take(message)
                self._hand_out()
        finally:
            self._mailbox.close()

    def _take(self, message: LimiterMessage) -> None:
        match message:
            case RequestGrants(group, count):
                if self._policy.knows(group):
                    for _ in range(count):
                        self._policy.request_any(group)
            case RequestExecution(instance):
                if instance in self._members:
                    self._policy.request(instance)
            case ReleaseGrant(instance, executed):
                if instance in self._members:
                    self._policy.release(instance, executed=executed)
                    if instance in self._leaving:
                        self._remove(instance)
            case LendResources(instance):
                self._policy.lend(instance)
            case TakeBackResources(instance):
                self._policy.take_back(instance)
            case RegisterInstances():
                # Room for the one answer is part of the question.
                message.reply.send_nowait(self._register(message))
            case UnregisterInstances(instances, at_once):
                for instance in instances:
                    if instance not in self._members:
                        continue
                    if at_once or not self._policy.is_allocated(instance):
                        self._remove(instance)
                    else:
                        self._leaving.add(instance)
            case _:
                assert_never(message)

    def _remove(self, instance: int) -> None:
        del self._members[instance]
        self._leaving.discard(instance)
        self._policy.unregister(instance)

    def _register(self, message: RegisterInstances) -> ServerError | None:
        registered: list[int] = []
        for number, index, spec in message.instances:
            try:
                needs = [Resource(need.name, need.count, need.is_global) for need in spec.resources]
                self._policy.register(
                    number, needs, spec.priority, spec.device_id, group=message.group
                )
            except ServerError as error:
                for earlier in registered:
                    del self._members[earlier]
                    self._policy.unregister(earlier)
                return error
            registered.append(number)
            self._members[number] = _Member(message.grants, index)
        return None

    def _hand_out(self) -> None:
        for grant in self._policy.step():
            member = self._members[grant.instance]
            # Room is certain: an instance has one grant at most. A closed door is a scheduler that
            # has left and will unregister.
            with contextlib.suppress(trio.BrokenResourceError):
                member.grants.send_nowait(Grant(member.index))


@dataclass(frozen=True, slots=True, eq=False)
class LimiterSeat:
    """One model version's place at the limiter: what its actors say there, in their own terms."""

    group: object
    messages: Door[LimiterMessage]
    all_numbers: Iterator[int]  # of the limiter, for instances to come
    numbers: dict[int, int] = field(default_factory=dict)  # by the version's own index

    async def register(self, specs: Mapping[int, InstanceSpec], grants: Door[Grant]) -> None:
        """Take places. Raises ServerError when the resources can never be had."""
        send, receive = trio.open_memory_channel[ServerError | None](1)
        instances: list[tuple[int, int, InstanceSpec]] = []
        for index, spec in specs.items():
            self.numbers[index] = next(self.all_numbers)
            if not spec.passive:
                instances.append((self.numbers[index], index, spec))
        await self.messages.send(RegisterInstances(self.group, instances, grants, send))
        error = await receive.receive()
        if error is not None:
            for index in specs:
                del self.numbers[index]
            raise error

    def ask(self, count: int) -> None:
        """This version could use so many further executions."""
        self.messages.send_nowait(RequestGrants(self.group, count))

    def ask_for(self, index: int) -> None:
        """This very instance could be used for one more execution."""
        self.messages.send_nowait(RequestExecution(self.numbers[index]))

    def release(self, index: int, *, executed: bool) -> None:
        """An execution has ended, or was not needed after all."""
        if index not in self.numbers:
            return  # a grant that came too late for its instance, which has left
        with contextlib.suppress(trio.BrokenResourceError):
            self.messages.send_nowait(ReleaseGrant(self.numbers[index], executed))

    def lend(self, index: int) -> None:
        """The instance waits for another model: others may have its resources meanwhile."""
        with contextlib.suppress(trio.BrokenResourceError):
            self.messages.send_nowait(LendResources(self.numbers[index]))

    def take_back(self, index: int) -> None:
        """It goes on."""
        with contextlib.suppress(trio.BrokenResourceError):
            self.messages.send_nowait(TakeBackResources(self.numbers[index]))

    def retire(self, index: int) -> None:
        """The instance is granted nothing more, and leaves with what it has been granted."""
        with contextlib.suppress(trio.BrokenResourceError):
            self.messages.send_nowait(UnregisterInstances((self.numbers[index],), at_once=False))

    def forget(self, index: int) -> None:
        """The instance has ended; its index is not used again."""
        number = self.numbers.pop(index, None)
        if number is not None:
            with contextlib.suppress(trio.BrokenResourceError):
                self.messages.send_nowait(UnregisterInstances((number,)))

    def leave(self) -> None:
        """The version's instances have ended."""
        with contextlib.suppress(trio.BrokenResourceError):
            self.messages.send_nowait(UnregisterInstances(tuple(self.numbers.values())))
