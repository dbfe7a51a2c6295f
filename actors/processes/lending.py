"""Models that call models: what an instance is given for it, and what it lends meanwhile.

Owns the count of an instance's calls under way. While there is one, the instance waits for somebody
else, and under the rate limiter others may use its resources: a model that held on to what the
other one needs would wait for itself.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass

from actors.companions.rate_limiter import LimiterSeat
from actors.processes.ports import BlsPort, MetricsPort
from protocol.inference import InferRequest
from repo.backends.base import Outcome


@dataclass(frozen=True, slots=True, eq=False)
class InstanceServices:
    """What the server does for the code of one instance."""

    models: BlsPort
    metrics: MetricsPort


class Loan:
    """One instance's resources, lent while it has calls under way, however many."""

    def __init__(self, seat: LimiterSeat, index: int) -> None:
        self._seat = seat
        self._index = index
        self._calls = 0

    @contextmanager
    def lent(self) -> Iterator[None]:
        """For as long as one call lasts."""
        self._calls += 1
        if self._calls == 1:
            self._seat.lend(self._index)
        try:
            yield
        finally:
            self._calls -= 1
            if self._calls == 0:
                self._seat.take_back(self._index)


class LendingModels:
    """A BlsPort for one instance under the rate limiter."""

    def __init__(self, models: BlsPort, loan: Loan) -> None:
        self._models = models
        self._loan = loan

    async def infer(
        self, request: InferRequest, *, decoupled: bool
    ) -> AsyncGenerator[tuple[Outcome | None, bool], None]:
        """As the other port; lends from the first question to the last answer."""
        with self._loan.lent():
            async with aclosing(self._models.infer(request, decoupled=decoupled)) as responses:
                async for outcome, final in responses:
                    yield outcome, final

    async def load(self, model_name: str, config_json: str, files: Mapping[str, bytes]) -> None:
        with self._loan.lent():
            await self._models.load(model_name, config_json, files)

    async def unload(self, model_name: str, *, unload_dependents: bool) -> None:
        with self._loan.lent():
            await self._models.unload(model_name, unload_dependents=unload_dependents)

    async def is_ready(self, model_name: str, version: str) -> bool:
        return await self._models.is_ready(model_name, version)
