"""PyTorch on an instance's own stream, with tensors that stay on its device.

Owns the translation between arrays of the device and torch's tensors, neither of which copies but
where a model could write into memory that others read. The lane's compute stream is the thread's
current one, so that torch's own allocator orders the reuse of memory by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from protocol.status import ServerError, internal, invalid_arg
from repo.backends.pytorch_batch import check_result
from repo.devices.lane import Lane
from repo.devices.port import DeviceArray, DeviceMemory


class TorchDeviceModel:
    """A loaded model on a lane. `outputs` are name, datatype and place in what `call` returns."""

    def __init__(
        self,
        call: Callable[[Mapping[str, Any]], Sequence[Any]],
        outputs: Sequence[tuple[str, str, int]],
        lane: Lane,
        *,
        inference_mode: bool,
    ) -> None:
        self._call = call
        self._outputs = outputs
        self._device = lane.device
        self._inference_mode = inference_mode

    def run(self, inputs: Mapping[str, DeviceArray]) -> Mapping[str, DeviceArray]:
        try:
            with torch.inference_mode(self._inference_mode), torch.no_grad():
                results = self._call({name: _tensor(array) for name, array in inputs.items()})
                return {
                    name: self._array(name, datatype, results, place)
                    for name, datatype, place in self._outputs
                }
        except ServerError:
            raise
        except Exception as error:
            raise internal(f"PyTorch execute failure: {error}") from error

    def _array(self, name: str, datatype: str, results: Sequence[Any], place: int) -> DeviceArray:
        if place >= len(results):
            raise invalid_arg(
                f"The output {name} in the model configuration refers to an output index which "
                f"doesn't exist. This model has {len(results)} outputs"
            )
        check_result(name, datatype, results[place])
        if not results[place].dim():
            raise invalid_arg(f"output '{name}' is a scalar which is not supported.")
        where = torch.device(*_placement(self._device.dlpack_device))
        tensor = results[place].detach().to(where).resolve_conj().resolve_neg().contiguous()
        size = tensor.numel() * tensor.element_size()
        memory = DeviceMemory(self._device, tensor.data_ptr(), size, owner=tensor)
        return DeviceArray(memory, datatype, tuple(tensor.shape))


def _placement(dlpack_device: tuple[int, int]) -> tuple[Any, ...]:
    return ("cpu",) if dlpack_device[0] == 1 else ("cuda", dlpack_device[1])


def _tensor(array: DeviceArray) -> Any:
    """The array as a tensor that the model may write into."""
    tensor = torch.from_dlpack(array)
    return tensor.clone() if array.is_shared else tensor
