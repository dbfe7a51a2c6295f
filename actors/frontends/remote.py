"""What the ports of a frontend process find behind them: the core, at the other end of the uplink.

Owns the uplink, and this process's view of the regions of shared memory, which follows the core's:
a region is registered there, and mapped here, where requests are read and responses are written.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import trio

from actors.calls import Calls
from actors.channels import Mailbox, Watch
from actors.frontends.answers import Forwarded
from actors.frontends.pipe import Pipe
from actors.frontends.records import Rest
from actors.frontends.uplink import Uplink
from actors.model_index import ModelIndex
from actors.options import ServerOptions
from actors.shared_memory import SharedMemory
from actors.trace_ports import TracePorts
from actors.trace_wiring import wire_tracing
from protocol.grpc_service import Route
from protocol.status import ServerError
from protocol.v2_json_shared_memory import SystemRegion

log = logging.getLogger(__name__)


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
            await self.uplink.run()
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

    def _follow(self, state: Rest) -> None:
        rows = cast("Sequence[tuple[str, str, int, int]]", state["regions"])
        self._wanted = {row[0]: SystemRegion(*row) for row in rows}
        self.catch_up()

    def catch_up(self) -> None:
        """Map what is registered, and unmap what is not; what is in use can be followed later."""
        have = {region.name: region for region in self.regions.system_status("")}
        for name, region in have.items():
            if self._wanted.get(name) != region:
                self.regions.unregister_system(name)
        mapped = {region.name for region in self.regions.system_status("")}
        for name, region in self._wanted.items():
            if name not in mapped:
                try:
                    self.regions.register_system(region)
                except ServerError as error:
                    log.error("shared memory region '%s': %s", name, error.message)


async def catch_up_regularly(remote: Remote, seconds: float) -> None:
    """Follow what could not be followed at once, until cancelled."""
    while True:
        await trio.sleep(seconds)
        remote.catch_up()
