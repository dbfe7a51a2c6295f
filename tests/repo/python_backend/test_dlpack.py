"""Tensors through DLPack: without copies, back to their owner, BF16 and other devices too."""

from __future__ import annotations

import ctypes
import gc
import weakref
from typing import Any

import numpy as np
import pytest

from repo.backends.python import dlpack
from repo.backends.python.errors import TritonModelException
from repo.backends.python.layout import Slot
from repo.backends.python.tensor import Tensor

DTYPES = ("?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")


class Exported:
    """A numpy array as any library shows it; counts how often it is asked."""

    def __init__(self, array: Any, device: tuple[int, int] = (1, 0)) -> None:
        self.array = array
        self.device = device

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(self, stream: object = None) -> Any:
        return self.array.__dlpack__()


@pytest.mark.parametrize("dtype", DTYPES)
def test_memory_is_shared_both_ways(dtype: str) -> None:
    array = np.arange(6).astype(dtype).reshape(2, 3)
    tensor = Tensor.from_dlpack("T", Exported(array))
    assert tensor.as_numpy().dtype == array.dtype
    assert tensor.as_numpy().tolist() == array.tolist()
    assert np.shares_memory(tensor.as_numpy(), array)
    back = np.from_dlpack(tensor)
    assert np.shares_memory(back, array)
    assert back.tolist() == array.tolist()


def test_a_capsule_is_taken_once() -> None:
    capsule = np.arange(3).__dlpack__()
    assert Tensor.from_dlpack("T", capsule).as_numpy().tolist() == [0, 1, 2]
    with pytest.raises(TritonModelException, match=r"^Provided tensor is not supported\."):
        Tensor.from_dlpack("T", capsule)


def test_what_is_taken_lives_as_long_as_the_tensor() -> None:
    array = np.arange(1000)
    gone = weakref.ref(array)
    tensor = Tensor.from_dlpack("T", array)
    del array
    kept = tensor.as_numpy()[10:]
    del tensor
    gc.collect()
    assert gone() is not None
    assert kept[0] == 10
    del kept
    gc.collect()
    assert gone() is None


def test_what_is_given_lives_as_long_as_its_consumer() -> None:
    before = len(dlpack._exported)
    array = np.arange(1000)
    gone = weakref.ref(array)
    consumer = Tensor.from_dlpack("T", Tensor("T", array).to_dlpack())
    unused = Tensor("T", array).to_dlpack()
    del array
    assert len(dlpack._exported) == before + 2
    assert consumer.as_numpy()[999] == 999
    del unused
    assert len(dlpack._exported) == before + 1
    del consumer
    gc.collect()
    assert len(dlpack._exported) == before
    assert gone() is None


def test_bf16_passes_bit_for_bit() -> None:
    raw = np.array([0x3F80, 0xC000, 0x7FC1], np.uint16).tobytes()
    arrived = Tensor._received(Slot("T", "BF16", (3,), 6, 0, shared=False), bytearray(raw), 0, 6)
    again = Tensor.from_dlpack("T", arrived.to_dlpack())
    assert again.triton_dtype() == 14
    assert bytes(again._raw()) == raw
    with pytest.raises(TritonModelException, match=r"^Tensor dtype is BF16"):
        again.as_numpy()


def test_empty_and_scalar_tensors_pass() -> None:
    for array in (np.zeros((0, 3), np.float32), np.array(2.5)):
        tensor = Tensor.from_dlpack("T", Tensor("T", array).to_dlpack())
        assert tensor.shape() == list(array.shape)
        assert tensor.as_numpy().tolist() == array.tolist()


def test_only_c_order_is_taken() -> None:
    array = np.zeros((4, 4))
    text = (
        r"^DLPack tensor is not contiguous\. Only contiguous DLPack tensors that are stored in "
        r"C-Order are supported\.$"
    )
    for strided in (array.T[1:], array[:, ::2], array[::2]):
        with pytest.raises(TritonModelException, match=text):
            Tensor.from_dlpack("T", strided)
    # A dimension of one has any stride.
    assert Tensor.from_dlpack("T", array[:1, :]).shape() == [1, 4]


