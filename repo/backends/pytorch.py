"""The PyTorch backend: TorchScript files and .pt2 packages, one loaded model per instance.

Owns the life of an instance, the way torch is set up around a call, and the instance's CUDA
streams, which belong to its thread. Opening files stands in `pytorch_models`, the tensors of a
batch in `pytorch_batch`. A model that asks for `runtime: "model.py"` never comes here: it runs in
a worker process (`pytorch_worker`).

torch is an extra. It is imported when a model needs it, and not before.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from time import perf_counter_ns  # noqa: TID251  # how long the call itself took
from typing import Any

from protocol.status import ServerError, internal, unavailable
from repo.backends.base import (
    Backend,
    DeviceModel,
    ExecuteRequest,
    InstanceContext,
    Outcome,
    Timings,
)
from repo.backends.pytorch_settings import THREAD_COUNTS, TorchSettings
from repo.model_config import ModelConfig

_LOG = logging.getLogger("troupe.repo")


class PyTorchBackend(Backend):
    """One loaded PyTorch model."""

    uses_lane = True
    _call: Any = None

    @classmethod
    def auto_complete(cls, context: InstanceContext) -> ModelConfig:
        """Nothing: a TorchScript file does not tell its shapes."""
        _LOG.warning(
            "skipping model configuration auto-complete for '%s': not supported for pytorch "
            "backend",
            context.model_name,
        )
        return context.config

    def load(self) -> None:
        context = self.context
        self._settings = TorchSettings.of(context.config)
        self._torch = _import_torch(context.model_name)
        from repo.backends.pytorch_batch import TorchGatherer, TorchSplitter
        from repo.backends.pytorch_models import open_model

        THREAD_COUNTS.choose(self._torch, self._settings, context.model_name)
        device = self._device()
        self._streams = self._own_streams()
        model = open_model(context, self._settings, device)
        self._gatherer = TorchGatherer(context.config, device)
        self._splitter = TorchSplitter(context.config, model.plan, context.version)
        self._max_batch_size = max(context.config.max_batch_size, 1)
        self._call = model.call

    def _device(self) -> Any:
        """Where the model lives; None for KIND_MODEL, whose model decides."""
        kind = self.context.kind
        if kind == "MODEL":
            return None
        if kind == "CPU":
            return self._torch.device("cpu")
        if not self._torch.cuda.is_available():
            raise unavailable(
                f"unable to load model '{self.context.model_name}', the installed PyTorch finds "
                f"no CUDA device for instance '{self.context.instance_name}'"
            )
        return self._torch.device("cuda", self.context.device_id)

    def _own_streams(self) -> list[Any]:
        """Streams that become this thread's current ones, so that instances do not queue up."""
        cuda = self._torch.cuda
        streams: list[Any] = []
        if self.context.kind == "MODEL" and cuda.is_available():
            # Nobody knows which devices the model uses.
            streams = [cuda.Stream(index) for index in range(cuda.device_count())]
        elif self.context.kind == "GPU" and self.lane is not None:
            handle = self.lane.compute.handle
            streams = [cuda.ExternalStream(handle, device=self.context.device_id)]
        elif self.context.kind == "GPU":
            streams = [cuda.Stream(self.context.device_id)]
        for stream in streams:
            cuda.set_stream(stream)
        if streams:
            # Each of them made its device the current one; a MODEL instance begins at the first.
            cuda.set_device(self.context.device_id)
        return streams

    def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        assert self._call is not None, "an instance is loaded before it executes"
        began_ns = perf_counter_ns()
        if len(requests) > 1:
            total = sum(request.batch_size or 1 for request in requests)
            if total > self._max_batch_size:
                raise internal(
                    f"batch size {total} for '{self.context.instance_name}', "
                    f"max allowed is {self._max_batch_size}"
                )
        faults: dict[int, ServerError] = {}
        with self._torch.inference_mode(self._settings.inference_mode), self._torch.no_grad():
            values = self._gatherer.gather(requests, faults)
            gathered_ns = perf_counter_ns()
            results = self._run(values)
            ran_ns = perf_counter_ns()
            outcomes = self._splitter.split(requests, results, faults)
        timings.input_ns = gathered_ns - began_ns
        timings.infer_ns = ran_ns - gathered_ns
        timings.output_ns = perf_counter_ns() - ran_ns
        return outcomes

    def on_device(self) -> DeviceModel | None:
        if self.lane is None or self._settings.cache_cleaning:
            return None
        from repo.backends.pytorch_device import TorchDeviceModel

        def call(values: Mapping[str, Any]) -> Sequence[Any]:
            self._set_up()
            results: Sequence[Any] = self._call(values)
            return results

        return TorchDeviceModel(
            call,
            self._splitter.outputs,
            self.lane,
            inference_mode=self._settings.inference_mode,
        )

    def _run(self, values: Mapping[str, Any]) -> Sequence[Any]:
        self._set_up()
        try:
            results: Sequence[Any] = self._call(values)
            for stream in self._streams:
                stream.synchronize()
        except Exception as error:
            raise internal(f"PyTorch execute failure: {error}") from error
        if self._settings.cache_cleaning and self._streams:
            self._torch.cuda.empty_cache()
        return results

    def _set_up(self) -> None:
        """The settings that torch keeps per process or thread, for the call that follows."""
        native = self._torch._C  # noqa: SLF001  # torch has no other names for most of these
        settings = self._settings
        native._set_graph_executor_optimize(settings.optimized_execution)  # noqa: SLF001
        if self._streams:
            native._set_cudnn_enabled(settings.cudnn)  # noqa: SLF001
        if settings.jit_profiling is not None:
            native._jit_set_profiling_mode(settings.jit_profiling)  # noqa: SLF001
        if settings.jit_executor is not None:
            native._jit_set_profiling_executor(settings.jit_executor)  # noqa: SLF001
        if settings.tensor_fuser is not None:
            native._jit_set_texpr_fuser_enabled(settings.tensor_fuser)  # noqa: SLF001

    def unload(self) -> None:
        self._call = None
        if getattr(self, "_streams", None):
            self._torch.cuda.empty_cache()


def _import_torch(model_name: str) -> Any:
    """Raises ServerError UNAVAILABLE when torch is not installed."""
    try:
        return importlib.import_module("torch")
    except (ImportError, OSError) as error:
        raise unavailable(
            f"unable to load model '{model_name}', PyTorch cannot be imported ({error}); "
            "install it with: pip install 'troupe[torch]'"
        ) from error
