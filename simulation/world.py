"""A whole server in virtual time: the production wiring with other ports.

`World` holds simulated models, runs a scenario against them under a seeded scheduler and a clock
that leaps to the next deadline, and keeps a trace and a ledger, which it has checked at the end. No
socket and no thread is touched, so a run is a function of its seed.
"""

from __future__ import annotations

import copy
import functools
import logging
import math
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random  # noqa: TID251  # only the type; simulation.seeding makes the one
from typing import Final

import numpy as np
import trio
import trio.testing

from actors import version_wiring
from actors.policy.lifecycle import what_an_update_keeps
from actors.policy.limiting import declared_resource
from actors.processes.lending import InstanceServices
from actors.settings.options import ServerOptions
from actors.street.calls import Calls
from actors.street.executor import Executor
from actors.street.local_calls import infer
from actors.traces.ports import TracePorts
from actors.turns import open_turns
from actors.wiring import Core, Ports, wire_core
from protocol.inference import InferRequest, InferResponse, Tensor
from repo.backends.base import InstanceContext
from repo.instance_groups import DeviceTable
from repo.model_config import (
    ModelConfig,
    batching_settings,
    ensemble_scheduling,
    is_decoupled,
    scheduling_choice,
    sequence_settings,
)
from repo.pbtxt import parse_config
from repo.preparation import ModelDescription, ModelFiles, prepare
from simulation.asking import Asking
from simulation.checkers import complaints
from simulation.clients import REPLY_WINDOW, Client
from simulation.executor import Behaviour, Latency, Responses, SimulatedExecutor, Together, echo
from simulation.ledger import Ledger, Life
from simulation.leftovers import open_doors, remembered_mailboxes
from simulation.seeding import seeded_scheduler, seeded_turns
from simulation.source import SimulatedSource
from simulation.traces import Trace

# A run that has reached this instant waits for something that will never happen. No scenario lasts
# that long, and the clock gets there at once.
STUCK_AT_SECONDS: Final = 1e7
# Turns of the event loop within one instant of virtual time; a burst takes a few hundred.
_TURNS_AT_ONE_INSTANT: Final = 50_000
# Different configurations that stay prepared: those of a test module or of many random worlds.
_PREPARED_MODELS: Final = 4096


class Violation(AssertionError):  # a fact, as a test's reader sees it
    """A promise was broken in a run; the text lists every complaint."""


@dataclass(frozen=True, slots=True)
class SimulatedModel:
    """A model that computes nothing: its configuration, how long it takes, what it answers.

    `together` answers whole batches instead. `directory` is only for models whose files matter,
    `responses` for decoupled ones, `asking` for those that ask another model.
    """

    config: str
    latency: Latency = lambda _: 0.0
    behaviour: Behaviour = echo
    depth: int = 1
    together: Together | None = None
    directory: Path | None = None
    responses: Responses | None = None
    asking: Asking | None = None
    load_seconds: float = 0.0
    broken: str = ""  # why no instance of it can be loaded


@functools.lru_cache(maxsize=_PREPARED_MODELS)
def _prepared(name: str, text: str, directory: Path) -> ModelDescription:
    config = parse_config(text, f"{name}/config.pbtxt")
    files = ModelFiles(directory, subdirectories=("1",))
    return prepare(config, files, devices=DeviceTable(), complete=None)


class _WallClock:
    """The simulated day begins at the epoch: durations matter, dates do not."""

    def now_ms(self) -> int:
        return int(trio.current_time() * 1e3)


class _Patience(trio.abc.Instrument):
    """Ends a run that goes round in circles while its clock stands still."""

    def __init__(self, clock: trio.abc.Clock) -> None:
        self.limit = trio.CancelScope()
        self._clock = clock
        self._instant = 0.0
        self._turns = 0

    def before_io_wait(self, timeout: float) -> None:
        now = self._clock.current_time()
        if now != self._instant:
            self._instant = now
            self._turns = 0
        self._turns += 1
        if self._turns == _TURNS_AT_ONE_INSTANT:
            self.limit.cancel()


class _ErrorLog(logging.Handler):
    """Keeps what is logged at ERROR and above and was not expected."""

    def __init__(self, expected: Sequence[str], unexpected: list[str]) -> None:
        super().__init__(logging.ERROR)
        self._expected = expected
        self._unexpected = unexpected

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if not any(words in text for words in self._expected):
            self._unexpected.append(text)


def zeros(
    model: str,
    shape: Sequence[int],
    *,
    id: str = "",  # noqa: A002  # the protocol's word
    priority: int = 0,
    timeout_us: int = 0,
) -> InferRequest:
    """A request with one FP32 tensor INPUT of `shape`, batch dimension included."""
    tensor = Tensor.from_array("INPUT", np.zeros(tuple(shape), dtype=np.float32))
    return InferRequest(model, id=id, inputs=[tensor], priority=priority, timeout_us=timeout_us)


Scenario = Callable[["World"], Awaitable[None]]


