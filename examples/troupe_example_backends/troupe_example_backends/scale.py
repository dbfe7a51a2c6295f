"""The `scale` backend: OUTPUT is INPUT times the model's parameter `factor`.

It shows the three methods of a backend, a parameter, and a configuration that completes itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns

import numpy as np

from troupe.backends import (
    Backend,
    ExecuteRequest,
    InferResponse,
    InstanceContext,
    ModelConfig,
    ModelInput,
    ModelOutput,
    Outcome,
    ServerError,
    StatusCode,
    Tensor,
    Timings,
    copy_config,
    data_type_of,
    parameter,
)


class Scale(Backend):
    """FP32 of any shape in, FP32 of the same shape out."""

    @classmethod
    def auto_complete(cls, context: InstanceContext) -> ModelConfig:
        """INPUT and OUTPUT, FP32 [-1], where the configuration has none."""
        config = copy_config(context.config)
        fp32 = data_type_of("FP32")
        config.input = config.input or [ModelInput("INPUT", fp32, dims=[-1])]
        config.output = config.output or [ModelOutput("OUTPUT", fp32, dims=[-1])]
        return config

    def load(self) -> None:
        text = parameter(self.context.config, "factor") or "1"
        try:
            self._factor = np.float32(text)
        except ValueError:
            raise ServerError(
                StatusCode.INVALID_ARG, f"parameter 'factor' must be a number, got '{text}'"
            ) from None

    def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        began_ns = perf_counter_ns()
        outcomes = [self._answer(request) for request in requests]
        timings.infer_ns = perf_counter_ns() - began_ns
        return outcomes

    def _answer(self, request: ExecuteRequest) -> Outcome:
        asked = request.request
        array = asked.inputs[0].array.astype(np.float32, copy=False)
        if not np.isfinite(array).all():
            # This one request fails; the others of its batch do not.
            return ServerError(StatusCode.INVALID_ARG, "INPUT must be finite")
        return InferResponse(
            asked.model_name,
            str(self.context.version),
            asked.id,
            [Tensor.from_array("OUTPUT", array * self._factor)],
        )

    def unload(self) -> None:
        """Nothing to release; a backend with files, sockets or device memory does it here."""
