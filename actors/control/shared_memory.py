"""Memory that clients share with the server: regions they register, and what requests use of them.

Owns every registered region. A frontend takes a `Lease` for each request; as long as that holds a
region it stays mapped, and an order to unregister it waits. Sizes and offsets come from clients:
all arithmetic is unbounded, and a region that its owner has cut short since is refused, not read.
"""

from __future__ import annotations

import mmap
import os
import stat
from collections.abc import Sequence
from typing import Final, TypeVar

import trio

from actors.control.cuda_regions import DeviceRegion, open_region
from protocol.inference import (
    DeviceBytes,
    DeviceTensor,
    InferRequest,
    ResponsePlan,
    SharedMemoryRef,
    Tensor,
)
from protocol.status import ServerError, already_exists, internal, invalid_arg, not_found
from protocol.v2_json_shared_memory import (
    CudaRegion,
    SystemRegion,
    check_client_shared_memory,
)
from repo.devices.port import Devices, NoDevices

POSIX_DIRECTORY: Final = "/dev/shm"  # noqa: S108  # where shm_open keeps its objects
# Triton's Python backend keeps its own traffic under this name; no client may look into it.
RESERVED_PREFIX: Final = "triton_python_backend_shm_region_"
# A region costs a descriptor and a mapping, of which a process has a thousand or more.
MAX_REGIONS: Final = 512
_MAX_UINT64: Final = 2**64 - 1


class Region:
    """A mapped span of a POSIX shared-memory object."""

    __slots__ = ("_mapping", "_view", "leases", "spec", "unregistered")

    def __init__(self, spec: SystemRegion, mapping: mmap.mmap) -> None:
        self.spec = spec
        self.leases = 0
        self.unregistered = False  # to be removed with its last lease
        self._mapping = mapping
        self._view = memoryview(mapping)

    def holds(self, end: int) -> bool:
        """Whether the first `end` bytes are there, also in the object as it is now: touching what
        its owner has cut off would kill us.
        """
        return end <= self.spec.byte_size and self.spec.offset + end <= self._mapping.size()

    def read(self, offset: int, byte_size: int) -> memoryview:
        return self._view[offset : offset + byte_size].toreadonly()

    def write(self, offset: int, tensor: Tensor) -> None:
        raw = tensor.raw
        self._view[offset : offset + len(raw)] = raw

    def close(self) -> None:
        """The mapping goes with the last view of it: nothing can look at unmapped memory."""


_R = TypeVar("_R", Region, DeviceRegion)


