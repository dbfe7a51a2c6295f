"""HPACK: our decoder and encoder against the RFC's own rules and against the `hpack` library."""

from __future__ import annotations

import hpack
import pytest
from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH
from hpack.table import HeaderTable
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.hpack import (
    MAX_REMEMBERED_LITERAL_OCTETS,
    MAX_REMEMBERED_LITERALS,
    Decoder,
    HeaderListTooLarge,
    HpackError,
    encode,
    encode_literal,
    read_integer,
    write_integer,
)
from protocol.hpack_tables import HUFFMAN_CODES, STATIC_TABLE, huffman_decode, huffman_encode

LIST_BYTES = 1 << 20
SIZE_UPDATE_0 = b"\x20"


def pairs(decoder: Decoder, block: bytes) -> list[tuple[str, str]]:
    return [pair for pair, _, _ in decoder.decode(block)]


def test_the_tables_are_those_of_the_library() -> None:
    assert STATIC_TABLE[1:] == tuple(
        (name.decode(), value.decode()) for name, value in HeaderTable.STATIC_TABLE
    )
    assert {
        symbol: (REQUEST_CODES[symbol], REQUEST_CODES_LENGTH[symbol]) for symbol in range(257)
    } == HUFFMAN_CODES


# ---- integers and strings ----------------------------------------------------------------------


@given(st.integers(0, 2**31 - 1), st.integers(4, 7))
def test_integers_come_back(number: int, prefix_bits: int) -> None:
    octets = write_integer(number, prefix_bits, 0)
    mask = (1 << prefix_bits) - 1
    if octets[0] < mask:
        assert octets == bytes((number,))
    else:
        assert read_integer(octets + b"rest", 1, mask) == (number, len(octets))


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        b"\x80",
        b"\xff\xff\xff\xff\xff\x00",
        b"\x80\x80\x80\x80\x80\x00",
        b"\xff\xff\xff\xff\x0f",
    ],
)
def test_integers_that_are_cut_off_or_too_large_are_refused(octets: bytes) -> None:
    with pytest.raises(HpackError, match="unfinished or too large"):
        read_integer(octets, 0, 127)


@given(st.binary(max_size=80))
def test_huffman_strings_come_back(octets: bytes) -> None:
    text = octets.decode("latin-1")
    assert huffman_decode(huffman_encode(text)) == text


@given(st.binary(max_size=40))
def test_huffman_agrees_with_the_library_on_any_octets(octets: bytes) -> None:
    try:
        expected = hpack.huffman_table.decode_huffman(octets).decode("latin-1")
    except hpack.HPACKDecodingError:
        assert huffman_decode(octets) is None
    else:
        assert huffman_decode(octets) == expected


def test_huffman_padding_must_be_less_than_an_octet_of_ones() -> None:
    assert huffman_decode(b"\x07") == "0"  # 00000 111
    assert huffman_decode(b"\x00") is None  # 00000 000: padding of zeros
    assert huffman_decode(b"\x07\xff") is None  # eleven ones
    assert huffman_decode(b"\xff\xff\xff\xff") is None  # EOS
    assert huffman_decode(b"") == ""


# ---- the decoder -------------------------------------------------------------------------------


def test_the_rfc_s_own_example() -> None:
    """RFC 7541, appendix C.4: three requests on one connection."""
    decoder = Decoder(LIST_BYTES)
    first = [(":method", "GET"), (":scheme", "http"), (":path", "/")]
    authority = (":authority", "www.example.com")
    assert pairs(decoder, bytes.fromhex("828684418cf1e3c2e5f23a6ba0ab90f4ff")) == [
        *first,
        authority,
    ]
    assert decoder.table_bytes == 57
    assert pairs(decoder, bytes.fromhex("828684be5886a8eb10649cbf")) == [
        *first,
        authority,
        ("cache-control", "no-cache"),
    ]
    block = bytes.fromhex("828785bf408825a849e95ba97d7f8925a849e95bb8e8b4bf")
    assert pairs(decoder, block)[1:] == [
        (":scheme", "https"),
        (":path", "/index.html"),
        authority,
        ("custom-key", "custom-value"),
    ]
    assert decoder.table == [
        ("custom-key", "custom-value"),
        ("cache-control", "no-cache"),
        authority,
    ]
    assert decoder.table_bytes == 164


