"""What each REST operation does: decode, ask the core, encode. No socket, no connection.

Owns the codecs of the REST port. A request for a model becomes an exchange, which its connection
submits and brings the replies; every other operation is one `run`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol, TypeVar

from actors.channels import Door, Mailbox
from actors.control.shared_memory import SharedMemory
from actors.http.control import Answer, ControlOperation
from actors.http.exchanges import (
    RESPONSE_WINDOW,
    Exchange,
    GenerateExchange,
    GenerateStreamExchange,
    InferExchange,
)
from actors.http.reply_desk import ReplyDesk
from actors.lifecycle.model_index import ServingVersion
from actors.messages import Reply
from actors.processes.metrics import CustomMetrics
from actors.street.calls import Calls
from actors.traces.tracing import Received
from protocol import routes
from protocol.api_keys import Guard
from protocol.datatypes import wire_name
from protocol.generate import (
    ORCA_FAMILY,
    ORCA_LABEL,
    ORCA_REQUEST_HEADER,
    InputSpec,
    check_content_encoding,
    decode_generate_request,
    orca_headers,
)
from protocol.http1 import HttpRequest
from protocol.http_compression import decode_body
from protocol.metrics_text import Sample
from protocol.v2_json import InferDecoder
from protocol.v2_json_response import InferEncoder, decoupled_over_http
from repo.model_config import type_name

T = TypeVar("T")

LoadReport = Callable[[], Mapping[str, float]]
"""The samples of the metric family in which an LLM backend reports its cache, by their label."""


def kv_cache_report(metrics: CustomMetrics) -> Mapping[str, float]:
    """The load report out of the metrics that models make for themselves."""
    for family in metrics.families():
        if family.name == ORCA_FAMILY:
            return {
                sample.labels.get(ORCA_LABEL, ""): sample.value
                for sample in family.samples
                if isinstance(sample, Sample)
            }
    return {}


class ControlRunner(Protocol):
    """Who answers the operations that no model answers: here, or wherever the core is."""

    async def run(self, operation: ControlOperation, body: bytes | memoryview) -> Answer:
        """The answer to one operation; a client's mistakes are answers too."""


class HttpOperations:
    """The REST protocol's side of every operation; one serves every connection."""

    def __init__(
        self,
        *,
        calls: Calls,
        control: ControlRunner,
        regions: SharedMemory,
        decoder: InferDecoder,
        encoder: InferEncoder,
        guard: Guard,
        max_input_size: int,
        load_report: LoadReport = dict,
    ) -> None:
        self._calls = calls
        self._control = control
        self._regions = regions
        self._decoder = decoder
        self._encoder = encoder
        self._guard = guard
        self._max_input_size = max_input_size
        self._load_report = load_report

    def dispatch(self, request: HttpRequest) -> routes.Operation:
        """Which operation is asked for. Raises HttpError."""
        head = request.head
        return routes.dispatch(head.method, head.path, head.headers, self._guard)

    async def run(self, operation: ControlOperation, request: HttpRequest) -> Answer:
        """Any operation that no model answers; never raises for what a client can cause."""
        return await self._control.run(operation, request.body)

    def open_infer(
        self, operation: routes.Infer, request: HttpRequest, desk: ReplyDesk
    ) -> InferExchange:
        """Find the model, then read the body, in the order in which Triton complains.

        Replies come in at `desk`. Raises ServerError or HttpError.
        """
        serving = self._calls.index.value.find(operation.model, operation.version)
        if serving.decoupled:
            raise decoupled_over_http()
        headers, body = request.head.headers, request.body
        encoding = headers.get("content-encoding")
        lease = self._regions.lease()
        try:
            if encoding is not None:
                body = decode_body(body, encoding, self._max_input_size)
            decoded, plan = self._decoder.decode(
                operation.model,
                operation.version,
                body,
                headers.get("inference-header-content-length"),
                header_lines=request.head.header_lines,
                regions=lease,
            )
            if lease is not None:
                lease.reserve(plan)
                lease.place(decoded, plan, on_device=serving.takes_device_tensors)
            ticketed = self._calls.prepare(
                serving,
                decoded,
                desk.replies,
                received=self._received(request) if self._calls.tracing.is_active else None,
                likeness=plan if lease is None else None,  # a region's bytes may have changed
            )
        except BaseException:
            if lease is not None:
                lease.release()
            raise
        return InferExchange(
            ticketed,
            desk,
            encoder=self._encoder,
            plan=plan,
            accept_encoding=headers.get("accept-encoding", ""),
            lease=lease,
        )

    def open_generate(
        self, operation: routes.Generate, request: HttpRequest, mailbox: Mailbox
    ) -> Exchange:
        """Like `open_infer`, but replies come in through a door of their own in `mailbox`."""
        serving = self._calls.index.value.find(operation.model, operation.version)
        headers = request.headers
        check_content_encoding(headers.get("content-encoding"))
        decoded = decode_generate_request(
            operation.model,
            operation.version,
            request.body,
            _input_specs(serving),
            max_input_size=self._max_input_size,
        )
        replies: Door[Reply] = mailbox.door(RESPONSE_WINDOW)
        try:
            received = self._received(request) if self._calls.tracing.is_active else None
            ticketed = self._calls.prepare(serving, decoded, replies, received=received)
        except BaseException:
            mailbox.remove(replies)
            raise
        wanted = headers.get(ORCA_REQUEST_HEADER)
        report = orca_headers(wanted, self._load_report()) if wanted else ()
        if not operation.streaming:
            return GenerateExchange(ticketed, replies, mailbox=mailbox, headers=report)
        return GenerateStreamExchange(
            ticketed, replies, mailbox=mailbox, headers=report, chunked=request.head.is_http_11
        )

    def _received(self, request: HttpRequest) -> Received:
        return Received.over_http(request.began_at, request.headers)


def _input_specs(serving: ServingVersion) -> dict[str, InputSpec]:
    """The model's inputs as its metadata show them."""
    leading = (-1,) if serving.has_batch_dimension else ()
    return {
        tensor.name: InputSpec(wire_name(type_name(tensor.data_type)), (*leading, *tensor.dims))
        for tensor in serving.config.input
    }
