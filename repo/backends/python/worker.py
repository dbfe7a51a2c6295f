"""A worker process: one model instance, its main thread inside the model, a second one listening.

The server starts it with the descriptors of two sockets and says everything else in messages. It
ends when told to finalize, and at once when the server is gone, even in the middle of `execute`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import sys
import threading
import traceback
from time import perf_counter_ns
from typing import Any

from . import host as hosts
from . import loading, wire
from .arena import ArenaFullError
from .background import BackgroundLoop
from .errors import ModelRefusal, TritonError, TritonModelException, describe
from .extras import pack_error, parse_request_extras
from .host import Host, ParentGoneError
from .layout import WireError
from .logger import Logger
from .objects import RELEASE_RESCHEDULE, InferenceRequest, InferenceResponse
from .progress import Progress
from .records import FAILED, LATE, RESCHEDULED, Record, Records
from .sender import COMPLETE_FINAL, record_of
from .tensor import Tensor

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15

_CANCELLED: Record = (None, (), FAILED, pack_error(TritonError.CANCELLED, ""))


class Worker:
    """The main thread's work: load, execute batch after batch, finalize."""

    def __init__(self, host: Host, progress: Progress) -> None:
        self._host = host
        self._progress = progress
        self._loop = BackgroundLoop()
        self._model: Any = None
        self._load: wire.Load | None = None
        self._reschedulable = False
        self._ready_check = threading.Lock()
        host.check_ready = self._start_ready_check

    def run(self) -> None:
        """Serve until told to finalize. Raises ParentGoneError."""
        host = self._host
        while True:
            packet = host.receive()
            if packet[0] == wire.EXECUTE:
                self._execute(packet)
                continue
            message = wire.decode(packet)
            if isinstance(message, wire.Load):
                host.send(self._loaded(message))
            elif isinstance(message, wire.Finalize):
                self._finalize()
                return

    # --- loading ---------------------------------------------------------------------------------

    def _loaded(self, load: wire.Load) -> wire.Message:
        host = self._host
        host.configure(load)
        _show_name(load.instance_name)
        self._load = load
        self._reschedulable = bool(load.reschedulable)
        try:
            if load.auto_complete:
                return wire.AutoCompleted(loading.auto_complete(load))
            self._model = loading.initialize(load, loading.import_model(load))
        except loading.LoadError as error:
            return wire.LoadFailed(str(error))
        host.bls_allowed = True
        return wire.Loaded(int(hasattr(self._model, "is_ready")))

    def _finalize(self) -> None:
        self._host.bls_allowed = False
        self._loop.stop()
        if hasattr(self._model, "finalize"):
            try:
                self._model.finalize()
            except BaseException as error:  # noqa: BLE001  # model code may raise anything
                Logger.log_error(describe(error))

    # --- executing -------------------------------------------------------------------------------

    def _execute(self, packet: bytearray) -> None:
        host = self._host
        started = perf_counter_ns()
        records = host.read_requests(packet)
        base, count = records.base, len(records.numbers)
        host.executing = range(base, base + count)
        requests = _requests_of(records, host.outputs)
        del packet, records
        called = returned = perf_counter_ns()
        self._progress.begin(base)
        try:
            if host.cancelled and host.cancelled.issuperset(host.executing):
                outcomes = [_CANCELLED] * count  # while the one before it ran: nobody waits
            else:
                responses = self._call(requests)
                returned = perf_counter_ns()
                outcomes = self._outcomes(requests, responses)
                del responses
        except BaseException as error:  # noqa: BLE001  # model code may raise anything
            returned = perf_counter_ns()
            outcomes = self._failure(requests, error)

        def timings() -> bytes:
            return wire.TIMINGS.pack(
                called - started, returned - called, perf_counter_ns() - returned
            )

        try:
            host.send_records(wire.COMPLETED, base, timings, outcomes)
        except (WireError, ArenaFullError) as error:
            outcomes = self._failure(requests, error)
            host.send_records(wire.COMPLETED, base, timings, outcomes)
        host.executing = range(base + count, base + count)
        if host.cancelled:
            host.cancelled.difference_update(
                [n for n in range(base, base + count) if n not in host.replies]
            )

    def _call(self, requests: list[InferenceRequest]) -> Any:
        """What `execute` returned; for an async one its result, unless the model is decoupled."""
        if not hasattr(self._model, "execute"):
            assert self._load is not None, "the server loads before it executes"
            path = os.path.join(self._load.module_directory, self._load.file_name)
            raise ModelRefusal(f"Python model {path} does not implement `execute` method.")
        result = self._model.execute(list(requests))  # a copy: some models empty the list
        if result.__class__ is list or not loading.is_coroutine(result):
            return result
        if not self._host.decoupled:
            return self._loop.run(result)
        self._loop.spawn(result, _report)
        return None

    def _outcomes(self, requests: list[InferenceRequest], responses: Any) -> list[Record]:
        """One record per request, or ModelRefusal."""
        if responses is None:
            return [self._late(request) for request in requests]
        if self._host.decoupled:
            raise ModelRefusal(
                f"Python model '{self._host.instance_name}' is using the decoupled mode and the "
                "execute function must return None."
            )
        if not isinstance(responses, list):
            raise ModelRefusal(
                f"Expected a list in the execute return, found type '{type(responses)}'."
            )
        if len(responses) != len(requests):
            raise ModelRefusal(
                "Number of InferenceResponse objects do not match the number of InferenceRequest "
                f"objects. InferenceRequest(s) size is:{len(requests)}, and InferenceResponse(s) "
                f"size is:{len(responses)}\n"
            )
        outcomes: list[Record] = []
        for request, response in zip(requests, responses):
            if response is None:
                outcomes.append(self._late(request))
                continue
            _check(request, response)
            outcomes.append(record_of(response, request._requested))
        for request, response in zip(requests, responses):
            if response is not None and request._reply is not None:
                request._reply.close()
        return outcomes

    def _late(self, request: InferenceRequest) -> Record:
        """The record of a request without a returned response."""
        if request._release_flags != RELEASE_RESCHEDULE:
            # From now on the request lives as long as the model holds it or one of its senders.
            request._late_reply()
            return (None, (), LATE, b"")
        reply = request._reply
        if reply is not None and reply.closed:
            return (None, (), LATE, b"")
        if reply is not None:
            reply.close()
        if self._reschedulable:
            return (None, (), RESCHEDULED, b"")
        text = (
            "Request is released with TRITONSERVER_REQUEST_RELEASE_RESCHEDULE, while the model is "
            "not configured to handle such a flag."
        )
        return None, (), FAILED, pack_error(TritonError.INVALID_ARG, text)

    def _failure(self, requests: list[InferenceRequest], error: BaseException) -> list[Record]:
        """The batch failed: every request that is not answered yet gets the error."""
        text = (
            f"Failed to process the request(s) for model '{self._host.instance_name}', message: "
            + describe(error)
        )
        failed: Record = (None, (), FAILED, pack_error(TritonError.INTERNAL, text))
        outcomes: list[Record] = []
        for request in requests:
            reply = request._reply
            if reply is not None and reply.closed:
                outcomes.append((None, (), LATE, b""))
                continue
            if reply is not None:
                reply.close()
            outcomes.append(failed)
        return outcomes

    # --- readiness -------------------------------------------------------------------------------

    def _start_ready_check(self) -> None:
        """Ask the model in a thread of its own: it may take long; the service thread may not."""
        if self._ready_check.acquire(blocking=False):
            threading.Thread(target=self._check_ready, name="is_ready", daemon=True).start()

    def _check_ready(self) -> None:
        ready = False
        try:
            result = self._model.is_ready()
            if loading.is_coroutine(result):
                result = self._loop.run(result)
            if not isinstance(result, bool):
                raise ModelRefusal("is_ready() must return a boolean value")
            ready = result
        except BaseException as error:  # noqa: BLE001  # model code may raise anything
            Logger.log_error(describe(error))
        self._ready_check.release()
        with contextlib.suppress(ParentGoneError):
            self._host.send(wire.Readiness(int(ready)))


