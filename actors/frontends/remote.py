"""What the ports of a frontend process find behind them: the core, at the other end of the uplink.

Owns the uplink, and this process's view of the regions of shared memory, which follows the core's:
a region is registered there, and mapped here, where requests are read and responses are written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Final, cast

import trio

from actors.channels import Mailbox, Watch
from actors.control.shared_memory import SharedMemory
from actors.frontends.answers import Forwarded
from actors.frontends.pipe import Pipe
from actors.frontends.records import Rest
from actors.frontends.uplink import Uplink
from actors.lifecycle.model_index import ModelIndex
from actors.settings.options import ServerOptions
from actors.street.calls import Calls
from actors.traces.ports import TracePorts
from actors.traces.wiring import wire_tracing
from protocol.grpc_service import Route
from protocol.status import ServerError
from protocol.v2_json_shared_memory import SystemRegion

log = logging.getLogger(__name__)

# Between two looks at a region that requests still use; who gives its name to other memory waits.
RETRY_SECONDS: Final = 0.02


class Remote:
    """See the module's docstring; a `Backstage` of `actors/wiring.py`."""

    def __init__(
        self,
        pipe: Pipe,
        options: ServerOptions,
        *,
        first_number: int,
        obey: Callable[[Rest], None],
    ) -> None:
        """`first_number` begins the numbers that are this process's alone; `obey` takes orders."""
        index = Watch(ModelIndex())
        self._traces = Mailbox()  # the core traces, here nothing ever is
        tracing, _ = wire_tracing((), TracePorts(), self._traces)
        self.calls = Calls(index=index, tracing=tracing, first_number=first_number)
        self.regions = SharedMemory(allowed=options.allow_client_shm)
        self._wanted: dict[str, SystemRegion] = {}
        self._is_behind = trio.Event()  # set while a region is in use that is registered no longer
        self.uplink = Uplink(
            pipe,
            index=index,
            first_number=first_number,
            follow=self._follow,
            obey=obey,
        )
        self._forwarded = Forwarded(self.uplink.ask)

    async def run(self) -> None:
        """Serve until the core has gone."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._catch_up_later)
                await self.uplink.run()
                nursery.cancel_scope.cancel()
        finally:
            self._traces.close()

    def http_control(self, options: ServerOptions) -> Forwarded:
        return self._forwarded

    def grpc_routes(self) -> Mapping[str, Route]:
        return self._forwarded.routes()

    def load_report(self) -> Mapping[str, float]:
        """Models report to the core; a client that asks for it with a response gets none."""
        return {}

    # --- regions ---------------------------------------------------------------------------------

    def _follow(self, state: Rest) -> bool:
        rows = cast("Sequence[tuple[str, str, int, int]]", state["regions"])
        self._wanted = {row[0]: SystemRegion(*row) for row in rows}
        if self._catch_up():
            return True
        self._is_behind.set()
        return False

    def _catch_up(self) -> bool:
        """Map what is registered, and unmap what is not; whether nothing that is in use is left."""
        have = {region.name: region for region in self.regions.system_status("")}
        for name, region in have.items():
            if self._wanted.get(name) != region:
                self.regions.unregister_system(name)
        kept = {region.name: region for region in self.regions.system_status("")}
        for name, region in self._wanted.items():
            if name not in kept:
                try:
                    self.regions.register_system(region)
                except ServerError as error:  # its owner has taken it away since
                    log.error("shared memory region '%s': %s", name, error.message)
        return all(self._wanted.get(name) == region for name, region in kept.items())

    async def _catch_up_later(self) -> None:
        """Follow what could not be followed at once, because requests used it; until cancelled."""
        while True:
            await self._is_behind.wait()
            while not self._catch_up():  # noqa: ASYNC110  # leases tell nobody of their end
                await trio.sleep(RETRY_SECONDS)
            self._is_behind = trio.Event()
            self.uplink.synced()
