"""Traces of requests, from the first stamp to the tracer's door.

Owns the settings, through their policy, and every trace that is under way. A frontend says how a
request came, the request is answered through a door that notes the answers, and what is complete is
given to the Tracer. Where nothing is traced all of this is one look at `is_active`. Nothing here
waits: if the tracer is behind, traces are dropped and counted.
"""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final, NamedTuple

import trio

from actors.channels import Door
from actors.lifecycle.model_index import ServingVersion
from actors.messages import Reply, Submit, TraceEnded, TracerMessage
from actors.policy.tracing import OPENTELEMETRY, Close, Setting, TraceDefaults, TracePolicy
from protocol.inference import InferRequest, InferResponse
from protocol.trace_context import SpanContext, parse_context
from protocol.tracing import (
    COMPUTE_END,
    COMPUTE_INPUT_END,
    COMPUTE_OUTPUT_START,
    COMPUTE_START,
    INFER_RESPONSE_COMPLETE,
    MAX_STAMPS,
    MAX_TRACES,
    QUEUE_START,
    REQUEST_END,
    REQUEST_START,
    TENSOR_BACKEND_INPUT,
    TENSOR_BACKEND_OUTPUT,
    TENSOR_QUEUE_INPUT,
    TENSORS,
    TIMESTAMPS,
    Stamp,
    TensorBudget,
    Trace,
    TraceGroup,
)
from protocol.v2_json_control import TraceUpdate, trace_settings_body
from repo.backends.base import Timings

log = logging.getLogger(__name__)

# Copies of tensors that traces hold until they are written. At level TENSORS somebody looks at
# single requests; whoever traces a busy server so loses tensors, not memory.
MAX_TENSOR_BYTES: Final = 256 * 1024 * 1024

# Between two warnings that something was left out; it may happen with every request.
WARNING_SECONDS: Final = 10.0

_NS: Final = 1e9


class Received(NamedTuple):
    """How a request came: over which protocol, what its frontend did, and what the client said."""

    protocol: str  # as in the names of stamps; empty for a caller in this process
    stamps: Sequence[Stamp] = ()
    traceparent: str | None = None
    tracestate: str | None = None

    @classmethod
    def over_http(cls, began_at: float, headers: Mapping[str, str]) -> Received:
        """A request whose first byte came at `began_at`, and which is complete now."""
        stamps = (("HTTP_RECV_START", began_at), ("HTTP_RECV_END", trio.current_time()))
        return cls("HTTP", stamps, headers.get("traceparent"), headers.get("tracestate"))

    @classmethod
    def over_grpc(cls, waited_from: float, headers: Iterable[tuple[str, str]]) -> Received:
        """A request that was waited for from `waited_from`, and which is complete now."""
        stamps = (("GRPC_WAITREAD_START", waited_from), ("GRPC_WAITREAD_END", trio.current_time()))
        words = {name: text for name, text in headers if name in ("traceparent", "tracestate")}
        return cls("GRPC", stamps, words.get("traceparent"), words.get("tracestate"))


WITHIN: Final = Received("")
"""A request that was made by the program that embeds the server."""


