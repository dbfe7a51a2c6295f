"""ONNX Runtime on an instance's own stream, with tensors that stay on its device.

Owns the binding of one batch. The provider was given the lane's compute stream, so that what comes
before and after on that stream is ordered with the run, and the run need not end before it returns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import onnxruntime as ort

from protocol.datatypes import numpy_dtype
from repo.backends.onnxruntime_graph import Graph
from repo.backends.onnxruntime_session import runtime_error
from repo.devices.lane import Lane
from repo.devices.port import DeviceArray, DeviceMemory

# Not to wait for the stream at the end of a run: onnxruntime_run_options_config_keys.h.
_NO_WAITING: Final = ("disable_synchronize_execution_providers", "1")

_CPU: Final = 1  # DLPack's type of the host


class OnnxDeviceModel:
    """A session on a lane."""

    def __init__(
        self, session: Any, graph: Graph, names: Sequence[str], options: Any, lane: Lane
    ) -> None:
        """`options` are those of every run; `names` the outputs to fetch."""
        options.add_run_config_entry(*_NO_WAITING)
        self._session = session
        self._types = {name: graph.outputs[name].datatype for name in names}
        self._options = options
        self._device = lane.device
        self._where = "cpu" if lane.device.dlpack_device[0] == _CPU else "cuda"

    def run(self, inputs: Mapping[str, DeviceArray]) -> Mapping[str, DeviceArray]:
        binding = self._session.io_binding()
        device_id = self._device.device_id
        try:
            for name, array in inputs.items():
                binding.bind_input(
                    name,
                    self._where,
                    device_id,
                    numpy_dtype(array.datatype),
                    list(array.shape),
                    array.address,
                )
            for name in self._types:
                binding.bind_output(name, self._where, device_id)
            self._session.run_with_iobinding(binding, self._options)
            values = binding.get_outputs()
        except Exception as error:
            raise runtime_error(error) from error
        return {
            name: self._array(value, datatype)
            for (name, datatype), value in zip(self._types.items(), values, strict=True)
        }

    def _array(self, value: ort.OrtValue, datatype: str) -> DeviceArray:
        memory = DeviceMemory(
            self._device, value.data_ptr(), value.tensor_size_in_bytes(), owner=value
        )
        return DeviceArray(memory, datatype, tuple(value.shape()))
