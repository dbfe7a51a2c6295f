"""Every message between the server and a worker, and its bytes.

Two AF_UNIX SEQPACKET pairs join them, so a message is a packet and needs no framing:

    work      both ways; the worker's main thread reads its end, and whatever the worker says
              goes here
    control   to the worker, read by its service thread while the main thread is inside a model;
              and, both ways, new segments with their descriptor, sent before the first message
              that uses one

Messages with tensors (EXECUTE, COMPLETED, RESPONSE, BLS_INFER, BLS_RESPONSE) are built by
`layout.BatchWriter`. All others are the named tuples below: a tag byte, then the fields in order,
each by the letter in `_FORMS`. A packet above `layout.MESSAGE_LIMIT` is put into the arena and a
`Spilled` goes in its place. Sans-IO, like everything here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Union

from .layout import HEADER, Buffer, WireError

EXECUTE = 1  # base: the first request's number, the others follow it
COMPLETED = 2  # base: as in EXECUTE; prefix TIMINGS
RESPONSE = 3  # base: the request's number; prefix FINAL
BLS_INFER = 4  # base: the call's number; prefix FINAL says "decoupled"
BLS_RESPONSE = 5  # base: the call's number; prefix FINAL

PREFIX_AT = HEADER.size  # where the fields that only one tag has begin
TIMINGS = struct.Struct("<QQQ")  # input, infer and output nanoseconds
FINAL = struct.Struct("<B")

# Responses of one request that may wait between a model and its client; then `send` blocks.
RESPONSE_WINDOW = 8


class Load(NamedTuple):
    """Import the model and initialise it; answered by Loaded or LoadFailed."""

    model_name: str
    version: int
    model_directory: str
    version_directory: str
    module_directory: str  # where `file_name` is: the version directory or a backend's
    file_name: str
    config_json: str
    kind: str
    instance_name: str
    device_id: int
    decoupled: int
    reschedulable: int  # sequence_batching { iterative_sequence: true }
    bls_limit: int  # concurrent calls to other models
    first_segment_bytes: int
    segment_growth_bytes: int
    auto_complete: int  # only ask the model for its configuration; answered by AutoCompleted


class Loaded(NamedTuple):
    has_is_ready: int


class LoadFailed(NamedTuple):
    message: str


class AutoCompleted(NamedTuple):
    config_json: str  # "" when the model does not complete its configuration


class Finalize(NamedTuple):
    """Call the model's `finalize` and exit."""


class Spilled(NamedTuple):
    segment: int
    offset: int
    byte_size: int


class Segment(NamedTuple):
    """Comes with a descriptor."""

    number: int


class ForgetSegment(NamedTuple):
    number: int


class Cancel(NamedTuple):
    """Nobody waits for this request any longer."""

    number: int


class Credit(NamedTuple):
    """Room for so many more responses of this request, and spans given back."""

    number: int
    room: int
    releases: bytes


class Dropped(NamedTuple):
    """The model has let go of this request without a final response."""

    number: int


class CheckReady(NamedTuple):
    """Ask the model's `is_ready`; answered by Readiness."""


class Readiness(NamedTuple):
    ready: int


class Log(NamedTuple):
    level: int  # the numbers of pb_utils.Logger
    message: str


class BlsCredit(NamedTuple):
    number: int
    room: int


class BlsCancel(NamedTuple):
    number: int


class BlsAbandon(NamedTuple):
    """The iterator over this call's responses is gone: cancel it and count on nobody reading."""

    number: int


class LoadModel(NamedTuple):
    call: int
    model_name: str
    config_json: str
    files: Mapping[str, bytes]


class UnloadModel(NamedTuple):
    call: int
    model_name: str
    unload_dependents: int


class AskModelReady(NamedTuple):
    call: int
    model_name: str
    version: str


class OpenFamily(NamedTuple):
    call: int
    name: str
    description: str
    kind: int


class CloseFamily(NamedTuple):
    name: str


class OpenMetric(NamedTuple):
    call: int
    metric: int  # the worker's number for it
    family: str
    labels: Mapping[str, bytes]
    buckets: bytes  # doubles


class CloseMetric(NamedTuple):
    metric: int


class UpdateMetric(NamedTuple):
    metric: int
    operation: int
    value: float


