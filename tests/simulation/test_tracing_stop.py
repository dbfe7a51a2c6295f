"""What a hung disk or a dead collector costs a server that stops: not more than it has."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from actors.settings.options import ServerOptions
from actors.traces.ports import RunInThread, TracePorts, Work
from actors.traces.tracer import LAST_CHANCE_SECONDS, LAST_WRITE_SECONDS
from simulation.world import SimulatedModel, World
from tests.simulation.rig import model_config
from tests.simulation.test_tracing_spans import Collector

LOST_FILE = "1 traces are lost, file '{}' is not written in time"
LOST_SPANS = "3 spans are lost: the collector does not answer in time"


async def hang(work: Work) -> None:
    """A thread that never comes back."""
    del work
    await trio.sleep_forever()


async def take_an_eighth(work: Work) -> None:
    await trio.sleep(0.125)
    work()


class StoppedWorld(World):
    """A world in which everything has to end within `exit_seconds` of the wish to stop."""

    exit_seconds = 0.0
    took_seconds = 0.0

    async def _run_core(
        self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        with trio.CancelScope() as self.life:
            await super()._run_core(task_status=task_status)
        assert self.core.has_drained, "whoever waits for traces alone stops in order"
        self.took_seconds = trio.current_time() - self.stopped_at

    async def _take_stock(self) -> None:
        await super()._take_stock()
        self.stopped_at = trio.current_time()
        self.life.deadline = self.stopped_at + self.exit_seconds


def stop(
    exit_seconds: float, in_thread: RunInThread, path: Path | None, lost: str = ""
) -> tuple[float, Collector]:
    """How long the stop takes. Traces go to the file, or else to the collector."""
    mode = ("mode=opentelemetry",) if path is None else ("mode=triton", f"triton,file={path}")
    options = ServerOptions(
        model_repository=("simulated",), trace_config=("level=TIMESTAMPS", "rate=1", *mode)
    )
    collector = Collector()
    world = StoppedWorld(
        {"m": SimulatedModel(model_config(None))},
        options=options,
        expected_errors=(lost,) if lost else (),
        tracing=TracePorts(in_thread=in_thread, make_exporter=collector.make),
    )
    world.exit_seconds = exit_seconds
    world.run(trace_one)
    return world.took_seconds, collector


async def trace_one(world: World) -> None:
    await world.infer("m", id="q")


@pytest.mark.parametrize(
    ("exit_seconds", "expected"),
    [(30.0, LAST_WRITE_SECONDS), (1.0, 1.0), (0.0625, LAST_CHANCE_SECONDS)],
)
def test_a_dead_collector_delays_no_stop_beyond_its_deadline(
    exit_seconds: float, expected: float, caplog: pytest.LogCaptureFixture
) -> None:
    took, collector = stop(exit_seconds, hang, None, LOST_SPANS)
    assert took == expected
    assert collector.closed, "an export that is under way gives up"
    assert LOST_SPANS in caplog.text


@pytest.mark.parametrize(
    ("exit_seconds", "expected"),
    [(30.0, LAST_WRITE_SECONDS), (1.0, 1.0), (0.0625, LAST_CHANCE_SECONDS)],
)
def test_a_file_that_hangs_delays_no_stop_beyond_its_deadline(
    exit_seconds: float, expected: float, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "t.json"
    took, _ = stop(exit_seconds, hang, path, LOST_FILE.format(path))
    assert took == expected
    assert LOST_FILE.format(path) in caplog.text
    assert not path.exists()


def test_a_stop_that_has_no_time_left_still_writes_what_a_disk_takes_at_once(
    tmp_path: Path,
) -> None:
    path = tmp_path / "t.json"
    took, _ = stop(0.0625, take_an_eighth, path)
    assert took == 0.125
    assert path.read_text().startswith('[{"id":1')


def test_a_healthy_stop_waits_for_nothing() -> None:
    took, collector = stop(30.0, take_an_eighth, None)
    assert took == 0.125
    assert len(collector.spans) == 3
