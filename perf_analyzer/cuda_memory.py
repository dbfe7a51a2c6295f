"""CUDA memory that another process can open, by the CUDA runtime library itself.

Owns device memory and its IPC handles, on device 0. Five functions of the runtime are called
through ctypes, so that measuring needs no GPU framework. Nothing is loaded before the first use.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Protocol

DEVICE: Final = 0
HOST_TO_DEVICE: Final = 1  # cudaMemcpyHostToDevice
IPC_HANDLE_BYTES: Final = 64  # CUDA_IPC_HANDLE_SIZE
SONAMES: Final = ("libcudart.so.13", "libcudart.so.12", "libcudart.so")


class CudaError(Exception):
    """The runtime is not there, or a call of it failed; `str()` says which and why."""


class Runtime(Protocol):
    """The part of libcudart in use. Calls return a cudaError_t, 0 for success, but for the last."""

    def cudaSetDevice(self, device: int, /) -> int: ...  # noqa: N802  # the library's own names

    def cudaMalloc(self, pointer: object, size: ctypes.c_size_t, /) -> int: ...  # noqa: N802

    def cudaMemcpy(  # noqa: N802
        self, target: ctypes.c_void_p, source: bytes, size: ctypes.c_size_t, kind: int, /
    ) -> int: ...

    def cudaIpcGetMemHandle(self, handle: object, memory: ctypes.c_void_p, /) -> int: ...  # noqa: N802

    def cudaFree(self, memory: ctypes.c_void_p, /) -> int: ...  # noqa: N802

    def cudaGetErrorString(self, error: int, /) -> bytes: ...  # noqa: N802


def load_runtime() -> Runtime:
    """The CUDA runtime of this machine. Raises CudaError if there is none."""
    for name in _candidates():
        try:
            library = ctypes.CDLL(name)
        except OSError:
            continue
        library.cudaGetErrorString.restype = ctypes.c_char_p
        runtime: Runtime = library
        return runtime
    raise CudaError(f"no CUDA runtime library ({', '.join(SONAMES)}) was found")


def _candidates() -> Iterator[str]:
    yield from SONAMES
    found = ctypes.util.find_library("cudart")
    if found is not None:
        yield found
    # Wheels of the runtime keep it out of the loader's path.
    wheels = importlib.util.find_spec("nvidia")
    for directory in wheels.submodule_search_locations or () if wheels is not None else ():
        yield from (str(path) for path in sorted(Path(directory).glob("*/lib/libcudart.so.*")))


class CudaMemory:
    """Device memory of one run."""

    def __init__(self, load: Callable[[], Runtime] = load_runtime) -> None:
        self._load = load
        self._runtime: Runtime | None = None
        self._blocks: list[ctypes.c_void_p] = []

    def allocate(self, pieces: Sequence[bytes]) -> bytes:
        """New device memory with `pieces` in it; returns its IPC handle of 64 bytes.

        Raises CudaError. What was allocated stays until `free`, however this ends.
        """
        content = b"".join(pieces)
        runtime = self._ready()
        block = ctypes.c_void_p()
        size = ctypes.c_size_t(len(content))
        self._check("cudaMalloc", runtime.cudaMalloc(ctypes.byref(block), size))
        self._blocks.append(block)
        self._check("cudaMemcpy", runtime.cudaMemcpy(block, content, size, HOST_TO_DEVICE))
        handle = (ctypes.c_ubyte * IPC_HANDLE_BYTES)()
        status = runtime.cudaIpcGetMemHandle(ctypes.byref(handle), block)
        self._check("cudaIpcGetMemHandle", status)
        return bytes(handle)

    def free(self) -> None:
        """Free everything. An error is of no consequence: the process's end frees it too."""
        for block in self._blocks:
            if self._runtime is not None:
                self._runtime.cudaFree(block)
        self._blocks.clear()

    def _ready(self) -> Runtime:
        if self._runtime is None:
            self._runtime = self._load()
            self._check("cudaSetDevice", self._runtime.cudaSetDevice(DEVICE))
        return self._runtime

    def _check(self, call: str, status: int) -> None:
        if status and self._runtime is not None:
            text = self._runtime.cudaGetErrorString(status).decode(errors="replace")
            raise CudaError(f"{call} failed: {text}")