class AskMetric(NamedTuple):
    call: int
    metric: int


class Answer(NamedTuple):
    """To a message with a `call`; a non-empty error is what went wrong."""

    call: int
    error: str
    value: float


# Metric operations.
INCREMENT, SET, OBSERVE = 1, 2, 3

Message = Union[
    Load, Loaded, LoadFailed, AutoCompleted, Finalize, Spilled, Segment, ForgetSegment, Cancel,
    Credit, Dropped, CheckReady, Readiness, Log, BlsCredit, BlsCancel, BlsAbandon, LoadModel,
    UnloadModel, AskModelReady, OpenFamily, CloseFamily, OpenMetric, CloseMetric, UpdateMetric,
    AskMetric, Answer,
]  # fmt: skip

# Tag → class and its fields: i signed 64 bits, d double, s text, y bytes, m text → bytes.
_FORMS: dict[int, tuple[type[Message], str]] = {
    16: (Load, "sisssssssiiiiiii"),
    17: (Loaded, "i"),
    18: (LoadFailed, "s"),
    19: (AutoCompleted, "s"),
    20: (Finalize, ""),
    21: (Spilled, "iii"),
    22: (Segment, "i"),
    23: (ForgetSegment, "i"),
    24: (Cancel, "i"),
    25: (Credit, "iiy"),
    26: (CheckReady, ""),
    27: (Readiness, "i"),
    28: (Log, "is"),
    29: (BlsCredit, "ii"),
    30: (BlsCancel, "i"),
    31: (LoadModel, "issm"),
    32: (UnloadModel, "isi"),
    33: (AskModelReady, "iss"),
    34: (OpenFamily, "issi"),
    35: (CloseFamily, "s"),
    36: (OpenMetric, "iismy"),
    37: (CloseMetric, "i"),
    38: (UpdateMetric, "iid"),
    39: (AskMetric, "ii"),
    40: (Answer, "isd"),
    41: (Dropped, "i"),
    42: (BlsAbandon, "i"),
}
_TAGS: dict[type[Message], tuple[int, str]] = {
    kind: (tag, form) for tag, (kind, form) in _FORMS.items()
}

_I64 = struct.Struct("<q")
_F64 = struct.Struct("<d")
_U32 = struct.Struct("<I")


def encode(message: Message) -> bytes:
    """The packet of one named tuple."""
    tag, form = _TAGS[type(message)]
    parts = [bytes((tag,))]
    values: Iterable[Any] = message  # each is what its letter says
    for letter, value in zip(form, values):
        if letter == "i":
            parts.append(_I64.pack(value))
        elif letter == "d":
            parts.append(_F64.pack(value))
        elif letter == "m":
            parts.append(_U32.pack(len(value)))
            for key, content in value.items():
                parts += (_counted(key.encode()), _counted(content))
        else:
            parts.append(_counted(value.encode("utf-8", "replace") if letter == "s" else value))
    return b"".join(parts)


def decode(packet: Buffer) -> Message:
    """The named tuple in a packet. Raises WireError."""
    try:
        kind, form = _FORMS[packet[0]]
        values: list[object] = []
        at = 1
        for letter in form:
            value, at = _decode_field(letter, packet, at)
            values.append(value)
    except (struct.error, IndexError, KeyError, UnicodeDecodeError) as error:
        raise WireError(f"malformed message: {error!r}") from error
    if at != len(packet):
        raise WireError(f"{kind.__name__} has {len(packet)} bytes, its fields end at {at}")
    return kind(*values)  # type: ignore[arg-type]  # the form has as many fields


def _decode_field(letter: str, packet: Buffer, at: int) -> tuple[object, int]:
    if letter == "i":
        return _I64.unpack_from(packet, at)[0], at + 8
    if letter == "d":
        return _F64.unpack_from(packet, at)[0], at + 8
    if letter == "m":
        (count,) = _U32.unpack_from(packet, at)
        at += 4
        mapping: dict[str, bytes] = {}
        for _ in range(count):
            key, at = _read_counted(packet, at)
            mapping[key.decode()], at = _read_counted(packet, at)
        return mapping, at
    content, at = _read_counted(packet, at)
    return (content.decode() if letter == "s" else content), at


