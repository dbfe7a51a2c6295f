"""A world whose clients sit behind a frontend process's link: the same models, a longer street.

Owns the pipe in memory that stands for the pair of sockets, and the two ends of the conversation.
Nothing takes time on the way, and every packet goes through the real codec. A link can be cut, as
when a frontend is killed.
"""

from __future__ import annotations

import os
from collections import deque
from typing import Final

import trio

from actors.channels import Mailbox, Watch
from actors.frontends.answers import Answers
from actors.frontends.board import Board
from actors.frontends.core_link import CoreLink
from actors.frontends.pipe import PeerGone
from actors.frontends.uplink import Uplink
from actors.http.control import HttpControl
from actors.lifecycle.model_index import ModelIndex
from actors.street.calls import Calls
from actors.traces.ports import TracePorts
from actors.traces.wiring import wire_tracing
from repo.model_config import ModelConfig
from simulation.ledger import Life
from simulation.world import World

# Packets that a pipe holds; few, so that full pipes are met.
PIPE_PACKETS: Final = 4
# Numbers of a frontend's requests begin here, as those of the first process do.
FIRST_NUMBER: Final = 1 << 40
MAX_INPUT: Final = 1 << 20


class MemoryPipe:
    """One end of a pipe in memory; make two with `memory_pipes`."""

    def __init__(self) -> None:
        self._peer: MemoryPipe
        self._inbox: deque[tuple[bytes, int]] = deque()  # at most PIPE_PACKETS
        self._changed = trio.Event()  # of either inbox, or of the other end's life
        self._is_closed = False

    def join(self, peer: MemoryPipe) -> None:
        self._peer = peer

    def send(self, packet: bytes, descriptor: int = -1) -> bool:
        if self._peer._is_closed or self._is_closed:  # noqa: SLF001  # its other half
            raise PeerGone("the other end was closed")
        if len(self._peer._inbox) >= PIPE_PACKETS:  # noqa: SLF001
            return False
        self._peer._inbox.append((packet, descriptor))  # noqa: SLF001
        self._peer._change()  # noqa: SLF001
        return True

    def receive(self) -> tuple[bytes, int] | None:
        if self._inbox:
            found = self._inbox.popleft()
            self._peer._change()  # noqa: SLF001
            return found
        if self._peer._is_closed or self._is_closed:  # noqa: SLF001
            raise PeerGone("the other end was closed")
        return None

    async def wait_readable(self) -> None:
        await trio.lowlevel.checkpoint()
        while not (self._inbox or self._peer._is_closed or self._is_closed):  # noqa: SLF001
            await self._changed.wait()

    async def wait_writable(self) -> None:
        await trio.lowlevel.checkpoint()
        while len(self._peer._inbox) >= PIPE_PACKETS and not self._peer._is_closed:  # noqa: SLF001
            await self._changed.wait()

    def close(self) -> None:
        self._is_closed = True
        for _, descriptor in self._inbox:
            if descriptor >= 0:
                os.close(descriptor)
        self._inbox.clear()
        self._change()
        self._peer._change()  # noqa: SLF001

    def _change(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def memory_pipes() -> tuple[MemoryPipe, MemoryPipe]:
    """Two ends."""
    ours, theirs = MemoryPipe(), MemoryPipe()
    ours.join(theirs)
    theirs.join(ours)
    return ours, theirs


class LinkedWorld(World):
    """See the module's docstring."""

    board: Board
    link: CoreLink
    uplink: Uplink
    pipe: MemoryPipe  # the frontend's end
    _behind: Calls

    @property
    def calls(self) -> Calls:
        return self._behind

    def life_of_config(self, config: ModelConfig) -> Life:
        """A frontend has configurations of its own: what it means is what it was told of."""
        known = self.uplink._replica._serving  # noqa: SLF001  # by handle, as the core knows it
        for handle, serving in known.items():
            if serving.config is config:
                meant, _ = self.link._publisher.find(handle)  # noqa: SLF001
                return super().life_of_config(meant.config)
        return super().life_of_config(config)

    async def _begin(self, nursery: trio.Nursery) -> None:
        core = self.core
        near, self.pipe = memory_pipes()
        self.board = Board(core.index, core.regions)
        control = HttpControl(core.control_plane, max_input_size=MAX_INPUT)
        self.link = CoreLink(
            near,
            calls=core.calls,
            board=self.board,
            answers=Answers(control, {}),
            heard=lambda _: None,
        )
        index = Watch(ModelIndex())
        self._traces = Mailbox()  # nothing is traced here
        tracing, _ = wire_tracing((), TracePorts(), self._traces)
        self._behind = Calls(index=index, tracing=tracing, first_number=FIRST_NUMBER)
        self.uplink = Uplink(
            self.pipe,
            index=index,
            first_number=FIRST_NUMBER,
            follow=lambda _: True,
            obey=lambda _: None,
        )
        nursery.start_soon(self.link.run)
        nursery.start_soon(self.uplink.run)
        await self.uplink.has_index.wait()

    def _finish(self) -> None:
        self.pipe.close()
        self._traces.close()
