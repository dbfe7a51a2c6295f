"""The dataflow of an ensemble: which step runs when, on which tensors, and what is answered.

Owns every request that an ensemble works on. Each of its tensors is a list indexed by iteration: a
request's inputs are iteration 0, and every response of a decoupled member begins another one. A
step runs for an iteration once all its tensors have it. A tensor that a member left out arrives as
nothing, and the step runs without that input.

The policy is told what happened (`begin`, `respond`, `fail`, `cancel`) and answers what to do. It
names members, steps and tensors; it sends nothing, and reads no clock.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from actors.policy.dataflow_graph import Consumers, Graph, Plan
from protocol.inference import InferResponse, ParameterValue, Tensor
from protocol.status import ServerError, cancelled, invalid_arg, request_prefix

# Responses of a decoupled member that may be on their way through the rest of its ensemble. Beyond
# it the member waits, so that it cannot flood those after it.
STREAM_WINDOW: Final = 64

_SEQUENCE_PARAMETERS: Final = ("sequence_id", "sequence_start", "sequence_end")

SequenceSays = Mapping[str, ParameterValue]
"""What a member said about sequences, in place of what the request says."""


@dataclass(frozen=True, slots=True)
class Member:
    """What a step's model is: whether it batches, and the dims of its inputs without a batch."""

    batches: bool
    dims: Mapping[str, tuple[int, ...]]
    output_count: int = 0


@dataclass(slots=True, eq=False)
class Flow:
    """One request of the ensemble; to its owner a name for it."""

    id: str
    plan: Plan
    batch_size: int
    members: Sequence[Member]
    error: ServerError | None = None
    responded: int = 0
    gathers: dict[tuple[int, int], _Gather] = field(default_factory=dict)
    calls: dict[StepCall, None] = field(default_factory=dict)  # started or queued
    load: list[int] = field(default_factory=list)  # by step: calls started or queued
    produced: list[int] = field(default_factory=list)  # by step: iterations that it has begun
    complete: dict[int, StepCall] = field(default_factory=dict)  # responses, by iteration
    work: object = None  # its owner's, as in a Ticket


@dataclass(slots=True, eq=False)
class StepCall:
    """One run of one step; `batch_size` is set by whoever submits it.

    The response counts as a step: its inputs are the outputs that were asked for.
    """

    flow: Flow
    step: int
    iteration: int
    inputs: list[Tensor]
    sequence: SequenceSays
    batch_size: int = 0
    started: bool = False
    work: object = None


@dataclass(slots=True, eq=False)
class _Gather:
    """The tensors of a step's iteration, while some are missing."""

    missing: int
    inputs: list[Tensor] = field(default_factory=list)
    sequence: SequenceSays = field(default_factory=dict)

    def add(self, inputs: list[Tensor], sequence: SequenceSays) -> None:
        """One of the missing ones has come, be it nothing."""
        self.missing -= 1
        self.inputs += inputs
        if sequence:
            self.sequence = {**self.sequence, **sequence}


class Start(NamedTuple):
    """Submit this step's request to its member."""

    call: StepCall


class Stop(NamedTuple):
    """Tell the member that nobody waits for this call any longer; its final reply still comes."""

    call: StepCall


class Respond(NamedTuple):
    """Give the caller these outputs."""

    flow: Flow
    outputs: list[Tensor]
    sequence: SequenceSays
    final: bool


class Finish(NamedTuple):
    """Nothing more comes for this request: only its error, if there is one."""

    flow: Flow
    error: ServerError | None


Action = Start | Stop | Respond | Finish

_NOTHING: Final[SequenceSays] = {}


