"""From the requests of a batch to the tensors of one PyTorch call, and back.

Owns the joining and cutting on axis 0, strings, ragged inputs and batch tensors. What a model gets
is always a copy, because PyTorch has no read-only tensors and a model may write into its inputs;
what it gave is copied too, because it may be a buffer that the next call changes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import Any, Final

import numpy as np
import torch

from protocol.datatypes import BYTES, Array, config_name, numpy_dtype
from protocol.inference import InferResponse, Tensor
from protocol.status import ServerError, internal, invalid_arg
from repo.backends.base import ExecuteRequest, Outcome
from repo.backends.pytorch_naming import Plan, all_outputs
from repo.batch_tensors import batch_input, scatter
from repo.input_rules import string_fault
from repo.model_config import BatchInputKind, ModelConfig, datatype, sequence_settings

Value = Any
"""A `torch.Tensor`, or a list of str."""

_DATATYPES: Final = {
    torch.bool: "BOOL", torch.uint8: "UINT8", torch.int8: "INT8", torch.int16: "INT16",
    torch.int32: "INT32", torch.int64: "INT64", torch.float16: "FP16", torch.float32: "FP32",
    torch.float64: "FP64", torch.bfloat16: "BF16",
}  # fmt: skip


class TorchGatherer:
    """Makes the arguments of a call, on `device`; None leaves them in host memory."""

    def __init__(self, config: ModelConfig, device: Any) -> None:
        self._device = device
        self._ragged = {one.name for one in config.input if one.allow_ragged_batch}
        self._batch_inputs = [
            (
                BatchInputKind(one.kind).name,
                numpy_dtype(datatype(one.data_type)),
                one.source_input[0],
                tuple(one.target_name),
            )
            for one in config.batch_input
        ]

    def gather(
        self, requests: Sequence[ExecuteRequest], faults: dict[int, ServerError]
    ) -> dict[str, Value]:
        """Input name → tensor or strings. A request whose strings are broken is noted in
        `faults`, by place, and takes part with empty ones, so that the others still run.
        """
        parts: dict[str, list[Tensor]] = {
            tensor.name: [] for request in requests for tensor in request.request.inputs
        }
        for request in requests:
            for tensor in request.request.inputs:
                parts[tensor.name].append(tensor)
        values = {name: self._joined(name, tensors, faults) for name, tensors in parts.items()}
        for kind, dtype, source, targets in self._batch_inputs:
            array = batch_input(kind, dtype, [tensor.shape for tensor in parts[source]])
            values |= dict.fromkeys(targets, self._placed(array))
        return values

    def _joined(self, name: str, tensors: list[Tensor], faults: dict[int, ServerError]) -> Value:
        if tensors[0].datatype == BYTES:
            return [
                text
                for place, tensor in enumerate(tensors)
                for text in _texts(tensor, place, faults)
            ]
        ragged = name in self._ragged
        raws = [raw for tensor in tensors if (raw := tensor.encoded) is not None]
        if len(raws) < len(tensors):
            arrays = [tensor.array for tensor in tensors]
            joined = np.concatenate([one.reshape(-1) for one in arrays] if ragged else arrays)
        else:
            # Joining bytes is many times cheaper than one array per request; a bytearray may be
            # written into.
            joined = np.frombuffer(bytearray().join(raws), numpy_dtype(tensors[0].datatype))
            if not ragged:
                joined = joined.reshape(_shape(tensors))
        return self._placed(joined)

    def _placed(self, array: Array) -> Value:
        tensor = torch.from_numpy(array)
        if self._device is None or self._device.type == "cpu":
            return tensor
        return tensor.to(self._device)


def _shape(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    first = tensors[0].shape
    if len(tensors) == 1:
        return first
    return (sum(tensor.shape[0] for tensor in tensors), *first[1:])


def _texts(tensor: Tensor, place: int, faults: dict[int, ServerError]) -> list[str]:
    """The elements as the str that PyTorch takes; all empty when the tensor is broken."""
    try:
        return [
            element.decode() if isinstance(element, bytes) else str(element)
            for element in tensor.array.ravel()
        ]
    except ValueError:
        where = f"for inference input '{tensor.name}'"
        fault = string_fault(tensor.raw, tensor.element_count, where)
        faults[place] = invalid_arg(
            fault or f"string element {where} is not UTF-8, which PyTorch for Python needs"
        )
        return [""] * tensor.element_count


class TorchSplitter:
    """Makes the responses of a call."""

    def __init__(self, config: ModelConfig, plan: Plan, version: int) -> None:
        sequence = sequence_settings(config)
        states = () if sequence is None else sequence.states
        self._states = frozenset(state.output_name for state in states)
        types = {state.output_name: state.datatype for state in states}
        types |= {out.name: datatype(out.data_type) for out in config.output}
        self.outputs = [(name, types[name], plan.results[name]) for name in all_outputs(config)]
        prefix = [-1] if config.max_batch_size > 0 else []
        dims = {out.name: [*prefix, *out.dims] for out in config.output}
        self._scattered = {
            name: (dims[name], one.source_input[0])
            for one in config.batch_output
            for name in one.target_name
        }
        self._version = str(version)

    def split(
        self,
        requests: Sequence[ExecuteRequest],
        results: Sequence[Value],
        faults: Mapping[int, ServerError],
    ) -> list[Outcome]:
        """One response, or fault, per request. Raises ServerError for results that do not fit."""
        for name, _, place in self.outputs:
            if place >= len(results):
                raise invalid_arg(
                    f"The output {name} in the model configuration refers to an output index "
                    f"which doesn't exist. This model has {len(results)} outputs"
                )
        stops = list(accumulate(request.batch_size for request in requests))
        spans = [slice(start, stop) for start, stop in pairwise((0, *stops))]
        columns = [
            self._pieces(name, _array(name, wire_type, results[place]), requests, spans)
            for name, wire_type, place in self.outputs
        ]
        outcomes: list[Outcome] = []
        for place, request in enumerate(requests):
            asked = request.request
            wanted = asked.requested_outputs
            outputs = [
                Tensor(name, wire_type, (array := column[place]).shape, array=array)
                for (name, wire_type, _), column in zip(self.outputs, columns, strict=True)
                if not wanted or name in wanted or name in self._states
            ]
            outcomes.append(InferResponse(asked.model_name, self._version, asked.id, outputs))
        for place, fault in faults.items():
            outcomes[place] = fault
        return outcomes

    def _pieces(
        self,
        name: str,
        array: Array,
        requests: Sequence[ExecuteRequest],
        spans: Sequence[slice],
    ) -> list[Array]:
        """What each request of a batch gets of one output."""
        if name in self._scattered:
            dims, source = self._scattered[name]
            shapes = [
                next(tensor.shape for tensor in request.request.inputs if tensor.name == source)
                for request in requests
            ]
            return list(scatter(array, dims, shapes))
        if not array.ndim:
            raise invalid_arg(f"output '{name}' is a scalar which is not supported.")
        if len(requests) == 1:
            return [array]
        if array.shape[0] < spans[-1].stop:
            raise internal(
                f"failed to split the output tensor '{name}' in responses: expected batch size of "
                f"at least {spans[-1].stop} in model output, got {array.shape[0]}"
            )
        return [array[span] for span in spans]


def check_result(name: str, wire_type: str, result: Value) -> None:
    """Raises ServerError INVALID_ARG for a result that is not of the configured datatype."""
    if isinstance(result, torch.Tensor):
        provided = _DATATYPES.get(result.dtype, "<invalid>")
    elif isinstance(result, list):
        provided = BYTES
    else:
        raise invalid_arg(f"output '{name}' must be of type Tensor or List[str].")
    if provided != wire_type:
        raise invalid_arg(
            f"configuration expects datatype {config_name(wire_type)} for output '{name}', model "
            f"provides {config_name(provided)}"
        )


def _array(name: str, wire_type: str, result: Value) -> Array:
    """A result in host memory. Raises ServerError INVALID_ARG when it is of another datatype."""
    check_result(name, wire_type, result)
    if wire_type == BYTES:
        encoded = np.empty(len(result), np.object_)
        encoded[:] = [text.encode() for text in result]
        return encoded
    copied: Array = (
        result.detach()
        .to("cpu", copy=True, memory_format=torch.contiguous_format)
        .resolve_conj()
        .resolve_neg()
        .numpy()
    )
    return copied
