"""DLPack capsules, read and made with ctypes: numpy has neither BF16 nor other devices.

A capsule that is taken over is marked as used and its deleter called once nothing refers to its
memory. A capsule that is made keeps what it was made of alive until its consumer calls the deleter.
"""

from __future__ import annotations

import ctypes
from typing import Any, Protocol

import numpy as np

from .errors import TritonModelException
from .layout import ELEMENT_SIZE
from .tensor import NUMPY_DTYPE, Array, Tensor

_CPU, _CUDA, _CUDA_HOST = 1, 2, 3

_NAME = b"dltensor"
_USED_NAME = b"used_dltensor"

# DLPack type codes → letter; with the bits they name a datatype.
_DATATYPES = {
    (0, 8): "INT8", (0, 16): "INT16", (0, 32): "INT32", (0, 64): "INT64",
    (1, 8): "UINT8", (1, 16): "UINT16", (1, 32): "UINT32", (1, 64): "UINT64",
    (2, 16): "FP16", (2, 32): "FP32", (2, 64): "FP64",
    (4, 16): "BF16", (6, 8): "BOOL",
}  # fmt: skip
_CODES = {name: code for code, name in _DATATYPES.items()}


class _Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("id", ctypes.c_int32)]


class _DataType(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _DataType),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    pass


_Deleter = ctypes.CFUNCTYPE(None, ctypes.POINTER(_Managed))
_Managed._fields_ = [
    ("tensor", _Tensor),
    ("context", ctypes.c_void_p),
    ("deleter", _Deleter),
]

_python = ctypes.pythonapi
_python.PyCapsule_IsValid.argtypes = [ctypes.py_object, ctypes.c_char_p]
_python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_python.PyCapsule_GetPointer.restype = ctypes.c_void_p
_python.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]
_CapsuleDestructor = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_python.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, _CapsuleDestructor]
_python.PyCapsule_New.restype = ctypes.py_object


class Foreign:
    """Memory that somebody else owns, until this is collected."""

    def __init__(self, managed: Any) -> None:
        self.managed = managed
        tensor = managed.contents.tensor
        self.address: int = (tensor.data or 0) + tensor.byte_offset
        self.shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
        self.device = (int(tensor.device.type), int(tensor.device.id))
        self.datatype = _datatype(tensor)
        self.byte_size = _element_count(self.shape) * ELEMENT_SIZE[self.datatype]
        self.__array_interface__ = {
            "version": 3,
            "shape": self.shape,
            "typestr": NUMPY_DTYPE[self.datatype].str,
            "data": (self.address, False),
        }

    def __del__(self) -> None:
        deleter = self.managed.contents.deleter
        if deleter:
            deleter(self.managed)


def take(name: str, source: Any) -> Tensor:
    """A tensor over the memory of a capsule or of an object that makes one.

    Raises TritonModelException for a dtype, device or layout that Triton refuses.
    """
    capsule = source if _python.PyCapsule_IsValid(source, _NAME) else _capsule_of(source)
    managed = ctypes.cast(_python.PyCapsule_GetPointer(capsule, _NAME), ctypes.POINTER(_Managed))
    tensor = managed.contents.tensor
    if tensor.device.type not in {_CPU, _CUDA, _CUDA_HOST}:
        raise TritonModelException(
            f"DLDevice type {tensor.device.type} is not support by Python backend."
        )
    if not _is_contiguous(tensor):
        raise TritonModelException(
            "DLPack tensor is not contiguous. Only contiguous DLPack tensors that are stored in "
            "C-Order are supported."
        )
    _datatype(tensor)  # refuses before the capsule is used up
    foreign = Foreign(managed)
    _python.PyCapsule_SetName(capsule, _USED_NAME)
    if foreign.device[0] == _CUDA:
        return Tensor._from_device(name, foreign.datatype, foreign.shape, foreign.device, foreign)
    if not foreign.byte_size:
        array: Array = np.empty(foreign.shape, NUMPY_DTYPE[foreign.datatype])
    else:
        array = np.asarray(foreign)
    return Tensor._from_parts(name, foreign.datatype, array)


def _capsule_of(source: Any) -> Any:
    if not hasattr(source, "__dlpack__") or not hasattr(source, "__dlpack_device__"):
        raise TritonModelException(
            # The spaces are Triton's.
            "Provided tensor is not supported. Tensor must be a DLPack capsule         or have "
            "`__dlpack__` and `__dlpack_device__` attributes"
        )
    device_type = source.__dlpack_device__()[0]
    if device_type not in {_CPU, _CUDA, _CUDA_HOST}:
        raise TritonModelException(f"DLDevice type {device_type} is not support by Python backend.")
    # On a GPU the legacy default stream, 1: the copy to the host runs there, behind the producer.
    return source.__dlpack__(stream=1 if device_type == _CUDA else None)


