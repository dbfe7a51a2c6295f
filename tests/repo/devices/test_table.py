"""The table of GPUs by a stand-in for NVML, and what instance groups make of it."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import pytest

from actors.settings.options import ServerOptions
from protocol.status import ServerError, StatusCode
from repo.backends.registry import preferred_groups
from repo.devices.fake import FakeGpu, FakeGpus
from repo.devices.limits import LoadLimits
from repo.devices.port import DeviceError, NoDevices
from repo.devices.table import CPU_ONLY, NvmlDevices, load_nvml, visible
from repo.instance_groups import (
    DeviceTable,
    check_instance_groups,
    expand,
    normalise_instance_groups,
)
from repo.normalise import normalise
from repo.pbtxt import parse_config
from tests.actors.fake_nvml import FakeNvml, NotSupportedError
from troupe.production import find_devices

UUIDS = ["GPU-aa1", "GPU-ab2", "GPU-b33"]


@pytest.mark.parametrize(
    ("wanted", "numbers"),
    [
        (None, [0, 1, 2]),
        ("", []),
        ("-1", []),
        ("NoDevFiles", []),
        ("2,0", [2, 0]),
        (" 1 , 2 ", [1, 2]),
        ("0,7,1", [0]),
        ("GPU-b,0", [2, 0]),
        ("GPU-a", []),  # it could be either
        ("1,GPU-ab", []),  # twice the same
        ("1,1", []),
    ],
)
def test_cuda_sees_what_the_environment_lets_it_see(wanted: str | None, numbers: list[int]) -> None:
    assert visible(UUIDS, wanted) == numbers


def devices(
    environment: dict[str, str] | None = None, minimum: float = 6.0, nvml: FakeNvml | None = None
) -> NvmlDevices:
    gpus = FakeGpus([FakeGpu(0), FakeGpu(1)])
    return NvmlDevices(
        nvml or FakeNvml(), gpus.open, minimum=minimum, environment=environment or {}
    )


def test_the_table_has_what_cuda_sees_in_its_numbering() -> None:
    assert [gpu.compute_capability for gpu in devices().table.gpus] == [(9, 0), (6, 1)]
    turned = devices({"CUDA_VISIBLE_DEVICES": "1,0"}).table
    assert [(gpu.device_id, gpu.compute_capability) for gpu in turned.gpus] == [
        (0, (6, 1)),
        (1, (9, 0)),
    ]


def test_lesser_gpus_are_invisible_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    table = devices(minimum=7.5).table
    assert table.gpu_ids == (0,)
    assert caplog.messages == [
        (
            "GPU 1 is ignored: its compute capability is 6.1, and at least 7.5 is asked for "
            "(--min-supported-compute-capability)"
        )
    ]
    assert devices(minimum=6.1).table.gpu_ids == (0, 1)
    assert devices(minimum=6.2).table.gpu_ids == (0,)


def test_a_gpu_is_opened_once_and_only_if_the_server_may_use_it() -> None:
    some = devices(minimum=7.5)
    assert some.open(0) is some.open(0)
    with pytest.raises(DeviceError, match="there is no GPU 1"):
        some.open(1)


def test_memory_is_that_of_the_whole_gpu() -> None:
    memory = devices().memory_use(1)
    assert (memory.total, memory.used) == (85_899_345_920, 1_073_741_824)
    with pytest.raises(DeviceError, match="there is no GPU 2"):
        devices().memory_use(2)

    class Silent(FakeNvml):
        def nvmlDeviceGetMemoryInfo(self, handle: object) -> SimpleNamespace:  # noqa: N802
            raise NotSupportedError("Not Supported")

    with pytest.raises(DeviceError, match="GPU 0 does not tell its memory: Not Supported"):
        devices(nvml=Silent()).memory_use(0)


def test_a_server_without_a_driver_or_without_interest_has_no_gpus(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load_nvml({CPU_ONLY: "1"}) is None
    monkeypatch.setenv(CPU_ONLY, "1")
    found = find_devices(ServerOptions(min_supported_compute_capability=8.0))
    assert found.table == DeviceTable(minimum_compute_capability=8.0)
    with pytest.raises(DeviceError, match="there is no GPU 0: no GPUs are available"):
        found.open(0)
    with pytest.raises(DeviceError, match="there is no GPU 0: no GPUs are available"):
        found.memory_use(0)


# --- instance groups -----------------------------------------------------------------------------


def places(text: str, table: DeviceTable, *, prefer: bool = False) -> list[tuple[str, str, int]]:
    """(name, kind, device) of each instance."""
    config = normalise(parse_config(f'name: "m" {text}', "x"))
    preferred = preferred_groups(config, table) if prefer else ()
    config = normalise_instance_groups(config, table, preferred)
    check_instance_groups(config, table)
    return [(spec.name, spec.kind, spec.device_id) for spec in expand(config)]


TWO = FakeGpus([FakeGpu(0), FakeGpu(1), FakeGpu(2, compute_capability=(7, 0))]).table


def test_groups_expand_against_the_table() -> None:
    assert places('backend: "identity"', TWO) == [("m_0", "GPU", 0), ("m_0", "GPU", 1)]
    assert places('backend: "identity" instance_group { count: 2 gpus: 1 }', TWO) == [
        ("m_0_0", "GPU", 1),
        ("m_0_1", "GPU", 1),
    ]
    # GPU 2 is too old, so a group that lists it runs on the CPU, where it may list none.
    with pytest.raises(ServerError, match="has kind KIND_CPU but specifies one or more GPUs"):
        places('backend: "identity" instance_group { gpus: [0, 2] }', TWO)
    assert places('backend: "identity" instance_group { kind: KIND_CPU }', TWO) == [
        ("m_0_0", "CPU", 0)
    ]
    assert places('backend: "identity" instance_group { kind: KIND_MODEL }', TWO) == [
        ("m_0_0", "MODEL", 0)
    ]


def test_a_library_without_gpus_runs_its_models_on_the_cpu_wherever_it_may(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    providers = ["CPUExecutionProvider"]
    monkeypatch.setitem(
        sys.modules, "onnxruntime", SimpleNamespace(get_available_providers=lambda: providers)
    )
    onnx = 'backend: "onnxruntime"'
    assert places(onnx, TWO, prefer=True) == [("m_0", "CPU", 0), ("m_1", "CPU", 0)]
    assert places(f"{onnx} instance_group {{ count: 1 }}", TWO, prefer=True) == [
        ("m_0_0", "CPU", 0)
    ]
    # What is asked for by name is not given up: loading says what the library lacks.
    assert places(f"{onnx} instance_group {{ kind: KIND_GPU gpus: 0 }}", TWO, prefer=True) == [
        ("m_0_0", "GPU", 0)
    ]
    providers.append("CUDAExecutionProvider")
    assert places(onnx, TWO, prefer=True) == [("m_0", "GPU", 0), ("m_0", "GPU", 1)]
    monkeypatch.setitem(sys.modules, "torch", None)
    assert places('backend: "pytorch"', TWO, prefer=True) == [("m_0", "CPU", 0)]


def test_gpus_that_are_not_there_are_refused() -> None:
    with pytest.raises(ServerError) as caught:
        places('backend: "identity" instance_group { kind: KIND_GPU gpus: 2 }', TWO)
    assert caught.value.message == (
        "instance group m_0 of model m specifies invalid or unsupported gpu id 2. GPUs with at "
        "least the minimum required CUDA compute compatibility of 7.500000 are: 0, 1"
    )


# --- how full a GPU may become -------------------------------------------------------------------


def test_a_gpu_that_is_too_full_refuses_the_instance() -> None:
    gpus = FakeGpus([FakeGpu(0, capacity=1000), FakeGpu(1, capacity=1000)])
    limits = LoadLimits(["0:0.9", "0:0.5"], gpus)
    assert limits.check_of("m_0", 1) is None, "nothing limits it"
    check = limits.check_of("m_0", 0)
    assert check is not None
    held = gpus.open(0).allocate(500)
    check()  # exactly as full as it may be
    gpus.open(0).allocate(1)
    with pytest.raises(ServerError) as caught:
        check()
    assert caught.value.status is StatusCode.UNAVAILABLE
    assert caught.value.message == (
        "can not create model 'm_0': memory limit set for GPU 0 has exceeded, model loading is "
        "rejected."
    )
    gpus.open(0).free(held)
    check()


def test_a_gpu_that_does_not_tell_refuses_nothing() -> None:
    check = LoadLimits(["0:0.1"], NoDevices()).check_of("m_0", 0)
    assert check is not None
    check()
