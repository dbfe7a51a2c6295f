"""`pb_utils.Tensor`: a named tensor as a model sees it, and the datatypes it may have.

A tensor that arrived is a slice of its message, or of shared memory, until the model asks for the
numpy array. Either way the memory is private to the request and writable.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from .errors import TritonModelException, expect
from .layout import DATATYPE_NUMBER, SHARED_THRESHOLD, Buffer, Layout, Raw, Slot

Array = np.ndarray[Any, np.dtype[Any]]

NUMPY_DTYPE: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(np.object_),
    "BF16": np.dtype("<u2"),  # as raw bits
}
_FROM_DTYPE = {dtype: name for name, dtype in NUMPY_DTYPE.items() if name != "BF16"}

_LENGTH = struct.Struct("<I")

CPU = (1, 0)  # DLPack's device type and id


def datatype_of(dtype: np.dtype[Any]) -> str:
    """The Triton name of a numpy dtype. Raises TritonModelException when there is none."""
    name = _FROM_DTYPE.get(dtype)
    if name is None and dtype.kind == "S":
        return "BYTES"
    if name is None:
        raise TritonModelException("NumPy dtype is not supported.")
    return name


def encode_bytes(array: Array) -> bytes:
    """Every element as a u32 length and its bytes; what is not bytes is its `str()` in UTF-8."""
    parts: list[bytes] = []
    for element in array.ravel():
        value = element if isinstance(element, bytes) else str(element).encode("utf-8")
        parts += (_LENGTH.pack(len(value)), value)
    return b"".join(parts)


def decode_bytes(raw: Buffer, shape: tuple[int, ...]) -> Array:
    """The object array whose elements `encode_bytes` wrote. Raises TritonModelException."""
    elements: list[bytes] = []
    at, end = 0, len(raw)
    while at < end:
        if end - at < 4:
            raise TritonModelException("Invalid bytes tensor data: incomplete length field")
        (length,) = _LENGTH.unpack_from(raw, at)
        at += 4
        if length > end - at:
            raise TritonModelException("Invalid bytes tensor data: string extends beyond buffer")
        elements.append(bytes(raw[at : at + length]))
        at += length
    array = np.empty(len(elements), dtype=np.object_)
    array[:] = elements
    return array.reshape(shape)


class Tensor:
    """A named tensor; lives in CPU memory unless it was made from a GPU's DLPack capsule."""

    # Of a tensor that arrived and was not looked at yet: where its bytes are.
    _buffer: Buffer | None = None
    _start = 0
    _size = 0
    # Of a tensor in GPU memory: what owns that memory.
    _device = CPU
    _foreign: Any = None

    def __init__(self, name: str, array: Array) -> None:
        """Raises TypeError for what is no array and TritonModelException for an unknown dtype."""
        if name.__class__ is not str:
            expect(name, str, "name")
        if array.__class__ is not np.ndarray:
            expect(array, np.ndarray, "numpy array")
        if not name:
            raise TritonModelException("Tensor name cannot be an empty string.")
        datatype = _FROM_DTYPE.get(array.dtype)
        if datatype is None:
            datatype = datatype_of(array.dtype)
        if not array.flags.c_contiguous:
            array = np.ascontiguousarray(array)
        self._name = name
        self._datatype = datatype
        self._shape: tuple[int, ...] = array.shape
        self._array: Array | None = array

    @classmethod
    def _received(cls, slot: Slot, buffer: Buffer, start: int, size: int) -> Tensor:
        tensor = cls.__new__(cls)
        tensor._name = slot.name
        tensor._datatype = slot.datatype
        tensor._shape = slot.shape
        tensor._array = None
        tensor._buffer = buffer
        tensor._start = start
        tensor._size = size
        return tensor

    @classmethod
    def _from_parts(cls, name: str, datatype: str, array: Array) -> Tensor:
        """A tensor whose datatype the array's dtype does not tell, BF16."""
        tensor = cls(name, array)
        tensor._datatype = datatype
        return tensor

    @classmethod
    def _from_device(
        cls, name: str, datatype: str, shape: tuple[int, ...], device: tuple[int, int], owner: Any
    ) -> Tensor:
        tensor = cls.__new__(cls)
        tensor._name = name
        tensor._datatype = datatype
        tensor._shape = shape
        tensor._array = None
        tensor._device = device
        tensor._foreign = owner
        return tensor

    def name(self) -> str:
        return self._name

    def triton_dtype(self) -> int:
        return DATATYPE_NUMBER[self._datatype]

    def shape(self) -> list[int]:
        return list(self._shape)

    def is_cpu(self) -> bool:
        return self._foreign is None

    def as_numpy(self) -> Array:
        """The array, without a copy. Raises TritonModelException for GPU and BF16 tensors."""
        if self._datatype == "BF16":
            raise TritonModelException(
                "Tensor dtype is BF16 and cannot be converted to NumPy. Use "
                "to_dlpack() and from_dlpack() instead."
            )
        array = self._array
        return array if array is not None else self._view()

    def to_dlpack(self) -> Any:
        """A DLPack capsule over the tensor's memory."""
        return self.__dlpack__()

    def __dlpack__(self, stream: object = None, **_: object) -> Any:
        """As `to_dlpack`. Newer consumers pass arguments that a capsule of version 0 can ignore."""
        if self._datatype == "BYTES":
            raise TritonModelException("DLPack does not have support for string tensors.")
        from .dlpack import export, share

        if self._foreign is not None:
            return share(self._foreign)
        return export(self._view(), self._datatype)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self._device

    @staticmethod
    def from_dlpack(name: str, tensor: Any) -> Tensor:
        """A tensor over the memory of a DLPack capsule, or of an object that makes one."""
        expect(name, str, "name")
        if not name:
            raise TritonModelException("Tensor name cannot be an empty string.")
        from .dlpack import take

        return take(name, tensor)

    def _view(self) -> Array:
        """The array, BF16 as raw bits; made on first use."""
        if self._array is None:
            if self._foreign is not None:
                raise TritonModelException(
                    "Tensor is stored in GPU and cannot be converted to NumPy."
                )
            buffer = self._buffer
            assert buffer is not None, "a tensor has an array, a buffer or a device"
            if self._datatype == "BYTES":
                raw = memoryview(buffer)[self._start : self._start + self._size]
                self._array = decode_bytes(raw, self._shape)
            else:
                self._array = np.ndarray(
                    self._shape, NUMPY_DTYPE[self._datatype], buffer, self._start
                )
            self._buffer = None
        return self._array

    def _raw(self) -> Raw:
        """The wire bytes."""
        if self._foreign is not None:
            from .dlpack import copy_to_host

            return copy_to_host(self._foreign)
        if self._buffer is not None:
            return memoryview(self._buffer)[self._start : self._start + self._size]
        array = self._array
        assert array is not None, "a tensor has an array, a buffer or a device"
        if self._datatype == "BYTES":
            return encode_bytes(array)
        if array.nbytes < SHARED_THRESHOLD:
            return array.tobytes()  # cheaper than a view for what is copied once more anyway
        return array.data.cast("B")


def received_record(layout: Layout, message: Buffer, at: int) -> list[Tensor]:
    """The inline tensors of one record, as `Tensor._received` makes each."""
    return [
        Tensor._received(slot, message, at + slot.offset, slot.byte_size) for slot in layout.slots
    ]