def test_other_devices_and_dtypes_are_refused() -> None:
    with pytest.raises(TritonModelException, match=r"^DLDevice type 8 is not support by Python"):
        Tensor.from_dlpack("T", Exported(np.zeros(1), (8, 0)))
    with pytest.raises(TritonModelException, match="DLPack dtype"):
        Tensor.from_dlpack("T", np.zeros(1, np.complex64))
    for wrong in (5, "x", None, object()):
        with pytest.raises(TritonModelException, match=r"^Provided tensor is not supported\."):
            Tensor.from_dlpack("T", wrong)
    with pytest.raises(TritonModelException, match=r"^Tensor name cannot be an empty string\.$"):
        Tensor.from_dlpack("", np.zeros(1))


def test_strings_have_no_dlpack() -> None:
    with pytest.raises(
        TritonModelException, match=r"^DLPack does not have support for string tensors\.$"
    ):
        Tensor("T", np.array(["a"], np.object_)).to_dlpack()


def capsule_on(device: tuple[int, int], array: np.ndarray[Any, Any]) -> Any:
    """A capsule that claims to be on `device`."""
    return dlpack._make(array.ctypes.data, device, array.shape, "FP32", array)


def test_pinned_memory_is_cpu_memory() -> None:
    array = np.arange(3, dtype=np.float32)
    tensor = Tensor.from_dlpack("T", capsule_on((3, 0), array))
    assert tensor.is_cpu()
    assert tensor.__dlpack_device__() == (1, 0)
    assert tensor.as_numpy().tolist() == [0, 1, 2]


def test_a_gpu_tensor_stays_where_it_is() -> None:
    array = np.arange(3, dtype=np.float32)
    tensor = Tensor.from_dlpack("T", capsule_on((2, 1), array))
    assert not tensor.is_cpu()
    assert tensor.__dlpack_device__() == (2, 1)
    assert (tensor.shape(), tensor.triton_dtype()) == ([3], 11)
    with pytest.raises(
        TritonModelException,
        match=r"^Tensor is stored in GPU and cannot be converted to NumPy\.$",
    ):
        tensor.as_numpy()
    again = Tensor.from_dlpack("U", tensor.to_dlpack())
    assert again.__dlpack_device__() == (2, 1)


def test_without_a_driver_a_gpu_tensor_cannot_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_driver(name: str) -> object:
        raise OSError(f"{name}: not found")

    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    tensor = Tensor.from_dlpack("T", capsule_on((2, 0), np.zeros(3, np.float32)))
    with pytest.raises(TritonModelException, match=r"^Failed to copy the output tensor to buffer"):
        tensor._raw()


@pytest.mark.torch
def test_torch_takes_and_gives() -> None:
    torch = pytest.importorskip("torch")
    tensor = Tensor("T", np.arange(4, dtype=np.float32))
    shared = torch.from_dlpack(tensor)
    shared += 1
    assert tensor.as_numpy().tolist() == [1, 2, 3, 4]
    half = torch.tensor([1.0, -2.0], dtype=torch.bfloat16)
    assert bytes(Tensor.from_dlpack("T", half)._raw()) == b"\x80\x3f\x00\xc0"
    assert torch.equal(torch.from_dlpack(Tensor.from_dlpack("T", half)), half)
    flags = torch.tensor([True, False])
    assert Tensor.from_dlpack("T", torch.utils.dlpack.to_dlpack(flags)).as_numpy().tolist() == [
        True,
        False,
    ]


@pytest.mark.gpu
def test_a_gpu_tensor_is_copied_to_the_host_when_it_leaves() -> None:
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    values = torch.arange(1_000_000, dtype=torch.float32, device="cuda")
    tensor = Tensor.from_dlpack("T", values * 2)
    assert not tensor.is_cpu()
    assert np.frombuffer(bytes(tensor._raw()), np.float32)[-1] == 1_999_998
    assert torch.equal(torch.from_dlpack(tensor), values * 2)
