"""The `countdown` backend: decoupled, it answers N, N-1, … 1, and then says that this was all.

It shows how responses leave through a request's sender. `execute` sends them itself and returns
when the last one is out; a backend that should take the next batch meanwhile sends them from
threads of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter_ns

import numpy as np

from troupe.backends import (
    Backend,
    ExecuteRequest,
    InferResponse,
    Outcome,
    ServerError,
    StatusCode,
    Tensor,
    Timings,
    is_decoupled,
)


class Countdown(Backend):
    """N INT32 [1] in; LEFT INT32 [1] out, N times."""

    def load(self) -> None:
        if not is_decoupled(self.context.config):
            raise ServerError(
                StatusCode.INVALID_ARG,
                f"model '{self.context.model_name}' must set "
                "model_transaction_policy { decoupled: true }",
            )

    def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        began_ns = perf_counter_ns()
        for request in requests:
            self._respond(request)
        timings.infer_ns = perf_counter_ns() - began_ns
        return [None] * len(requests)  # the senders have it all

    def _respond(self, request: ExecuteRequest) -> None:
        asked, sender = request.request, request.sender
        (count,) = asked.inputs[0].array.ravel()
        for left in range(int(count), 0, -1):
            if sender.is_cancelled():
                break  # nobody listens any longer
            # Waits while the client reads more slowly than this loop runs.
            sender.send(
                InferResponse(
                    asked.model_name,
                    str(self.context.version),
                    asked.id,
                    [Tensor.from_array("LEFT", np.array([left], np.int32))],
                ),
                final=False,
            )
        sender.send(None, final=True)
