"""What the records between the core and a frontend process say, beside their tensors.

A message is what `repo.backends.python.records` makes: a batch of records, each with the tensors of
one request or response, or with a blob, or with nothing, and with extras. The extras begin with the
record's kind and are this module's. Sans-IO: what is no record is a WireError, and a defect of the
process that sent it.

    to the core      SUBMIT CANCEL CREDIT MESSAGE
    to a frontend    RESPONSE ERROR END MESSAGE
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Hashable, Mapping
from typing import Final, NamedTuple

from protocol.inference import SequenceFlag
from protocol.status import ServerError, StatusCode
from repo.backends.python.layout import Key, WireError, counted, read_counted

SUBMIT: Final = 1
CANCEL: Final = 2
CREDIT: Final = 3
RESPONSE: Final = 4
ERROR: Final = 5
END: Final = 6
MESSAGE: Final = 7

BLOB: Final[Key] = ((), (("", "BYTES", (1,)),))
"""The layout of a record that carries bytes of any kind instead of tensors."""

# kind, sequence flags, optional fields, handle, number, level, batch size, seconds left, window
_SUBMIT: Final = struct.Struct("<BBBIQiqdH")
_NUMBERED: Final = struct.Struct("<BQ")
_CREDIT: Final = struct.Struct("<BQH")
# kind, final, optional fields, number
_RESPONSE: Final = struct.Struct("<BBBQ")
_ERROR: Final = struct.Struct("<BBBQ")  # the third byte is the status

ALL_FLAGS: Final = SequenceFlag.START | SequenceFlag.END

_HAS_ID, _HAS_KEY, _HAS_REST = 1, 2, 4
_STATUSES: Final = tuple(StatusCode)

Rest = Mapping[str, object]
"""What few requests and responses carry; JSON."""
NOTHING: Final[Rest] = {}


class Submitted(NamedTuple):
    """A request that a frontend has admitted."""

    number: int
    handle: int  # of the version, as the core's last snapshots call it
    level: int
    batch_size: int
    shape_key: Hashable  # None, or bytes that are equal where the frontend's keys are
    seconds_left: float  # until the caller's deadline
    window: int  # responses that the frontend has room for, of a decoupled model
    sequence_flags: int
    id: str
    rest: Rest


class Responded(NamedTuple):
    """A response that is not an error; `id` None is the request's own."""

    number: int
    final: bool
    id: str | None
    rest: Rest


def kind_of(extras: bytes) -> int:
    """The kind of a record. Raises WireError for one that says nothing."""
    if not extras:
        raise WireError("a record without a kind")
    return extras[0]


def pack_submit(submitted: Submitted) -> bytes:
    number, handle, level, batch_size, key, left, window, flags, request_id, rest = submitted
    if not (request_id or rest or key is not None):  # as most
        return _SUBMIT.pack(SUBMIT, flags, 0, handle, number, level, batch_size, left, window)
    has = 0
    parts = [b""]
    if request_id:
        has = _HAS_ID
        parts.append(counted(_bytes(request_id)))
    if key is not None:
        has |= _HAS_KEY
        parts.append(counted(repr(key).encode()))
    if rest:
        has |= _HAS_REST
        parts.append(json.dumps(rest).encode())
    parts[0] = _SUBMIT.pack(SUBMIT, flags, has, handle, number, level, batch_size, left, window)
    return b"".join(parts)


def read_submit(extras: bytes) -> Submitted:
    """Raises WireError."""
    try:
        _, flags, has, handle, number, level, batch_size, left, window = _SUBMIT.unpack_from(extras)
        at = _SUBMIT.size
        request_id = ""
        key: bytes | None = None
        rest = NOTHING
        if has & _HAS_ID:
            found, at = read_counted(extras, at)
            request_id = _text(found)
        if has & _HAS_KEY:
            key, at = read_counted(extras, at)
        if has & _HAS_REST:
            rest = _object(extras[at:])
    except (struct.error, ValueError) as error:
        raise WireError(f"malformed request: {error}") from error
    if flags > ALL_FLAGS or level < 0 or batch_size < 0 or math.isnan(left):
        raise WireError("a request with impossible numbers")
    return Submitted(number, handle, level, batch_size, key, left, window, flags, request_id, rest)


def pack_response(number: int, final: bool, response_id: str | None, rest: Rest) -> bytes:
    if response_id is None and not rest:  # as most
        return _RESPONSE.pack(RESPONSE, final, 0, number)
    has = 0
    parts = [b""]
    if response_id is not None:
        has = _HAS_ID
        parts.append(counted(_bytes(response_id)))
    if rest:
        has |= _HAS_REST
        parts.append(json.dumps(rest).encode())
    parts[0] = _RESPONSE.pack(RESPONSE, final, has, number)
    return b"".join(parts)


def read_response(extras: bytes) -> Responded:
    """Raises WireError."""
    try:
        _, final, has, number = _RESPONSE.unpack_from(extras)
        at = _RESPONSE.size
        response_id: str | None = None
        if has & _HAS_ID:
            found, at = read_counted(extras, at)
            response_id = _text(found)
        rest = _object(extras[at:]) if has & _HAS_REST else NOTHING
    except (struct.error, ValueError) as error:
        raise WireError(f"malformed response: {error}") from error
    return Responded(number, bool(final), response_id, rest)


def pack_error(number: int, error: ServerError, *, final: bool) -> bytes:
    return _ERROR.pack(ERROR, final, _STATUSES.index(error.status), number) + _bytes(error.message)


def read_error(extras: bytes) -> tuple[int, ServerError, bool]:
    """The request's number, the error, whether it is final. Raises WireError."""
    try:
        _, final, status, number = _ERROR.unpack_from(extras)
        error = ServerError(_STATUSES[status], _text(extras[_ERROR.size :]))
    except (struct.error, IndexError, ValueError) as failure:
        raise WireError(f"malformed error: {failure}") from failure
    return number, error, bool(final)


def pack_numbered(kind: int, number: int) -> bytes:
    """A CANCEL or an END."""
    return _NUMBERED.pack(kind, number)


def read_numbered(extras: bytes) -> int:
    """Raises WireError."""
    try:
        _, number = _NUMBERED.unpack(extras)
    except struct.error as error:
        raise WireError(f"malformed record: {error}") from error
    return int(number)


def pack_credit(number: int, room: int) -> bytes:
    return _CREDIT.pack(CREDIT, number, room)


def read_credit(extras: bytes) -> tuple[int, int]:
    """The request's number, and room for how many more responses. Raises WireError."""
    try:
        _, number, room = _CREDIT.unpack(extras)
    except struct.error as error:
        raise WireError(f"malformed credit: {error}") from error
    return number, room


def pack_message(message: Rest) -> bytes:
    return bytes((MESSAGE,)) + json.dumps(message).encode()


def read_message(extras: bytes) -> Rest:
    """Raises WireError."""
    try:
        return _object(extras[1:])
    except ValueError as error:
        raise WireError(f"malformed message: {error}") from error


def _object(text: bytes) -> Rest:
    found = json.loads(text)
    if not isinstance(found, dict):
        raise WireError("a message that is no object")
    return found


def _bytes(text: str) -> bytes:
    """Clients may send what is no Unicode, and get it back as it was."""
    return text.encode("utf-8", "surrogatepass")


def _text(content: bytes) -> str:
    return content.decode("utf-8", "surrogatepass")
