"""CUDA memory that another process can open, by the CUDA runtime library itself.

Owns device memory and its IPC handles, on device 0. Five functions of the runtime are called
through ctypes, so that measuring needs no GPU framework. Nothing is loaded before the first use.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from repo.devices.cuda_runtime import IPC_HANDLE_BYTES, load_runtime
from repo.devices.port import DeviceError

DEVICE: Final = 0
HOST_TO_DEVICE: Final = 1  # cudaMemcpyHostToDevice

CudaError = DeviceError
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
