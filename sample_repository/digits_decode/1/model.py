"""PIXELS = the picture in IMAGE, 8 x 8 pixels from 0 (paper) to 16 (ink), FP32 [batch, 64].

IMAGE is a PNG file: 8-bit greyscale, not interlaced, dark ink on light paper, both sides multiples
of 8 and at most `SIDE_LIMIT`. Larger pictures are averaged down. Decoded here by zlib and numpy, so
that the model needs nothing that is not installed with the server.
"""

from __future__ import annotations

import struct
import zlib

import numpy as np
import triton_python_backend_utils as pb_utils

SIGNATURE = b"\x89PNG\r\n\x1a\n"
SIDE = 8
SIDE_LIMIT = 1024
INK = 16.0
PAPER = 255


class NotADigit(ValueError):
    """The bytes are not a picture that this model can read."""


def chunks(file: bytes):
    """The type and content of each chunk, checksums checked."""
    at = len(SIGNATURE)
    while at + 12 <= len(file):
        length, kind = struct.unpack_from(">I4s", file, at)
        content = file[at + 8 : at + 8 + length]
        checksum = file[at + 8 + length : at + 12 + length]
        if len(checksum) < 4 or struct.unpack(">I", checksum)[0] != zlib.crc32(kind + content):
            raise NotADigit("a chunk of the image is damaged")
        yield kind, content
        at += 12 + length


def paeth(left: int, above: int, corner: int) -> int:
    """The neighbour that is nearest to left + above - corner, ties in this order."""
    guess = left + above - corner
    return min((left, above, corner), key=lambda value: abs(guess - value))


def unfilter(rows: np.ndarray, width: int) -> np.ndarray:
    """Undoes the filter that each row names in its first byte; UINT8 [height, width]."""
    picture = np.zeros((len(rows), width), np.uint8)
    previous = np.zeros(width, np.uint8)
    for row, out in zip(rows, picture, strict=True):
        kind, values = row[0], row[1:]
        if kind == 0:
            out[:] = values
        elif kind == 1:
            out[:] = np.cumsum(values, dtype=np.uint64) % 256
        elif kind == 2:
            out[:] = values + previous
        elif kind in (3, 4):
            left = corner = 0
            for column in range(width):
                above = int(previous[column])
                guess = (left + above) // 2 if kind == 3 else paeth(left, above, corner)
                left = (int(values[column]) + guess) % 256
                out[column] = left
                corner = above
        else:
            raise NotADigit(f"the image uses the unknown filter {kind}")
        previous = out
    return picture


def decode(file: bytes) -> np.ndarray:
    """The picture of a PNG file, UINT8 [height, width]; raises NotADigit."""
    if not file.startswith(SIGNATURE):
        raise NotADigit("the image is not a PNG file")
    parts = list(chunks(file))
    if not parts or parts[0][0] != b"IHDR" or len(parts[0][1]) != 13:
        raise NotADigit("the image has no header")
    width, height, *form = struct.unpack(">IIBBBBB", parts[0][1])
    if form != [8, 0, 0, 0, 0]:
        raise NotADigit("the image is not 8-bit greyscale without interlacing")
    if not all(0 < side <= SIDE_LIMIT and side % SIDE == 0 for side in (width, height)):
        raise NotADigit(f"the image is {width} x {height}, not multiples of 8 up to {SIDE_LIMIT}")
    size = height * (width + 1)
    packed = b"".join(content for kind, content in parts if kind == b"IDAT")
    try:
        unpacked = zlib.decompressobj().decompress(packed, size + 1)
    except zlib.error as broken:
        raise NotADigit("the image's data is damaged") from broken
    if len(unpacked) != size:
        raise NotADigit("the image's data has a wrong length")
    return unfilter(np.frombuffer(unpacked, np.uint8).reshape(height, width + 1), width)


def pixels(file: bytes) -> np.ndarray:
    """FP32 [64], 0 for paper to 16 for ink."""
    picture = decode(file)
    height, width = picture.shape
    blocks = picture.reshape(SIDE, height // SIDE, SIDE, width // SIDE).mean(axis=(1, 3))
    return ((PAPER - blocks) / PAPER * INK).astype(np.float32).ravel()


class TritonPythonModel:
    """Decodes each request by itself; a bad image fails its own request only."""

    def execute(self, requests):
        return [self.answer(request) for request in requests]

    def answer(self, request):
        images = pb_utils.get_input_tensor_by_name(request, "IMAGE").as_numpy()
        try:
            rows = np.stack([pixels(file) for file in images[:, 0]])
        except NotADigit as problem:
            error = pb_utils.TritonError(str(problem), pb_utils.TritonError.INVALID_ARG)
            return pb_utils.InferenceResponse(output_tensors=[], error=error)
        output = pb_utils.Tensor("PIXELS", rows)
        return pb_utils.InferenceResponse(output_tensors=[output])
