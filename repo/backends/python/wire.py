"""Every message between the server and a worker, and its bytes.

Two AF_UNIX SEQPACKET pairs join them, so a message is a packet and needs no framing:

    work      both ways; the worker's main thread reads its end, and whatever the worker says
              goes here
    control   to the worker, read by its service thread while the main thread is inside a model;
              and, both ways, new segments with their descriptor, sent before the first message
              that uses one

Messages with tensors (EXECUTE, COMPLETED, RESPONSE, BLS_INFER, BLS_RESPONSE) are built by
`records.BatchWriter`. All others are the named tuples below: a tag byte, then the fields in order,
each by the letter in `_FORMS`. A packet above `records.MESSAGE_LIMIT` is put into the arena and a
`Spilled` goes in its place. Sans-IO, like everything here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Union

from .layout import Buffer, WireError, counted, read_counted
from .records import HEADER

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
                parts += (counted(key.encode()), counted(content))
        else:
            parts.append(counted(value.encode("utf-8", "replace") if letter == "s" else value))
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
            key, at = read_counted(packet, at)
            mapping[key.decode()], at = read_counted(packet, at)
        return mapping, at
    content, at = read_counted(packet, at)
    return (content.decode() if letter == "s" else content), at