class SharedMemory:
    """All regions of all clients, by name; one name space for both kinds."""

    def __init__(
        self,
        *,
        allowed: bool,
        directory: str = POSIX_DIRECTORY,
        devices: Devices | None = None,
    ) -> None:
        """`allowed` is --allow-client-shm; without it no region can ever be registered."""
        self._allowed = allowed
        self._directory = directory
        self._devices = devices or NoDevices()
        self._regions: dict[str, Region | DeviceRegion] = {}
        self._opening: set[str] = set()  # names whose handles are being opened

    def lease(self) -> Lease | None:
        """What a request sees of the regions; None while there are none, as is the rule.

        A lease that reads or reserves anything must be released after the final response.
        """
        return Lease(self) if self._regions else None

    # --- the control plane -------------------------------------------------------------------

    def check_allowed(self) -> None:
        """Raise UNSUPPORTED when clients may not share memory."""
        check_client_shared_memory(self._allowed)

    def register_system(self, wanted: SystemRegion) -> None:
        """Map a POSIX shared-memory object. Raises ServerError."""
        self.check_allowed()
        name = wanted.name
        if not name:
            raise invalid_arg("'region name' is necessary to register system shared memory region")
        key = wanted.key.lstrip("/")
        if not key:
            raise invalid_arg(
                f"cannot register shared memory region '{name}' - invalid shm key '{wanted.key}'"
            )
        if key.startswith(RESERVED_PREFIX):
            raise invalid_arg(
                f"cannot register shared memory region '{name}' with key '{wanted.key}' as the "
                f"key contains the reserved prefix '{RESERVED_PREFIX}'"
            )
        self._check_room(name)
        self._regions[name] = Region(wanted, self._map(wanted, key))

    def _check_room(self, name: str) -> None:
        if name in self._regions or name in self._opening:
            raise already_exists(f"shared memory region '{name}' already in manager")
        if len(self._regions) + len(self._opening) >= MAX_REGIONS:
            raise invalid_arg(
                f"cannot register shared memory region '{name}': {MAX_REGIONS} regions are "
                "registered, which is the limit; unregister one first"
            )

    async def register_cuda(self, wanted: CudaRegion) -> None:
        """Open device memory of another process. Raises ServerError."""
        self.check_allowed()
        name = wanted.name
        if not name:
            raise invalid_arg("'region name' is necessary to register cuda shared memory region")
        if not self._devices.table.gpus:
            raise invalid_arg(
                f"failed to register CUDA shared memory region: '{name}', GPUs not supported"
            )
        self._check_room(name)
        self._opening.add(name)
        try:
            # It is kept whatever happens to the call: a mapping must not be lost.
            with trio.CancelScope(shield=True):
                region = await trio.to_thread.run_sync(open_region, wanted, self._devices)
        finally:
            self._opening.remove(name)
        self._regions[name] = region

    def unregister_system(self, name: str) -> None:
        """Forget `name`, or every region when that is empty; unknown names are no error.

        A region in use goes with the last request that uses it. Raises UNSUPPORTED when clients
        may not share memory.
        """
        self._unregister(name, Region)

    def unregister_cuda(self, name: str) -> None:
        """The same for device memory."""
        self._unregister(name, DeviceRegion)

    def _unregister(self, name: str, kind: type[Region | DeviceRegion]) -> None:
        self.check_allowed()
        for each in [name] if name else list(self._regions):
            region = self._regions.get(each)
            if isinstance(region, kind):
                region.unregistered = True
                self.forget_if_idle(region)

    def system_status(self, name: str) -> Sequence[SystemRegion]:
        """One region, or all of them by name. Raises NOT_FOUND for an unknown name."""
        return [region.spec for region in self._listed(name, Region, "system", "CUDA")]

    def cuda_status(self, name: str) -> Sequence[CudaRegion]:
        """The same for device memory."""
        return [region.spec for region in self._listed(name, DeviceRegion, "CUDA", "system")]

    def _listed(self, name: str, kind: type[_R], called: str, other: str) -> list[_R]:
        if not name:
            regions = [region for _, region in sorted(self._regions.items())]
            return [region for region in regions if isinstance(region, kind)]
        region = self._regions.get(name)
        if region is None:
            raise not_found(f"Unable to find {called.lower()} shared memory region: '{name}'")
        if not isinstance(region, kind):
            raise not_found(
                f"The region named '{name}' is registered as {other} shared memory, not {called} "
                "shared memory"
            )
        return [region]

    def _map(self, wanted: SystemRegion, key: str) -> mmap.mmap:
        descriptor = self._open(wanted, key)
        try:
            held = os.fstat(descriptor).st_size
            if wanted.offset + wanted.byte_size > held:
                raise invalid_arg(
                    f"failed to register shared memory region '{wanted.name}': invalid args"
                )
            if not wanted.byte_size or wanted.offset % mmap.ALLOCATIONGRANULARITY:
                raise _unmappable(wanted.name)
            try:
                return mmap.mmap(descriptor, wanted.byte_size, offset=wanted.offset)
            except (OSError, ValueError):
                raise _unmappable(wanted.name) from None
        finally:
            os.close(descriptor)

    def _open(self, wanted: SystemRegion, key: str) -> int:
        """What shm_open does: a file by its own name, through no link. Raises INTERNAL."""
        failed = internal(f"Unable to open shared memory region: '{wanted.key}'")
        if "/" in key or "\0" in key or key in (".", ".."):
            raise failed
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        try:
            descriptor = os.open(f"{self._directory}/{key}", flags)
        except (OSError, UnicodeEncodeError):
            raise failed from None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise failed
        return descriptor

    # --- leases ------------------------------------------------------------------------------

    def find(self, ref: SharedMemoryRef) -> Region | DeviceRegion:
        """The region that holds all of `ref`. Raises ServerError."""
        name = ref.region
        region = self._regions.get(name)
        if region is None:
            raise not_found(f"Unable to find shared memory region: '{name}'")
        size = region.spec.byte_size
        if ref.offset >= size:
            raise invalid_arg(f"Invalid offset for shared memory region: '{name}'")
        end = ref.offset + ref.byte_size
        if end > _MAX_UINT64:
            raise invalid_arg(
                f"Integer overflow detected: byte_size ({ref.byte_size}) + offset ({ref.offset}) "
                f"exceeds maximum value ({_MAX_UINT64}) for region '{name}'"
            )
        if not region.holds(end):
            raise invalid_arg(f"Invalid offset + byte size for shared memory region: '{name}'")
        return region

    def forget_if_idle(self, region: Region | DeviceRegion) -> None:
        if region.unregistered and not region.leases:
            del self._regions[region.spec.name]
            region.close()

    def close(self) -> None:
        """The server ends, and nobody holds a lease: let go of what other processes own."""
        for region in self._regions.values():
            region.close()
        self._regions.clear()


