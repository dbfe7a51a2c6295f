"""Business logic scripting: a model asks the server to run, load or unload other models."""

from __future__ import annotations

import queue
from collections.abc import Mapping
from typing import TYPE_CHECKING

from . import host as hosts
from . import objects, wire
from .arena import ArenaFullError
from .errors import ErrorCode, TritonError, TritonModelException, expect
from .extras import pack_call, pack_request_extras, parse_error
from .host import Host
from .layout import WireError
from .records import FAILED, LATE, Record, Records
from .tensor import Tensor

if TYPE_CHECKING:
    from .objects import InferenceRequest, InferenceResponse


class Call:
    """One inference of another model that is under way, as its caller sees it."""

    def __init__(self, host: Host) -> None:
        self.number = host.next_number()
        self._host = host
        # At most RESPONSE_WINDOW responses, whose number the server bounds.
        self._arrived: queue.SimpleQueue[tuple[InferenceResponse, bool]] = queue.SimpleQueue()
        self._taken = 0
        host.calls[self.number] = self

    def hear(self, records: Records[Tensor], final: bool) -> None:
        """The service thread has a response."""
        self._arrived.put((_response_of(records), final))
        if final:
            self._host.bls_limit.release()

    def next(self) -> tuple[InferenceResponse, bool]:
        """The next response and whether it is the last; waits for it."""
        response, final = self._arrived.get()
        self._taken += 1
        if not final and self._taken % (wire.RESPONSE_WINDOW // 2) == 0:
            self._host.send(wire.BlsCredit(self.number, wire.RESPONSE_WINDOW // 2))
        return response, final


class ResponseIterator:
    """The responses of a decoupled call, in order; may be iterated again from the start."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._responses: list[InferenceResponse] = []
        self._position = 0
        self._finished = False

    def __iter__(self) -> ResponseIterator:
        if self._finished and self._position >= len(self._responses):
            self._position = 0
        return self

    def __next__(self) -> InferenceResponse:
        if self._finished:
            if self._position >= len(self._responses):
                raise StopIteration
            self._position += 1
            return self._responses[self._position - 1]
        response, self._finished = self._call.next()
        self._responses.append(response)
        self._position = len(self._responses)
        return response

    def cancel(self) -> None:
        """Tell the server that no more responses are wanted; those under way still come."""
        if not self._finished:
            hosts.current().send(wire.BlsCancel(self._call.number))

    def __del__(self) -> None:
        if not self._finished:
            hosts.current().send_soon(wire.BlsAbandon(self._call.number))


def infer(request: InferenceRequest, decoupled: bool) -> InferenceResponse | ResponseIterator:
    """What `InferenceRequest.exec` does. Raises TritonModelException outside `execute`."""
    host = hosts.current()
    if not host.bls_allowed:
        raise TritonModelException("BLS is only supported during the 'execute' function.")
    tensors = request._inputs
    extras = pack_call(
        request._model_name,
        request._model_version,
        request._trace._reference,
        pack_request_extras(
            request._request_id,
            request._correlation_id,
            request._flags,
            request._timeout,
            "" if request._parameters == "{}" else request._parameters,
        ),
    )
    record: Record = (
        (request._requested, tuple([(t._name, t._datatype, t._shape) for t in tensors])),
        [t._raw() for t in tensors],
        0,
        extras,
    )
    host.bls_limit.acquire()
    call = Call(host)
    try:
        prefix = wire.FINAL.pack(bool(decoupled))
        host.send_records(wire.BLS_INFER, call.number, lambda: prefix, [record])
    except BaseException as error:
        del host.calls[call.number]
        host.bls_limit.release()
        if isinstance(error, (WireError, ArenaFullError)):
            raise TritonModelException(
                f"An error occurred while performing BLS request: {error}"
            ) from error
        raise
    if decoupled:
        return ResponseIterator(call)
    return call.next()[0]


def _response_of(records: Records[Tensor]) -> InferenceResponse:
    number = records.numbers[0]
    extras = records.extras[0] if records.extras is not None else b""
    make = objects.InferenceResponse._received
    if number == FAILED:
        code, message = parse_error(extras)
        return make([], TritonError(message, ErrorCode(code)), "")
    if number == LATE:
        return make([], None, "")
    return make(records.tensors[0], None, extras.decode())


def load_model(model_name: str, config: str = "", files: Mapping[str, bytes] | None = None) -> None:
    """Load or reload a model, perhaps with a JSON configuration and `{"file:1/x": bytes}`.

    Raises TritonModelException.
    """
    expect(model_name, str, "model_name")
    expect(config, str, "config")
    files = {} if files is None else files
    expect(files, dict, "files")
    for path, content in files.items():
        expect(path, str, "a file's path")
        expect(content, bytes, "a file's content")
    answer = hosts.current().ask(lambda n: wire.LoadModel(n, model_name, config, files))
    if answer.error:
        raise TritonModelException(
            f"Failed to load model: {hosts.current().failed_here()}{answer.error}"
        )


def unload_model(model_name: str, unload_dependents: bool = False) -> None:
    """Unload a model. Raises TritonModelException."""
    expect(model_name, str, "model_name")
    expect(unload_dependents, bool, "unload_dependents")
    answer = hosts.current().ask(lambda n: wire.UnloadModel(n, model_name, int(unload_dependents)))
    if answer.error:
        raise TritonModelException(
            f"Failed to unload model: {hosts.current().failed_here()}{answer.error}"
        )


def is_model_ready(model_name: str, model_version: str = "") -> bool:
    """Whether a model can infer. Raises TritonModelException for one that does not exist."""
    expect(model_name, str, "model_name")
    expect(model_version, str, "model_version")
    answer = hosts.current().ask(lambda n: wire.AskModelReady(n, model_name, model_version))
    if answer.error:
        raise TritonModelException(
            f"Failed to check model readiness: {hosts.current().failed_here()}{answer.error}"
        )
    return bool(answer.value)
