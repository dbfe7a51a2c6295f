"""An `InferResponse` to the REST body that its client asked for.

Owns the JSON header of a response, the order of its keys, and where each output goes: into the
JSON, behind it as bytes, or into a shared-memory region. Large tensors are passed on, not copied.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from protocol.classification import classify
from protocol.http1_error import Headers
from protocol.http1_response import JSON_HEADERS, Buffer
from protocol.inference import (
    InferResponse,
    ResponsePlan,
    SharedMemoryRegions,
    Tensor,
)
from protocol.json_text import dumps, to_bytes
from protocol.status import ServerError, internal, not_found, unsupported
from protocol.v2_json_tensors import encode_data

LENGTH_HEADER: Final = "Inference-Header-Content-Length"

# A model's responses with binary outputs of the same sizes have the same JSON but for the id, and
# those with outputs in JSON but for the id and the data, so it is remembered; at about 300 bytes
# each this is well below 1 MiB.
REMEMBERED_HEADERS: Final = 1024

# Stands for data in the JSON of a response; no JSON text has this character.
_HOLE: Final = "\0"

Labels = Callable[[str], Sequence[str] | None]
"""The class labels of an output, or None where the model gives none."""


def decoupled_over_http() -> ServerError:
    """A decoupled model was asked for one answer."""
    return unsupported("HTTP end point doesn't support models with decoupled transaction policy")


def not_a_single_response(count: int) -> ServerError:
    """A request that must have one response had `count`."""
    return internal(f"expected a single response, got {count}")


class InferEncoder:
    """Encodes the responses of infer requests; one serves a whole frontend."""

    def __init__(self) -> None:
        self._remembered: dict[tuple[object, ...], tuple[Headers, bytes]] = {}
        self._pieces: dict[tuple[object, ...], list[str]] = {}  # what surrounds data in JSON

    def encode(
        self,
        response: InferResponse,
        plan: ResponsePlan,
        *,
        regions: SharedMemoryRegions | None = None,
        labels: Labels | None = None,
        has_batch_dim: bool = False,
    ) -> tuple[Headers, list[Buffer]]:
        """Header lines and body parts. Writes what `plan` puts into shared memory.

        `labels` and `has_batch_dim` (the model's max_batch_size is above 0) matter for outputs
        asked for as classifications only. Outputs that `plan` does not name, when it names any,
        are left out. Raises ServerError.
        """
        plain = plan.plain_outputs
        if plain is not None:
            return self._encode_binary(
                response, [tensor for tensor in response.outputs if tensor.name in plain]
            )
        if plan.outputs:
            return self._encode_planned(response, plan, regions, labels, has_batch_dim)
        if plan.binary:
            return self._encode_binary(response, response.outputs)
        return JSON_HEADERS, [self._json_text(response)]

    def _encode_planned(
        self,
        response: InferResponse,
        plan: ResponsePlan,
        regions: SharedMemoryRegions | None,
        labels: Labels | None,
        has_batch_dim: bool,
    ) -> tuple[Headers, list[Buffer]]:
        plans = {output.name: output for output in plan.outputs}
        chosen = [
            (tensor, plans[tensor.name]) for tensor in response.outputs if tensor.name in plans
        ]
        texts: list[str] = []
        parts: list[Buffer] = []
        for given, output in chosen:
            tensor = given
            if output.classification:
                names = labels(output.name) if labels is not None else None
                tensor = classify(given, output.classification, names, has_batch_dim)
            if output.shared_memory is not None:
                if regions is None:
                    region = output.shared_memory.region
                    raise not_found(f"Unable to find shared memory region: '{region}'")
                regions.write(output.name, output.shared_memory, tensor)
                texts.append(_output_start(tensor) + "}")
            elif output.binary:
                parts.append(tensor.raw)
                texts.append(_binary_output(tensor, len(tensor.raw)))
            else:
                texts.append(f'{_output_start(tensor)},"data":{encode_data(tensor)}}}')
        header = _header_text(response, texts)
        return _headers_for(header, any(parts)), [header, *parts]

    def _json_text(self, response: InferResponse) -> bytes:
        """The whole body, with every output in it."""
        shown = [(tensor.name, tensor.datatype, tensor.shape) for tensor in response.outputs]
        key = (response.model_name, response.model_version, *shown)
        pieces = self._pieces.get(key) if not response.parameters else None
        if pieces is None:
            starts = [f'{_output_start(tensor)},"data":{_HOLE}}}' for tensor in response.outputs]
            pieces = _response_text(response, starts).split(_HOLE)
            if not response.parameters:
                if len(self._pieces) >= REMEMBERED_HEADERS:
                    self._pieces.clear()
                self._pieces[key] = pieces
        texts = [f"{{{_identity(response.id)}{pieces[0][1:]}" if response.id else pieces[0]]
        for tensor, piece in zip(response.outputs, pieces[1:], strict=True):
            texts += (encode_data(tensor), piece)
        return to_bytes("".join(texts))

    def _encode_binary(
        self, response: InferResponse, tensors: list[Tensor]
    ) -> tuple[Headers, list[Buffer]]:
        raws: list[Buffer] = []
        specs: list[object] = [response.model_name, response.model_version]
        for tensor in tensors:
            raw = tensor.raw
            raws.append(raw)
            specs.append((tensor.name, tensor.datatype, tensor.shape, len(raw)))
        key = tuple(specs)
        known = self._remembered.get(key) if not response.parameters else None
        if known is None:
            texts = [
                _binary_output(tensor, len(raw)) for tensor, raw in zip(tensors, raws, strict=True)
            ]
            if response.parameters:
                text = _header_text(response, texts)
                return _headers_for(text, any(raws)), [text, *raws]
            text = _header_text(response, texts, named=False)
            known = (_headers_for(text, any(raws)), text)
            if len(self._remembered) >= REMEMBERED_HEADERS:
                self._remembered.clear()
            self._remembered[key] = known
        headers, text = known
        if response.id:
            text = b"".join((b"{", to_bytes(_identity(response.id)), text[1:]))
            headers = _headers_for(text, any(raws))
        return headers, [text, *raws]


def _headers_for(header: bytes, has_binary: bool) -> Headers:
    if not has_binary:
        return JSON_HEADERS
    return (("Content-Type", "application/octet-stream"), (LENGTH_HEADER, str(len(header))))


def _output_start(tensor: Tensor) -> str:
    shape = ",".join(map(str, tensor.shape))
    return f'{{"name":{dumps(tensor.name)},"datatype":"{tensor.datatype}","shape":[{shape}]'


def _binary_output(tensor: Tensor, byte_size: int) -> str:
    return f'{_output_start(tensor)},"parameters":{{"binary_data_size":{byte_size}}}}}'


def _identity(request_id: str) -> str:
    return f'"id":{dumps(request_id)},'


def _header_text(response: InferResponse, outputs: list[str], *, named: bool = True) -> bytes:
    """The JSON of a response, with the request's id in front where it has one and is `named`."""
    text = _response_text(response, outputs)
    return to_bytes(f"{{{_identity(response.id)}{text[1:]}" if named and response.id else text)


def _response_text(response: InferResponse, outputs: list[str]) -> str:
    """The JSON of a response, whatever the request's id."""
    parameters = f'"parameters":{dumps(response.parameters)},' if response.parameters else ""
    return (
        f'{{"model_name":{dumps(response.model_name)},'
        f'"model_version":{dumps(response.model_version)},{parameters}'
        f'"outputs":[{",".join(outputs)}]}}'
    )
