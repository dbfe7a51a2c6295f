"""The REST body of an inference, binary tensor extension included, to `InferRequest`.

Owns the order of a request's bytes (JSON header, then binary tensors in the order of `inputs`) and
every check that needs the request alone. What needs the model's configuration (which inputs it
has, their datatypes and shapes) is admission's. Binary tensors are slices of the body: views, if
the body is one. `protocol.v2_json_memory` reads the header, `protocol.v2_json_response` is the way
back.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final

from protocol.inference import (
    InferRequest,
    ResponsePlan,
    SharedMemoryRegions,
    Tensor,
    tensor_over,
)
from protocol.status import invalid_arg, not_found
from protocol.v2_json_header import InputEntry
from protocol.v2_json_memory import HeaderMemory
from protocol.v2_json_parameters import HeaderForwarding

DEFAULT_MAX_INPUT_SIZE: Final = 67_108_864  # --http-max-input-size

_INT32_RANGE: Final = (-(2**31), 2**31 - 1)
_PLAIN_DIGITS: Final = 9  # so many are an int32, whichever they are
_INTEGER: Final = re.compile(r"[+-]?[0-9]+")


class InferDecoder:
    """Decodes the bodies of infer requests; one serves a whole frontend."""

    def __init__(
        self,
        *,
        max_input_size: int = DEFAULT_MAX_INPUT_SIZE,
        forwarding: HeaderForwarding | None = None,
    ) -> None:
        self._max_input_size = max_input_size
        self._forwarding = forwarding or HeaderForwarding()
        self._headers = HeaderMemory(max_input_size)

    def decode(
        self,
        model_name: str,
        model_version: str,
        body: bytes | memoryview,
        header_length: str | None,
        *,
        header_lines: Iterable[tuple[str, str]] = (),
        regions: SharedMemoryRegions | None = None,
    ) -> tuple[InferRequest, ResponsePlan]:
        """The request in an uncompressed `body`, and how the client wants its response rendered.

        `header_length` is the value of Inference-Header-Content-Length; "0", or an empty body,
        makes the whole body the one input of the model (`InferRequest.raw_input`). `header_lines`
        are the HTTP header lines that may be forwarded. Requests that got the very same plan, as an
        object, had the same header, so they differ in their ids and in what their tensors contain.
        Raises ServerError.
        """
        total = len(body)
        length = total if header_length is None else parse_header_length(header_length, total)
        if length == 0:
            request, plan = self._decode_raw(model_name, model_version, body)
        else:
            document = body if length == total else body[:length]
            header, request_id, data = self._headers.read(document)
            inputs = _take_inputs(
                header.inputs, data, body, length, model_name=model_name, regions=regions
            )
            template, plan = header.request, header.plan
            request = InferRequest(
                model_name,
                model_version,
                request_id,
                inputs,
                template.requested_outputs,
                dict(template.parameters),
                template.correlation_id,
                template.sequence_flags,
                template.priority,
                template.timeout_us,
            )
        if self._forwarding.is_on:
            self._forwarding.apply(request, header_lines)
        return request, plan

    def _decode_raw(
        self, model_name: str, model_version: str, body: bytes | memoryview
    ) -> tuple[InferRequest, ResponsePlan]:
        if len(body) > self._max_input_size:
            raise invalid_arg(
                f"Raw input has a byte_size ({len(body)} bytes) that exceeds the maximum allowed "
                f"value of {self._max_input_size} bytes. "
                "Use --http-max-input-size to increase the limit."
            )
        # Admission knows the model's one input, and gives this one its name, datatype and shape.
        tensor = Tensor("", "", (), raw=body)
        request = InferRequest(model_name, model_version, inputs=[tensor], raw_input=True)
        return request, ResponsePlan()


def parse_header_length(value: str, body_length: int) -> int:
    """The number of JSON bytes at the start of a body of `body_length`. Raises INVALID_ARG."""
    if len(value) <= _PLAIN_DIGITS and value.isascii() and value.isdigit():
        length = int(value)
    else:
        length = _parse_int32(value)
    if not 0 <= length <= body_length:
        raise invalid_arg(
            f"inference header size should be in range (0, {body_length}), got: {length}"
        )
    return length


def _parse_int32(value: str) -> int:
    if not _INTEGER.fullmatch(value):
        raise invalid_arg(f"Unable to parse Inference-Header-Content-Length, got: {value}")
    # Ten digits are enough for any int32; converting more would be work for the sender to cause.
    digits = value.lstrip("+-").lstrip("0")
    length = int(value) if len(digits) <= _PLAIN_DIGITS + 1 else _INT32_RANGE[1] + 1
    low, high = _INT32_RANGE
    if not low <= length <= high:
        raise invalid_arg(
            "Unable to parse Inference-Header-Content-Length, value is out of range "
            f"[ {low}, {high} ], got: {value}"
        )
    return length


def _take_inputs(
    given: tuple[InputEntry, ...],
    in_json: Sequence[bytes],
    body: bytes | memoryview,
    offset: int,
    *,
    model_name: str,
    regions: SharedMemoryRegions | None,
) -> list[Tensor]:
    """The tensors of a request, those in binary taken from `body` at `offset` and on."""
    tensors: list[Tensor] = []
    taken = 0
    total = len(body)
    raw: bytes | memoryview | None
    for each in given:
        size = each.binary_data_size
        if size is not None:
            end = offset + size
            if end > total:
                raise invalid_arg(
                    f"unexpected size for input '{each.name}', expecting {end - total} "
                    f"additional bytes for model '{model_name}'"
                )
            raw = body[offset:end]
            offset = end
        elif each.shared_memory is not None:
            if regions is None:
                region = each.shared_memory.region
                raise not_found(f"Unable to find shared memory region: '{region}'")
            content = regions.read(each.shared_memory)
            tensors.append(tensor_over(each.name, each.datatype, each.shape, content))
            continue
        else:
            raw = in_json[taken]
            taken += 1
        tensors.append(Tensor(each.name, each.datatype, each.shape, raw=raw))
    if offset != total:
        raise invalid_arg(f"unexpected additional input data for model '{model_name}'")
    return tensors
