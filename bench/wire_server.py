"""Troupe with a backend that does nothing, so that what is measured is the way there and back.

    python bench/wire_server.py <the options of `troupe serve`>

The backend `noop` answers every request with its own inputs, renamed to outputs.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from protocol.inference import InferResponse
from repo.backends import registry
from repo.backends.base import Backend, ExecuteRequest, Outcome, Timings
from troupe.serve import serve


class NoopBackend(Backend):
    """Gives every input back."""

    def load(self) -> None:
        self._name = self.context.model_name
        self._version = str(self.context.version)

    def execute(
        self, requests: Sequence[ExecuteRequest], timings: Timings
    ) -> Sequence[Outcome | None]:
        return [
            InferResponse(
                self._name,
                self._version,
                each.request.id,
                [
                    tensor.renamed(tensor.name.replace("INPUT", "OUTPUT"))
                    for tensor in each.request.inputs
                ],
            )
            for each in requests
        ]


if __name__ == "__main__":
    # An installed distribution would name it in the entry-point group `troupe.backends`.
    registry._NATIVE["noop"] = "bench.wire_server:NoopBackend"  # noqa: SLF001
    sys.exit(serve(sys.argv[1:]))
