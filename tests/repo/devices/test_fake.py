"""Devices that are not there: what they promise to tests of those who use devices."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest

from repo.backends.python.dlpack import take
from repo.devices.cpu import CpuDevice, host_memory
from repo.devices.fake import FakeGpu, FakeGpus, Operation
from repo.devices.port import (
    Device,
    DeviceArray,
    DeviceError,
    DeviceLost,
    HostMemory,
    OutOfDeviceMemory,
)


def pinned(device: Device, content: bytes) -> HostMemory:
    memory = device.allocate_pinned(len(content))
    memory.view[:] = content
    return memory


def test_a_copy_takes_its_time_and_changes_nothing_before() -> None:
    gpu = FakeGpu(seconds_per_byte=0.25)
    stream = gpu.new_stream()
    memory = gpu.allocate(4)
    gpu.copy_in(memory, pinned(gpu, b"abcd"), stream)
    event = stream.record()
    assert gpu.read(memory) == bytes(4)
    assert not event.is_done()
    gpu.advance(0.5)
    assert gpu.read(memory) == bytes(4)
    event.wait()
    assert event.is_done()
    assert gpu.read(memory) == b"abcd"
    assert gpu.schedule == [Operation("in", 1, 0.0, 1.0, "4 B")]


def test_streams_overlap_where_their_engines_differ_and_events_do_not_forbid_it() -> None:
    gpu = FakeGpu(seconds_per_byte=0.5)
    one, two, three = gpu.new_stream(), gpu.new_stream(), gpu.new_stream()
    memory, back = gpu.allocate(2), host_memory(2)
    gpu.copy_in(memory, pinned(gpu, b"xy"), one)
    two.wait_for(one.record())
    gpu.launch(two, 2.0, lambda: None, "kernel")
    gpu.copy_in(gpu.allocate(2), pinned(gpu, b"zz"), one)
    three.wait_for(two.record())
    gpu.copy_out(back, memory, three)
    assert [(each.engine, each.start, each.end) for each in gpu.schedule] == [
        ("in", 0.0, 1.0),
        ("compute", 1.0, 3.0),
        ("in", 1.0, 2.0),  # beside the kernel
        ("out", 3.0, 4.0),  # behind it
    ]
    assert gpu.schedule[1].overlaps(gpu.schedule[2])
    assert not gpu.schedule[1].overlaps(gpu.schedule[3])
    called: list[float] = []
    three.notify(lambda: called.append(gpu.now))
    assert not called
    three.synchronize()
    assert called == [4.0]
    assert bytes(back.view) == b"xy"
    assert gpu.now == 4.0


def test_memory_is_as_large_as_it_is() -> None:
    gpu = FakeGpu(capacity=10)
    first = gpu.allocate(6)
    with pytest.raises(OutOfDeviceMemory, match="fake GPU 0: 5 bytes do not fit"):
        gpu.allocate(5)
    assert (gpu.memory_use().total, gpu.memory_use().free, gpu.memory_use().used) == (10, 4, 6)
    gpu.free(first)
    gpu.allocate(10)


def test_a_lost_device_does_nothing_any_more() -> None:
    gpu = FakeGpu()
    stream = gpu.new_stream()
    memory = gpu.allocate(1)
    gpu.lose()
    for call in (
        lambda: gpu.allocate(1), gpu.memory_use, gpu.make_current, gpu.new_stream,
        stream.record, stream.synchronize, lambda: stream.notify(lambda: None),
        lambda: gpu.read(memory), lambda: gpu.write(memory, b"x"),
        lambda: gpu.copy_in(memory, host_memory(1), stream),
    ):  # fmt: skip
        with pytest.raises(DeviceLost, match="fake GPU 0: the device is lost"):
            call()


def test_handles_open_what_was_exported_and_nothing_else() -> None:
    gpu = FakeGpu()
    memory = gpu.allocate(3)
    gpu.write(memory, b"abc")
    handle = gpu.export(memory)
    opened = gpu.open_ipc(handle)
    assert gpu.read(opened.part(1, 2)) == b"bc"
    assert gpu.opened == [handle]
    gpu.close_ipc(opened)
    assert gpu.opened == []
    with pytest.raises(DeviceError, match="invalid handle"):
        gpu.open_ipc(bytes(64))
    with pytest.raises(DeviceError, match="there is no GPU 5"):
        FakeGpus([gpu]).open(5)


def test_the_host_is_a_device_that_does_everything_at_once() -> None:
    cpu = CpuDevice()
    cpu.make_current()
    stream = cpu.new_stream()
    memory, copy, back = cpu.allocate(4), cpu.allocate(4), cpu.allocate_pinned(4)
    cpu.copy_in(memory, pinned(cpu, b"abcd"), stream)
    event = stream.record()
    stream.wait_for(event)
    event.wait()
    cpu.copy_within(copy, memory, stream)
    cpu.copy_out(back, copy, stream)
    called: list[int] = []
    stream.notify(lambda: called.append(1))
    stream.synchronize()
    stream.close()
    assert event.is_done()
    assert called == [1]
    assert bytes(back.view) == cpu.read(copy) == b"abcd"
    cpu.write(copy, memoryview(b"xyz"))
    assert cpu.read(copy) == b"xyzd"
    assert cpu.memory_use().used == 0
    with pytest.raises(DeviceError, match="host memory has no CUDA handles"):
        cpu.open_ipc(bytes(64))
    cpu.free(memory)
    cpu.free_pinned(back)
    cpu.close_ipc(copy)


def test_arrays_go_to_other_libraries_without_a_copy() -> None:
    cpu = CpuDevice()
    memory = cpu.allocate(24)
    cpu.write(memory, np.arange(6, dtype=np.float32).tobytes())
    array = DeviceArray(memory, "FP32", (2, 3))
    assert array.byte_size == 24
    assert array.__dlpack_device__() == (1, 0)
    tensor = take("t", array)  # by the interchange protocol
    shown = tensor.as_numpy()
    assert shown.tolist() == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    ctypes.memmove(memory.address, np.float32(9).tobytes(), 4)
    assert shown[0, 0] == 9.0, "the same memory"
    # numpy takes capsules itself, too.
    assert np.from_dlpack(array).tolist() == shown.tolist()
