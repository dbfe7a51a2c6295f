"""What the extras of a record hold: what only some requests carry, and errors. Sans-IO."""

from __future__ import annotations

import struct
from typing import NamedTuple

from .layout import WireError, counted, read_counted

_HAS_ID, _HAS_CORRELATION, _HAS_NAME, _HAS_FLAGS, _HAS_TIMEOUT, _HAS_PARAMETERS = 1, 2, 4, 8, 16, 32
_HAS_TRACE = 64
_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_I64 = struct.Struct("<q")


class RequestExtras(NamedTuple):
    """What a request may carry besides tensors; most carry none of it."""

    id: str = ""
    correlation_id: int | str = 0
    flags: int = 0
    timeout_us: int = 0
    parameters_json: str = ""
    trace: str = ""  # as `pack_trace` makes it


NO_EXTRAS = RequestExtras()


def pack_request_extras(
    request_id: str,
    correlation_id: int | str,
    flags: int,
    timeout_us: int,
    parameters_json: str,
    *,
    trace: str = "",
) -> bytes:
    """One byte that says which fields follow, then those; nothing at all when none does."""
    present = 0
    parts = [b""]
    if request_id:
        present = _HAS_ID
        parts.append(counted(request_id.encode("utf-8", "replace")))
    if correlation_id:
        if isinstance(correlation_id, int):
            present |= _HAS_CORRELATION
            parts.append(_U64.pack(correlation_id & 0xFFFFFFFFFFFFFFFF))
        else:
            present |= _HAS_NAME
            parts.append(counted(correlation_id.encode("utf-8", "replace")))
    if flags:
        present |= _HAS_FLAGS
        parts.append(_U32.pack(flags))
    if timeout_us:
        present |= _HAS_TIMEOUT
        parts.append(_U64.pack(timeout_us))
    if parameters_json:
        present |= _HAS_PARAMETERS
        parts.append(counted(parameters_json.encode()))
    if trace:
        present |= _HAS_TRACE
        parts.append(counted(trace.encode()))
    if not present:
        return b""
    parts[0] = bytes((present,))
    return b"".join(parts)


def parse_request_extras(extras: bytes) -> RequestExtras:
    """The inverse of `pack_request_extras`. Raises WireError."""
    if not extras:
        return NO_EXTRAS
    present, at = extras[0], 1
    request_id, correlation_id, flags, timeout_us, parameters = b"", 0, 0, 0, b""
    name = trace = b""
    try:
        if present & _HAS_ID:
            request_id, at = read_counted(extras, at)
        if present & _HAS_CORRELATION:
            correlation_id, at = _U64.unpack_from(extras, at)[0], at + 8
        if present & _HAS_NAME:
            name, at = read_counted(extras, at)
        if present & _HAS_FLAGS:
            flags, at = _U32.unpack_from(extras, at)[0], at + 4
        if present & _HAS_TIMEOUT:
            timeout_us, at = _U64.unpack_from(extras, at)[0], at + 8
        if present & _HAS_PARAMETERS:
            parameters, at = read_counted(extras, at)
        if present & _HAS_TRACE:
            trace, at = read_counted(extras, at)
        return RequestExtras(
            request_id.decode(),
            name.decode() if name else correlation_id,
            flags,
            timeout_us,
            parameters.decode(),
            trace.decode(),
        )
    except (struct.error, UnicodeDecodeError) as error:
        raise WireError(f"malformed request: {error}") from error


def pack_trace(reference: str, context: str) -> str:
    """What a request carries of its trace: the server's name for it, and what others may know."""
    return f"{reference};{context}"


def parse_trace(trace: str) -> tuple[str, str]:
    """The inverse of `pack_trace`."""
    reference, _, context = trace.partition(";")
    return reference, context


def pack_error(code: int, message: str) -> bytes:
    """The extras of a FAILED record."""
    return bytes((code,)) + message.encode("utf-8", "replace")


def parse_error(extras: bytes) -> tuple[int, str]:
    """The code and the message of a FAILED record. Raises WireError."""
    if not extras:
        raise WireError("an error without a code")
    return extras[0], extras[1:].decode("utf-8", "replace")


def pack_call(model_name: str, version: int, trace: str, request_extras: bytes) -> bytes:
    """The extras of a BLS_INFER record; version -1 asks for the latest.

    `trace` is the server's name for the trace of which the call is part, if it is of any.
    """
    return b"".join(
        (
            _I64.pack(version),
            counted(model_name.encode("utf-8", "replace")),
            counted(trace.encode()),
            request_extras,
        )
    )


def parse_call(extras: bytes) -> tuple[str, int, str, RequestExtras]:
    """Model name, version, trace and the rest. Raises WireError."""
    try:
        (version,) = _I64.unpack_from(extras)
        name, at = read_counted(extras, 8)
        trace, at = read_counted(extras, at)
        return name.decode(), version, trace.decode(), parse_request_extras(extras[at:])
    except (struct.error, UnicodeDecodeError) as error:
        raise WireError(f"malformed call: {error}") from error