def export(array: Array, datatype: str) -> Any:
    """A capsule over an array in CPU memory."""
    return _make(array.ctypes.data, (_CPU, 0), array.shape, datatype, array)


class Shared(Protocol):
    """A contiguous tensor anywhere, by its address."""

    @property
    def address(self) -> int: ...

    @property
    def device(self) -> tuple[int, int]: ...

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def datatype(self) -> str: ...


def share(tensor: Shared) -> Any:
    """A capsule over memory that somebody owns: `tensor` lives until its consumer lets go."""
    return _make(tensor.address, tensor.device, tensor.shape, tensor.datatype, tensor)


# Everything that a capsule of ours needs while a consumer has it: by the structure's address.
_exported: dict[int, tuple[Any, ...]] = {}


def _make(
    address: int, device: tuple[int, int], shape: tuple[int, ...], datatype: str, owner: Any
) -> Any:
    dims = (ctypes.c_int64 * max(len(shape), 1))(*shape)
    code, bits = _CODES[datatype]
    managed = _Managed(
        tensor=_Tensor(
            data=address,
            device=_Device(*device),
            ndim=len(shape),
            dtype=_DataType(code, bits, 1),
            shape=ctypes.cast(dims, ctypes.POINTER(ctypes.c_int64)),
            strides=None,
            byte_offset=0,
        ),
        context=None,
        deleter=_deleter,
    )
    key = ctypes.addressof(managed)
    _exported[key] = (managed, dims, owner)
    return _python.PyCapsule_New(key, _NAME, _destructor)


def _delete(managed: Any) -> None:
    _exported.pop(ctypes.addressof(managed.contents), None)


def _destroy(capsule: int) -> None:
    """A capsule ends. Unless a consumer took it over, and so renamed it, its memory ends too."""
    if _is_valid(capsule, _NAME):
        _exported.pop(_pointer_of(capsule, _NAME), None)


# The capsule is being destroyed: a py_object argument would bring it back to life.
_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", _python)
)
_is_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_IsValid", _python)
)
_deleter = _Deleter(_delete)
_destructor = _CapsuleDestructor(_destroy)


def copy_to_host(foreign: Foreign) -> bytes:
    """The bytes of memory on a GPU. Raises TritonModelException."""
    if not foreign.byte_size:
        return b""
    host = ctypes.create_string_buffer(foreign.byte_size)
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError as error:
        raise TritonModelException(f"Failed to copy the output tensor to buffer: {error}") from None
    context = ctypes.c_void_p()
    device = ctypes.c_int()
    _check(cuda.cuInit(0))
    _check(cuda.cuDeviceGet(ctypes.byref(device), foreign.device[1]))
    # The primary context is the one that the frameworks use.
    _check(cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), device))
    try:
        _check(cuda.cuCtxPushCurrent_v2(context))
        address = ctypes.c_uint64(foreign.address)
        copied = cuda.cuMemcpyDtoH_v2(host, address, ctypes.c_size_t(foreign.byte_size))
        cuda.cuCtxPopCurrent_v2(ctypes.byref(context))
        _check(copied)
    finally:
        cuda.cuDevicePrimaryCtxRelease_v2(device)
    return host.raw


def _check(status: int) -> None:
    if status:
        raise TritonModelException(
            f"Failed to copy the output tensor to buffer: CUDA error {status}"
        )


def _datatype(tensor: Any) -> str:
    dtype = tensor.dtype
    name = _DATATYPES.get((dtype.code, dtype.bits)) if dtype.lanes == 1 else None
    if name is None:
        raise TritonModelException(
            f"DLPack dtype (code {dtype.code}, {dtype.bits} bits) is not supported."
        )
    return name


def _element_count(shape: tuple[int, ...]) -> int:
    count = 1
    for dim in shape:
        count *= dim
    return count


def _is_contiguous(tensor: Any) -> bool:
    if not tensor.strides or 0 in tensor.shape[: tensor.ndim]:
        return True
    expected = 1
    for axis in range(tensor.ndim - 1, -1, -1):
        if tensor.shape[axis] != 1 and tensor.strides[axis] != expected:
            return False
        expected *= tensor.shape[axis]
    return True
