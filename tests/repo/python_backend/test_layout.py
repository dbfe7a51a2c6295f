"""Messages with tensors: interned layouts, inline and shared tensors, and what is malformed."""

from __future__ import annotations

import struct
from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repo.backends.python import layout
from repo.backends.python import records as module
from repo.backends.python.arena import Arena, SegmentMap
from repo.backends.python.layout import Buffer, Key, Layout, Slot, WireError
from repo.backends.python.records import (
    FAILED,
    LATE,
    RESCHEDULED,
    BatchReader,
    BatchWriter,
    Record,
    Records,
)

Read = tuple[str, str, tuple[int, ...], bytes]


def make(slot: Slot, buffer: Buffer, start: int, size: int) -> Read:
    return slot.name, slot.datatype, slot.shape, bytes(buffer[start : start + size])


def make_record(found: Layout, message: Buffer, at: int) -> list[Read]:
    return [make(slot, message, at + slot.offset, slot.byte_size) for slot in found.slots]


class Pair:
    """A writer and the reader at the other end, joined without sockets."""

    def __init__(self) -> None:
        self.arena = Arena()
        self.segments = SegmentMap(writable=True, missing=self._attach)
        self.released: deque[tuple[int, int]] = deque()
        self.given_back: list[tuple[int, int]] = []
        self.writer = BatchWriter(self.arena, self.released)
        self.reader = BatchReader(
            make, make_record, self.segments, lambda *span: self.given_back.append(span)
        )

    def _attach(self, _: int) -> None:
        while self.arena.new_segments:
            new = self.arena.new_segments.pop(0)
            self.segments.attach(new.number, new.descriptor)

    def pass_on(self, *records: Record, base: int = 1, prefix: bytes = b"") -> Records[Read]:
        message = self.writer.build(9, base, records, lambda: prefix)
        assert message[0] == 9
        return self.reader.read(message, len(prefix))


def key(*tensors: layout.Triple, requested: tuple[str, ...] = ()) -> Key:
    return requested, tensors


SMALL = key(("A", "FP32", (2,)), ("B", "INT64", (1, 3)), requested=("OUT",))
SMALL_RAWS = (b"12345678", bytes(24))


def test_a_layout_is_sent_once_and_tensors_lie_aligned() -> None:
    pair = Pair()
    first = pair.writer.build(1, 1, [(SMALL, SMALL_RAWS, 0, b"")])
    second = pair.writer.build(1, 1, [(SMALL, SMALL_RAWS, 0, b"")])
    assert len(first) > len(second) == 32 + 16 + 32
    assert second.index(b"12345678") == 32

    for message in (first, second):
        records = pair.reader.read(message)
        assert records.plain
        assert records.layouts[records.numbers[0]].requested == ("OUT",)
        assert records.tensors == [
            [("A", "FP32", (2,), b"12345678"), ("B", "INT64", (1, 3), bytes(24))]
        ]


def test_records_differ_in_layout_extras_and_outcome() -> None:
    pair = Pair()
    records = pair.pass_on(
        (SMALL, SMALL_RAWS, 0, b"extra"),
        (None, (), FAILED, b"\3why"),
        (None, (), LATE, b""),
        (None, (), RESCHEDULED, b""),
        (key(), (), 0, b""),
        (key(("S", "BYTES", (2,))), [b"123"], 0, b""),
        base=77,
        prefix=b"prefix!!",
    )
    assert records.base == 77
    assert not records.plain
    assert list(records.numbers[1:4]) == [FAILED, LATE, RESCHEDULED]
    assert records.extras == [b"extra", b"\3why", b"", b"", b"", b""]
    assert [len(tensors) for tensors in records.tensors] == [2, 0, 0, 0, 0, 1]
    assert records.tensors[5] == [("S", "BYTES", (2,), b"123")]


