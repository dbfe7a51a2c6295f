"""Inference requests off the wire, for both RPCs: decoded, with what they hold of shared memory.

Owns the order in which a request's message, its call's metadata and its shared memory are judged.
It looks no model up and submits nothing.
"""

from __future__ import annotations

from actors.control.shared_memory import Lease, SharedMemory
from actors.grpc.terms import Terms
from protocol.http2_events import MessageBytes
from protocol.status import ServerError
from protocol.v2_grpc import DecodedRequest, RejectedRequest, decode_infer_request


def decode_request(
    message: MessageBytes, terms: Terms, regions: SharedMemory
) -> tuple[DecodedRequest, Lease | None]:
    """A request and its lease, to be released after its final response.

    Raises ServerError: mostly a RejectedRequest, which names the model and the request.
    """
    lease = regions.lease()
    if lease is None and terms.forwarded is None and terms.bad_metadata is None:
        return decode_infer_request(message), None
    try:
        decoded = decode_infer_request(message, lease)
        try:
            terms.forward(decoded.request)
            if lease is not None:
                lease.reserve(decoded.plan)
        except ServerError as error:
            raise _rejected(decoded, error) from None
    except ServerError:
        if lease is not None:
            lease.release()
        raise
    return decoded, lease if lease is not None and lease.is_held else None


def release(lease: Lease | None) -> None:
    """Give a request's lease back, if it has one."""
    if lease is not None:
        lease.release()


def _rejected(decoded: DecodedRequest, error: ServerError) -> RejectedRequest:
    request = decoded.request
    return RejectedRequest(
        error,
        model_name=request.model_name,
        model_version=request.model_version,
        request_id=request.id,
    )
