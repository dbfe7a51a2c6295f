"""The two constant tables of HPACK (RFC 7541, appendices A and B).

Owns the static header table and the Huffman code, with a decoder that reads a byte at a time.
It never holds anything that belongs to one connection.
"""

from __future__ import annotations

from typing import Final

# Appendix A. Index 0 is not used; a name alone has the empty value.
STATIC_TABLE: Final[tuple[tuple[str, str], ...]] = (
    ("", ""),
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
)

EOS: Final = 256

# Appendix B. The code is canonical: within a length the codes count upwards in the order of the
# symbols, so the lengths alone define it. Each row is a length in bits and its symbols.
_SYMBOLS_BY_LENGTH: Final[tuple[tuple[int, bytes], ...]] = (
    (5, b"012aceiost"),
    (6, b" %-./3456789=A_bdfghlmnpru"),
    (7, b":BCDEFGHIJKLMNOPQRSTUVWYjkqvwxyz"),
    (8, b"&*,;XZ"),
    (10, b'!"()?'),
    (11, b"'+|"),
    (12, b"#>"),
    (13, b"\x00$@[]~"),
    (14, b"^}"),
    (15, b"<`{"),
    (19, bytes((0x5C, 0xC3, 0xD0))),
    (20, bytes.fromhex("80 82 83 a2 b8 c2 e0 e2")),
    (21, bytes.fromhex("99 a1 a7 ac b0 b1 b3 d1 d8 d9 e3 e5 e6")),
    (
        22,
        bytes.fromhex(
            "81 84 85 86 88 92 9a 9c a0 a3 a4 a9 aa ad b2 b5 b9 ba bb bd be c4 c6 e4 e8 e9"
        ),
    ),
    (
        23,
        bytes.fromhex(
            "01 87 89 8a 8b 8c 8d 8f 93 95 96 97 98 9b 9d 9e a5 a6 a8 ae af b4 b6 b7 bc bf c5 e7 ef"
        ),
    ),
    (24, bytes.fromhex("09 8e 90 91 94 9f ab ce d7 e1 ec ed")),
    (25, bytes.fromhex("c7 cf ea eb")),
    (26, bytes.fromhex("c0 c1 c8 c9 ca cd d2 d5 da db ee f0 f2 f3 ff")),
    (27, bytes.fromhex("cb cc d3 d4 d6 dd de df f1 f4 f5 f6 f7 f8 fa fb fc fd fe")),
    (
        28,
        bytes.fromhex(
            "02 03 04 05 06 07 08 0b 0c 0e 0f 10 11 12 13 14 15 17 18 19 1a 1b 1c 1d 1e 1f 7f dc f9"
        ),
    ),
    (30, bytes.fromhex("0a 0d 16")),
)


class _Node:
    """A node of the code tree: either a symbol or two children."""

    __slots__ = ("one", "padding", "symbol", "zero")

    def __init__(self) -> None:
        self.zero: _Node | None = None
        self.one: _Node | None = None
        self.symbol = -1
        # True where a string may end: at a symbol's edge, or up to seven one-bits past it.
        self.padding = False


class HuffmanRow(dict[int, "tuple[HuffmanRow, str]"]):
    """What each next byte does at one node of the code tree: (next row, text emitted).

    Entries are computed when first needed: the whole table has 65,536 of them, a server sees a
    few hundred. `may_end` says whether a string may end here.
    """

    __slots__ = ("_node", "may_end")

    def __init__(self, node: _Node | None, may_end: bool) -> None:
        super().__init__()
        self._node = node
        self.may_end = may_end

    def __missing__(self, octet: int) -> tuple[HuffmanRow, str]:
        node = self._node
        text = ""
        for shift in range(7, -1, -1):
            if node is not None:
                node = node.one if octet >> shift & 1 else node.zero
            if node is not None and node.symbol >= 0:
                if node.symbol == EOS:
                    node = None  # EOS inside a string is an error (RFC 7541, 5.2)
                    continue
                text += chr(node.symbol)
                node = _ROOT
        row = _DEAD if node is None else _row_of(node)
        entry = (row, text)
        self[octet] = entry
        return entry


_ROOT: Final = _Node()
_ROWS: Final[dict[int, HuffmanRow]] = {}
_DEAD: Final = HuffmanRow(None, may_end=False)


def _row_of(node: _Node) -> HuffmanRow:
    row = _ROWS.get(id(node))
    if row is None:
        row = _ROWS[id(node)] = HuffmanRow(node, may_end=node.padding)
    return row


def _plant() -> dict[int, tuple[int, int]]:
    """Grow the code tree; returns symbol -> (code, length in bits)."""
    codes: dict[int, tuple[int, int]] = {}
    code = 0
    previous = 0
    for length, symbols in _SYMBOLS_BY_LENGTH:
        code <<= length - previous
        previous = length
        for symbol in symbols:
            codes[symbol] = (code, length)
            code += 1
    codes[EOS] = (code, 30)
    for symbol, (bits, length) in codes.items():
        node = _ROOT
        for shift in range(length - 1, -1, -1):
            if bits >> shift & 1:
                node.one = node.one or _Node()
                node = node.one
            else:
                node.zero = node.zero or _Node()
                node = node.zero
        node.symbol = symbol
    node = _ROOT
    for _ in range(8):
        node.padding = True
        assert node.one is not None
        node = node.one
    return codes


HUFFMAN_CODES: Final[dict[int, tuple[int, int]]] = _plant()
HUFFMAN_START: Final[HuffmanRow] = _row_of(_ROOT)


def huffman_decode(octets: bytes) -> str | None:
    """The text of a Huffman-coded string as latin-1, or None if it is not valid."""
    row = HUFFMAN_START
    pieces: list[str] = []
    append = pieces.append
    for octet in octets:
        row, text = row[octet]
        append(text)
    return "".join(pieces) if row.may_end else None


def huffman_encode(text: str) -> bytes:
    """The Huffman coding of a latin-1 string, padded with ones."""
    bits = 0
    length = 0
    for octet in text.encode("latin-1"):
        code, width = HUFFMAN_CODES[octet]
        bits = bits << width | code
        length += width
    padding = -length % 8
    bits = bits << padding | (1 << padding) - 1
    return bits.to_bytes((length + padding) // 8, "big")
