"""Tensors out of packets, on the server's side of any link: to workers and between its processes.

Owns the making of tensors, which lie in the packet or the segment that they came in; nothing is
copied. Packets themselves are the business of `repo.backends.python.records`.
"""

from __future__ import annotations

from collections.abc import Callable

from protocol.inference import Tensor
from repo.backends.python.arena import SegmentMap
from repo.backends.python.layout import Buffer, Layout, Slot
from repo.backends.python.records import BatchReader


def tensor_reader(segments: SegmentMap, release: Callable[[int, int], None]) -> BatchReader[Tensor]:
    """A reader for one socket with its peer's segments; `release` hears of spans given back."""
    return BatchReader(_tensor, _tensors, segments, release)


def _tensor(slot: Slot, buffer: Buffer, start: int, size: int) -> Tensor:
    raw = buffer[start : start + size]
    assert not isinstance(raw, bytearray), "packets are bytes, spans are views"
    return Tensor(slot.name, slot.datatype, slot.shape, raw=raw)


def _tensors(layout: Layout, message: Buffer, at: int) -> list[Tensor]:
    assert isinstance(message, bytes), "packets are bytes"
    return [
        Tensor(name, datatype, shape, raw=message[at + offset : at + offset + size])
        for name, datatype, shape, size, offset, _ in layout.slots
    ]