@pytest.mark.parametrize(
    ("block", "why"),
    [
        (b"\x80", "index 0 is in neither table"),
        (b"\xbe", "index 62 is in neither table"),
        (b"\xff\x00", "index 127 is in neither table"),
        (b"\x7f\x00\x01a", "a field has a wrong index or is cut off"),
        (b"\x40", "a field has a wrong index or is cut off"),
        (b"\x40\x01a", "a field has a wrong index or is cut off"),
        (b"\x41", "a field has a wrong index or is cut off"),
        (b"\x40\x05ab", "the block ends inside a name"),
        (b"\x41\x05ab", "the block ends inside a string"),
        (b"\x41\x81\x00", "a Huffman-coded string is not valid"),
        (b"\x40\x81\x00\x00", "a Huffman-coded string is not valid"),
        (b"\x82\x20", "a table size update stands after a field"),
        (b"\x3f\xe2\x1f", "a table of 4097 bytes is over the limit 4096"),
        (b"\xff\xff\xff\xff\xff\x7f", "an integer is unfinished or too large"),
        (b"\x41\x7f\xff\xff\xff\xff\x7f", "an integer is unfinished or too large"),
    ],
)
def test_blocks_that_are_wrong(block: bytes, why: str) -> None:
    with pytest.raises(HpackError, match=why):
        Decoder(LIST_BYTES).decode(block)


def test_literals_of_every_kind_and_length() -> None:
    long = "v" * 300
    for first, bits in ((0x40, 6), (0x00, 4), (0x10, 4)):
        decoder = Decoder(LIST_BYTES)
        block = encode_literal("x-long-name-" + "n" * 200, long, first, bits)
        block += encode_literal("www-authenticate", "a", first, bits)
        assert pairs(decoder, block) == [
            ("x-long-name-" + "n" * 200, long),
            ("www-authenticate", "a"),
        ]
        assert len(decoder.table) == (2 if first == 0x40 else 0)


def test_a_name_in_the_dynamic_table_can_be_used_again() -> None:
    decoder = Decoder(LIST_BYTES)
    decoder.decode(encode_literal("x-name", "one", 0x40, 6))
    assert pairs(decoder, b"\x7e\x03two\xbe\xbf") == [
        ("x-name", "two"),
        ("x-name", "two"),
        ("x-name", "one"),
    ]


def test_entries_are_evicted_oldest_first_and_one_too_large_empties_the_table() -> None:
    decoder = Decoder(LIST_BYTES)
    assert pairs(decoder, b"\x3f\x45") == []  # 100 bytes
    for name in "abc":
        decoder.decode(encode_literal(name, "1" * 10, 0x40, 6))
    assert decoder.table == [("c", "1" * 10), ("b", "1" * 10)]
    assert decoder.table_bytes == 86
    generation = decoder.generation
    assert pairs(decoder, encode_literal("huge", "x" * 100, 0x40, 6)) == [("huge", "x" * 100)]
    assert decoder.table == []
    assert decoder.table_bytes == 0
    assert decoder.generation > generation
    assert pairs(decoder, encode_literal("d", "1", 0x40, 6)) == [("d", "1")]
    decoder.decode(SIZE_UPDATE_0)
    assert decoder.table == []


def test_a_list_over_the_limit_still_does_its_work_on_the_table() -> None:
    decoder = Decoder(100)
    with pytest.raises(HeaderListTooLarge):
        decoder.decode(
            encode_literal("x", "1" * 50, 0x40, 6)
            + encode_literal("y", "2", 0x40, 6)
            + encode_literal("z", "3", 0x40, 6)
        )
    assert [name for name, _ in decoder.table] == ["z", "y", "x"]
    assert pairs(decoder, b"\xbe") == [("z", "3")]


def test_a_bomb_of_indexes_is_cut_short() -> None:
    decoder = Decoder(16 << 10)
    decoder.decode(encode_literal("x", "1" * 4000, 0x40, 6))
    with pytest.raises(HeaderListTooLarge):
        decoder.decode(b"\xbe" * 60_000)


