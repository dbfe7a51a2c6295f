"""Device memory that clients share: how a handle becomes a region, and what is done to it.

Owns the mapping of each region, which another process allocated and may free: only its size is
sure. Opening may take as long as a GPU needs to wake, so that is for a thread.
"""

from __future__ import annotations

import logging

from protocol.inference import DeviceTensor, Tensor
from protocol.status import ServerError, internal, invalid_arg
from protocol.v2_json_shared_memory import CudaRegion
from repo.devices.port import DeviceError, DeviceMemory, Devices, DeviceSpan, Stream

log = logging.getLogger(__name__)


class DeviceRegion:
    """A mapped allocation of another process."""

    __slots__ = ("_memory", "_stream", "leases", "spec", "unregistered")

    def __init__(self, spec: CudaRegion, memory: DeviceMemory, stream: Stream) -> None:
        self.spec = spec
        self.leases = 0
        self.unregistered = False  # to be removed with its last lease
        self._memory = memory
        self._stream = stream  # for copies from memory of the same device

    def holds(self, end: int) -> bool:
        """Whether the first `end` bytes are there: nobody can cut an allocation short."""
        return end <= self.spec.byte_size

    def read(self, offset: int, byte_size: int) -> DeviceSpan:
        """An input, where it is."""
        return DeviceSpan(self._memory.part(offset, byte_size))

    def write(self, offset: int, tensor: Tensor) -> None:
        """Copy an output, and wait until it is there. Raises ServerError INTERNAL."""
        target = self._memory.part(offset, tensor.byte_size)
        source = tensor.content if isinstance(tensor, DeviceTensor) else None
        try:
            if isinstance(source, DeviceSpan) and source.memory.device is self._memory.device:
                self._memory.device.copy_within(target, source.memory, self._stream)
                self._stream.synchronize()
            else:
                self._memory.device.write(target, tensor.raw)
        except DeviceError as error:
            raise internal(
                f"failed to write to CUDA shared memory region '{self.spec.name}': {error}"
            ) from None

    def close(self) -> None:
        """Nobody uses the region any longer. What goes wrong is for the log: it is gone anyway."""
        self._stream.close()
        try:
            self._memory.device.close_ipc(self._memory)
        except DeviceError as error:
            log.warning("CUDA shared memory region '%s' was not closed: %s", self.spec.name, error)


def open_region(wanted: CudaRegion, devices: Devices) -> DeviceRegion:
    """Open a handle. Blocks, and raises ServerError INVALID_ARG.

    A client that says more bytes than there are would make the whole GPU fail under everybody.
    """
    refused: ServerError = invalid_arg("failed to register shared memory region: invalid args")
    try:
        device = devices.open(wanted.device_id)
        memory = device.open_ipc(wanted.raw_handle)
    except DeviceError as error:
        log.info("CUDA shared memory region '%s' is refused: %s", wanted.name, error)
        raise refused from None
    try:
        if not 0 < wanted.byte_size <= memory.byte_size:
            raise refused
        return DeviceRegion(wanted, memory, device.new_stream())
    except DeviceError:
        device.close_ipc(memory)
        raise refused from None
    except ServerError:
        device.close_ipc(memory)
        raise
