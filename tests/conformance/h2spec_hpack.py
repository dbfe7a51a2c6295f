"""h2spec's HPACK cases: 8 blocks that cannot be decoded."""

from __future__ import annotations

from typing import Final

from protocol.hpack import write_integer
from protocol.http2_wire import ErrorCode
from tests.conformance.h2spec_client import Case, Client, connection_error, headers

BROKEN: Final[list[tuple[str, str, bytes]]] = [
    ("2.3.3/1", "indexed field with an index that is not there", b"\xc6"),
    ("2.3.3/2", "literal field with an index that is not there", b"\x7f\x07\x05empty"),
    ("5.2/1", "Huffman padding of eight bits", b"\x40\x01x\x82\x07\xff"),
    ("5.2/2", "Huffman padding of zeros", b"\x40\x01x\x81\x00"),
    ("5.2/3", "Huffman string with EOS", b"\x40\x01x\x87\x00\x85\xf2\xb2\x4a\x87\xff\xff\xff\xff"),
    ("6.1/1", "index 0", b"\x80"),
]


def case(number: str, title: str, octets: bytes, *, first: bool = False) -> Case:
    def sent(client: Client) -> bytes:
        block = client.block()
        return headers(1, octets + block if first else block + octets)

    return Case(f"hpack/{number}", title, sent, connection_error(ErrorCode.COMPRESSION_ERROR))


CASES: Final = [
    *(case(*row) for row in BROKEN),
    case("4.2/1", "table size update at the end of a block", b"\x21"),
    case("6.3/1", "table size update over the limit", write_integer(4097, 5, 0x20), first=True),
]
