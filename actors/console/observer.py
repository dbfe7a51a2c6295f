"""Looks at the server once a second, for the console.

Owns the history, the slowest requests and what browsers are shown. Hears `SlowRequest` on a quiet
door of the mailbox that the street has the door of, and `WatchConsole` from the admin port; says to
every watcher what has changed, and drops those who are gone. A watcher that does not keep up misses
some of it, and sees by the numbers that it has: nothing here waits for a browser.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import trio

from actors.channels import Door, Watch
from actors.console.history import Point, VersionHistory
from actors.console.rows import (
    Json,
    actor_row,
    fixed_part,
    gpu_row,
    instance_rows,
    slow_row,
    version_row,
    versions,
)
from actors.console.slowness import SlowestRequests
from actors.lifecycle.model_index import ModelIndex, ServingVersion
from actors.mailboxes import MailboxRegister
from actors.messages import Submit, VersionKey
from actors.metrics.counters import VersionCounters
from actors.metrics.gpus import GpuReading
from actors.metrics.slow_requests import SlowRequests
from actors.metrics.statistics import StatisticsReader
from protocol.json_text import dumps

LOOK_SECONDS: Final = 1.0
# Versions that are looked at in one go, which takes about a millisecond: requests go before.
LOOK_CHUNK: Final = 32
# Watchers are browsers and terminals of operators; each costs an event a second.
MAX_WATCHERS: Final = 16
# Commands from the admin port that the observer has not seen: each is a watcher, or a question.
COMMANDS_DOOR: Final = 2 * MAX_WATCHERS
# Slow requests of all versions together that are shown.
SHOWN_SLOW: Final = 50


class ConsoleEvent(NamedTuple):
    """What a watcher is told: everything, at first, then what has changed."""

    kind: str  # snapshot or tick
    text: str  # JSON


@dataclass(frozen=True, slots=True, eq=False)
class WatchConsole:
    """Say at this door what there is, and then what changes; closing it is leaving."""

    door: Door[ConsoleEvent]
    stays: bool = True  # False: what there is, and no more


class Observer:
    """The actor."""

    def __init__(
        self,
        *,
        server: Json,
        slow: SlowRequests,
        statistics: StatisticsReader,
        index: Watch[ModelIndex],
        mailboxes: MailboxRegister,
        gpus: Callable[[], Sequence[GpuReading]] = tuple,
        connections: Callable[[], Mapping[str, int]] = dict,
    ) -> None:
        """`server` says what the server is called and its version."""
        self._server = server
        self._slow = slow
        self._statistics = statistics
        self._index = index
        self._mailboxes = mailboxes
        self._gpus = gpus
        self._connections = connections
        self.commands: Door[WatchConsole] = slow.mailbox.door(COMMANDS_DOOR)
        self._watchers: list[Door[ConsoleEvent]] = []
        self._slowest = SlowestRequests()
        self._histories: dict[VersionKey, VersionHistory] = {}
        self._heads: dict[Door[object], tuple[object, float]] = {}  # first message, since when
        self._rows: dict[VersionKey, Json] = {}  # as of the last look
        self._fixed: dict[ServingVersion, Json] = {}  # of each row, what never changes
        self._common: Json = {}
        self._tick = 0
        self._started_at = self._looked_at = 0.0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Look until cancelled, or until the server's core has ended."""
        mailbox = self._slow.mailbox
        self._started_at = self._looked_at = look_at = trio.current_time()
        try:
            await self._look()
            task_status.started()
            while True:
                look_at = max(look_at + LOOK_SECONDS, trio.current_time())
                while trio.current_time() < look_at:
                    with trio.move_on_at(look_at):
                        await mailbox.wait()
                    self._hear()
                await self._look()
        except trio.BrokenResourceError:
            return  # Statistics have left: the server is stopping
        finally:
            mailbox.close()

    def _hear(self) -> None:
        for record in self._slow.door.drain():
            self._slowest.take(record)
            self._slow.set_bar(record.key, self._slowest.bar(record.key))
        for command in self.commands.drain():
            self._tell(command.door, ConsoleEvent("snapshot", self._snapshot()))
            if command.stays and not command.door.is_closed:
                self._watchers.append(command.door)  # at most MAX_WATCHERS, by the admin port

    def _tell(self, door: Door[ConsoleEvent], event: ConsoleEvent) -> None:
        try:
            door.send_nowait(event)
        except trio.WouldBlock:
            return  # a slow reader; it sees that a number is missing
        except trio.BrokenResourceError:
            if door in self._watchers:  # not if it left before it was let in
                self._watchers.remove(door)

    async def _look(self) -> None:
        """Take a reading of everything, and tell the watchers what it changed."""
        counters = await self._statistics.read()
        now = trio.current_time()
        self._tick += 1
        self._slowest.forget(now)
        index = self._index.value
        seconds, self._looked_at = now - self._looked_at, now
        before = self._rows
        rows: dict[VersionKey, Json] = {}
        points: dict[VersionKey, Point | None] = {}
        fixed: dict[ServingVersion, Json] = {}
        for place, seen in enumerate(versions(index), start=1):
            if place % LOOK_CHUNK == 0:
                await trio.lowlevel.checkpoint()
            key, serving = seen.key, seen.serving
            if serving is not None:
                fixed[serving] = self._fixed.get(serving) or fixed_part(serving)
            known = counters.get(key)
            points[key] = self._point(key, known, seconds)
            history = self._histories.get(key)
            rows[key] = version_row(
                seen,
                known,
                history,
                fixed=fixed[serving] if serving is not None else {},
                now=now,
                tick=self._tick,
            )
            self._slow.set_bar(key, self._slowest.bar(key))
        self._rows, self._fixed = rows, fixed
        self._histories = {key: each for key, each in self._histories.items() if key in rows}
        self._common = self._what_all_share(index, now)
        if self._watchers:
            self._tell_changes(before, rows, points)

    def _tell_changes(
        self,
        before: Mapping[VersionKey, Json],
        rows: Mapping[VersionKey, Json],
        points: Mapping[VersionKey, Point | None],
    ) -> None:
        changed: list[Json] = []
        for key, row in rows.items():
            point = points[key]
            if point is not None:
                changed.append({**row, "point": point.row()})
            elif before.get(key) != row:
                changed.append(row)
        text = dumps({
            **self._common,
            "models": changed,
            "gone": [list(key) for key in before.keys() - rows.keys()],
        })  # fmt: skip
        for door in list(self._watchers):
            self._tell(door, ConsoleEvent("tick", text))

    def _point(
        self, key: VersionKey, counters: VersionCounters | None, seconds: float
    ) -> Point | None:
        if counters is None:
            return None
        history = self._histories.get(key)
        if history is None:
            history = self._histories[key] = VersionHistory()
        return history.look(counters, self._tick, seconds)

    def _snapshot(self) -> str:
        """Everything, with the history of each version."""
        models = [
            {**row, "points": [point.row() for point in self._histories[key].points]}
            if key in self._histories
            else row
            for key, row in self._rows.items()
        ]
        return dumps({**self._common, "models": models, "gone": []})

    def _what_all_share(self, index: ModelIndex, now: float) -> Json:
        serving = {(each.name, each.version): each for each in index.serving()}
        return {
            "tick": self._tick,
            "look_seconds": LOOK_SECONDS,
            "server": {
                **self._server,
                "ready": index.ready,
                "exiting": index.exiting,
                "connections": self._connections(),
                "uptime_seconds": round(now - self._started_at, 1),
            },
            "actors": self._actors(serving, now),
            "slow": [
                slow_row(each, serving.get(each.key), now)
                for each in self._slowest.slowest(SHOWN_SLOW)
            ],
            "gpus": [gpu_row(each) for each in self._gpus()],
        }

    def _actors(self, serving: Mapping[VersionKey, ServingVersion], now: float) -> list[Json]:
        """Every mailbox with the age of what lies in it longest, and every instance.

        A message does not know when it came, except a request; of any other its age is the time for
        which it has been seen at the head of its door, so it is younger by less than a look.
        """
        heads: dict[Door[object], tuple[object, float]] = {}
        rows: list[Json] = []
        for name, mailbox in self._mailboxes:
            oldest_at = now
            for door in mailbox.doors:
                head = door.head
                if head is None or door.is_hushed:
                    continue
                last, since = self._heads.get(door, (None, now))
                if isinstance(head, Submit):
                    since = head.submitted_at
                elif last is not head:
                    since = now
                heads[door] = (head, since)
                oldest_at = min(oldest_at, since)
            rows.append(actor_row(name, mailbox.depth, now - oldest_at))
        self._heads = heads
        for each in serving.values():
            rows += instance_rows(each)
        return rows
