"""The square backend: a decoupled model that answers n with n responses of n.

Owns the order in which one request's responses fail, are empty, or carry the number, as its
CUSTOM_ parameters ask; tests of response statistics live on it.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns  # noqa: TID251  # the model's own timing, in its thread

import numpy as np

from protocol.inference import InferResponse, Tensor
from protocol.status import ServerError, StatusCode, unknown
from repo.backends.base import Backend, ExecuteRequest, InstanceContext, Outcome, Timings
from repo.backends.decoupled import ResponseThreads, check_decoupled, completed
from repo.backends.settings import integer_parameter
from repo.model_config import ModelConfig, ModelInput, ModelOutput, data_type_of


class SquareBackend(Backend):
    """IN INT32 [1] = n → n times OUT INT32 [1] = n, then the end."""

    @classmethod
    def auto_complete(cls, context: InstanceContext) -> ModelConfig:
        int32 = data_type_of("INT32")
        return completed(
            context.config,
            [ModelInput("IN", int32, dims=[1])],
            [ModelOutput("OUT", int32, dims=[1])],
        )

    def load(self) -> None:
        check_decoupled(self.context)
        config = self.context.config
        self._infer_seconds = integer_parameter(config, "CUSTOM_INFER_DELAY_NS", 0) / 1e9
        self._output_seconds = integer_parameter(config, "CUSTOM_OUTPUT_DELAY_NS", 0) / 1e9
        self._cancel_seconds = integer_parameter(config, "CUSTOM_CANCEL_DELAY_NS", 0) / 1e9
        self._fail_count = integer_parameter(config, "CUSTOM_FAIL_COUNT", 0)
        self._empty_count = integer_parameter(config, "CUSTOM_EMPTY_COUNT", 0)
        self._shape = (1, 1) if config.max_batch_size > 0 else (1,)
        self._threads = ResponseThreads(self.context.instance_name)

    def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        began_ns = perf_counter_ns()
        for request in requests:
            self._begin(request)
        timings.infer_ns = perf_counter_ns() - began_ns
        return [None] * len(requests)

    def _begin(self, request: ExecuteRequest) -> None:
        self._threads.start(lambda: self._respond(request))

    def _respond(self, request: ExecuteRequest) -> None:
        """The first responses fail, the next are empty, the rest carry the number."""
        sender = request.sender
        (value,) = (tensor.array.ravel()[0] for tensor in request.request.inputs)
        for index in range(int(value)):
            self._threads.pause(self._infer_seconds)
            if sender.is_cancelled():
                self._threads.pause(self._cancel_seconds)
                sender.send(ServerError(StatusCode.CANCELLED, "cancelled"), final=True)
                return
            if index < self._fail_count:
                sender.send(unknown("simulated failure"), final=False)
            elif index < self._fail_count + self._empty_count:
                sender.send(self._response(request), final=False)
            else:
                self._threads.pause(self._output_seconds)
                number = Tensor.from_array("OUT", np.full(self._shape, value, np.int32))
                sender.send(self._response(request, number), final=False)
        sender.send(None, final=True)

    def _response(self, request: ExecuteRequest, *outputs: Tensor) -> InferResponse:
        asked = request.request
        return InferResponse(asked.model_name, str(self.context.version), asked.id, list(outputs))

    def unload(self) -> None:
        if hasattr(self, "_threads"):
            self._threads.stop()