class Tracing:
    """See the module's docstring."""

    def __init__(
        self,
        defaults: TraceDefaults,
        *,
        traces: Door[TracerMessage],
        new_id: Callable[[], int],
    ) -> None:
        """`new_id` makes names of spans: 64 bits, not 0, and not used by any other server."""
        self._defaults = defaults
        self._policy = TracePolicy(defaults)
        self._traces = traces
        self._new_id = new_id
        self._numbers = itertools.count(1)
        self._settings: dict[TraceGroup, Setting] = {}  # of what is under way
        self._dropped = 0
        self._say_again_at = -math.inf
        self.budget = TensorBudget(MAX_TENSOR_BYTES)
        self.is_active = self._policy.is_active  # whether a request could be traced at all
        objection = defaults.objection(defaults.values)
        if objection and defaults.values.level and not self.is_active:
            log.warning("nothing is traced: %s", objection)
        self._warn_of_tensors("")

    @property
    def under_way(self) -> int:
        """How many traces have begun and are not with the tracer yet."""
        return len(self._settings)

    # --- settings --------------------------------------------------------------------------------

    def body(self, model: str) -> Mapping[str, object]:
        """The settings of a model, or of all others if it is empty, as both protocols show them."""
        values = self._policy.of(model)
        return trace_settings_body(
            level=values.level,
            rate=values.rate,
            count=values.count,
            log_frequency=values.log_frequency,
            file=self._defaults.file,
            mode=self._defaults.mode,
            opentelemetry=self._defaults.exporter,
        )

    def update(self, model: str, update: TraceUpdate) -> None:
        """Change what `update` names. Raises ServerError INVALID_ARG."""
        closings = self._policy.update(model, update)
        self.is_active = self._policy.is_active
        self._warn_of_tensors(model)
        self._close(closings)

    def _warn_of_tensors(self, model: str) -> None:
        if TENSORS in self._policy.of(model).level and self._defaults.mode == OPENTELEMETRY:
            log.warning("tensors are not traced in mode opentelemetry")

    # --- requests --------------------------------------------------------------------------------

    def begin(
        self, submit: Submit, serving: ServingVersion, received: Received
    ) -> tuple[Submit, FrontTrace | None]:
        """A request from outside. If it is traced, its frontend has a part in that too."""
        submit.request.trace = None
        remote: SpanContext | None = None
        exports = self._defaults.mode == OPENTELEMETRY
        if exports and received.traceparent:
            remote = parse_context(received.traceparent, received.tracestate)
        setting = self._policy.sample(serving.name, has_context=remote is not None)
        self.is_active = self._policy.is_active
        if setting is None:
            return submit, None
        level = setting.values.level
        group = TraceGroup(
            TIMESTAMPS in level or exports,
            self.budget if TENSORS in level and not exports else None,
        )
        if exports:
            group.remote = remote
            fresh = self._new_id() << 64 | self._new_id()
            group.trace_id = remote.trace_id if remote is not None else fresh
            group.span_id = self._new_id()
        self._settings[group] = setting
        front = None
        if received.protocol:
            if group.timestamps:
                group.frontend.extend(received.stamps)
            group.open_parts += 1
            front = FrontTrace(self, group, received.protocol)
        return self._trace(submit, serving, group, None), front

    def begin_child(self, submit: Submit, serving: ServingVersion) -> Submit:
        """A request that the one whose trace it carries has caused."""
        parent = submit.request.trace
        assert parent is not None, "its caller has looked"
        group = parent.group
        if group not in self._settings or len(group.traces) >= MAX_TRACES:
            submit.request.trace = None
            return submit
        return self._trace(submit, serving, group, parent)

    def _trace(
        self, submit: Submit, serving: ServingVersion, group: TraceGroup, parent: Trace | None
    ) -> Submit:
        request = submit.request
        trace = Trace(
            next(self._numbers),
            group,
            parent,
            model_name=serving.name,
            model_version=serving.version,
            request_id=request.id,
            span_id=self._new_id() if group.trace_id else 0,
            clock=trio.lowlevel.current_clock().current_time,
        )
        trace.stamp(REQUEST_START, submit.submitted_at)
        trace.stamp(QUEUE_START, submit.submitted_at)
        trace.note_tensors(TENSOR_QUEUE_INPUT, request.inputs)
        request.trace = trace
        return submit._replace(reply=TracedReplies(submit.reply, request, trace, self))

    def request_ended(self, trace: Trace) -> None:
        """A request has its final response; it may be said twice."""
        if trace.is_open:
            trace.is_open = False
            trace.stamp(REQUEST_END, trio.current_time())
            self.part_ended(trace.group)

    def part_ended(self, group: TraceGroup) -> None:
        """A request or a frontend has nothing more to note."""
        group.open_parts -= 1
        if group.open_parts:
            return
        setting = self._settings.pop(group)
        try:
            self._traces.send_nowait(TraceEnded(setting.collection, group))
        except trio.WouldBlock:
            self.forget(group)
            self._dropped += 1
        except trio.BrokenResourceError:
            return  # the server has stopped
        else:
            self.say_dropped()
        self._close(self._policy.ended(setting))

    def forget(self, group: TraceGroup) -> None:
        """The group is written, or dropped: there is room for other tensors."""
        self.budget.left += group.tensor_bytes
        group.tensor_bytes = 0

    def say_dropped(self, *, last: bool = False) -> None:
        """Tell the operator what has been left out since the last time, unless that was just now.

        With `last` there will be no other time.
        """
        if not (self._dropped or self.budget.refused):
            return
        now = trio.current_time()
        if now < self._say_again_at and not last:
            return
        self._say_again_at = now + WARNING_SECONDS
        if self._dropped:
            text = "%d traces were dropped, because they came faster than they are written"
            log.warning(text, self._dropped)
        if self.budget.refused:
            text = "%d tensors were left out of traces, which hold as many bytes as they may"
            log.warning(text, self.budget.refused)
        self._dropped = self.budget.refused = 0

    def _close(self, closings: Iterable[Close]) -> None:
        for close in closings:
            try:
                self._traces.send_owed(close)  # at most twice for each setting
            except trio.BrokenResourceError:
                return  # the server has stopped


