"""Batches on their way through a device in three stages: copy in, compute, copy out.

Owns at most two batches in flight on one lane, each of which holds its buffers until it has ended.
Stages of one batch are ordered by events; stages of consecutive batches overlap, because each
stage has a stream of its own. It blocks only for a buffer, and then only with nothing in flight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import perf_counter_ns  # noqa: TID251  # how long the stages took
from typing import Final, Generic, TypeVar

from protocol.datatypes import BYTES
from protocol.inference import DeviceTensor, InferResponse, Tensor
from protocol.status import ServerError, internal
from repo.backends.base import DeviceModel, ExecuteRequest, Outcome, Timings
from repo.devices.cpu import host_memory
from repo.devices.lane import Lane
from repo.devices.pools import BufferPool
from repo.devices.port import DeviceArray, DeviceMemory, DeviceSpan, Event, HostMemory
from repo.model_config import ModelConfig, datatype, sequence_settings

# One computes while the next is copied in and the one before is copied out by the same engines'
# queues; a third would only wait, and hold buffers.
IN_FLIGHT: Final = 2

P = TypeVar("P")


def is_stageable(config: ModelConfig) -> bool:
    """Whether batches of a model are plain: numbers, joined on the first axis and cut there."""
    types = [datatype(one.data_type) for one in config.input]
    types += [datatype(one.data_type) for one in config.output]
    return not (
        BYTES in types
        or any(one.allow_ragged_batch for one in config.input)
        or config.batch_input
        or config.batch_output
        or sequence_settings(config) is not None
    )


@dataclass(slots=True, eq=False)
class _Output:
    """An output of a batch: where it is, and the host copy under way, if anybody wants one."""

    name: str
    array: DeviceArray
    host: HostMemory | None = None
    is_pooled: bool = False


@dataclass(slots=True, eq=False)
class Flight(Generic[P]):
    """A batch in flight; `passenger` is whatever its owner needs to answer for it."""

    requests: Sequence[ExecuteRequest]
    timings: Timings
    passenger: P
    landed: Event | None = None
    launched_ns: int = 0
    pinned: list[HostMemory] = field(default_factory=list)
    memory: list[DeviceMemory] = field(default_factory=list)
    inputs: dict[str, DeviceArray] = field(default_factory=dict)
    outputs: list[_Output] = field(default_factory=list)


class Pipeline(Generic[P]):
    """The batches of one instance; all calls come from its thread."""

    def __init__(
        self,
        lane: Lane,
        model: DeviceModel,
        *,
        version: str,
        max_batch_size: int,
        notify: Callable[[], None],
    ) -> None:
        """`notify` is called, from a thread of the device, for each batch that has landed."""
        self._lane = lane
        self._model = model
        self._version = version
        self._max_batch_size = max_batch_size
        self._notify = notify
        self._flights: deque[Flight[P]] = deque()

    def __len__(self) -> int:
        return len(self._flights)

    def begin(self, requests: Sequence[ExecuteRequest], timings: Timings, passenger: P) -> bool:
        """Give all stages of a batch to the device; False if one in flight has to end first.

        Raises ServerError or DeviceError; the batch is then not in flight.
        """
        if len(self._flights) >= IN_FLIGHT:
            return False
        began_ns = perf_counter_ns()
        self._check_size(requests)
        flight = Flight(requests, timings, passenger)
        try:
            if not self._stage_in(flight):
                self._give_back(flight)
                return False
            self._compute(flight)
            self._stage_out(flight)
        except BaseException:
            # The streams may still use what this batch holds.
            try:
                self._quiesce()
            finally:
                self._give_back(flight)
            raise
        flight.launched_ns = perf_counter_ns()
        timings.input_ns = flight.launched_ns - began_ns
        self._flights.append(flight)
        return True

    def has_landed(self) -> bool:
        """Whether the oldest batch has come through. Raises DeviceError if it never will."""
        oldest = self._flights[0].landed
        assert oldest is not None, "every batch in flight has been launched"
        return oldest.is_done()

    def finish(self) -> tuple[Flight[P], Sequence[Outcome]]:
        """The oldest batch and its outcomes; blocks until it has landed.

        Raises DeviceError; the batch stays in flight, for `abandon`.
        """
        flight = self._flights[0]
        assert flight.landed is not None, "every batch in flight has been launched"
        flight.landed.wait()
        landed_ns = perf_counter_ns()
        self._flights.popleft()
        try:
            outcomes = self._responses(flight)
        except ServerError as error:
            outcomes = [error] * len(flight.requests)
        finally:
            self._give_back(flight)
        flight.timings.infer_ns = landed_ns - flight.launched_ns
        flight.timings.output_ns = perf_counter_ns() - landed_ns
        return flight, outcomes

    def abandon(self) -> Sequence[Flight[P]]:
        """The device is lost, and copies nothing any more: what was in flight."""
        flights = list(self._flights)
        self._flights.clear()
        for flight in flights:
            self._give_back(flight)
        return flights

    # --- the stages ------------------------------------------------------------------------------

    def _check_size(self, requests: Sequence[ExecuteRequest]) -> None:
        total = sum(request.batch_size or 1 for request in requests)
        if len(requests) > 1 and total > self._max_batch_size:
            raise internal(f"batch size {total}, max allowed is {self._max_batch_size}")

    def _stage_in(self, flight: Flight[P]) -> bool:
        """Whether there was room for the inputs. Buffers are taken in one order by everybody."""
        parts: dict[str, list[Tensor]] = {}
        for request in flight.requests:
            for tensor in request.request.inputs:
                parts.setdefault(tensor.name, []).append(tensor)
        staged = {name: each for name, each in parts.items() if not self._is_in_place(each)}
        from_host = sum(
            tensor.byte_size
            for each in staged.values()
            for tensor in each
            if self._span(tensor) is None
        )
        wait = not self._flights
        pinned = _taken(self._lane.pinned, from_host, flight.pinned, wait=wait)
        if from_host and pinned is None:
            return False
        total = sum(_aligned(tensor.byte_size) for each in staged.values() for tensor in each)
        memory = _taken(self._lane.memory, total, flight.memory, wait=wait)
        if total and memory is None:
            return False
        host_at = device_at = 0
        for name, tensors in parts.items():
            first = tensors[0]
            if name not in staged:
                span = self._span(first)
                assert span is not None, "it is in its place"
                flight.inputs[name] = DeviceArray(
                    span.memory, first.datatype, first.shape, is_shared=True
                )
                continue
            size = sum(tensor.byte_size for tensor in tensors)
            whole = memory.part(device_at, size) if memory else self._lane.device.allocate(0)
            host_at = self._fill(whole, tensors, pinned, host_at)
            device_at += _aligned(size)
            flight.inputs[name] = DeviceArray(whole, first.datatype, _joined_shape(tensors))
        self._lane.compute.wait_for(self._lane.copy_in.record())
        return True

    def _fill(
        self, whole: DeviceMemory, tensors: Sequence[Tensor], pinned: HostMemory | None, at: int
    ) -> int:
        """Copy the parts of one input one after the other; returns where `pinned` is free."""
        lane, offset = self._lane, 0
        for tensor in tensors:
            size = tensor.byte_size
            span = self._span(tensor)
            if not size:
                continue
            if span is not None:
                lane.device.copy_within(whole.part(offset, size), span.memory, lane.copy_in)
            else:
                assert pinned is not None, "room was taken for everything on the host"
                source = _host_part(pinned, at, size)
                source.view[:] = tensor.raw
                lane.device.copy_in(whole.part(offset, size), source, lane.copy_in)
                at += size
            offset += size
        return at

    def _span(self, tensor: Tensor) -> DeviceSpan | None:
        """The tensor's memory if it is on this very device."""
        if not isinstance(tensor, DeviceTensor) or not isinstance(tensor.content, DeviceSpan):
            return None
        return tensor.content if tensor.content.memory.device is self._lane.device else None

    def _is_in_place(self, tensors: Sequence[Tensor]) -> bool:
        return len(tensors) == 1 and self._span(tensors[0]) is not None

    def _compute(self, flight: Flight[P]) -> None:
        produced = self._model.run(flight.inputs)
        requests = [one.request for one in flight.requests]
        flight.outputs = [
            _Output(name, array)
            for name, array in produced.items()
            if any(
                not each.requested_outputs or name in each.requested_outputs for each in requests
            )
        ]
        self._lane.copy_out.wait_for(self._lane.compute.record())

    def _stage_out(self, flight: Flight[P]) -> None:
        lane = self._lane
        for output in flight.outputs:
            size = output.array.byte_size
            if not size or all(output.name in one.request.on_device for one in flight.requests):
                continue
            # Without room the copy takes longer; waiting could be for ever, holding what we hold.
            pooled = lane.pinned.take(size, wait=False)
            output.is_pooled = pooled is not None
            output.host = host_memory(size) if pooled is None else pooled
            source = output.array.memory.part(0, size)
            lane.device.copy_out(output.host, source, lane.copy_out)
        flight.landed = lane.copy_out.record()
        lane.copy_out.notify(self._notify)

    # --- afterwards ------------------------------------------------------------------------------

    def _responses(self, flight: Flight[P]) -> list[Outcome]:
        outcomes: list[Outcome] = []
        start = 0
        for request in flight.requests:
            asked = request.request
            wanted = asked.requested_outputs
            outputs = [
                self._cut(output, request, start, len(flight.requests))
                for output in flight.outputs
                if not wanted or output.name in wanted
            ]
            outcomes.append(InferResponse(asked.model_name, self._version, asked.id, outputs))
            start += request.batch_size
        return outcomes

    def _cut(self, output: _Output, request: ExecuteRequest, start: int, requests: int) -> Tensor:
        """One request's part of an output; the host gets a copy, since its buffer is used again."""
        array = output.array
        shape, offset, size = array.shape, 0, array.byte_size
        if requests > 1:
            rows = shape[0] if shape else 0
            if rows < start + request.batch_size:
                raise internal(
                    f"failed to split the output tensor '{output.name}' in responses: expected "
                    f"batch size of at least {start + request.batch_size} in model output, got "
                    f"{rows}"
                )
            row = size // rows
            shape, offset = (request.batch_size, *shape[1:]), start * row
            size = request.batch_size * row
        if output.name in request.request.on_device:
            span = DeviceSpan(array.memory.part(offset, size))
            return DeviceTensor(output.name, array.datatype, shape, span)
        raw = bytes(output.host.view[offset : offset + size]) if output.host is not None else b""
        return Tensor(output.name, array.datatype, shape, raw=raw)

    def _quiesce(self) -> None:
        for stream in (self._lane.copy_in, self._lane.compute, self._lane.copy_out):
            stream.synchronize()

    def _give_back(self, flight: Flight[P]) -> None:
        for host in flight.pinned:
            self._lane.pinned.give(host)
        for memory in flight.memory:
            self._lane.memory.give(memory)
        for output in flight.outputs:
            if output.host is not None and output.is_pooled:
                self._lane.pinned.give(output.host)
        flight.pinned, flight.memory, flight.outputs = [], [], []


B = TypeVar("B", HostMemory, DeviceMemory)


def _taken(pool: BufferPool[B], byte_size: int, kept: list[B], *, wait: bool) -> B | None:
    """A buffer, noted in `kept`; None for no bytes, or where there is no room now."""
    if not byte_size:
        return None
    buffer = pool.take(byte_size, wait=wait)
    if buffer is not None:
        kept.append(buffer)
    return buffer


def _aligned(byte_size: int) -> int:
    """Inputs begin where CUDA's own allocations would: at multiples of 256."""
    return (byte_size + 255) & ~255


def _host_part(whole: HostMemory, offset: int, byte_size: int) -> HostMemory:
    view = whole.view[offset : offset + byte_size]
    return HostMemory(view, whole.address + offset, whole, is_pinned=whole.is_pinned)


def _joined_shape(tensors: Sequence[Tensor]) -> tuple[int, ...]:
    first = tensors[0].shape
    if len(tensors) == 1:
        return first
    return (sum(tensor.shape[0] for tensor in tensors), *first[1:])