def test_each_field_is_judged_once() -> None:
    judged: list[tuple[str, str]] = []

    def classify(name: str, value: str) -> int:
        judged.append((name, value))
        return len(judged)

    decoder = Decoder(LIST_BYTES, classify)
    static = len(judged)
    assert static == len(STATIC_TABLE)
    ((_, first, size),) = decoder.decode(encode_literal("a", "bc", 0x40, 6))
    assert size == 35
    ((_, again, _),) = decoder.decode(b"\xbe")
    assert first == again == static + 1
    Decoder(LIST_BYTES, classify)
    assert len(judged) == static + 1


def test_remembered_names_are_bounded() -> None:
    decoder = Decoder(LIST_BYTES)
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    for number in range(300):
        fields = [(f"x-name-{number}", "v")]
        assert pairs(decoder, encoder.encode(fields)) == fields
        assert pairs(decoder, encoder.encode(fields)) == fields
    assert len(decoder._names) <= 128
    long = [("x" * 500, "v")]
    assert pairs(decoder, encoder.encode(long)) == long
    assert max(map(len, decoder._names)) <= 64


NAMES = st.sampled_from(["a", "x-request-id", "grpc-timeout", ":path", "te", "www-authenticate"])
VALUES = st.text(st.characters(min_codepoint=0, max_codepoint=255), max_size=60)
BLOCKS = st.lists(st.lists(st.tuples(NAMES, VALUES), max_size=8), max_size=8)


@given(BLOCKS, st.booleans(), st.lists(st.integers(0, 4096), max_size=8))
def test_what_the_library_encodes_we_decode(
    blocks: list[list[tuple[str, str]]], huffman: bool, sizes: list[int]
) -> None:
    encoder = hpack.Encoder()
    decoder = Decoder(LIST_BYTES)
    for number, fields in enumerate(blocks):
        if number < len(sizes):
            encoder.header_table_size = sizes[number]
        octets = [(name.encode(), value.encode("latin-1")) for name, value in fields]
        assert pairs(decoder, encoder.encode(octets, huffman=huffman)) == fields
        assert decoder.table == [
            (name.decode(), value.decode("latin-1"))
            for name, value in encoder.header_table.dynamic_entries
        ]


@given(BLOCKS)
def test_what_we_encode_the_library_decodes_whatever_its_table(
    blocks: list[list[tuple[str, str]]],
) -> None:
    decoder = hpack.Decoder()
    decoder.max_allowed_table_size = 0
    for fields in blocks:
        decoded = decoder.decode(b"\x20" + encode(fields), raw=True)
        assert [
            (bytes(name).decode(), bytes(value).decode("latin-1")) for name, value in decoded
        ] == fields


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=40), max_size=6))
def test_on_any_octets_we_agree_with_the_library_or_are_stricter(blocks: list[bytes]) -> None:
    ours = Decoder(LIST_BYTES)
    library = hpack.Decoder(max_header_list_size=LIST_BYTES)
    for block in blocks:
        try:
            fields = pairs(ours, block)
        except HpackError:
            break  # long integers, mostly: they are allowed to be longer there
        decoded = library.decode(block, raw=True)
        assert [
            (bytes(name).decode("latin-1"), bytes(value).decode("latin-1"))
            for name, value in decoded
        ] == fields


def test_a_literal_is_judged_once_and_forgotten_in_time() -> None:
    judged: list[tuple[str, str]] = []

    def classify(name: str, value: str) -> int:
        judged.append((name, value))
        return len(judged)

    decoder = Decoder(1 << 16, classify)
    judged.clear()  # of the static table
    block = encode_literal("x-tenant", "blue", 0x00, 4)
    first = decoder.decode(block)
    assert decoder.decode(block) == first
    assert judged == [("x-tenant", "blue")]
    assert decoder.generation == 0, "the table has not changed"
    for number in range(MAX_REMEMBERED_LITERALS):
        decoder.decode(encode_literal("x-request-id", str(number), 0x00, 4))
    decoder.decode(block)
    assert judged[-1] == ("x-tenant", "blue"), "it had been forgotten for others"
    # A long one is not kept at all.
    long = encode_literal("x-long", "v" * MAX_REMEMBERED_LITERAL_OCTETS, 0x00, 4)
    before = len(judged)
    assert decoder.decode(long)[0][0] == decoder.decode(long)[0][0]
    assert len(judged) == before + 2