class Dataflow:
    """All requests of one ensemble version.

    `max_inflight` > 0 limits how many calls of each step are under way at once, of all requests
    together; one counts from its start to its final reply.
    """

    def __init__(
        self,
        name: str,
        graph: Graph,
        *,
        batches: bool,
        output_dims: Mapping[str, tuple[int, ...]],
        max_inflight: int = 0,
    ) -> None:
        self._name = name
        self._graph = graph
        self._is_decoupled = any(graph.decoupled)
        self._max_inflight = max_inflight
        self._window = min(max_inflight, STREAM_WINDOW) or STREAM_WINDOW
        self._outside = Member(batches, output_dims)
        self._in_flight = [0] * len(graph.steps)
        self._queues: list[deque[StepCall]] = [deque() for _ in graph.steps]

    # --- what happened ---------------------------------------------------------------------------

    def begin(
        self,
        request_id: str,
        inputs: Sequence[Tensor],
        *,
        batch_size: int,
        wanted: tuple[str, ...],
        members: Sequence[Member],
    ) -> tuple[Flow, list[Action]]:
        """A request has come. `members` are those of all steps; those of pruned ones are unread."""
        plan = self._graph.plan(wanted)
        steps = len(self._graph.steps)
        flow = Flow(request_id, plan, batch_size, members)
        flow.load = [0] * (steps + 1)
        flow.produced = [0] * steps
        actions: list[Action] = []
        given = {tensor.name: tensor for tensor in inputs}
        for name, consumers in plan.given:
            self._arrive(
                flow,
                consumers,
                given.get(name),
                iteration=0,
                batch_size=batch_size,
                sequence=_NOTHING,
                actions=actions,
            )
        if not flow.calls:
            self._settle(flow, actions)
        return flow, actions

    def respond(self, call: StepCall, response: InferResponse | None, final: bool) -> list[Action]:
        """A member has answered, or, without a response, said that nothing more comes."""
        actions: list[Action] = []
        if response is not None and call.flow.error is None:
            self._take(call, response, actions)
        return self._after(call, final, actions)

    def fail(self, call: StepCall, error: ServerError, final: bool) -> list[Action]:
        """A member has answered with an error, or would not take the call at all."""
        actions: list[Action] = []
        self._stick(call.flow, self.wrapped(error), actions)
        return self._after(call, final, actions)

    def cancel(self, flow: Flow, error: ServerError | None = None) -> list[Action]:
        """Nobody waits for the request any longer, or, with an error, not beyond this instant."""
        actions: list[Action] = []
        self._stick(flow, cancelled() if error is None else error, actions)
        # A decoupled call may be told twice, which does no harm.
        actions += [Stop(call) for call in flow.calls]
        if not flow.calls:
            self._settle(flow, actions)
        return actions

    def has_room(self, call: StepCall, unsent: int) -> bool:
        """Whether a decoupled call's next response may be taken; `unsent` is the caller's backlog.

        Only what lies after the step counts: that can always go on by itself, so whoever waits here
        never waits for itself.
        """
        flow = call.flow
        if flow.error is not None:
            return True  # it is thrown away
        load = flow.load
        ahead = len(flow.complete) + unsent
        for step in flow.plan.downstream[call.step]:
            ahead += load[step]
        return ahead < self._window

    # --- tensors on their way --------------------------------------------------------------------

    def _take(self, call: StepCall, response: InferResponse, actions: list[Action]) -> None:
        flow, step = call.flow, call.step
        sequence = call.sequence
        if response.parameters:
            try:
                sequence = _overridden(sequence, response.parameters)
            except ServerError as error:
                self._stick(flow, self.wrapped(error), actions)
                return
        iteration = call.iteration
        if self._graph.decoupled[step]:
            iteration = flow.produced[step]
            flow.produced[step] += 1
        outputs = {tensor.name: tensor for tensor in response.outputs}
        for name, consumers in flow.plan.produced[step]:
            self._arrive(
                flow,
                consumers,
                outputs.get(name),
                iteration=iteration,
                batch_size=call.batch_size,
                sequence=sequence,
                actions=actions,
            )

    def _arrive(
        self,
        flow: Flow,
        consumers: Consumers,
        tensor: Tensor | None,
        *,
        iteration: int,
        batch_size: int,
        sequence: SequenceSays,
        actions: list[Action],
    ) -> None:
        """A tensor has its value for an iteration; None is the news that it has none."""
        plan = flow.plan
        for step, name in consumers:
            if iteration and plan.once[step]:
                continue  # something else that the step reads has the first iteration only
            inputs = []
            if tensor is not None:
                is_response = step == self._graph.response
                member = self._outside if is_response else flow.members[step]
                inputs.append(_fitted(tensor, name, batch_size, member))
            if plan.fan_in[step] > 1:
                gather = flow.gathers.get((step, iteration))
                if gather is None:
                    gather = flow.gathers[step, iteration] = _Gather(plan.fan_in[step])
                gather.add(inputs, sequence)
                if gather.missing:
                    continue
                del flow.gathers[step, iteration]
                call = StepCall(flow, step, iteration, gather.inputs, gather.sequence)
            else:
                call = StepCall(flow, step, iteration, inputs, sequence)
            self._fire(call, actions)

    def _fire(self, call: StepCall, actions: list[Action]) -> None:
        """A step, or the response, has all its tensors."""
        flow, step = call.flow, call.step
        if step == self._graph.response:
            flow.complete[call.iteration] = call
            if self._is_decoupled:
                self._respond(flow, actions)
            return
        flow.calls[call] = None
        flow.load[step] += 1
        if self._max_inflight and self._in_flight[step] >= self._max_inflight:
            self._queues[step].append(call)
        else:
            self._start(call, actions)

    def _respond(self, flow: Flow, actions: list[Action]) -> None:
        """Responses leave in the order of their iterations.

        The one response of an ensemble that is not decoupled waits until it can be the final one.
        """
        while flow.responded in flow.complete:
            done = flow.complete.pop(flow.responded)
            flow.responded += 1
            actions.append(Respond(flow, done.inputs, done.sequence, final=False))

    # --- calls -----------------------------------------------------------------------------------

    def _start(self, call: StepCall, actions: list[Action]) -> None:
        self._in_flight[call.step] += 1
        call.started = True
        actions.append(Start(call))

    def _after(self, call: StepCall, final: bool, actions: list[Action]) -> list[Action]:
        """End a call, and let the next in line have its place."""
        if not final:
            return actions
        flow, step = call.flow, call.step
        del flow.calls[call]
        flow.load[step] -= 1
        self._in_flight[step] -= 1
        if not flow.calls:
            self._settle(flow, actions)
        queue = self._queues[step]
        if queue:
            self._start(queue.popleft(), actions)
        return actions

    def _stick(self, flow: Flow, error: ServerError, actions: list[Action]) -> None:
        """The first error is the request's answer: nothing is started any more, the rest drains."""
        if flow.error is not None:
            return
        flow.error = error
        flow.gathers.clear()
        flow.complete.clear()
        for call in list(flow.calls):
            if not call.started:
                del flow.calls[call]
                flow.load[call.step] -= 1
                self._queues[call.step].remove(call)
            elif self._graph.decoupled[call.step]:
                actions.append(Stop(call))  # it might otherwise go on for ever

    def _settle(self, flow: Flow, actions: list[Action]) -> None:
        """End a request of which no call is left."""
        if flow.error is not None:
            actions.append(Finish(flow, flow.error))
        elif self._is_decoupled:
            last = actions[-1] if actions else None
            if isinstance(last, Respond):
                actions[-1] = last._replace(final=True)
            else:
                actions.append(Finish(flow, None))
        elif 0 in flow.complete:
            done = flow.complete.pop(0)
            actions.append(Respond(flow, done.inputs, done.sequence, final=True))
        else:
            deadlock = invalid_arg(
                f"{request_prefix(flow.id)}unexpected deadlock, at least one output is not set "
                "while no more ensemble steps can be made"
            )
            actions.append(Finish(flow, self.wrapped(deadlock)))

    def wrapped(self, error: ServerError) -> ServerError:
        """A member's error as the ensemble's caller hears it."""
        return ServerError(error.status, f"in ensemble '{self._name}', {error.message}")


