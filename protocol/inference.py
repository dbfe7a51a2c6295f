"""The one internal form of an inference, shared by every frontend, scheduler and backend.

A frontend turns bytes into an `InferRequest`; a backend answers with `InferResponse`s or a
`ServerError`. Neither knows which protocol the other side speaks. Tensors travel by reference:
whoever receives one may read it, and must not write into it.
"""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np

from protocol.datatypes import (
    BYTES,
    ELEMENT_SIZE,
    Array,
    datatype_of,
    decode_bytes,
    encode_bytes,
    numpy_dtype,
)
from protocol.status import unsupported

if TYPE_CHECKING:
    from protocol.tracing import Trace

ParameterValue = bool | int | float | str

# Control tensors for the name of a sequence have room for so much in Triton.
MAX_SEQUENCE_NAME_BYTES: Final = 128


class SequenceFlag(enum.IntFlag):
    """Where in its sequence a request stands; the numbers are those of Triton's C API."""

    NONE = 0
    START = 1
    END = 2


class Tensor:
    """A named tensor, as wire bytes, as a numpy array, or both; each form is made on first use.

    `shape` includes the batch dimension where the model has one. `raw` is little-endian and
    row-major; BYTES elements carry a u32 length each. A tensor built from bytes that a peer sent
    may hold the wrong number of them: admission (`repo.request_rules`) checks that before any
    reader calls `array`.
    """

    __slots__ = ("_array", "_raw", "datatype", "name", "shape")

    def __init__(
        self,
        name: str,
        datatype: str,
        shape: tuple[int, ...],
        *,
        raw: bytes | memoryview | None = None,
        array: Array | None = None,
    ) -> None:
        self.name = name
        self.datatype = datatype
        self.shape = shape
        self._raw = raw
        self._array = array

    @classmethod
    def from_array(cls, name: str, array: Array) -> Tensor:
        """A tensor that shares `array`. Raises ValueError for a dtype Triton has no name for."""
        return cls(name, datatype_of(array), array.shape, array=array)

    @property
    def element_count(self) -> int:
        return math.prod(self.shape)

    @property
    def raw(self) -> bytes | memoryview:
        """The wire bytes; of a contiguous numeric array this is a view, not a copy."""
        if self._raw is None:
            assert self._array is not None, "a tensor has bytes or an array"
            if self.datatype == BYTES:
                self._raw = encode_bytes(self._array)
            else:
                contiguous = np.ascontiguousarray(self._array, dtype=numpy_dtype(self.datatype))
                # A zero-sized array cannot be cast by memoryview.
                self._raw = contiguous.data.cast("B") if contiguous.size else b""
        return self._raw

    @property
    def array(self) -> Array:
        """The numpy array, a view of `raw` for fixed-size datatypes; BYTES is an object array.

        Raises ValueError when `raw` does not fit `shape`, KeyError for an unknown datatype.
        """
        if self._array is None:
            assert self._raw is not None, "a tensor has bytes or an array"
            if self.datatype == BYTES:
                self._array = decode_bytes(self._raw, self.shape)
            else:
                flat = np.frombuffer(self._raw, dtype=numpy_dtype(self.datatype))
                if not flat.flags.aligned:
                    flat = flat.copy()  # it was cut out of a message; native code wants alignment
                self._array = flat.reshape(self.shape)
        return self._array

    @property
    def byte_size(self) -> int:
        """Number of wire bytes; computed without making them, except for a BYTES array."""
        if self._raw is not None:
            return len(self._raw)
        if self.datatype == BYTES:
            return len(self.raw)
        return self.element_count * ELEMENT_SIZE[self.datatype]

    @property
    def encoded(self) -> bytes | memoryview | None:
        """The wire bytes if they exist already; None asks for `raw` to make them."""
        return self._raw

    def reshaped(self, shape: tuple[int, ...]) -> Tensor:
        """The same elements under another shape of equally many; nothing is copied."""
        array = None if self._array is None else self._array.reshape(shape)
        return Tensor(self.name, self.datatype, shape, raw=self._raw, array=array)

    def renamed(self, name: str) -> Tensor:
        """The same elements under another name; nothing is copied."""
        return Tensor(name, self.datatype, self.shape, raw=self._raw, array=self._array)

    def __repr__(self) -> str:
        return f"Tensor({self.name!r}, {self.datatype}, {list(self.shape)})"


class DeviceBytes(Protocol):
    """The bytes of a tensor on a device; whoever wrote them there has finished."""

    @property
    def byte_size(self) -> int: ...

    def read(self) -> bytes:
        """A copy in host memory. Raises ServerError INTERNAL."""