def test_large_tensors_are_shared_whether_their_size_is_fixed_or_not() -> None:
    pair = Pair()
    size = layout.SHARED_THRESHOLD
    large = key(("L", "UINT8", (size,)), ("S", "BYTES", (1,)), ("T", "UINT8", (3,)))
    raws = bytes(range(256)) * (size // 256), b"s" * size, b"abc"
    message = pair.writer.build(1, 1, [(large, raws, 0, b"")] * 2)
    assert len(message) < 1024
    for record in pair.reader.read(message).tensors:
        assert [tensor[3] for tensor in record] == list(raws)
    # Nobody refers to the spans any longer, so they are on their way back.
    assert len(pair.segments.released) == 4


def test_spans_are_given_back_with_the_next_message() -> None:
    pair = Pair()
    pair.released.extend([(1, 4096), (2, 0)])
    pair.pass_on((SMALL, SMALL_RAWS, 0, b""))
    assert pair.given_back == [(1, 4096), (2, 0)]
    assert not pair.released


def test_a_full_table_is_forgotten_on_both_sides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LAYOUT_LIMIT", 4)
    pair = Pair()
    for size in range(20):
        shape = key(("A", "UINT8", (size,))), key(("B", "UINT8", (size,)))
        records = pair.pass_on(*[(one, [bytes(size)], 0, b"") for one in shape])
        assert [tensors[0][2] for tensors in records.tensors] == [(size,), (size,)]
        assert len(pair.reader._layouts) <= 4


def test_bytes_that_do_not_fit_their_shape_are_refused_and_leave_no_trace() -> None:
    pair = Pair()
    size = layout.SHARED_THRESHOLD
    pair.pass_on((SMALL, SMALL_RAWS, 0, b""))
    for raws in ((b"1234567890123456789", bytes(24)), (b"", bytes(24))):
        with pytest.raises(WireError, match="where their shapes ask for 48"):
            pair.writer.build(1, 1, [(SMALL, raws, 0, b"")])
    both = key(("L", "UINT8", (size,)), ("M", "UINT8", (size,)))
    with pytest.raises(WireError, match=f"tensor 'M' has {size - 1} bytes, not {size}"):
        pair.writer.build(1, 1, [(both, (bytes(size), bytes(size - 1)), 0, b"")])
    assert not pair.arena._sizes
    with pytest.raises(KeyError, match="FP8"):
        pair.writer.build(1, 1, [(key(("A", "FP8", (1,))), [b""], 0, b"")])
    assert pair.pass_on((both, (bytes(size), bytes(size)), 0, b"")).plain


@given(
    st.lists(
        st.tuples(
            st.lists(
                st.tuples(
                    st.text(max_size=5),
                    st.sampled_from(["FP32", "BOOL", "INT64", "BYTES"]),
                    st.lists(st.integers(0, 3), max_size=3).map(tuple),
                ),
                max_size=3,
            ).map(tuple),
            st.lists(st.text(max_size=5), max_size=2).map(tuple),
            st.binary(max_size=5),
            st.binary(max_size=20),
        ),
        max_size=6,
    )
)
def test_any_batch_is_what_it_was(
    batch: list[tuple[tuple[layout.Triple, ...], tuple[str, ...], bytes, bytes]],
) -> None:
    pair = Pair()
    for _ in range(2):
        sent: list[Record] = []
        for tensors, requested, extras, text in batch:
            sizes = [slot.byte_size for slot in layout.make_layout(0, (requested, tensors)).slots]
            raws: list[layout.Raw] = [text if size < 0 else bytes(size) for size in sizes]
            sent.append(((requested, tensors), raws, 0, extras))
        records = pair.pass_on(*sent)
        for place, (record_key, contents, _, extras) in enumerate(sent):
            assert record_key is not None
            assert records.layouts[records.numbers[place]].requested == record_key[0]
            assert records.tensors[place] == [
                (*tensor, bytes(raw)) for tensor, raw in zip(record_key[1], contents, strict=True)
            ]
            assert (records.extras[place] if records.extras is not None else b"") == extras


def test_whatever_a_peer_sends_is_at_worst_no_message() -> None:
    pair = Pair()
    sent: list[Record] = [
        (SMALL, SMALL_RAWS, 0, b"extra"),
        (key(("S", "BYTES", (2,)), ("L", "UINT8", (layout.SHARED_THRESHOLD,))),
         (b"123", bytes(layout.SHARED_THRESHOLD)), 0, b""),
    ]  # fmt: skip
    pair.released.append((0, 0))
    message = pair.writer.build(1, 1, sent)
    pair.reader.read(message)
    for at in range(len(message)):
        for change in (
            message[:at],
            message[:at] + bytes((message[at] ^ 0xFF,)) + message[at + 1 :],
        ):
            fresh = BatchReader(make, make_record, pair.segments, lambda *_: None)
            try:
                fresh.read(change)
            except WireError:
                continue


def test_a_message_that_goes_on_behind_its_records_is_malformed() -> None:
    pair = Pair()
    message = pair.writer.build(1, 1, [(SMALL, SMALL_RAWS, 0, b"")])
    with pytest.raises(WireError, match="its records end at"):
        pair.reader.read(message + bytes(16))
    with pytest.raises(WireError, match="malformed"):
        Pair().reader.read(struct.pack("<BBHIQH", 1, 0, 1, 32, 1, 5) + bytes(14))
