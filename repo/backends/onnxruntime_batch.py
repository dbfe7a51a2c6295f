"""From the requests of a batch to the tensors of one ONNX Runtime run, and back.

Owns the joining and cutting on axis 0, strings, scalars, ragged inputs and batch tensors. A batch
of one request is neither joined nor cut: its tensors go in and come out without a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from protocol.datatypes import BYTES, Array, numpy_dtype
from protocol.inference import InferResponse, Tensor
from protocol.status import ServerError, internal, invalid_arg
from repo.backends.base import ExecuteRequest, Outcome
from repo.backends.onnxruntime_graph import Graph
from repo.batch_tensors import batch_input, scatter
from repo.input_rules import string_fault
from repo.model_config import BatchInputKind, ModelConfig, datatype, sequence_settings


class Gatherer:
    """Makes the feeds of a run."""

    def __init__(self, config: ModelConfig, graph: Graph) -> None:
        tensors = graph.inputs | graph.optional
        self._ragged = {one.name for one in config.input if one.allow_ragged_batch}
        self._scalars = {name for name, one in tensors.items() if not one.shape}
        self._strings = {name for name, one in tensors.items() if one.datatype == BYTES}
        self._batch_inputs = [
            (
                BatchInputKind(one.kind).name,
                numpy_dtype(datatype(one.data_type)),
                one.source_input[0],
                tuple(one.target_name),
            )
            for one in config.batch_input
        ]
        self.is_plain = not (self._ragged or self._scalars or self._strings or self._batch_inputs)

    def gather(
        self, requests: Sequence[ExecuteRequest], faults: dict[int, ServerError]
    ) -> dict[str, Array]:
        """Graph input name → array. A request whose strings are broken is noted in `faults`, by
        place, and takes part with empty ones, so that the others still run.
        """
        if len(requests) == 1 and self.is_plain:
            return {tensor.name: tensor.array for tensor in requests[0].request.inputs}
        parts: dict[str, list[Tensor]] = {
            tensor.name: [] for request in requests for tensor in request.request.inputs
        }
        for request in requests:
            for tensor in request.request.inputs:
                parts[tensor.name].append(tensor)
        feeds = {name: self._joined(name, tensors, faults) for name, tensors in parts.items()}
        for kind, dtype, source, targets in self._batch_inputs:
            array = batch_input(kind, dtype, [tensor.shape for tensor in parts[source]])
            feeds |= dict.fromkeys(targets, array)
        return feeds

    def _joined(self, name: str, tensors: list[Tensor], faults: dict[int, ServerError]) -> Array:
        if name in self._strings:
            arrays = [_texts(tensor, place, faults) for place, tensor in enumerate(tensors)]
            joined = arrays[0] if len(arrays) == 1 else _concatenated(arrays, name in self._ragged)
        elif len(tensors) == 1:
            joined = tensors[0].array
        else:
            joined = _joined_numbers(tensors, name in self._ragged)
        if name in self._ragged:
            return joined.reshape(-1)
        return joined.reshape(()) if name in self._scalars else joined


def _joined_numbers(tensors: Sequence[Tensor], ragged: bool) -> Array:
    raws = [raw for tensor in tensors if (raw := tensor.encoded) is not None]
    if len(raws) < len(tensors):
        return _concatenated([tensor.array for tensor in tensors], ragged)
    # Joining bytes is many times cheaper than one array per request.
    flat = np.frombuffer(b"".join(raws), numpy_dtype(tensors[0].datatype))
    if ragged:
        return flat
    return flat.reshape((sum(tensor.shape[0] for tensor in tensors), *tensors[0].shape[1:]))


def _concatenated(arrays: Sequence[Array], ragged: bool) -> Array:
    return np.concatenate([array.reshape(-1) for array in arrays] if ragged else arrays)


def _texts(tensor: Tensor, place: int, faults: dict[int, ServerError]) -> Array:
    """The str elements that ONNX Runtime takes; all empty when the tensor is broken."""
    try:
        elements = [
            element.decode() if isinstance(element, bytes) else str(element)
            for element in tensor.array.ravel()
        ]
    except ValueError:
        where = f"for inference input '{tensor.name}'"
        fault = string_fault(tensor.raw, tensor.element_count, where)
        faults[place] = invalid_arg(
            fault or f"string element {where} is not UTF-8, which ONNX Runtime for Python needs"
        )
        elements = [""] * tensor.element_count
    texts = np.empty(len(elements), np.object_)
    texts[:] = elements
    return texts.reshape(tensor.shape)


class Splitter:
    """Makes the responses of a run. `names` are the graph outputs to fetch, in order."""

    def __init__(self, config: ModelConfig, graph: Graph, version: int) -> None:
        sequence = sequence_settings(config)
        states = [] if sequence is None else [state.output_name for state in sequence.states]
        self.names = list(dict.fromkeys([*(out.name for out in config.output), *states]))
        self._states = frozenset(states)
        self._kinds = [(name, graph.outputs[name].datatype) for name in self.names]
        self._strings = {name for name in self.names if graph.outputs[name].datatype == BYTES}
        # Only one request at a time reaches a model without batching, so that nothing is cut.
        self._scalar_dims = {
            out.name: tuple(out.dims) for out in config.output if not graph.outputs[out.name].shape
        }
        prefix = [-1] if config.max_batch_size > 0 else []
        dims = {out.name: [*prefix, *out.dims] for out in config.output}
        self._scattered = {
            name: (dims[name], one.source_input[0])
            for one in config.batch_output
            for name in one.target_name
        }
        self.is_plain = not (self._strings or self._scalar_dims or self._scattered)
        self._version = str(version)

    def split(
        self,
        requests: Sequence[ExecuteRequest],
        arrays: Sequence[Array],
        faults: dict[int, ServerError],
    ) -> list[Outcome]:
        """One response, or fault, per request. Raises ServerError when outputs are too short."""
        if len(requests) == 1:
            columns = [[array] for array in self._whole(arrays, requests)]
        else:
            stops = list(accumulate(request.batch_size for request in requests))
            spans = [slice(start, stop) for start, stop in pairwise((0, *stops))]
            columns = [
                self._pieces(name, array, requests, spans)
                for name, array in zip(self.names, arrays, strict=True)
            ]
        outcomes: list[Outcome] = []
        for place, request in enumerate(requests):
            asked = request.request
            wanted = asked.requested_outputs
            outputs = [
                Tensor(name, wire_type, (array := column[place]).shape, array=array)
                for (name, wire_type), column in zip(self._kinds, columns, strict=True)
                if not wanted or name in wanted or name in self._states
            ]
            outcomes.append(InferResponse(asked.model_name, self._version, asked.id, outputs))
        for place, fault in faults.items():
            outcomes[place] = fault
        return outcomes

    def _whole(
        self, arrays: Sequence[Array], requests: Sequence[ExecuteRequest]
    ) -> Sequence[Array]:
        """The outputs of the only request of a batch."""
        if self.is_plain:
            return arrays
        whole: list[Array] = []
        for name, array in zip(self.names, arrays, strict=True):
            if name in self._scattered:
                whole += self._scattered_pieces(name, array, requests)
                continue
            shown = _encoded(array) if name in self._strings else array
            dims = self._scalar_dims.get(name)
            whole.append(shown if dims is None else shown.reshape(dims))
        return whole

    def _pieces(
        self,
        name: str,
        array: Array,
        requests: Sequence[ExecuteRequest],
        spans: Sequence[slice],
    ) -> list[Array]:
        """What each request of a batch gets of one output."""
        if name in self._scattered:
            return self._scattered_pieces(name, array, requests)
        rows = array.shape[0] if array.ndim else 0
        if rows < spans[-1].stop:
            raise internal(
                f"failed to split the output tensor '{name}' in responses: expected batch size of "
                f"at least {spans[-1].stop} in model output, got {rows}"
            )
        shown = _encoded(array) if name in self._strings else array
        return [shown[span] for span in spans]

    def _scattered_pieces(
        self, name: str, array: Array, requests: Sequence[ExecuteRequest]
    ) -> list[Array]:
        dims, source = self._scattered[name]
        shapes = [
            next(tensor.shape for tensor in request.request.inputs if tensor.name == source)
            for request in requests
        ]
        return list(scatter(_encoded(array) if name in self._strings else array, dims, shapes))


def _encoded(texts: Array) -> Array:
    encoded = np.empty(texts.size, np.object_)
    encoded[:] = [str(text).encode() for text in texts.ravel()]
    return encoded.reshape(texts.shape)
