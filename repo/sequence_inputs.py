"""What a model sees of a sequence: control tensors, and the requests that pad a batch.

Owns the tensors' values and types. A request is never changed, because whoever sent it may share
it: the model gets a copy with more inputs. Which request comes next, and where, is not decided
here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from protocol.datatypes import BYTES, numpy_dtype
from protocol.inference import InferRequest, SequenceFlag, Tensor
from repo.model_config import ControlSettings, ModelConfig, sequence_settings

_FLAGS: Final = tuple(SequenceFlag(number) for number in range(4))


class SequenceInputs:
    """Makes the requests of one model version ready for its instances."""

    def __init__(self, config: ModelConfig) -> None:
        settings = sequence_settings(config)
        assert settings is not None, "only models with sequences have such inputs"
        self._shape = (1, 1) if config.max_batch_size > 0 else (1,)
        self._names = frozenset(control.name for control in settings.controls)
        self._shape_tensors = frozenset(one.name for one in config.input if one.is_shape_tensor)
        self._by_flags = {
            flags: self._booleans(settings.controls, flags, ready=True) for flags in _FLAGS
        }
        self._corrid = next((one for one in settings.controls if one.kind == "CORRID"), None)
        self._padding = self._booleans(settings.controls, SequenceFlag.NONE, ready=False)
        if self._corrid is not None:
            nobody = "" if self._corrid.datatype == BYTES else 0
            self._padding.append(self._correlation_id(self._corrid, nobody))

    def of(
        self, request: InferRequest, flags: SequenceFlag, correlation_id: int | str
    ) -> InferRequest:
        """The request as its model sees it; itself, where that is no different."""
        inputs = request.inputs
        names = self._names
        if names:
            inputs = [tensor for tensor in inputs if tensor.name not in names]
            inputs += self._by_flags[flags]
            if self._corrid is not None:
                inputs.append(self._correlation_id(self._corrid, correlation_id))
        elif request.sequence_flags == flags and request.correlation_id == correlation_id:
            return request
        if request.trace is not None:
            request.trace.backend_inputs = inputs
        # Made for every request, so not by `replace`, which costs several times as much.
        return InferRequest(
            request.model_name,
            request.model_version,
            request.id,
            inputs,
            request.requested_outputs,
            request.parameters,
            correlation_id,
            flags,
            request.priority,
            request.timeout_us,
            request.raw_input,
            request.trace,
        )

    def padding(self, reference: InferRequest) -> InferRequest:
        """What stands for no request beside `reference`: tensors of its shapes, and not ready."""
        inputs = [
            tensor if tensor.name in self._shape_tensors else zeros_like(tensor)
            for tensor in reference.inputs
            if tensor.name not in self._names
        ]
        return InferRequest(
            reference.model_name, reference.model_version, inputs=inputs + self._padding
        )

    def _booleans(
        self, controls: Sequence[ControlSettings], flags: SequenceFlag, *, ready: bool
    ) -> list[Tensor]:
        values = {
            "START": SequenceFlag.START in flags,
            "END": SequenceFlag.END in flags,
            "READY": ready,
        }
        return [
            self._tensor(one, one.true_value if values[one.kind] else one.false_value)
            for one in controls
            if one.kind != "CORRID"
        ]

    def _correlation_id(self, control: ControlSettings, correlation_id: int | str) -> Tensor:
        if control.datatype == BYTES:
            return self._tensor(control, str(correlation_id).encode())
        # A client's id is 64 bits wide; the model sees as many of them as its control has.
        bits = np.array(int(correlation_id), np.uint64)
        return self._tensor(control, bits.astype(numpy_dtype(control.datatype)))

    def _tensor(self, control: ControlSettings, value: object) -> Tensor:
        array = np.empty(self._shape, numpy_dtype(control.datatype))
        array[...] = value
        return Tensor(control.name, control.datatype, self._shape, array=array)


def zeros_like(tensor: Tensor) -> Tensor:
    """A tensor of the same name, datatype and shape that holds zeros or empty strings."""
    fill = b"" if tensor.datatype == BYTES else 0
    array = np.full(tensor.shape, fill, numpy_dtype(tensor.datatype))
    return Tensor(tensor.name, tensor.datatype, tensor.shape, array=array)
