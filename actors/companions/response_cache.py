"""Answers what was answered before: stands before the scheduler of every model that asks for it.

Owns the cache, by its policy, and every request that waits because of it: leaders, which are being
executed, and followers, which wait for the identical request that is. A hit is answered at once and
counts no execution. Hears `Submit` on doors of its own, one set per version, and passes misses on
with its own reply door in place of the caller's. It never waits for a scheduler: while that one's
door is full, requests stay in the door here, and their callers feel it, until that door rings here.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import trio

from actors.channels import Door, Mailbox
from actors.messages import (
    CacheHit,
    CacheMissed,
    CancelRequest,
    Control,
    Fact,
    Reply,
    RequestsRefused,
    Submit,
    VersionKey,
)
from actors.policy.caching import ResponseCache, Role, cache_key, insertion_failure
from actors.street.answers import answer, answer_error
from actors.street.calls import closed
from actors.street.explanation import explanation, wants_explanation
from protocol.inference import InferResponse
from protocol.status import ServerError, cancelled, deadline_exceeded

log = logging.getLogger(__name__)

# Replies of leaders; each is owed, so this is only what lies here without being owed.
REPLY_DOOR: Final = 256


@dataclass(slots=True, eq=False)
class CachedVersion:
    """The doors of one model version, before the cache and behind it."""

    key: VersionKey
    generation: int  # what a version answered before it was reloaded is not its answer now
    doors: Sequence[Door[Submit]]
    control: Door[Control]
    scheduler_doors: Sequence[Door[Submit]]
    scheduler_control: Door[Control]


@dataclass(slots=True, eq=False)
class _Caller:
    """A request that missed."""

    submit: Submit
    version: CachedVersion
    door: int  # which of the version's doors it came through
    key: bytes
    lookup_seconds: float
    coalesces: bool = field(default=False)


class ResponseCacheActor:
    """The one owner of the cache."""

    def __init__(
        self, *, mailbox: Mailbox, policy: ResponseCache[_Caller], statistics: Door[Fact]
    ) -> None:
        self._mailbox = mailbox
        self._policy = policy
        self._statistics = statistics
        self._replies: Door[Reply] = mailbox.door(REPLY_DOOR)
        self._versions: dict[CachedVersion, None] = {}
        self._leaders: dict[int, _Caller] = {}
        self._followers: dict[int, _Caller] = {}
        self._deadlines: list[tuple[float, int]] = []  # of followers; heap
        self._facts: deque[Fact] = deque()  # one per answer, until the next turn
        self._generations = 0

    def open(
        self,
        key: VersionKey,
        scheduler_doors: Sequence[Door[Submit]],
        scheduler_control: Door[Control],
        *,
        capacity: int,
        control_capacity: int,
    ) -> CachedVersion:
        """Doors for a version that is about to be served."""
        self._generations += 1
        version = CachedVersion(
            key,
            self._generations,
            [self._mailbox.door(capacity) for _ in scheduler_doors],
            self._mailbox.door(control_capacity),
            scheduler_doors,
            scheduler_control,
        )
        self._versions[version] = None
        return version

    def close(self, version: CachedVersion) -> None:
        """The version has ended: whoever still comes hears that it is closed."""
        for door in version.doors:
            for submit in door.drain():
                answer_error(submit, closed(submit.request))
            self._mailbox.remove(door)
        self._mailbox.remove(version.control)
        del self._versions[version]

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        task_status.started()
        try:
            while True:
                wake_at = self._deadlines[0][0] if self._deadlines else math.inf
                if wake_at == math.inf:
                    await self._mailbox.wait()
                else:
                    with trio.move_on_at(wake_at):
                        await self._mailbox.wait()
                self._turn(trio.current_time())
        finally:
            self._mailbox.close()

    def _turn(self, now: float) -> None:
        self._expire(now)
        for reply in self._replies.drain():
            self._on_reply(reply)
        for version in self._versions:
            for message in version.control.drain():
                assert isinstance(message, CancelRequest), "an order to drain is the scheduler's"
                self._cancel(version, message)
        for version in self._versions:
            for number, door in enumerate(version.doors):
                behind = version.scheduler_doors[number]
                for submit in door.drain(max(0, behind.capacity - len(behind))):
                    self._look_up(version, number, submit)
                if len(door):
                    behind.ring_when_room(self._mailbox)
        self._tell_statistics()

    def _look_up(self, version: CachedVersion, door: int, submit: Submit) -> None:
        began_at = trio.current_time()
        if submit.deadline_at <= began_at:
            answer_error(submit, deadline_exceeded())  # too late already, as a scheduler would say
            return
        name, number = version.key
        request = submit.request
        key = cache_key(
            name, f"{number}.{version.generation}", request.inputs, request.requested_outputs
        )
        caller = _Caller(submit, version, door, key, 0.0)
        found = self._policy.lookup(key, caller)
        caller.lookup_seconds = trio.current_time() - began_at
        match found:
            case InferResponse():
                self._hit(caller, found, began_at)
            case Role.FOLLOW:
                self._followers[submit.number] = caller
                if submit.deadline_at < math.inf:
                    heapq.heappush(self._deadlines, (submit.deadline_at, submit.number))
            case Role.LEAD | Role.ALONE:
                caller.coalesces = found is Role.LEAD
                self._pass_on(caller)

    def _pass_on(self, caller: _Caller) -> None:
        """Let the scheduler have it; its reply comes back here."""
        submit = caller.submit
        self._leaders[submit.number] = caller
        try:
            # A follower that becomes the leader was let in long ago, so it is owed its place.
            caller.version.scheduler_doors[caller.door].send_owed(
                submit._replace(reply=self._replies)
            )
        except trio.BrokenResourceError:
            # By way of the door: a thousand followers may follow one another into this.
            self._replies.send_owed(Reply(submit.number, closed(submit.request), final=True))

    def _on_reply(self, reply: Reply) -> None:
        caller = self._leaders.pop(reply.number)
        number, timings = caller.submit.number, reply.timings
        answer(caller.submit, Reply(number, reply.outcome, True, timings))
        if not isinstance(reply.outcome, InferResponse):
            # A failure is never stored, and is its leader's own: the next one tries for itself.
            promoted = self._policy.fail(caller.key) if caller.coalesces else None
            if promoted is not None:
                del self._followers[promoted.submit.number]
                promoted.coalesces = True
                self._pass_on(promoted)
            return
        began_at = trio.current_time()
        problem: str | None
        followers: Sequence[_Caller] = ()
        if caller.coalesces:
            completion = self._policy.complete(caller.key, reply.outcome)
            followers, problem = completion.followers, completion.problem
        else:
            problem = self._policy.insert(caller.key, reply.outcome)
        if problem is not None:
            log.error("%s", insertion_failure(caller.key, problem))
        now = trio.current_time()
        self._facts.append(CacheMissed(caller.version.key, caller.lookup_seconds + now - began_at))
        for follower in followers:
            del self._followers[follower.submit.number]
            self._hit(follower, reply.outcome, now)

    def _hit(self, caller: _Caller, response: InferResponse, found_at: float) -> None:
        submit = caller.submit
        copy = InferResponse(
            response.model_name,
            response.model_version,
            submit.request.id,
            list(response.outputs),
        )
        now = trio.current_time()
        if submit.request.parameters and wants_explanation(submit.request):
            waited = found_at - submit.submitted_at
            copy.parameters = explanation(submit.batch_size or 1, waited, "cache")
        self._facts.append(
            CacheHit(
                caller.version.key,
                found_at - submit.submitted_at,
                caller.lookup_seconds,
                now - submit.submitted_at,
            )
        )
        answer(submit, Reply(submit.number, copy, final=True))

    def _cancel(self, version: CachedVersion, cancel: CancelRequest) -> None:
        """Drop the request wherever it is: here, passed on, or still in its door."""
        number = cancel.number
        follower = self._followers.get(number)
        if follower is not None:
            self._dismiss(follower, cancelled(), "CANCELED")
            return
        if number in self._leaders:
            with contextlib.suppress(trio.BrokenResourceError):  # the scheduler left, and answered
                version.scheduler_control.send_nowait(cancel)
            return
        for door in version.doors:
            submit = door.pick(lambda one: one.number == number) if len(door) else None
            if submit is not None:
                waited = trio.current_time() - submit.submitted_at
                self._facts.append(RequestsRefused(version.key, "CANCELED", [waited]))
                answer_error(submit, cancelled())

    def _expire(self, now: float) -> None:
        while self._deadlines and self._deadlines[0][0] <= now:
            _, number = heapq.heappop(self._deadlines)
            follower = self._followers.get(number)
            if follower is not None:
                self._dismiss(follower, deadline_exceeded(), "REJECTED")

    def _dismiss(self, follower: _Caller, error: ServerError, reason: str) -> None:
        waited = trio.current_time() - follower.submit.submitted_at
        self._facts.append(RequestsRefused(follower.version.key, reason, [waited]))
        self._policy.leave(follower.key, follower)
        del self._followers[follower.submit.number]
        answer_error(follower.submit, error)

    def _tell_statistics(self) -> None:
        while self._facts:
            try:
                self._statistics.send_nowait(self._facts[0])
            except trio.WouldBlock:
                self._statistics.ring_when_room(self._mailbox)
                return
            self._facts.popleft()
