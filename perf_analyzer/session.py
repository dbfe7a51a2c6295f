"""One run from its options to its exit status.

Owns the order of things: find the model, prepare data and connections, load, measure, report,
clean up. The parts know nothing of one another; they meet here.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Final

import trio

from perf_analyzer import console, reports, search
from perf_analyzer.calls import Call
from perf_analyzer.clients import Client
from perf_analyzer.connecting import Connect, plain_connector, split_address
from perf_analyzer.control import Control, ControlError
from perf_analyzer.cuda_memory import CudaMemory
from perf_analyzer.drivers import Driver, driver_of, intervals, is_asynchronous, picker_of
from perf_analyzer.in_process import Embed, EmbeddedServer, LocalClient, LocalControl
from perf_analyzer.inputs import DataSet
from perf_analyzer.loads import Judge
from perf_analyzer.meter import LagProbe, Meter
from perf_analyzer.metrics_poller import MetricsPoller
from perf_analyzer.model import ModelInfo, SetupError
from perf_analyzer.options import METRICS_PORT, Mode, Options
from perf_analyzer.periodic import PeriodicLoad
from perf_analyzer.picking import Picker
from perf_analyzer.profile_export import Experiment
from perf_analyzer.profiler import EXIT_ERROR, EXIT_OK, Profiler, RunOutcome, Say
from perf_analyzer.recorder import Recorder
from perf_analyzer.requests import LocalEncoder, Payloads, RequestPlan
from perf_analyzer.responses import grpc_outputs, http_outputs, mismatch
from perf_analyzer.schedules import custom_rate
from perf_analyzer.setup import (
    Target,
    client_of,
    control_of,
    find_model,
    has_statistics,
    load_data,
    target,
)
from perf_analyzer.shared_memory import CudaPlace, Regions, SystemPlace
from perf_analyzer.timer import Sleeper, best_sleeper
from perf_analyzer.wires import Wires

# How long cleaning up on the server may take when the run has been cancelled.
CLEANUP_SECONDS: Final = 5.0


@dataclass(frozen=True)
class Ports:
    """What a run needs of the world outside; tests give it other ones."""

    wall_ns: Callable[[], int]  # the system's clock
    find: Callable[[Options], Target] = target
    connect_to: Callable[[str, int], Connect] = plain_connector  # to where metrics are
    sleeper: Callable[[], Sleeper] = best_sleeper
    cuda: Callable[[], CudaMemory] = CudaMemory
    embed: Embed | None = None  # how a server is started in this process
    listens_to_signals: bool = True


@dataclass(frozen=True)
class Prepared:
    """What is known and open once the set-up is done."""

    control: Control
    model: ModelInfo
    data: DataSet
    with_statistics: bool
    client: Client
    payloads: Payloads


class Session:
    """One run. Call `run` once; `interrupt` is what Ctrl-C does."""

    def __init__(self, options: Options, ports: Ports, say: Say) -> None:
        self._options = options
        self._ports = ports
        self._say = say
        self._halt = trio.Event()
        self._wires = Wires()
        self._life = trio.CancelScope()
        self._interrupts = 0
        self._driver: Driver | None = None
        self._epoch_ns = ports.wall_ns() - int(trio.current_time() * 1e9)

    def to_ns(self, instant: float) -> int:
        """An instant of the run's clock as nanoseconds of the system's."""
        return self._epoch_ns + int(instant * 1e9)

    def interrupt(self) -> None:
        """Once: stop sending and report what there is. Twice: leave at once."""
        self._interrupts += 1
        if self._interrupts > 1:
            self._life.cancel()
            return
        self._say.error(
            "SIGINT was pressed. Waiting for in-flight inferences to complete, press it again to"
            " leave at once."
        )
        if self._driver is not None:
            self._driver.load.stop()
        self._halt.set()

    async def run(self) -> int:
        """Do it all; the result is the exit status. Raises SetupError."""
        problem: SetupError | None = None
        status = EXIT_OK
        try:
            status = await self._run()
        except* SetupError as group:
            problem = _first(group)
        if problem is not None:
            raise problem
        return status

    async def _run(self) -> int:
        status = EXIT_OK
        with self._life:
            async with trio.open_nursery() as nursery:
                await nursery.start(self._wires.run)
                if self._ports.listens_to_signals:
                    nursery.start_soon(self._listen)
                status = await self._serve(nursery)
                nursery.cancel_scope.cancel()
        return status

    async def _listen(self) -> None:
        with trio.open_signal_receiver(signal.SIGINT) as signals:
            async for _ in signals:
                self.interrupt()

    async def _serve(self, nursery: trio.Nursery) -> int:
        options = self._options
        if not options.in_process:
            server = self._ports.find(options)
            return await self._with(nursery, control_of(options, server, self._wires), server)
        if self._ports.embed is None:
            raise SetupError("this program has no server of its own; use `troupe perf`")
        async with self._ports.embed(options.model_repository) as embedded:
            return await self._with(nursery, LocalControl(embedded), embedded)

    async def _with(
        self, nursery: trio.Nursery, control: Control, server: Target | EmbeddedServer
    ) -> int:
        options = self._options
        if options.trace:
            try:
                await control.set_trace(options.trace)
            except ControlError as error:
                raise SetupError(f"failed to set trace settings: {error}") from None
        model = await find_model(options, control)
        with_statistics = await has_statistics(control)
        data = load_data(options, model)
        if not data.generated:
            self._say.out(data.announcement())
        cuda = options.shared_memory == "cuda"
        regions = Regions(control, CudaPlace(self._ports.cuda()) if cuda else SystemPlace())
        try:
            if options.shared_memory != "none":
                await regions.create(
                    model,
                    data,
                    batch_size=options.batch_size,
                    output_bytes=options.output_shared_memory_bytes,
                )
            plan = self._plan(model, data, regions)
            client, payloads = self._client(plan, server, nursery)
            prepared = Prepared(control, model, data, with_statistics, client, payloads)
            status = await self._measure(nursery, prepared)
            await client.close()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + CLEANUP_SECONDS):
                await regions.remove()
            regions.free()
        return status

    def _plan(self, model: ModelInfo, data: DataSet, regions: Regions) -> RequestPlan:
        options = self._options
        return RequestPlan(
            model=model,
            data=data,
            batch_size=options.batch_size,
            binary_inputs=not options.json_inputs,
            binary_outputs=not options.json_outputs,
            parameters=options.parameters,
            input_regions=regions.inputs,
            output_regions=regions.outputs,
            wants_empty_final=options.streaming,
            compression=options.grpc_compression,
        )

    def _client(
        self, plan: RequestPlan, server: Target | EmbeddedServer, nursery: trio.Nursery
    ) -> tuple[Client, Payloads]:
        if not isinstance(server, Target):
            local = LocalEncoder(plan)
            return LocalClient(server, local, nursery), Payloads(plan, local)
        client, encoder = client_of(self._options, server, plan, self._wires)
        nursery.start_soon(client.run)
        return client, Payloads(plan, encoder)

    async def _measure(self, nursery: trio.Nursery, prepared: Prepared) -> int:
        say = self._say
        model, data = prepared.model, prepared.data
        if self._options.mode is Mode.FIXED_SCHEDULE:
            self._options = _of_schedule(self._options, data)
        options = self._options
        keeps = bool(options.export_file) or data.validates
        recorder = Recorder(keeps=bool(options.export_file), decoupled=model.decoupled)
        picker = picker_of(options, model, prepared.payloads, keeps=keeps)
        for line in console.settings(options, model, asynchronous=is_asynchronous(options, model)):
            say.out(line)
        if options.mode is Mode.PERIODIC:
            return await self._periodic(prepared, picker, recorder)
        sleeper = self._ports.sleeper()
        try:
            async with trio.open_nursery() as loads:
                driver = driver_of(
                    options,
                    model,
                    client=prepared.client,
                    picker=picker,
                    recorder=recorder,
                    judge=self._judge(prepared) if data.validates else None,
                    halt=self._halt,
                    nursery=loads,
                    sleeper=sleeper,
                    offsets=tuple(step.delay_ms / 1000 for step in data.streams[0]),
                )
                self._driver = driver
                outcome = await self._levels(nursery, prepared, driver, recorder)
                if outcome.code != EXIT_ERROR:
                    await driver.end()
                loads.cancel_scope.cancel()
        finally:
            sleeper.close()
        reports.write(options, model, outcome, to_ns=self.to_ns, say=say)
        if outcome.problem:
            say.error(outcome.problem)
        return outcome.code

    def _judge(self, prepared: Prepared) -> Judge:
        """Compares responses with what the data expects."""
        binary = self._options.grpc or self._options.in_process
        parse = grpc_outputs if binary else http_outputs

        def judge(call: Call) -> str | None:
            assert call.payload is not None
            for body in call.bodies or ():
                if wrong := mismatch(call.payload, parse(body)):
                    return wrong
            return None

        return judge

    async def _levels(
        self, nursery: trio.Nursery, prepared: Prepared, driver: Driver, recorder: Recorder
    ) -> RunOutcome:
        options, say = self._options, self._say
        probe = LagProbe()
        nursery.start_soon(probe.run)
        poller = await self._poller(nursery)
        meter = Meter(
            model=prepared.model,
            load=driver.load,
            recorder=recorder,
            wires=self._wires,
            control=prepared.control,
            with_server=prepared.with_statistics,
            poller=poller,
            probe=probe,
            halt=self._halt,
            warn=say.error,
        )
        levels = self._search()
        if options.warmup_count:
            if options.mode is Mode.CONCURRENCY and options.warmup_count < options.levels.start:
                say.error(
                    f"WARNING: only {options.warmup_count} requests are outstanding in the warm-up"
                )
            await driver.warm_up(options.warmup_count, options.levels.start)
        profiler = Profiler(
            options=options,
            model=prepared.model,
            meter=meter,
            recorder=recorder,
            start_level=driver.start_level,
            halt=self._halt,
            problem=lambda: _failure(driver),
            interrupted=lambda: self._interrupts > 0,
            asynchronous=is_asynchronous(options, prepared.model),
            say=say,
        )
        return await profiler.run(levels)

    async def _poller(self, nursery: trio.Nursery) -> MetricsPoller | None:
        options = self._options
        if not options.collect_metrics:
            return None
        url = options.effective_metrics_url
        url = url if "://" in url else f"http://{url}"
        address = url.partition("://")[2].partition("/")[0]
        host, port = split_address(address, METRICS_PORT)
        poller = MetricsPoller(
            wires=self._wires,
            connect=self._ports.connect_to(host, port),
            url=url,
            seconds=options.metrics_interval_ms / 1000,
            warn=self._say.error,
        )
        await poller.look()
        nursery.start_soon(poller.run)
        return poller

    def _search(self) -> Generator[Fraction, bool, None]:
        options = self._options
        if options.mode is Mode.CUSTOM_INTERVALS:
            rate = Fraction(custom_rate(intervals(options)))
            return search.linear(search.Range(rate, rate, Fraction(1)))
        if options.mode is Mode.FIXED_SCHEDULE:
            return search.linear(options.levels)
        if options.binary_search:
            return search.binary(options.levels, whole=options.mode is Mode.CONCURRENCY)
        return search.linear(options.levels)

    async def _periodic(self, prepared: Prepared, picker: Picker, recorder: Recorder) -> int:
        options = self._options
        load = PeriodicLoad(
            client=prepared.client,
            picker=picker,
            recorder=recorder,
            halt=self._halt,
            start=int(options.levels.start),
            end=int(options.levels.end),
            step=int(options.levels.step),
            period=options.request_period,
        )
        await load.run()
        if load.problem:
            self._say.error(load.problem)
            return EXIT_ERROR
        experiment = Experiment(Fraction(1), recorder.kept, ())
        outcome = RunOutcome(experiments=[experiment])
        reports.write(options, prepared.model, outcome, to_ns=self.to_ns, say=self._say)
        return EXIT_OK


def _first(group: BaseExceptionGroup[SetupError]) -> SetupError:
    """The group's first error: the others are what it brought about."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, SetupError)
    return error


def _of_schedule(options: Options, data: DataSet) -> Options:
    """A fixed schedule sends each step once, the first ones to warm up."""
    count = data.step_count - options.warmup_count
    if count <= 0:
        raise SetupError("the warm-up takes all steps of the fixed schedule")
    return replace(options, request_count=count)


def _failure(driver: Driver) -> str:
    """What standard error says of a load that failed, "" of one that has not."""
    load = driver.load
    if not load.problem:
        return ""
    return (
        "Failed to maintain requested inference load. Worker thread(s) failed to generate "
        f"concurrent requests.\nThread [{load.failed_place}] had error: {load.problem}"
    )
