"""`pb_utils.InferenceRequest`, `InferenceResponse` and what they are made with."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import host
from .errors import TritonError, TritonModelException, expect
from .extras import RequestExtras, parse_trace
from .tensor import Tensor

if TYPE_CHECKING:
    from .bls import ResponseIterator
    from .sender import InferenceResponseSender, Reply


class MemoryKind(enum.IntEnum):
    """Where a tensor lies."""

    GPU = 0
    CPU = 1


MEMORY_GPU = MemoryKind.GPU
MEMORY_CPU = MemoryKind.CPU

RELEASE_ALL = 1
RELEASE_RESCHEDULE = 2


def parameters_json(parameters: Mapping[str, bool | int | str] | None) -> str:
    """The JSON text of request or response parameters. Raises TritonModelException."""
    if parameters is None:
        return ""
    if not isinstance(parameters, dict):
        raise TritonModelException(f"Expect dict, got {type(parameters)}")
    for key, value in parameters.items():
        if not isinstance(key, str):
            raise TritonModelException(
                f"Expect parameters keys to have type str, found type {type(key)}"
            )
        if not isinstance(value, (bool, int, str)):
            raise TritonModelException(
                f"Expect parameters values to have type bool/int/str, found type {type(value)}"
            )
    return json.dumps(parameters)


class PreferredMemory:
    """Where the outputs of a call to another model should land."""

    def __init__(self, preferred_memory_type: MemoryKind, preferred_device_id: int = 0) -> None:
        expect(preferred_memory_type, MemoryKind, "preferred_memory_type")
        expect(preferred_device_id, int, "preferred_device_id")
        self._type = preferred_memory_type
        self._device_id = preferred_device_id


class InferenceTrace:
    """The trace that a request belongs to."""

    _reference = ""  # the server's name for it

    def __init__(self, context: str = "") -> None:
        self._context = context

    @classmethod
    def _received(cls, trace: str) -> InferenceTrace:
        received = cls()
        received._reference, received._context = parse_trace(trace)
        return received

    def get_context(self) -> str | None:
        """The propagated context as JSON, or None."""
        return self._context or None


_DEFAULT_MEMORY = PreferredMemory(MEMORY_CPU)
_NO_TRACE = InferenceTrace()


class InferenceResponse:
    """One answer: tensors, or an error."""

    _parameters = "{}"

    def __init__(
        self,
        output_tensors: Sequence[Tensor] = (),
        error: TritonError | None = None,
        parameters: Mapping[str, bool | int | str] | None = None,
    ) -> None:
        if output_tensors.__class__ is not list:
            expect(output_tensors, (list, tuple), "output_tensors")
        for tensor in output_tensors:
            if not isinstance(tensor, Tensor):
                if tensor is None:
                    raise TritonModelException(
                        "Output tensor for inference response should not be empty."
                    )
                expect(tensor, Tensor, "an output tensor")
        if error is not None:
            expect(error, TritonError, "error")
        self._tensors = list(output_tensors)
        self._error = error
        if parameters is not None:
            self._parameters = parameters_json(parameters)

    @classmethod
    def _received(
        cls, tensors: list[Tensor], error: TritonError | None, parameters: str
    ) -> InferenceResponse:
        response = cls.__new__(cls)
        response._tensors = tensors
        response._error = error
        if parameters:
            response._parameters = parameters
        return response

    def output_tensors(self) -> list[Tensor]:
        return self._tensors

    def has_error(self) -> bool:
        return self._error is not None

    def error(self) -> TritonError | None:
        return self._error

    def parameters(self) -> str:
        """JSON text."""
        return self._parameters


class InferenceRequest:
    """One inference asked for: of this model by the server, or by this model of another one."""

    # What a request that the server sent has in common with most others.
    _request_id = ""
    _correlation_id: int | str = 0
    _flags = 0
    _timeout = 0
    _parameters = "{}"
    _trace = _NO_TRACE
    _preferred_memory = _DEFAULT_MEMORY
    _model_name = ""
    _model_version = -1
    _release_flags = RELEASE_ALL
    _number = -1
    _reply: Reply | None = None

    def __init__(
        self,
        request_id: str = "",
        correlation_id: int | str = 0,
        *,
        inputs: Sequence[Tensor],
        requested_output_names: Sequence[str],
        model_name: str,
        model_version: int = -1,
        flags: int = 0,
        timeout: int = 0,
        preferred_memory: PreferredMemory = _DEFAULT_MEMORY,
        trace: InferenceTrace = _NO_TRACE,
        parameters: Mapping[str, bool | int | str] | None = None,
    ) -> None:
        expect(request_id, str, "request_id")
        if correlation_id is None:
            raise TypeError("correlation_id must be int or str, not NoneType")
        if not isinstance(correlation_id, (int, str)):
            raise TritonModelException("Correlation ID must be integer or string")
        expect(inputs, (list, tuple), "inputs")
        expect(requested_output_names, (list, tuple, set), "requested_output_names")
        expect(model_name, str, "model_name")
        expect(model_version, int, "model_version")
        expect(flags, int, "flags")
        expect(timeout, int, "timeout")
        where = f"for request with id '{request_id}' and model name '{model_name}'"
        for tensor in inputs:
            if tensor is None:
                raise TritonModelException(f"Input tensor {where} should not be empty.")
            expect(tensor, Tensor, "an input")
        for name in requested_output_names:
            expect(name, str, "a requested output name")
            if not name:
                raise TritonModelException(f"Requested output name {where} should not be empty.")
        expect(preferred_memory, PreferredMemory, "preferred_memory")
        expect(trace, InferenceTrace, "trace")
        self._request_id = request_id
        self._correlation_id = correlation_id
        self._inputs = list(inputs)
        self._requested: tuple[str, ...] = tuple(requested_output_names)
        self._model_name = model_name
        self._model_version = model_version
        self._flags = flags
        self._timeout = timeout
        self._preferred_memory = preferred_memory
        self._trace = trace
        self._parameters = parameters_json(parameters) or "{}"

    @classmethod
    def _received(
        cls, number: int, inputs: list[Tensor], requested: tuple[str, ...]
    ) -> InferenceRequest:
        request = cls.__new__(cls)
        request._number = number
        request._inputs = inputs
        request._requested = requested
        return request

    def _add(self, extras: RequestExtras) -> None:
        """What only some requests carry."""
        self._request_id = extras.id
        self._correlation_id = extras.correlation_id
        self._flags = extras.flags
        self._timeout = extras.timeout_us
        self._parameters = extras.parameters_json or "{}"
        if extras.trace:
            self._trace = InferenceTrace._received(extras.trace)

    def inputs(self) -> list[Tensor]:
        return self._inputs

    def request_id(self) -> str:
        return self._request_id

    def correlation_id(self) -> int | str:
        return self._correlation_id

    def flags(self) -> int:
        return self._flags

    def set_flags(self, flags: int) -> None:
        expect(flags, int, "flags")
        self._flags = flags

    def timeout(self) -> int:
        """Microseconds; 0 is none."""
        return self._timeout

    def requested_output_names(self) -> set[str]:
        return set(self._requested)

    def parameters(self) -> str:
        """JSON text."""
        return self._parameters

    def trace(self) -> InferenceTrace:
        return self._trace

    def set_release_flags(self, flags: int) -> None:
        """Ask, with RESCHEDULE, to be executed again."""
        expect(flags, int, "flags")
        if flags not in {RELEASE_ALL, RELEASE_RESCHEDULE}:
            raise TritonModelException(
                "Unable to set the release flags of the request. Unsupported flag provided."
            )
        self._release_flags = flags

    def is_cancelled(self) -> bool:
        """Whether nobody waits for this request any longer; a live query."""
        return self._number in host.current().cancelled

    def get_response_sender(self) -> InferenceResponseSender:
        """The sender of this request's responses."""
        from .sender import InferenceResponseSender

        return InferenceResponseSender(self._late_reply())

    def _late_reply(self) -> Reply:
        """The state that outlives `execute`; made on first use, because most requests need none."""
        reply = self._reply
        if reply is None:
            if self._number < 0:
                raise TritonModelException(
                    "Unable to send response. Response sender has no reference to the "
                    "decoupled state of the model."
                )
            from .sender import Reply

            reply = self._reply = Reply(host.current(), self._number, self._requested)
        return reply

    def exec(self, decoupled: bool = False) -> InferenceResponse | ResponseIterator:
        """Run another model and wait; what goes wrong there comes back as an error response."""
        from . import bls

        return bls.infer(self, decoupled)

    def async_exec(self, decoupled: bool = False) -> Any:
        """An asyncio future of `exec`'s result."""
        import asyncio
        import functools

        call = functools.partial(self.exec, decoupled)
        return asyncio.get_running_loop().run_in_executor(None, call)