class FrontTrace:
    """A frontend's part in a trace, from its request's submission until the answer is sent."""

    __slots__ = ("_group", "_is_open", "_is_sending", "_protocol", "_tracing")

    def __init__(self, tracing: Tracing, group: TraceGroup, protocol: str) -> None:
        self._tracing = tracing
        self._group = group
        self._protocol = protocol
        self._is_sending = False
        self._is_open = True

    def responded(self) -> None:
        """A response has come, and is about to be sent."""
        self._stamp(INFER_RESPONSE_COMPLETE)
        if not self._is_sending:
            self._is_sending = True
            self._stamp(f"{self._protocol}_SEND_START")

    def sent(self) -> None:
        """All of the answer has been sent."""
        if self._is_open and self._is_sending:
            self._stamp(f"{self._protocol}_SEND_END")
        self.close()

    def close(self) -> None:
        """There is nothing more to note: the answer was sent, or nobody wants it."""
        if self._is_open:
            self._is_open = False
            self._tracing.part_ended(self._group)

    def _stamp(self, name: str) -> None:
        stamps = self._group.frontend
        if self._is_open and self._group.timestamps and len(stamps) < MAX_STAMPS:
            stamps.append((name, trio.current_time()))


class TracedReplies(Door[Reply]):
    """Where a traced request is answered: the caller's door, with a look at what passes."""

    __slots__ = ("_door", "_request", "_trace", "_tracing")

    def __init__(
        self, door: Door[Reply], request: InferRequest, trace: Trace, tracing: Tracing
    ) -> None:
        # A door of its own it is not: it has no messages, and no mailbox to ring.
        self._door = door
        self._request = request
        self._trace = trace
        self._tracing = tracing

    def send_nowait(self, message: Reply) -> None:
        try:
            self._door.send_nowait(message)
        except trio.WouldBlock:
            raise
        except trio.BrokenResourceError:
            self._look(message)
            raise
        self._look(message)

    async def send(self, message: Reply) -> None:
        try:
            await self._door.send(message)
        finally:
            self._look(message)

    def send_owed(self, message: Reply) -> None:
        try:
            self._door.send_owed(message)
        finally:
            self._look(message)

    def refused(self) -> None:
        """The request never came to whoever would have answered."""
        self._tracing.request_ended(self._trace)

    def _look(self, reply: Reply) -> None:
        trace = self._trace
        if trace.is_open:
            if isinstance(reply.outcome, InferResponse):
                trace.note_tensors(TENSOR_BACKEND_OUTPUT, reply.outcome.outputs)
            if reply.final:
                if reply.timings is not None and reply.timings.began_at >= 0.0:
                    inputs = trace.backend_inputs or self._request.inputs
                    trace.note_tensors(TENSOR_BACKEND_INPUT, inputs)
                    _stamp_execution(trace, reply.timings, trio.current_time())
                self._tracing.request_ended(trace)


def _stamp_execution(trace: Trace, timings: Timings, now: float) -> None:
    """The phases as the statistics count them; those that are not over yet end now."""
    at = timings.began_at
    trace.stamp(COMPUTE_START, at)
    at = min(at + timings.input_ns / _NS, now)
    trace.stamp(COMPUTE_INPUT_END, at)
    at = min(at + timings.infer_ns / _NS, now) if timings.infer_ns else now
    trace.stamp(COMPUTE_OUTPUT_START, at)
    at = min(at + timings.output_ns / _NS, now) if timings.infer_ns else now
    trace.stamp(COMPUTE_END, at)
