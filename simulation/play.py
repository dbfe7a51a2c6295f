"""Plays a plan in a world: clients who ask and give up at drawn instants, and faults beside them.

Owns the order of events. What a request is, and what the last round asks, are its subclasses'.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Protocol, TypeVar

import trio

from simulation.clients import Client
from simulation.drawing import FaultPlan
from simulation.ledger import Asked
from simulation.striking import strike, until
from simulation.world import World


class AskPlan(Protocol):
    """What every kind of request has; instants in ticks, `cancel_at` below 0 for none."""

    @property
    def at(self) -> int: ...

    @property
    def client(self) -> int: ...

    @property
    def name(self) -> str: ...

    @property
    def cancel_at(self) -> int: ...


R = TypeVar("R", bound=AskPlan)


class Play(ABC, Generic[R]):
    """One run of a plan; a scenario, to be called with its world."""

    def __init__(self, clients: int, requests: Sequence[R], faults: Sequence[FaultPlan]) -> None:
        self._count = clients
        self._requests = requests
        self._faults = faults

    async def __call__(self, world: World) -> None:
        """The crowd and the faults, and then the last round."""
        clients = [world.client(f"c{number}") for number in range(self._count)]
        async with trio.open_nursery() as nursery:
            for number, client in enumerate(clients):
                mine = [request for request in self._requests if request.client == number]
                if mine:
                    nursery.start_soon(self._drive, client, mine)
            for fault in self._faults:
                nursery.start_soon(strike, world, clients, fault)
        await world.all_answered()
        last = world.client("last")
        self.ask_last(last)
        await world.all_answered()
        for client in (*clients, last):
            self.take_note(world, client)

    async def _drive(self, client: Client, requests: Sequence[R]) -> None:
        """One client: what it asks and what it gives up, in the order of their instants."""
        steps = [(request.at, False, request) for request in requests]
        steps += [(one.cancel_at, True, one) for one in requests if one.cancel_at >= 0]
        asked: dict[str, Asked] = {}
        for at, is_cancellation, request in sorted(steps, key=lambda step: step[:2]):
            await until(at)
            if client.has_vanished:
                return
            if is_cancellation:
                client.cancel(asked[request.name])
            else:
                asked[request.name] = self.ask(client, request)

    @abstractmethod
    def ask(self, client: Client, request: R) -> Asked:
        """Send one request."""

    @abstractmethod
    def ask_last(self, client: Client) -> None:
        """Ask everybody who still serves once more, when the crowd has been answered."""

    def take_note(self, world: World, client: Client) -> None:
        """At the end: tell the ledger what a client heard, where checkers want to know."""
