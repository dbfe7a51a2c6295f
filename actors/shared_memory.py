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
from typing import Final

from protocol.inference import ResponsePlan, SharedMemoryRef
from protocol.status import ServerError, already_exists, internal, invalid_arg, not_found
from protocol.v2_json_shared_memory import (
    CudaRegion,
    SystemRegion,
    check_client_shared_memory,
)

POSIX_DIRECTORY: Final = "/dev/shm"  # noqa: S108  # where shm_open keeps its objects
# Triton's Python backend keeps its own traffic under this name; no client may look into it.
RESERVED_PREFIX: Final = "triton_python_backend_shm_region_"
# A region costs a descriptor and a mapping, of which a process has a thousand or more.
MAX_REGIONS: Final = 512
_MAX_UINT64: Final = 2**64 - 1


class Region:
    """A mapped span of a POSIX shared-memory object."""

    __slots__ = ("leases", "mapping", "spec", "unregistered", "view")

    def __init__(self, spec: SystemRegion, mapping: mmap.mmap) -> None:
        self.spec = spec
        self.mapping = mapping
        self.view = memoryview(mapping)
        self.leases = 0
        self.unregistered = False  # to be removed with its last lease


class SharedMemory:
    """All regions of all clients, by name; one name space for both kinds."""

    def __init__(self, *, allowed: bool, directory: str = POSIX_DIRECTORY) -> None:
        """`allowed` is --allow-client-shm; without it no region can ever be registered."""
        self._allowed = allowed
        self._directory = directory
        self._regions: dict[str, Region] = {}

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
        if name in self._regions:
            raise already_exists(f"shared memory region '{name}' already in manager")
        if len(self._regions) >= MAX_REGIONS:
            raise invalid_arg(
                f"cannot register shared memory region '{name}': {MAX_REGIONS} regions are "
                "registered, which is the limit; unregister one first"
            )
        self._regions[name] = Region(wanted, self._map(wanted, key))

    def register_cuda(self, wanted: CudaRegion) -> None:
        """Refuse device memory: this server has no use for it. Raises ServerError."""
        self.check_allowed()
        if not wanted.name:
            raise invalid_arg("'region name' is necessary to register cuda shared memory region")
        raise invalid_arg(
            f"failed to register CUDA shared memory region: '{wanted.name}', GPUs not supported"
        )

    def unregister_system(self, name: str) -> None:
        """Forget `name`, or every region when that is empty; unknown names are no error.

        A region in use goes with the last request that uses it. Raises UNSUPPORTED when clients
        may not share memory.
        """
        self.check_allowed()
        for each in [name] if name else list(self._regions):
            region = self._regions.get(each)
            if region is None:
                continue
            region.unregistered = True
            self.forget_if_idle(region)

    def unregister_cuda(self, name: str) -> None:
        """No region is of this kind, so nothing changes; whatever `name` is."""
        del name
        self.check_allowed()

    def system_status(self, name: str) -> Sequence[SystemRegion]:
        """One region, or all of them by name. Raises NOT_FOUND for an unknown name."""
        if not name:
            return [region.spec for _, region in sorted(self._regions.items())]
        region = self._regions.get(name)
        if region is None:
            raise not_found(f"Unable to find system shared memory region: '{name}'")
        return [region.spec]

    def cuda_status(self, name: str) -> Sequence[CudaRegion]:
        """Never any. Raises NOT_FOUND for a name."""
        if name in self._regions:
            raise not_found(
                f"The region named '{name}' is registered as system shared memory, not CUDA shared "
                "memory"
            )
        if name:
            raise not_found(f"Unable to find cuda shared memory region: '{name}'")
        return []

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

    def find(self, ref: SharedMemoryRef) -> Region:
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
        # The object's own size as it is now: touching what its owner has cut off would kill us.
        if end > size or region.spec.offset + end > region.mapping.size():
            raise invalid_arg(f"Invalid offset + byte size for shared memory region: '{name}'")
        return region

    def forget_if_idle(self, region: Region) -> None:
        if region.unregistered and not region.leases:
            # The mapping goes with the last view of it: nothing can look at unmapped memory.
            del self._regions[region.spec.name]


class Lease:
    """The regions as the codecs see them for one request; implements `SharedMemoryRegions`."""

    __slots__ = ("_held", "_memory")

    def __init__(self, memory: SharedMemory) -> None:
        self._memory = memory
        self._held: list[Region] = []  # one entry for each input and output in shared memory

    def read(self, ref: SharedMemoryRef) -> memoryview:
        """The bytes of an input; they stay valid until `release`, and change if the client writes.

        Raises ServerError.
        """
        return self._hold(ref).view[ref.offset : ref.offset + ref.byte_size].toreadonly()

    def reserve(self, plan: ResponsePlan) -> None:
        """Hold the regions of the outputs in `plan` until `release`. Raises ServerError."""
        for output in plan.outputs:
            if output.shared_memory is not None:
                self._hold(output.shared_memory)

    def write(self, output_name: str, ref: SharedMemoryRef, raw: bytes | memoryview) -> None:
        """Copy an output into its region. Raises ServerError."""
        size = len(raw)
        if size > ref.byte_size:
            raise internal(
                f"shared memory size specified with the request for output '{output_name}' "
                f"({ref.byte_size} bytes) should be at least {size} bytes to hold the results"
            )
        region = self._memory.find(ref)
        region.view[ref.offset : ref.offset + size] = raw

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

    def _hold(self, ref: SharedMemoryRef) -> Region:
        region = self._memory.find(ref)
        region.leases += 1
        self._held.append(region)
        return region


def _unmappable(name: str) -> ServerError:
    return invalid_arg(
        f"failed to register shared memory region '{name}': unable to process address space"
        "Invalid argument"
    )