def _requests_of(records: Records[Tensor], outputs: tuple[str, ...]) -> list[InferenceRequest]:
    layouts = records.layouts
    number = records.base
    requests: list[InferenceRequest] = []
    for layout, inputs in zip(records.numbers, records.tensors):
        requested = layouts[layout].requested or outputs
        requests.append(InferenceRequest._received(number, inputs, requested))
        number += 1
    if records.extras is not None:
        for request, packed in zip(requests, records.extras):
            if packed:
                request._add(parse_request_extras(packed))
    return requests


def _check(request: InferenceRequest, response: object) -> None:
    if request._release_flags == RELEASE_RESCHEDULE:
        raise ModelRefusal(
            "Expected a None object in the execute function return list for reschduled request, "
            f"found type '{type(response)}'."
        )
    if not isinstance(response, InferenceResponse):
        raise ModelRefusal(
            "Expected an 'InferenceResponse' object in the execute function return list, found "
            f"type '{type(response)}'."
        )
    if request._reply is not None:
        try:
            request._reply.check(response, COMPLETE_FINAL)
        except TritonModelException as error:
            raise ModelRefusal(str(error)) from None


def _report(error: BaseException) -> None:
    """A coroutine of a decoupled model failed after `execute` had returned."""
    Logger.log_error("".join(traceback.format_exception(type(error), error, error.__traceback__)))


def _serve(host: Host) -> None:
    try:
        host.serve()
    except ParentGoneError:
        pass
    except BaseException:  # noqa: BLE001  # a defect here must not leave a deaf process behind
        traceback.print_exc()
    # The main thread may be inside the model, for ever if it likes.
    os._exit(1)


def _die_with_parent() -> None:
    """Ask the kernel to kill this process with its parent, as closed sockets cannot do while a
    model holds the interpreter's lock."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _show_name(name: str) -> None:
    """What `top` and `ps` show; the kernel keeps 15 bytes of it."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode("utf-8", "replace"))


def main(work: int, control: int, progress: int, *, parent_is_server: bool = True) -> None:
    """Run a worker on the descriptors that it has inherited."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the server decides when a worker ends
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if parent_is_server:
        _die_with_parent()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # text files both
    host = Host(socket.socket(fileno=work), socket.socket(fileno=control))
    hosts.install(host)
    threading.Thread(target=_serve, args=(host,), name="service", daemon=True).start()
    try:
        begun = Progress(progress)
        os.close(progress)
        Worker(host, begun).run()
    except ParentGoneError:
        os._exit(1)
