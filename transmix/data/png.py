"""Whether a PNG that a decoder took holds all its pixels: one whose data stops at an earlier row passes for whole."""

import struct
import zlib
from collections.abc import Iterator

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples a pixel by colour type."""

ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""The passes of an interlaced image: first column and row, and the steps to the next ones."""


def lacks_pixels(content: bytes) -> bool:
    """Tell whether a PNG's data inflates to fewer bytes than its header asks for."""
    width, height, bits, colour, _, _, interlace = struct.unpack(">IIBBBBB", content[16:29])
    sizes = [
        (-(-(width - left) // right), -(-(height - top) // down))
        for left, top, right, down in (ADAM7 if interlace else ((0, 0, 1, 1),))
    ]
    asked = sum(
        rows * (1 + -(-columns * bits * CHANNELS[colour] // 8)) for columns, rows in sizes if columns > 0 and rows > 0
    )
    found, inflate = 0, zlib.decompressobj()
    for data in _data(content):
        while data and found < asked:
            found += len(inflate.decompress(data, 1 << 20))
            data = inflate.unconsumed_tail
    return found < asked


def _data(content: bytes) -> Iterator[bytes]:
    position = 8
    while position + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[position : position + 8])
        if kind == b"IDAT":
            yield content[position + 8 : position + 8 + length]
        position += 12 + length