def _counted(content: bytes) -> bytes:
    return _U32.pack(len(content)) + content


def _read_counted(packet: Buffer, at: int) -> tuple[bytes, int]:
    (length,) = _U32.unpack_from(packet, at)
    at += 4
    if length > len(packet) - at:
        raise WireError(f"{length} bytes announced, {len(packet) - at} left")
    return bytes(packet[at : at + length]), at + length


# --- what a record's extras hold -----------------------------------------------------------------

_HAS_ID, _HAS_CORRELATION, _HAS_NAME, _HAS_FLAGS, _HAS_TIMEOUT, _HAS_PARAMETERS = 1, 2, 4, 8, 16, 32
_U64 = struct.Struct("<Q")


class RequestExtras(NamedTuple):
    """What a request may carry besides tensors; most carry none of it."""

    id: str = ""
    correlation_id: int | str = 0
    flags: int = 0
    timeout_us: int = 0
    parameters_json: str = ""


NO_EXTRAS = RequestExtras()


def pack_request_extras(
    request_id: str,
    correlation_id: int | str,
    flags: int,
    timeout_us: int,
    parameters_json: str,
) -> bytes:
    """One byte that says which fields follow, then those; nothing at all when none does."""
    present = 0
    parts = [b""]
    if request_id:
        present = _HAS_ID
        parts.append(_counted(request_id.encode("utf-8", "replace")))
    if correlation_id:
        if isinstance(correlation_id, int):
            present |= _HAS_CORRELATION
            parts.append(_U64.pack(correlation_id & 0xFFFFFFFFFFFFFFFF))
        else:
            present |= _HAS_NAME
            parts.append(_counted(correlation_id.encode("utf-8", "replace")))
    if flags:
        present |= _HAS_FLAGS
        parts.append(_U32.pack(flags))
    if timeout_us:
        present |= _HAS_TIMEOUT
        parts.append(_U64.pack(timeout_us))
    if parameters_json:
        present |= _HAS_PARAMETERS
        parts.append(_counted(parameters_json.encode()))
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
    name = b""
    try:
        if present & _HAS_ID:
            request_id, at = _read_counted(extras, at)
        if present & _HAS_CORRELATION:
            correlation_id, at = _U64.unpack_from(extras, at)[0], at + 8
        if present & _HAS_NAME:
            name, at = _read_counted(extras, at)
        if present & _HAS_FLAGS:
            flags, at = _U32.unpack_from(extras, at)[0], at + 4
        if present & _HAS_TIMEOUT:
            timeout_us, at = _U64.unpack_from(extras, at)[0], at + 8
        if present & _HAS_PARAMETERS:
            parameters, at = _read_counted(extras, at)
        return RequestExtras(
            request_id.decode(),
            name.decode() if name else correlation_id,
            flags,
            timeout_us,
            parameters.decode(),
        )
    except (struct.error, UnicodeDecodeError) as error:
        raise WireError(f"malformed request: {error}") from error


def pack_error(code: int, message: str) -> bytes:
    """The extras of a FAILED record."""
    return bytes((code,)) + message.encode("utf-8", "replace")


def parse_error(extras: bytes) -> tuple[int, str]:
    """The code and the message of a FAILED record. Raises WireError."""
    if not extras:
        raise WireError("an error without a code")
    return extras[0], extras[1:].decode("utf-8", "replace")


def pack_call(model_name: str, version: int, trace_context: str, request_extras: bytes) -> bytes:
    """The extras of a BLS_INFER record; version -1 asks for the latest."""
    return b"".join(
        (
            _I64.pack(version),
            _counted(model_name.encode("utf-8", "replace")),
            _counted(trace_context.encode()),
            request_extras,
        )
    )


def parse_call(extras: bytes) -> tuple[str, int, str, RequestExtras]:
    """Model name, version, trace context and the rest. Raises WireError."""
    try:
        (version,) = _I64.unpack_from(extras)
        name, at = _read_counted(extras, 8)
        trace_context, at = _read_counted(extras, at)
        return name.decode(), version, trace_context.decode(), parse_request_extras(extras[at:])
    except (struct.error, UnicodeDecodeError) as error:
        raise WireError(f"malformed call: {error}") from error
