"""The ONNX Runtime backend: one session per instance.

Owns the life of that session and the run itself. How it is opened, what the model declares, and
how batches become tensors stand in `onnxruntime_session`, `_graph` and `_batch`. IO binding is for
devices (`_device`): on the host it costs more per run than plain arrays do (9.2 against 6.3 us).
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter_ns  # noqa: TID251  # how long the run itself took
from typing import Any, Final

import numpy as np
import onnxruntime as ort

from protocol.datatypes import Array
from protocol.status import ServerError, internal
from repo.autocomplete import complete_from_graph, default_max_batch_size, needs_graph
from repo.backends.base import (
    Backend,
    DeviceModel,
    ExecuteRequest,
    InstanceContext,
    Outcome,
    Timings,
)
from repo.backends.onnxruntime_batch import Gatherer, Splitter
from repo.backends.onnxruntime_graph import Graph, check_graph
from repo.backends.onnxruntime_session import (
    open_session,
    run_options,
    runtime_error,
    shares_stream,
)
from repo.model_config import ModelConfig

_ONNX_BFLOAT16: Final = 16  # of TensorProto.DataType

Run = Callable[[dict[str, Array]], Sequence[Array]]


class OnnxRuntimeBackend(Backend):
    """One loaded ONNX model."""

    uses_lane = True
    _run: Run | None = None
    _session: Any = None

    @classmethod
    def auto_complete(cls, context: InstanceContext) -> ModelConfig:
        """Batch size, batcher, and inputs or outputs where the configuration has none."""
        config = context.config
        if not needs_graph(config):
            return config
        graph = Graph.of(open_session(replace(context, kind="CPU")))
        return complete_from_graph(
            config,
            list(graph.inputs.values()),
            list(graph.outputs.values()),
            default_max_batch_size(context.settings),
        )

    def load(self) -> None:
        config = self.context.config
        options = run_options(config)
        self._session = session = open_session(self.context, lane=self.lane)
        self._graph = graph = Graph.of(session)
        check_graph(config, graph)
        self._gatherer = Gatherer(config, graph)
        self._splitter = Splitter(config, graph, self.context.version)
        self._max_batch_size = max(config.max_batch_size, 1)
        tensors = (graph.inputs | graph.optional | graph.outputs).values()
        self._bf16 = bf16 = {one.name for one in tensors if one.datatype == "BF16"}
        names = self._splitter.names
        if bf16:
            self._run = _BFloat16Run(session, names, options, bf16)
        else:
            self._run = lambda feeds: session.run(names, feeds, options)

    def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        assert self._run is not None, "an instance is loaded before it executes"
        began_ns = perf_counter_ns()
        if len(requests) > 1:
            total = sum(request.batch_size or 1 for request in requests)
            if total > self._max_batch_size:
                raise internal(
                    f"batch size {total} for '{self.context.instance_name}', "
                    f"max allowed is {self._max_batch_size}"
                )
        faults: dict[int, ServerError] = {}
        feeds = self._gatherer.gather(requests, faults)
        gathered_ns = perf_counter_ns()
        try:
            arrays = self._run(feeds)
        except Exception as error:
            raise runtime_error(error) from error
        ran_ns = perf_counter_ns()
        outcomes = self._splitter.split(requests, arrays, faults)
        timings.input_ns = gathered_ns - began_ns
        timings.infer_ns = ran_ns - gathered_ns
        timings.output_ns = perf_counter_ns() - ran_ns
        return outcomes

    def on_device(self) -> DeviceModel | None:
        is_plain = self._gatherer.is_plain and self._splitter.is_plain and not self._bf16
        if self.lane is None or not is_plain or not shares_stream(self.context):
            return None
        from repo.backends.onnxruntime_device import OnnxDeviceModel

        options = run_options(self.context.config)
        return OnnxDeviceModel(self._session, self._graph, self._splitter.names, options, self.lane)

    def unload(self) -> None:
        self._run = self._session = None


class _BFloat16Run:
    """A run with BF16 tensors, which numpy lacks: their arrays hold the raw 16 bits."""

    def __init__(self, session: Any, names: Sequence[str], options: Any, bf16: set[str]) -> None:
        self._session = session
        self._names = names
        self._options = options
        self._bf16 = bf16

    def __call__(self, feeds: Mapping[str, Array]) -> list[Array]:
        values = {
            name: ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _ONNX_BFLOAT16)
            if name in self._bf16
            else ort.OrtValue.ortvalue_from_numpy(array)
            for name, array in feeds.items()
        }
        results = self._session.run_with_ort_values(self._names, values, self._options)
        return [
            _bits(value) if name in self._bf16 else value.numpy()
            for name, value in zip(self._names, results, strict=True)
        ]


def _bits(value: Any) -> Array:
    """A copy of a value's 16-bit elements: the value itself dies with the run."""
    raw = ctypes.string_at(value.data_ptr(), value.tensor_size_in_bytes())
    return np.frombuffer(raw, np.uint16).reshape(value.shape())
