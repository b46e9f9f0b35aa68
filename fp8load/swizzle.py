"""Bytes in an order of the file's own, turned into the one that memory has: nibbles, words of them, and block scales.

Block scales may lie in the layout that cuBLAS reads: tiles of 128 rows by 4 columns, which are turned back into rows.

Source: cuBLAS, "1D block scaling factors layout". A scale matrix [R, C] is padded to [ceil128(R), ceil4(C)] and cut
into tiles of 128 x 4, which lie one after the other, row by row of tiles. Element (r, c) of a tile is its byte
(r % 32) * 16 + (r // 32) * 4 + c. Scales are one byte each (E4M3, E8M0), so bytes are moved and none is changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fp8load.scheme import Repack

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TILE_ROWS, TILE_COLS = 128, 4


def padded_shape(shape: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that a scale matrix takes in the file: whole tiles."""
    rows, cols = shape
    return -(-rows // TILE_ROWS) * TILE_ROWS, -(-cols // TILE_COLS) * TILE_COLS


def row_major(data: bytes | memoryview, padded_cols: int) -> NDArray[np.uint8]:
    """Whole rows of tiles as bytes [rows, padded_cols], padding included.

    `padded_cols` is a multiple of 4. Raises `ValueError` where the bytes are not whole rows of tiles.
    """
    import numpy as np

    tiles = np.frombuffer(data, np.uint8).reshape(-1, padded_cols // TILE_COLS, 32, 4, TILE_COLS)
    return np.ascontiguousarray(tiles.transpose(0, 3, 2, 1, 4).reshape(-1, padded_cols))


def packed_in_order(data: NDArray[np.uint8], repack: Repack) -> NDArray[np.uint8]:
    """Packed 4-bit elements, low half first and in two's complement, of bytes that hold them as `repack` says.

    Raises `ValueError` for another repacking, and for words that are not whole.
    """
    import numpy as np

    match repack:
        case Repack.SWAP_NIBBLES:
            return (data >> 4 | data << 4).view(np.uint8)
        case Repack.REMOVE_OFFSET:
            return data ^ np.uint8(0x88)  # n + 8 and two's complement differ in the upper bit
        case Repack.ORDER_WORDS:  # bytes of a word: elements (0, 2), (4, 6), (1, 3), (5, 7)
            even, odd = data.reshape(-1, 2, 2).transpose(1, 0, 2)
            pairs = [even & 15 | odd << 4, even >> 4 | odd & 0xF0]
            return np.stack(pairs, axis=-1).reshape(-1)
        case _:
            raise ValueError(f"{repack} is nothing that is done to packed elements")
