"""What the observer makes of a server, in virtual time."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from actors.admin.wiring import Observation, wire_observation
from actors.channels import Door, Mailbox, Watch
from actors.console.observer import ConsoleEvent, Observer, WatchConsole
from actors.console.slowness import KEPT_PER_VERSION
from actors.lifecycle.model_index import ModelIndex
from actors.mailboxes import MailboxRegister
from actors.messages import VersionKey
from actors.metrics.counters import VersionCounters
from actors.metrics.slow_requests import MAX_TEXT, SLOW_DOOR, SlowRequests
from actors.metrics.statistics import StatisticsReader
from actors.settings.options import ServerOptions
from protocol.inference import SequenceFlag
from protocol.status import ServerError, internal
from simulation.world import SimulatedModel, World, zeros
from tests.actors.grpc_rig import model
from tests.simulation.ensemble_worlds import CHAIN, member

OPTIONS = ServerOptions(
    model_repository=("simulated",),
    admin_port=0,
    allow_gpu_metrics=False,
    allow_cpu_metrics=False,
    model_control_mode="explicit",
    load_model=("*",),
)
BATCHED = """
backend: "simulated" max_batch_size: 8
input { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
output { name: "INPUT" data_type: TYPE_FP32 dims: [ 1 ] }
dynamic_batching { max_queue_delay_microseconds: 500000 }
"""


class Watcher:
    """Stands in for the admin port."""

    def __init__(self, observation: Observation, window: int = 4) -> None:
        assert observation.console is not None
        self.commands = observation.console.observer.commands
        self.mailbox = Mailbox()
        self.door: Door[ConsoleEvent] = self.mailbox.door(window)
        self._told: list[ConsoleEvent] = []

    async def join(self) -> Any:
        """The snapshot."""
        self.commands.send_nowait(WatchConsole(self.door))
        return await self.next("snapshot")

    async def next(self, kind: str = "tick") -> Any:
        while not self._told:
            await self.mailbox.wait()
            self._told += self.door.drain()
        event = self._told.pop(0)
        assert event.kind == kind
        return json.loads(event.text)


def observing(scenario: Any, models: dict[str, SimulatedModel], **more: Any) -> None:
    async def run(world: World) -> None:
        observation = wire_observation(OPTIONS, world.core, server_version="1.2")
        async with trio.open_nursery() as nursery:
            await nursery.start(observation.run)
            watcher = Watcher(observation)
            try:
                await scenario(world, watcher)
            finally:
                watcher.mailbox.close()
            nursery.cancel_scope.cancel()

    World(models, options=OPTIONS, **more).run(run)


def test_a_snapshot_and_then_what_has_changed() -> None:
    async def scenario(world: World, watcher: Watcher) -> None:
        told = await watcher.join()
        assert told["server"] == {
            "id": "triton", "version": "1.2", "ready": True, "exiting": False,
            "uptime_seconds": 0.0, "connections": {},
        }  # fmt: skip
        assert [(row["name"], row["state"]) for row in told["models"]] == [
            ("idle", "READY"), ("m", "READY"),
        ]  # fmt: skip
        assert told["tick"] == 1
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(world.infer, "m")
        told = await watcher.next()
        assert told["tick"] == 2
        (row,) = told["models"]
        assert row["point"]["requests"] == 4
        assert row["point"]["executions"] == 1
        assert row["point"]["request_us"] == 750_000.0
        assert row["point"]["queue_us"] == 500_000.0
        assert row["batches"] == [[4, 1]]
        assert row["p50_us"] == pytest.approx(750_000, rel=0.0101)
        assert row["counts"]["success"] == 4
        told = await watcher.next()
        assert told["models"] == [], "nothing has changed"
        assert told["gone"] == []
        watcher.mailbox.close()
        late = Watcher.__new__(Watcher)
        late.commands, late.mailbox, late._told = watcher.commands, Mailbox(), []
        late.door = late.mailbox.door(1)
        told = await late.join()
        assert [point["tick"] for row in told["models"] for point in row.get("points", [])] == [2]
        late.mailbox.close()

    observing(scenario, {"m": model(BATCHED, seconds=0.25), "idle": model()})


def test_a_slow_request_says_why_it_waited() -> None:
    async def scenario(world: World, watcher: Watcher) -> None:
        await world.ask(zeros("m", (1, 1), id="x" * 1000))
        await watcher.join()
        told = await watcher.next()
        (row,) = told["slow"]
        assert row["id"] == "x" * MAX_TEXT
        assert (row["total_us"], row["queue_us"], row["batch_size"]) == (625_000, 500_000, 1)
        assert row["instance"].startswith("m")
        assert row["why"] == (
            "It waited 500.0 ms for requests to share its batch; its batch of 1 left because the "
            "queue delay had passed."
        )

    observing(scenario, {"m": model(BATCHED, seconds=0.125)})


def test_a_request_that_timed_out_in_the_queue_is_a_slow_one() -> None:
    timing_out = BATCHED.replace(
        "500000",
        "0 default_queue_policy { timeout_action: REJECT default_timeout_microseconds: 500000 }",
    )

    async def wait_in_vain(world: World) -> None:
        with pytest.raises(ServerError, match="Request timeout expired"):
            await world.ask(zeros("m", (1, 1), id="late"))

    async def scenario(world: World, watcher: Watcher) -> None:
        await watcher.join()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(world.infer, "m")
            await trio.sleep(0.0625)
            nursery.start_soon(wait_in_vain, world)
        await watcher.next()
        told = await watcher.next()
        (row,) = [row for row in told["slow"] if row["id"] == "late"]
        assert (row["total_us"], row["queue_us"]) == (500_000, 500_000)
        assert row["error"] == "Unavailable: Request timeout expired"
        assert row["why"] == (
            "It waited 500.0 ms for a free instance, until the model's queue timeout had passed."
        )

    observing(scenario, {"m": model(timing_out, seconds=1.5)})


def test_a_sequence_that_timed_out_in_the_backlog_is_a_slow_one() -> None:
    config = BATCHED.replace(
        "dynamic_batching { max_queue_delay_microseconds: 500000 }",
        "sequence_batching { max_sequence_idle_microseconds: 9000000 }",
    ).replace("max_batch_size: 8", "max_batch_size: 1")

    async def scenario(world: World, watcher: Watcher) -> None:
        await watcher.join()
        for number in (1, 2):
            request = zeros("m", (1, 1), id=str(number), timeout_us=250_000)
            request.correlation_id = number
            request.sequence_flags = SequenceFlag.START
            if number == 1:
                await world.ask(request)
            else:
                with pytest.raises(ServerError):
                    await world.ask(request)
        told = await watcher.next()
        (row,) = [row for row in told["slow"] if row["id"] == "2"]
        assert row["why"] == (
            "It waited 250.0 ms for a free instance, until the timeout of its sequence had passed."
        )

    observing(scenario, {"m": model(config)})


def test_a_slow_ensemble_names_its_longest_step() -> None:
    async def scenario(world: World, watcher: Watcher) -> None:
        await world.ask(zeros("e", (1, 1)))
        await watcher.join()
        told = await watcher.next()
        (row,) = [row for row in told["slow"] if row["model"] == "e"]
        assert row["total_us"] == 625_000
        assert row["why"] == (
            "It hardly waited: its steps took 625.0 ms, the longest 500.0 ms in 'b'."
        )
        assert {row["model"] for row in told["slow"]} == {"a", "b", "e"}

    observing(scenario, {"a": member(0.125), "b": member(0.5), "e": SimulatedModel(CHAIN)})


def test_only_the_slowest_are_told_of_and_failures_too() -> None:
    def fails(_: object) -> ServerError:
        return internal("broken <b>")

    async def scenario(world: World, watcher: Watcher) -> None:
        for _ in range(3 * KEPT_PER_VERSION):
            await world.infer("quick")
        with pytest.raises(ServerError):
            await world.ask(zeros("broken", (1, 1)))
        await watcher.join()
        told = await watcher.next()
        errors = {row["model"]: row["error"] for row in told["slow"]}
        assert errors == {"quick": "", "broken": "Internal: broken <b>"}
        assert len(told["slow"]) == KEPT_PER_VERSION + 1
        slow = world.core.slow
        assert slow is not None
        before = len(slow.door)
        for _ in range(3):
            await world.infer("quick")
        assert len(slow.door) == before, "none of these is slower than those that are kept"

    observing(
        scenario,
        {
            "quick": model(seconds=0.125),
            "broken": SimulatedModel(BATCHED, latency=lambda _: 0.25, behaviour=fails),
        },
    )


def test_a_burst_of_slow_requests_never_waits_for_the_observer() -> None:
    async def run(world: World) -> None:
        for _ in range(2 * SLOW_DOOR):
            await world.infer("m")
        slow = world.core.slow
        assert slow is not None
        assert len(slow.door) == SLOW_DOOR
        slow.mailbox.close()

    World({"m": model(seconds=0.125)}, options=OPTIONS).run(run)


def test_the_street_has_nobody_to_tell_without_an_admin_port() -> None:
    async def run(world: World) -> None:
        assert world.core.slow is None
        for serving in world.core.index.value.serving():
            assert all(instance._slow is None for instance in serving.instances)
        await world.infer("m")

    World({"m": model()}).run(run)


def test_a_watcher_that_does_not_keep_up_misses_ticks() -> None:
    async def scenario(_: World, watcher: Watcher) -> None:
        await watcher.join()
        await trio.sleep(10.5)
        ticks = [(await watcher.next())["tick"] for _ in range(5)]
        assert ticks[:4] == [2, 3, 4, 5]
        assert ticks[4] > 6

    observing(scenario, {"m": model()})


def test_a_model_that_goes_is_gone() -> None:
    async def scenario(world: World, watcher: Watcher) -> None:
        await watcher.join()
        await world.core.control_plane.unload_model("", "m", unload_dependents=False)
        told = await watcher.next()
        (row,) = told["models"]
        assert (row["state"], row["reason"]) == ("UNAVAILABLE", "unloaded")
        assert "pending" not in row

    observing(scenario, {"m": model()})


def test_actors_have_a_depth_and_an_age() -> None:
    async def scenario(world: World, watcher: Watcher) -> None:
        await watcher.join()
        stuck: Door[int] = world.core.mailboxes.open("stuck").door(4)
        stuck.send_nowait(1)
        seen = []
        for _ in range(4):
            told = await watcher.next()
            rows = {row["actor"]: row for row in told["actors"]}
            seen.append((rows["stuck"]["depth"], rows["stuck"]["oldest_seconds"]))
        assert seen == [(1, 0.0), (1, 1.0), (1, 2.0), (1, 3.0)]
        assert rows["scheduler m/1"] == {
            "actor": "scheduler m/1", "depth": 0, "oldest_seconds": 0.0,
        }  # fmt: skip
        assert [name for name in rows if name.startswith("instance ")]
        for _, mailbox in world.core.mailboxes:
            if mailbox.depth:
                mailbox.close()

    observing(scenario, {"m": model()})


class LeavingStatistics(StatisticsReader):
    """Answers once, and has gone when it is asked again."""

    def __init__(self) -> None:
        self._asked = 0

    async def read(self) -> dict[VersionKey, VersionCounters]:
        await trio.lowlevel.checkpoint()
        self._asked += 1
        if self._asked > 1:
            raise trio.BrokenResourceError
        return {}


async def test_an_observer_ends_with_the_server(autojump_clock: trio.abc.Clock) -> None:  # noqa: ARG001
    register = MailboxRegister()
    observer = Observer(
        server={},
        slow=SlowRequests(register.open("observer")),
        statistics=LeavingStatistics(),
        index=Watch(ModelIndex()),
        mailboxes=register,
    )
    await observer.run()
    assert list(register) == []
