"""What a ProcessExecutor needs of the rest of the server, as ports.

Nothing here acts. `wiring.py` passes the real things in, tests pass fakes.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Literal, Protocol

from protocol.inference import InferRequest
from repo.backends.base import Outcome

LogLevel = Literal["VERBOSE", "INFO", "WARNING", "ERROR"]


class Log(Protocol):
    """Where a model's own log lines and its standard output go."""

    def __call__(self, level: LogLevel, message: str) -> None: ...


class LateSender(Protocol):
    """What `ExecuteRequest.sender` has to be for responses that come on their own.

    `deliver` waits while the client's window is full; that wait is what slows its producer. A
    client that has gone is no error.
    """

    async def deliver(self, outcome: Outcome | None, final: bool) -> None: ...

    def is_cancelled(self) -> bool: ...


class BlsPort(Protocol):
    """Other models, as a model asks for them; every method raises ServerError."""

    def infer(
        self, request: InferRequest, *, decoupled: bool
    ) -> AsyncGenerator[tuple[Outcome | None, bool], None]:
        """Every response and whether it is the last. Raising means that nothing was run.

        With `decoupled` false a decoupled model is refused. Closing the generator cancels.
        """

    async def load(self, model_name: str, config_json: str, files: Mapping[str, bytes]) -> None:
        """Load or reload; `config_json` "" keeps the repository's configuration."""

    async def unload(self, model_name: str, *, unload_dependents: bool) -> None: ...

    async def is_ready(self, model_name: str, version: str) -> bool: ...


MetricKind = Literal["counter", "gauge", "histogram"]
MetricOperation = Literal["increment", "set", "observe"]
Labels = Mapping[str, str]


class MetricsPort(Protocol):
    """The server's custom metrics. A name, or a name with labels, opened twice is one and the same.

    `open_family`, `open_metric` and `value` raise ServerError; each open is closed once.
    """

    def open_family(self, name: str, description: str, kind: MetricKind) -> None: ...

    def close_family(self, name: str) -> None: ...

    def open_metric(self, family: str, labels: Labels, buckets: Sequence[float]) -> None: ...

    def close_metric(self, family: str, labels: Labels) -> None: ...

    def update(
        self, family: str, labels: Labels, operation: MetricOperation, value: float
    ) -> None: ...

    def value(self, family: str, labels: Labels) -> float: ...
