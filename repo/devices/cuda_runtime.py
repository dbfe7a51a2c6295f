"""The CUDA runtime library, by ctypes: found, loaded, and its errors made exceptions.

Owns the names under which the library is looked for and what its error numbers mean. Torch,
cupy and ONNX Runtime share the primary context with it, so that streams and pointers are common to
all. The calls let go of the interpreter's lock.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

from repo.devices.port import DeviceError, DeviceLost, OutOfDeviceMemory

SONAMES: Final = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")
IPC_HANDLE_BYTES: Final = 64  # CUDA_IPC_HANDLE_SIZE

_OUT_OF_MEMORY: Final = 2  # cudaErrorMemoryAllocation
_TOO_OLD: Final = 35  # cudaErrorInsufficientDriver, also without any driver
NOT_READY: Final = 600  # cudaErrorNotReady: no failure
# After these every further call of the process fails: uncorrectable ECC, a device taken away, an
# illegal address, a launch that ran too long, an assertion, a broken stack, instruction, alignment,
# address space or program counter, any other failed launch.
_STICKY: Final = frozenset({46, 214, 700, 702, 709, 710, 714, 715, 716, 717, 718, 719})


class IpcHandle(ctypes.Structure):
    """A cudaIpcMemHandle_t, which is passed by value."""

    _fields_ = [("reserved", ctypes.c_ubyte * IPC_HANDLE_BYTES)]


def load_runtime() -> Any:
    """The newest CUDA runtime that the driver can serve. Raises DeviceError if there is none."""
    found = False
    for name in _candidates():
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        found = True
        if library.cudaGetDeviceCount(ctypes.byref(ctypes.c_int())) == _TOO_OLD:
            continue
        library.cudaGetErrorString.restype = ctypes.c_char_p
        return library
    if found:
        raise DeviceError("there is no CUDA driver, or one too old for the CUDA runtime library")
    raise DeviceError(f"no CUDA runtime library ({', '.join(SONAMES)}) was found")


def _candidates() -> Iterator[str]:
    yield from SONAMES
    found = ctypes.util.find_library("cudart")
    if found is not None:
        yield found
    # Wheels of the runtime keep it out of the loader's path.
    wheels = importlib.util.find_spec("nvidia")
    for directory in wheels.submodule_search_locations or () if wheels is not None else ():
        yield from (str(path) for path in sorted(Path(directory).glob("*/lib/libcudart.so.*")))


def load_driver() -> Any:
    """The driver's own library. Raises DeviceError if there is none."""
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise DeviceError(f"no CUDA driver library was found: {error}") from None


HostFunction = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
"""A cudaHostFn_t."""


class CudaRuntime:
    """The libraries, loaded; `call` is the only way to them."""

    def __init__(
        self,
        load: Callable[[], Any] = load_runtime,
        load_driver: Callable[[], Any] = load_driver,
    ) -> None:
        """Raises DeviceError."""
        self._runtime = load()
        self._driver = load_driver()

    def call(self, name: str, *arguments: Any) -> None:
        """Raises DeviceError, or what says more of it."""
        status = getattr(self._runtime, name)(*arguments)
        if status:
            raise self.error(name, status)

    def is_ready(self, name: str, *arguments: Any) -> bool:
        """A question that the library answers with "not ready". Raises DeviceError."""
        status = getattr(self._runtime, name)(*arguments)
        if status == NOT_READY:
            return False
        if status:
            raise self.error(name, status)
        return True

    def error(self, name: str, status: int) -> DeviceError:
        """What a status says, which the library forgets thereby, if it can."""
        self._runtime.cudaGetLastError()
        text = self._runtime.cudaGetErrorString(status).decode(errors="replace")
        kind = DeviceError
        if status == _OUT_OF_MEMORY:
            kind = OutOfDeviceMemory
        elif status in _STICKY:
            kind = DeviceLost
        return kind(f"{name} failed: {text}")

    def allocation_size(self, address: int) -> int:
        """How many bytes of the allocation that `address` lies in follow it. Raises DeviceError."""
        base, size = ctypes.c_uint64(), ctypes.c_size_t()
        status = self._driver.cuMemGetAddressRange_v2(
            ctypes.byref(base), ctypes.byref(size), ctypes.c_uint64(address)
        )
        if status:
            raise DeviceError(f"cuMemGetAddressRange failed: CUDA error {status}")
        return base.value + size.value - address