class Lease:
    """The regions as the codecs see them for one request; implements `SharedMemoryRegions`."""

    __slots__ = ("_has_device_inputs", "_held", "_memory")

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._has_device_inputs = False
        self._held: list[
            Region | DeviceRegion
        ] = []  # one entry for each input and output in shared memory

    def read(self, ref: SharedMemoryRef) -> memoryview | DeviceBytes:
        """The bytes of an input; they stay valid until `release`, and change if the client writes.

        Raises ServerError.
        """
        region = self._hold(ref)
        if isinstance(region, DeviceRegion):
            self._has_device_inputs = True
        return region.read(ref.offset, ref.byte_size)

    def place(self, request: InferRequest, plan: ResponsePlan, *, on_device: bool) -> None:
        """Say which outputs to leave on a device, and bring inputs home from there if they have
        to be on the host: unless the model runs `on_device`. Raises ServerError INTERNAL.
        """
        if not on_device:
            self._bring_home(request)
            return
        request.on_device = frozenset(
            output.name
            for output in plan.outputs
            if output.shared_memory is not None
            and not output.classification
            and isinstance(self._memory.find(output.shared_memory), DeviceRegion)
        )

    def _bring_home(self, request: InferRequest) -> None:
        """Copy inputs from devices to the host, for a model that does not run where they are.

        Here, because an error belongs to this request. Raises ServerError INTERNAL.
        """
        if self._has_device_inputs:
            request.inputs = [
                each.on_host() if isinstance(each, DeviceTensor) else each
                for each in request.inputs
            ]

    def reserve(self, plan: ResponsePlan) -> None:
        """Hold the regions of the outputs in `plan` until `release`. Raises ServerError."""
        for output in plan.outputs:
            if output.shared_memory is not None:
                self._hold(output.shared_memory)

    def write(self, output_name: str, ref: SharedMemoryRef, tensor: Tensor) -> None:
        """Copy an output into its region. Raises ServerError."""
        size = tensor.byte_size
        if size > ref.byte_size:
            raise internal(
                f"shared memory size specified with the request for output '{output_name}' "
                f"({ref.byte_size} bytes) should be at least {size} bytes to hold the results"
            )
        self._memory.find(ref).write(ref.offset, tensor)

    @property
    def is_held(self) -> bool:
        """Whether the request uses any region; if not, there is nothing to release."""
        return bool(self._held)

    def release(self) -> None:
        """The final response is out: let the regions go. Doing so again does nothing."""
        held, self._held = self._held, []
        for region in held:
            region.leases -= 1
            self._memory.forget_if_idle(region)

    def _hold(self, ref: SharedMemoryRef) -> Region | DeviceRegion:
        region = self._memory.find(ref)
        region.leases += 1
        self._held.append(region)
        return region


def _unmappable(name: str) -> ServerError:
    return invalid_arg(
        f"failed to register shared memory region '{name}': unable to process address space"
        "Invalid argument"
    )
