"""The repeat backend: a decoupled model that sends its input back, element by element.

Owns the timing: before element i it waits DELAY[i] ms, and `execute` returns after WAIT ms even
while responses are still to come.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns, sleep  # noqa: TID251  # the model's own delay, in its thread

import numpy as np

from protocol.datatypes import Array
from protocol.inference import InferResponse, Tensor
from protocol.status import invalid_arg
from repo.backends.base import Backend, ExecuteRequest, InstanceContext, Outcome, Timings
from repo.backends.decoupled import ResponseThreads, check_decoupled, completed
from repo.model_config import ModelConfig, ModelInput, ModelOutput, data_type_of


class RepeatBackend(Backend):
    """IN INT32 [n], DELAY UINT32 [n] ms, WAIT UINT32 [1] ms → n times OUT INT32, IDX UINT32."""

    @classmethod
    def auto_complete(cls, context: InstanceContext) -> ModelConfig:
        return completed(
            context.config,
            [
                ModelInput("IN", data_type_of("INT32"), dims=[-1]),
                ModelInput("DELAY", data_type_of("UINT32"), dims=[-1]),
                ModelInput("WAIT", data_type_of("UINT32"), dims=[1]),
            ],
            [
                ModelOutput("OUT", data_type_of("INT32"), dims=[1]),
                ModelOutput("IDX", data_type_of("UINT32"), dims=[1]),
            ],
        )

    def load(self) -> None:
        check_decoupled(self.context)
        self._threads = ResponseThreads(self.context.instance_name)

    def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        began_ns = perf_counter_ns()
        outcomes = [self._begin(request) for request in requests]
        timings.infer_ns = perf_counter_ns() - began_ns
        return outcomes

    def _begin(self, request: ExecuteRequest) -> Outcome | None:
        arrays = {tensor.name: tensor.array.ravel() for tensor in request.request.inputs}
        values, delays = arrays["IN"], arrays["DELAY"]
        if len(values) != len(delays):
            return invalid_arg(
                f"expected IN and DELAY shape to match, got [{len(values)}] and [{len(delays)}]"
            )
        self._threads.start(lambda: self._respond(request, values, delays))
        wait = arrays["WAIT"]
        sleep(int(wait[0]) / 1000 if wait.size else 0)
        return None

    def _respond(self, request: ExecuteRequest, values: Array, delays: Array) -> None:
        asked, sender = request.request, request.sender
        for index, (value, delay) in enumerate(zip(values, delays, strict=True)):
            self._threads.pause(int(delay) / 1000)
            if sender.is_cancelled():
                break
            response = InferResponse(
                asked.model_name,
                str(self.context.version),
                asked.id,
                [
                    Tensor.from_array("OUT", np.array([value], np.int32)),
                    Tensor.from_array("IDX", np.array([index], np.uint32)),
                ],
            )
            sender.send(response, final=False)
        sender.send(None, final=True)

    def unload(self) -> None:
        if hasattr(self, "_threads"):
            self._threads.stop()
