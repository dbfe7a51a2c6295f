"""What is noted of a traced inference: the record that travels with its request.

A `TraceGroup` is one inference that a client asked for, with everything it caused: a `Trace` for
its request and one for each request that an ensemble or a model made of it. Whoever has the
request in hand stamps its trace; instants are seconds of one steady clock, the caller's. Owns the
record's bounds and nothing else: who is traced is decided, and traces are written, elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from protocol.inference import Tensor
from protocol.trace_context import SpanContext, propagated

TIMESTAMPS: Final = "TIMESTAMPS"
TENSORS: Final = "TENSORS"

REQUEST_START: Final = "REQUEST_START"
QUEUE_START: Final = "QUEUE_START"
COMPUTE_START: Final = "COMPUTE_START"
COMPUTE_INPUT_END: Final = "COMPUTE_INPUT_END"
COMPUTE_OUTPUT_START: Final = "COMPUTE_OUTPUT_START"
COMPUTE_END: Final = "COMPUTE_END"
REQUEST_END: Final = "REQUEST_END"
INFER_RESPONSE_COMPLETE: Final = "INFER_RESPONSE_COMPLETE"

TENSOR_QUEUE_INPUT: Final = "TENSOR_QUEUE_INPUT"
TENSOR_BACKEND_INPUT: Final = "TENSOR_BACKEND_INPUT"
TENSOR_BACKEND_OUTPUT: Final = "TENSOR_BACKEND_OUTPUT"

# Stamps of one trace: some ten, and as many again for every response of a decoupled model. A
# stream may go on for ever; what comes later than these is not noted.
MAX_STAMPS: Final = 4096
# Requests in one group. A model that calls itself in a loop would otherwise fill the memory.
MAX_TRACES: Final = 1024

Stamp = tuple[str, float]
"""What happened, and at which instant."""


class TracedTensor(NamedTuple):
    """A tensor as it was at one point; `raw` is a copy of its wire bytes."""

    activity: str
    name: str
    datatype: str
    shape: Sequence[int]
    raw: bytes


@dataclass(slots=True, eq=False)
class TensorBudget:
    """How many bytes of tensors may be held by traces that are not written yet, in all."""

    left: int
    refused: int = 0  # tensors for which there was no room, and which nobody has been told of

    def take(self, size: int) -> bool:
        if size > self.left:
            self.refused += 1
            return False
        self.left -= size
        return True


@dataclass(slots=True, eq=False)
class TraceGroup:
    """One inference that was asked for from outside, and everything that it caused."""

    timestamps: bool
    budget: TensorBudget | None  # None: tensors are not noted
    trace_id: int = 0  # 128 bits that name it to other servers; 0 in Triton's own mode
    span_id: int = 0  # of the span around everything, 64 bits
    remote: SpanContext | None = None  # whose part it is, if the client said so
    traces: list[Trace] = field(default_factory=list)
    frontend: list[Stamp] = field(default_factory=list)  # what the root's frontend did
    tensor_bytes: int = 0  # of the budget
    open_parts: int = 0  # requests and frontends that may still stamp


class Trace:
    """One request of a group. Backends may `report` from any thread; others stamp."""

    __slots__ = (
        "backend_inputs",
        "clock",
        "group",
        "id",
        "is_open",
        "model_name",
        "model_version",
        "parent",
        "request_id",
        "span_id",
        "stamps",
        "tensors",
    )

    def __init__(
        self,
        number: int,
        group: TraceGroup,
        parent: Trace | None,
        *,
        model_name: str,
        model_version: int,
        request_id: str,
        span_id: int,
        clock: Callable[[], float],
    ) -> None:
        self.id = number  # unique among the traces of a server
        self.group = group
        self.parent = parent
        self.model_name = model_name
        self.model_version = model_version
        self.request_id = request_id
        self.span_id = span_id
        self.clock = clock
        self.stamps: list[Stamp] = []  # at most MAX_STAMPS
        self.tensors: list[TracedTensor] = []
        self.backend_inputs: Sequence[Tensor] = ()  # if they are not the request's own
        self.is_open = True  # until the request's final response
        group.traces.append(self)
        group.open_parts += 1

    @property
    def parent_id(self) -> int:
        """0 for the request that a client made."""
        return self.parent.id if self.parent is not None else 0

    @property
    def context(self) -> str:
        """What a model may pass on to others, as JSON; empty where there is nobody to tell."""
        if not self.group.trace_id:
            return ""
        remote = self.group.remote
        state = remote.state if remote is not None else ""
        return propagated(SpanContext(self.group.trace_id, self.span_id, state))

    def stamp(self, name: str, at: float) -> None:
        """Note what happened at the instant `at`."""
        if self.group.timestamps and len(self.stamps) < MAX_STAMPS:
            self.stamps.append((name, at))

    def report(self, name: str) -> None:
        """Note what happens now: activities of a model's own."""
        self.stamp(name, self.clock())

    def note_tensors(self, activity: str, tensors: Sequence[Tensor]) -> None:
        """Keep a copy of the tensors as they are now, as far as the budget goes."""
        budget = self.group.budget
        if budget is None:
            return
        for tensor in tensors:
            try:
                raw = tensor.raw
            except (KeyError, TypeError, ValueError):
                continue  # a model's answer that is no tensor, of which its caller is told
            if budget.take(len(raw)):
                self.group.tensor_bytes += len(raw)
                self.tensors.append(
                    TracedTensor(activity, tensor.name, tensor.datatype, tensor.shape, bytes(raw))
                )