def _fitted(tensor: Tensor, name: str, batch_size: int, member: Member) -> Tensor:
    """The tensor as `member` knows it: by its own name, with a batch dimension or without.

    A model that batches gets one prepended to a tensor that comes from one that does not, if the
    tensor is as the configuration says; the other way round, a batch of 1 loses it if need be.
    """
    if member.batches != (batch_size > 0):
        shape = tensor.shape
        dims = member.dims.get(name, ())
        fits = len(dims) == len(shape) and all(
            dim in (-1, size) for dim, size in zip(dims, shape, strict=True)
        )
        if member.batches and fits:
            tensor = tensor.reshaped((1, *shape))
        elif batch_size == 1 and not fits:
            tensor = tensor.reshaped(shape[1:])
    return tensor if tensor.name == name else tensor.renamed(name)


def _overridden(
    sequence: SequenceSays, parameters: Mapping[str, ParameterValue]
) -> Mapping[str, ParameterValue]:
    """What holds downstream of a response with these parameters. Raises ServerError."""
    found = {name: parameters[name] for name in _SEQUENCE_PARAMETERS if name in parameters}
    if not found:
        return sequence
    number = found.get("sequence_id", 0)
    if isinstance(number, bool) or not isinstance(number, int | str):
        raise invalid_arg(
            "expected parameter 'sequence_id' to be TRITONSERVER_PARAMETER_INT or "
            "TRITONSERVER_PARAMETER_STRING"
        )
    for name in _SEQUENCE_PARAMETERS[1:]:
        if not isinstance(found.get(name, False), bool):
            raise invalid_arg(f"expect parameter '{name}' to be TRITONSERVER_PARAMETER_BOOL")
    return {**sequence, **found}
