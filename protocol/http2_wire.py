"""The numbers of HTTP/2 (RFC 9113) and the bytes of its small frames.

Owns frame kinds, flags, settings, error codes and the frames that are built from numbers alone.
It never holds state.
"""

from __future__ import annotations

import enum
import struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA: Final = 0x0
HEADERS: Final = 0x1
PRIORITY: Final = 0x2
RST_STREAM: Final = 0x3
SETTINGS: Final = 0x4
PUSH_PROMISE: Final = 0x5
PING: Final = 0x6
GOAWAY: Final = 0x7
WINDOW_UPDATE: Final = 0x8
CONTINUATION: Final = 0x9

END_STREAM: Final = 0x1  # DATA, HEADERS
ACK: Final = 0x1  # SETTINGS, PING
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
WITH_PRIORITY: Final = 0x20

SETTING_HEADER_TABLE_SIZE: Final = 0x1
SETTING_ENABLE_PUSH: Final = 0x2
SETTING_MAX_CONCURRENT_STREAMS: Final = 0x3
SETTING_INITIAL_WINDOW_SIZE: Final = 0x4
SETTING_MAX_FRAME_SIZE: Final = 0x5
SETTING_MAX_HEADER_LIST_SIZE: Final = 0x6

HEADER_BYTES: Final = 9
PREFIX_BYTES: Final = 5  # a gRPC message: one flag octet, four of length
DEFAULT_WINDOW: Final = 65_535
MAX_WINDOW: Final = 2**31 - 1
MIN_FRAME_BYTES: Final = 16_384
MAX_FRAME_BYTES: Final = 2**24 - 1
MAX_STREAM_ID: Final = 2**31 - 1

# Length and kind in one word, flags, stream id; and the same followed by a gRPC message prefix.
FRAME: Final = struct.Struct(">IBI")
DATA_AND_PREFIX: Final = struct.Struct(">IBIBI")
PREFIX: Final = struct.Struct(">BI")
_SETTING: Final = struct.Struct(">HI")
WINDOW_UPDATE_FRAME: Final = struct.Struct(">IBII")
WINDOW_UPDATE_BYTES: Final = WINDOW_UPDATE_FRAME.size
WINDOW_UPDATE_WORD: Final = 4 << 8 | WINDOW_UPDATE
_GOAWAY: Final = struct.Struct(">IBIII")

# The statuses with which the codec itself ends a call.
GRPC_RESOURCE_EXHAUSTED: Final = 8
GRPC_INTERNAL: Final = 13

SETTINGS_ACK: Final = FRAME.pack(SETTINGS, ACK, 0)


class ErrorCode(enum.IntEnum):
    """RFC 9113, section 7."""

    NO_ERROR = 0x0
    PROTOCOL_ERROR = 0x1
    INTERNAL_ERROR = 0x2
    FLOW_CONTROL_ERROR = 0x3
    SETTINGS_TIMEOUT = 0x4
    STREAM_CLOSED = 0x5
    FRAME_SIZE_ERROR = 0x6
    REFUSED_STREAM = 0x7
    CANCEL = 0x8
    COMPRESSION_ERROR = 0x9
    CONNECT_ERROR = 0xA
    ENHANCE_YOUR_CALM = 0xB
    INADEQUATE_SECURITY = 0xC
    HTTP_1_1_REQUIRED = 0xD


class ConnectionFault(Exception):
    """The peer broke a rule that the connection does not survive. Never leaves the codec."""

    def __init__(self, error_code: ErrorCode, reason: str) -> None:
        super().__init__(reason)
        self.error_code = error_code
        self.reason = reason


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """One whole frame; the payload is copied."""
    return FRAME.pack(len(payload) << 8 | kind, flags, stream_id) + payload


def settings_frame(settings: dict[int, int]) -> bytes:
    return frame(SETTINGS, 0, 0, b"".join(_SETTING.pack(*pair) for pair in settings.items()))


def settings_of(payload: bytes) -> list[tuple[int, int]]:
    """The (identifier, value) pairs of a SETTINGS payload whose length is a multiple of six."""
    return list(_SETTING.iter_unpack(payload))


def window_update_frame(stream_id: int, increment: int) -> bytes:
    return WINDOW_UPDATE_FRAME.pack(WINDOW_UPDATE_WORD, 0, stream_id, increment)


def rst_stream_frame(stream_id: int, error_code: int) -> bytes:
    return WINDOW_UPDATE_FRAME.pack(4 << 8 | RST_STREAM, 0, stream_id, error_code)


def goaway_frame(last_stream_id: int, error_code: int, debug: bytes = b"") -> bytes:
    head = _GOAWAY.pack((8 + len(debug)) << 8 | GOAWAY, 0, 0, last_stream_id, error_code)
    return head + debug


def ping_frame(opaque: bytes, *, ack: bool) -> bytes:
    return frame(PING, ACK if ack else 0, 0, opaque)
