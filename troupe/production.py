"""The ports of a real server: models on disk, worker threads and processes, the time of day."""

from __future__ import annotations

import logging
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Final

import trio

from actors.lifecycle.disk_source import DiskSource
from actors.processes.lending import InstanceServices
from actors.processes.ports import LogLevel
from actors.processes.zygote import Starter
from actors.settings.options import ServerOptions
from actors.street.executor import Executor, ThreadExecutor
from actors.street.limited_executor import LimitedExecutor
from actors.traces.ports import SpanExporter, TracePorts, Work
from actors.wiring import Ports
from repo.backends.base import COMPUTE_CAPABILITY, InstanceContext
from repo.backends.registry import PYTHON, create_backend, worker_module
from repo.config_json import to_json
from repo.devices.lane import Lanes
from repo.devices.limits import LoadLimits
from repo.devices.port import Device, Devices, NoDevices
from repo.devices.table import BY_BUS, ORDER, NvmlDevices, load_nvml
from repo.instance_groups import DeviceTable
from repo.memory import available_bytes
from troupe.logs import follow
from troupe.memory import release_memory

log = logging.getLogger("model")

_LEVELS: Final[dict[LogLevel, int]] = {
    "VERBOSE": logging.DEBUG,
    "INFO": logging.INFO,
    "WARNING": logging.WARNING,
    "ERROR": logging.ERROR,
}


class SystemClock:
    """The time of day, as this machine has it."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000


def log_of_model(instance_name: str, level: LogLevel, message: str) -> None:
    """A line that a model wrote, in the server's log."""
    log.log(_LEVELS[level], "%s: %s", instance_name, message)


def _open_gpu(device_id: int) -> Device:
    """Servers without GPUs never load what this needs."""
    from repo.devices.cuda import open_cuda_device

    return open_cuda_device(device_id)


def find_devices(options: ServerOptions) -> Devices:
    """The GPUs that models may use; why there are none is in the log."""
    minimum = options.min_supported_compute_capability
    none = NoDevices(DeviceTable(minimum_compute_capability=minimum))
    nvml = load_nvml()
    if nvml is None:
        return none
    os.environ.setdefault(ORDER, BY_BUS)  # before CUDA looks at it, and for workers too
    try:
        return NvmlDevices(nvml, _open_gpu, minimum=minimum)
    except nvml.NVMLError as error:
        log.info("no GPUs: %s", error)
        return none


@dataclass(frozen=True, slots=True, eq=False)
class GpuUse:
    """The GPUs, what instances have of them, and how full they may become."""

    devices: Devices
    lanes: Lanes
    limits: LoadLimits


def make_executor(
    starter: Starter,
    gpus: GpuUse,
    context: InstanceContext,
    services: InstanceServices,
) -> Executor:
    """What runs an instance; on a GPU that a limit is set for, only if that leaves room."""
    if context.kind != "GPU":
        return _make_executor(starter, gpus.lanes, context, services)
    major, minor = gpus.devices.table.compute_capability(context.device_id)
    settings = {**context.settings, COMPUTE_CAPABILITY: f"{major}.{minor}"}
    executor = _make_executor(starter, gpus.lanes, replace(context, settings=settings), services)
    check = gpus.limits.check_of(context.instance_name, context.device_id)
    return executor if check is None else LimitedExecutor(executor, check)


def _make_executor(
    starter: Starter, lanes: Lanes, context: InstanceContext, services: InstanceServices
) -> Executor:
    """A worker process for what runs in Python, a worker thread for everything else."""
    module = worker_module(context.config, context.settings)
    if context.config.backend == PYTHON or module is not None:
        from actors.processes.executor import ProcessExecutor
        from repo.backends.python.launch import worker_spec

        prepare = partial(worker_spec, context, to_json(context.config), backend_directory=module)
        return ProcessExecutor(
            prepare,
            log=partial(log_of_model, context.instance_name),
            bls=services.models,
            metrics=services.metrics,
            starter=starter,
        )
    backend = create_backend(context)
    if context.kind == "GPU" and backend.uses_lane:
        from actors.street.device_executor import DeviceExecutor

        return DeviceExecutor(backend, open_lane=partial(lanes.open, context.device_id))
    return ThreadExecutor(backend)


async def complete_python(context: InstanceContext) -> str | None:
    """What a model.py makes of its own configuration, in a process that is then thrown away."""
    from actors.processes.autocomplete import auto_complete
    from repo.backends.python.launch import worker_spec

    prepare = partial(
        worker_spec,
        context,
        to_json(context.config),
        backend_directory=worker_module(context.config, context.settings),
        auto_complete=True,
    )
    return await auto_complete(prepare, log=partial(log_of_model, context.instance_name))


def log_of_workers(level: LogLevel, message: str) -> None:
    """A line about workers as such."""
    log.log(_LEVELS[level], "%s", message)


async def _in_thread(work: Work) -> None:
    await trio.to_thread.run_sync(work, abandon_on_cancel=True)


def _make_exporter(settings: Mapping[str, str]) -> SpanExporter:
    from troupe.otlp import OtlpExporter

    return OtlpExporter(settings)


def production_ports(options: ServerOptions, starter: Starter) -> Ports:
    """What `options` ask for, on this machine; `starter` brings workers of Python models about."""
    devices = find_devices(options)
    lanes = Lanes.of_flags(
        devices, options.pinned_memory_pool_byte_size, options.cuda_memory_pool_byte_size
    )
    limits = LoadLimits(options.model_load_gpu_limit, devices)
    return Ports(
        source=DiskSource(options, devices=devices.table, complete_python=complete_python),
        make_executor=partial(make_executor, starter, GpuUse(devices, lanes, limits)),
        wall_clock=SystemClock(),
        follow_log_settings=follow,
        tracing=TracePorts(
            in_thread=_in_thread,
            steady_offset_ns=lambda now: time.monotonic_ns() - round(now * 1e9),
            wall_offset_ns=lambda now: time.time_ns() - round(now * 1e9),
            new_id=lambda: secrets.randbits(64) or 1,
            make_exporter=_make_exporter,
            environment=os.environ,
        ),
        available_memory=available_bytes,
        devices=devices,
        pinned_memory=lanes.pinned_use,
        reclaim=release_memory,
    )