class World:
    """Models, clients, a ledger, and the means to ask for inferences.

    `expected_errors` are parts of the log lines at ERROR that the scenario provokes; any other one
    fails the run. `submit_door` makes doors narrower than in production. `tracing` takes traces.
    """

    def __init__(
        self,
        models: Mapping[str, SimulatedModel],
        *,
        options: ServerOptions | None = None,
        expected_errors: Sequence[str] = (),
        submit_door: int | None = None,
        tracing: TracePorts | None = None,
    ) -> None:
        self.models = dict(models)  # a scenario may change them; see `source`
        self._tracing = tracing or TracePorts()
        self._options = options or ServerOptions(model_repository=("simulated",))
        self._expected_errors = expected_errors
        self._submit_door = submit_door
        self.trace = Trace()
        self.ledger = Ledger()
        self.ledger.is_limited = self._options.rate_limit != "off"
        for argument in self._options.rate_limit_resource:
            declared = declared_resource(argument)
            self.ledger.declared[declared.name] = declared.count
        self.source = SimulatedSource(self._describe, list(self.models))
        self.executors: dict[str, SimulatedExecutor] = {}
        self.services: dict[str, InstanceServices] = {}
        self.clock = trio.testing.MockClock(autojump_threshold=0)
        self._lives: dict[int, Life] = {}  # by identity of the configuration object
        self._clients: list[Client] = []
        # Every description by its configuration, what an update of it keeps, and the configuration
        # that served when it was made.
        self._described: dict[int, tuple[ModelDescription, object, ModelConfig | None]] = {}
        self._configs: list[ModelConfig] = []  # kept, so that identities stay unique
        self.random: Random
        self.core: Core
        self._nursery: trio.Nursery
        self._answered = trio.Event()
        self._stock_taking = trio.CancelScope()

    def run(self, scenario: Scenario, *, seed: int = 0) -> Trace:
        """Load the models, run `scenario`, drain, and return what happened.

        Raises Violation when a promise was broken, and whatever the scenario raises.
        """
        log = logging.getLogger()
        errors = _ErrorLog(self._expected_errors, self.ledger.logged)
        log.addHandler(errors)
        try:
            with (
                _narrow_doors(self._submit_door),
                remembered_mailboxes() as mailboxes,
                seeded_scheduler(seed) as self.random,
            ):
                patience = _Patience(self.clock)
                trio.run(
                    self._run,
                    scenario,
                    seed,
                    patience.limit,
                    clock=self.clock,
                    instruments=[patience],
                )
            self.ledger.leftovers = open_doors(mailboxes)
        finally:
            log.removeHandler(errors)
        found = list(complaints(self.ledger))
        if found:
            raise Violation("\n".join(found))
        return self.trace

    # --- clients ---------------------------------------------------------------------------------

    def client(self, name: str = "client", *, window: int = REPLY_WINDOW) -> Client:
        """A new client, reading."""
        client = Client(self, name, window=window)
        self._clients.append(client)
        self._nursery.start_soon(client.run)
        return client

    async def all_answered(self) -> None:
        """Wait until no client that is still there has an open request."""
        while any(client.open_count for client in self._clients):
            self._answered = trio.Event()
            await self._answered.wait()

    def somebody_was_answered(self) -> None:
        self._answered.set()

    async def infer(
        self,
        model: str,
        *,
        id: str = "",  # noqa: A002  # the protocol's word
        batch: int = 1,
        dims: Sequence[int] = (1,),
        priority: int = 0,
        timeout_us: int = 0,
        deadline_at: float = math.inf,
    ) -> InferResponse:
        """One inference as an embedder makes it, with INPUT of [batch, *dims]. Raises ServerError.

        It shows in the trace, but not in the ledger.
        """
        request = zeros(model, (batch, *dims), id=id, priority=priority, timeout_us=timeout_us)
        return await self.ask(request, deadline_at=deadline_at)

    async def ask(self, request: InferRequest, *, deadline_at: float = math.inf) -> InferResponse:
        """Any inference, as `infer` makes it."""
        self.ledger.outsiders += 1  # also if it is never executed
        return await infer(self.calls, request, deadline_at=deadline_at)

    @property
    def calls(self) -> Calls:
        """The way in, for clients."""
        return self.core.calls

    # --- for clients, executors and faults -------------------------------------------------------

    def start_soon(self, run: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """A task that ends with the scenario at the latest."""
        self._nursery.start_soon(run, *arguments)

    def life_of_config(self, config: ModelConfig) -> Life:
        """The version that was loaded, or updated, with this very configuration object."""
        # An ensemble has no executor, whose making begins the life of every other version.
        return self._life_with(config)

    # --- the run ---------------------------------------------------------------------------------

    async def _run(self, scenario: Scenario, seed: int, limit: trio.CancelScope) -> None:
        open_turns(seeded_turns(seed))
        ports = Ports(
            source=self.source,
            make_executor=self._make_executor_with,
            wall_clock=_WallClock(),
            tracing=self._tracing,
        )
        self.core = wire_core(self._options, ports, server_version="simulated")
        limit.deadline = STUCK_AT_SECONDS
        with limit:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._run_core)
                await self._begin(nursery)
                async with trio.open_nursery() as self._nursery:
                    await scenario(self)
                    await self.all_answered()
                    await self._take_stock()
                    self._nursery.cancel_scope.cancel()
                self._finish()
                self.core.repository.drain()
        if limit.cancelled_caught:
            waiting = [asked.name for asked in self.ledger.asked.values() if asked.final is None]
            self.ledger.problems.append(f"the run got stuck; without an answer: {waiting}")

    async def _begin(self, nursery: trio.Nursery) -> None:
        """What else a kind of world has, once the models are loaded."""

    def _finish(self) -> None:
        """The end of that, when everybody has been answered."""

    async def _run_core(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await self.core.run(task_status=task_status)
        self._stock_taking.cancel()  # a scenario that ended the server itself leaves nobody to ask

    async def _take_stock(self) -> None:
        """Note what must hold once everybody has been answered, while everything still runs."""
        with self._stock_taking:
            # What was asked by somebody who has left may still be executing.
            while self.ledger.is_busy():  # noqa: ASYNC110  # a virtual second costs nothing
                await trio.sleep(1.0)
            # One more round of the event loop at this instant: replies are sent before grants.
            await trio.testing.wait_all_tasks_blocked()
            self.ledger.counters = await self.core.reader.read()
            for serving in self.core.index.value.serving():
                self.ledger.pending[serving.name] = serving.pending()

    def _describe(self, name: str) -> ModelDescription:
        """Every description has a configuration object of its own, by which its life is known."""
        description = _prepared_as(self.models[name], name)
        description = replace(description, config=copy.copy(description.config))
        files = {
            entry: changed
            for entry, changed in self.source.entries[name].items()
            if entry != "config.pbtxt"
        }
        kept = (what_an_update_keeps(description), files)
        serving = self.core.index.value.models[name].latest
        before = None if serving is None else serving.config
        self._described[id(description.config)] = (description, kept, before)
        return description

    def _make_executor_with(self, context: InstanceContext, services: InstanceServices) -> Executor:
        self.services[context.instance_name] = services
        return self._make_executor(context)

    def _make_executor(self, context: InstanceContext) -> Executor:
        model = self.models[context.model_name]
        life = self._life_with(context.config)
        description = self._described[id(context.config)][0]
        spec = next(one for one in description.instances if one.name == context.instance_name)
        executor = SimulatedExecutor(
            life.admit(spec),
            latency=model.latency,
            behaviour=model.behaviour,
            together=model.together,
            responses=model.responses,
            asking=model.asking,
            models=self.services[context.instance_name].models,
            trace=self.trace,
            ledger=self.ledger,
            life=life,
            depth=model.depth,
            load_seconds=model.load_seconds,
            broken=model.broken,
        )
        self.executors[context.instance_name] = executor
        return executor

    def _life_with(self, config: ModelConfig) -> Life:
        """The version that a configuration object was made for, or whose instances it changes."""
        life = self._lives.get(id(config))
        if life is not None:
            return life
        self._configs.append(config)
        earlier = [life for life in self.ledger.lives if life.model == config.name]
        described = self._described.get(id(config))
        if described is None:
            # An ensemble's is made anew from those of its members whenever one of them changes.
            if earlier and self._serves(config.name):
                life = self._lives[id(config)] = earlier[-1]
                return life
            kept: object = None
        else:
            _, kept, before = described
            if before is not None and self._described[id(before)][1] == kept:
                life = self._lives[id(config)] = self._life_with(before)
                return life
        for other in earlier:
            other.end_now()
        return self._begin_life(config, kept, len(earlier))

    def _serves(self, name: str) -> bool:
        return self.core.index.value.models[name].latest is not None

    def _begin_life(self, config: ModelConfig, kept: object, generation: int) -> Life:
        ensemble = ensemble_scheduling(config)
        life = Life(
            model=config.name,
            generation=generation,
            batching=batching_settings(config),
            is_dynamic=scheduling_choice(config) == "dynamic_batching",
            is_decoupled=is_decoupled(config),
            is_cached=config.response_cache.enable and self._options.cache_bytes is not None,
            kept=kept,
            sequences=sequence_settings(config),
            ensemble_limit=None if ensemble is None else ensemble.max_inflight_requests,
        )
        self._lives[id(config)] = life
        self.ledger.lives.append(life)
        return life


def _prepared_as(model: SimulatedModel, name: str) -> ModelDescription:
    return _prepared(name, model.config, model.directory or Path(name))


@contextmanager
def _narrow_doors(capacity: int | None) -> Iterator[None]:
    """Production's own number is a constant; back-pressure is met more often behind less of it."""
    usual = version_wiring.SUBMIT_DOOR
    if capacity is not None:
        setattr(version_wiring, "SUBMIT_DOOR", capacity)  # noqa: B010  # declared Final
    try:
        yield
    finally:
        setattr(version_wiring, "SUBMIT_DOOR", usual)  # noqa: B010  # declared Final