class DeviceTensor(Tensor):
    """A tensor on a device. Who asks for its bytes or its array gets a copy, made once.

    So everything that takes tensors takes these; making the copy raises ServerError INTERNAL.
    """

    __slots__ = ("content",)

    def __init__(
        self, name: str, datatype: str, shape: tuple[int, ...], content: DeviceBytes
    ) -> None:
        super().__init__(name, datatype, shape)
        self.content = content

    @property
    def raw(self) -> bytes | memoryview:
        if self._raw is None:
            self._raw = self.content.read()
        return self._raw

    @property
    def array(self) -> Array:
        assert self.raw is not None, "the copy that the array is a view of"
        return super().array

    @property
    def byte_size(self) -> int:
        return self.content.byte_size

    def reshaped(self, shape: tuple[int, ...]) -> Tensor:
        return DeviceTensor(self.name, self.datatype, shape, self.content)

    def renamed(self, name: str) -> Tensor:
        return DeviceTensor(name, self.datatype, self.shape, self.content)

    def on_host(self) -> Tensor:
        """The same tensor in host memory. Raises ServerError INTERNAL."""
        return Tensor(self.name, self.datatype, self.shape, raw=self.raw)


def tensor_over(
    name: str,
    datatype: str,
    shape: tuple[int, ...],
    content: bytes | memoryview | DeviceBytes,
) -> Tensor:
    """A tensor over bytes, wherever they are."""
    if isinstance(content, (bytes, memoryview)):
        return Tensor(name, datatype, shape, raw=content)
    return DeviceTensor(name, datatype, shape, content)


def sequence_name(text: str) -> str:
    """A sequence's name as a client gave it. Raises ServerError UNSUPPORTED if it is too long."""
    # No character has more than four bytes, so that short names need not be encoded.
    if 4 * len(text) > MAX_SEQUENCE_NAME_BYTES and (
        len(text.encode("utf-8", "surrogateescape")) > MAX_SEQUENCE_NAME_BYTES
    ):
        raise unsupported(
            f"string correlation ID cannot be longer than {MAX_SEQUENCE_NAME_BYTES} characters"
        )
    return text


NOWHERE: Final[frozenset[str]] = frozenset()


@dataclass(slots=True, eq=False)
class InferRequest:
    """One inference asked for. `timeout_us` and `priority` are 0 when the client gave none."""

    model_name: str
    model_version: str = ""  # "" asks for the latest version
    id: str = ""
    inputs: list[Tensor] = field(default_factory=list)
    requested_outputs: tuple[str, ...] = ()  # empty asks for all
    parameters: dict[str, ParameterValue] = field(default_factory=dict)
    correlation_id: int | str = 0  # 0 or "" is no sequence
    sequence_flags: SequenceFlag = SequenceFlag.NONE
    priority: int = 0
    timeout_us: int = 0
    raw_input: bool = False  # the whole HTTP body is the only input; admission names and shapes it
    trace: Trace | None = None  # of this request; until its admission, of the one that caused it
    on_device: frozenset[str] = NOWHERE  # outputs that whoever asked can take on a device


@dataclass(slots=True, eq=False)
class InferResponse:
    """One answer; a decoupled model may give any number of them to one request."""

    model_name: str
    model_version: str
    id: str = ""
    outputs: list[Tensor] = field(default_factory=list)
    parameters: dict[str, ParameterValue] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SharedMemoryRef:
    """A span of a region that the client registered; sizes in bytes."""

    region: str
    offset: int
    byte_size: int


@dataclass(frozen=True, slots=True)
class OutputPlan:
    """How the client wants one output rendered."""

    name: str
    binary: bool = True  # HTTP only: binary bytes rather than JSON numbers
    classification: int = 0  # > 0: that many "value:index:label" strings instead of the tensor
    shared_memory: SharedMemoryRef | None = None


@dataclass(frozen=True, slots=True)
class ResponsePlan:
    """How the client wants a response rendered: `outputs` lists what it asked for by name.

    An empty `outputs` asks for every output the model has, rendered by `binary`.
    """

    outputs: tuple[OutputPlan, ...] = ()
    binary: bool = True
    plain_outputs: frozenset[str] | None = field(init=False, compare=False, repr=False)
    """The names of `outputs` if there are any, and all of them are wanted as bytes as they are."""

    def __post_init__(self) -> None:
        plain = self.outputs and all(
            each.binary and not each.classification and each.shared_memory is None
            for each in self.outputs
        )
        names = frozenset(each.name for each in self.outputs) if plain else None
        object.__setattr__(self, "plain_outputs", names)


class SharedMemoryRegions(Protocol):
    """The registered regions as a codec sees them; both methods raise ServerError."""

    def read(self, ref: SharedMemoryRef) -> memoryview | DeviceBytes:
        """The bytes of an input, valid at least until the request's final response."""

    def write(self, output_name: str, ref: SharedMemoryRef, tensor: Tensor) -> None:
        """Copy an output into its region; INTERNAL when the span is too small for it."""
