"""GPU metrics, by a module that stands in for NVML."""

from __future__ import annotations

import logging
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import cast

import pytest
import trio

from actors.admin.wiring import Observation, wire_observation
from actors.metrics.gpu_monitor import GpuMonitor
from actors.metrics.gpus import Gpus, open_gpus
from actors.metrics.page import Metrics
from actors.settings.options import ServerOptions
from protocol.metrics_text import render
from repo.devices.table import CPU_ONLY
from simulation.world import World
from tests.actors.fake_nvml import FakeNvml
from tests.actors.grpc_rig import model


def test_values_are_in_the_units_of_the_page(caplog: pytest.LogCaptureFixture) -> None:
    gpus = Gpus(FakeNvml())
    caplog.clear()
    first, second = gpus.read()
    assert (first.uuid, second.uuid) == ("GPU-text", "GPU-bytes")
    assert first.values == {
        "nv_gpu_utilization": 0.37,
        "nv_gpu_memory_total_bytes": 85_899_345_920,
        "nv_gpu_memory_used_bytes": 1_073_741_824,
        "nv_gpu_power_usage": 123.456,
        "nv_gpu_power_limit": 700.0,
        "nv_energy_consumption": 1.5,
    }
    assert set(second.values) == {"nv_gpu_memory_total_bytes", "nv_gpu_memory_used_bytes"}
    assert gpus.read()[0].values["nv_energy_consumption"] == 3.0
    told = [record.getMessage() for record in caplog.records]
    assert told == [
        f"GPU GPU-bytes does not tell {family}: Not Supported"
        for family in ("nv_gpu_utilization", "nv_gpu_power_usage", "nv_gpu_power_limit")
    ], "once each, however often it is asked"


def install(monkeypatch: pytest.MonkeyPatch, nvml: FakeNvml) -> None:
    module = cast("ModuleType", nvml)
    module.__spec__ = ModuleSpec("pynvml", None)
    monkeypatch.setitem(sys.modules, "pynvml", module)


def test_gpus_are_found_only_where_they_are_wanted_and_there(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.delenv(CPU_ONLY, raising=False)
    install(monkeypatch, FakeNvml())
    assert open_gpus() is not None
    monkeypatch.setenv(CPU_ONLY, "")
    assert open_gpus() is None
    monkeypatch.delenv(CPU_ONLY)
    install(monkeypatch, FakeNvml(has_driver=False))
    assert open_gpus() is None
    assert "no GPU metrics: Driver Not Loaded" in caplog.text


async def test_the_monitor_keeps_the_last_reading() -> None:
    monitor = GpuMonitor(period_seconds=1.0, open_gpus=lambda: Gpus(FakeNvml()))
    assert monitor.families() == []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(monitor.run)
        while not monitor.readings.value:
            await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    lines = render(monitor.families()).splitlines()
    assert 'nv_gpu_memory_used_bytes{gpu_uuid="GPU-bytes"} 1073741824' in lines
    assert 'nv_gpu_power_usage{gpu_uuid="GPU-text"} 123.456' in lines
    assert "# TYPE nv_energy_consumption counter" in lines
    assert 'nv_energy_consumption{gpu_uuid="GPU-text"} 1.5' in lines


async def test_without_gpus_the_monitor_ends() -> None:
    monitor = GpuMonitor(period_seconds=1.0, open_gpus=lambda: None)
    with trio.fail_after(10):
        await monitor.run()
    assert monitor.families() == []


@pytest.mark.parametrize(
    ("metrics", "gpus", "wired"), [(True, True, True), (True, False, False), (False, True, False)]
)
def test_flags_say_whether_anybody_looks(metrics: bool, gpus: bool, wired: bool) -> None:
    chosen = ServerOptions(
        model_repository=("simulated",), allow_metrics=metrics, allow_gpu_metrics=gpus
    )

    async def scenario(world: World) -> None:
        observation = wire_observation(chosen, world.core, server_version="1")
        assert (observation.gpus is not None) is wired

    World({"m": model()}, options=chosen).run(scenario)


async def test_a_driver_that_breaks_does_not_break_the_server(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def breaks() -> Gpus:
        raise OSError("libnvidia-ml.so: wrong ELF class")

    monitor = GpuMonitor(period_seconds=1.0, open_gpus=breaks)
    await Observation(cast("Metrics", None), monitor, None).run()
    assert "GPU metrics ended by an error" in caplog.text
    assert "wrong ELF class" in caplog.text
