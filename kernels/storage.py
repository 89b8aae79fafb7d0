"""The encodings of a file by the native module, numpy in and out; `robustq.core.encodings` says what the bytes mean.

Every function gives None where there is no native module, or where bytes are not what a writer would have written: the
caller's own code then does the work, or says what is wrong.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import backend

Bytes = NDArray[np.uint8]
Codes = NDArray[np.int8]

WIDTHS = {"bits": 1, "u3": 3, "u4": 4, "base3": 5, "u8": 8}


def survey(codes: NDArray[Any], enough: int) -> tuple[Bytes, int, int, int] | None:
    """codes (n,) of one byte each -> bitmap of those that are not 0, how many, and of their gaps r and unary bits.

    r is -1 where the gaps would take `enough` bytes or more.
    """
    if backend.native is None or not len(codes):
        return None
    codes = np.ascontiguousarray(codes)
    bitmap = np.empty(-(-len(codes) // 8), np.uint8)
    backend.native.keep(codes.ctypes.data, len(codes), bitmap.ctypes.data)
    return bitmap, *backend.native.survey(bitmap.ctypes.data, len(codes), enough)


def count(bitmap: Bytes) -> int:
    """How many bits are set."""
    if backend.native is None or not len(bitmap):
        return int(np.unpackbits(bitmap).sum(dtype=np.int64))
    bitmap = np.ascontiguousarray(bitmap)
    return backend.native.survey(bitmap.ctypes.data, 8 * len(bitmap), 0)[0]


def encode(encoding: str, codes: Codes, levels: int, size: int, kept: tuple[Bytes, int] | None = None) -> Bytes | None:
    """codes (n,) in the alphabet -> `size` bytes; of all, or of those that a bitmap keeps (bitmap, how many)."""
    if backend.native is None or not len(codes):
        return None
    codes = np.ascontiguousarray(codes)
    out = np.empty(size, np.uint8)
    bitmap, count = (0, len(codes)) if kept is None else (kept[0].ctypes.data, kept[1])
    arguments = (codes.ctypes.data, bitmap, count, len(codes), levels, out.ctypes.data, size)
    backend.native.store(WIDTHS[encoding], *arguments)
    return out


def decode(encoding: str, data: Bytes, n: int, levels: int, kept: tuple[Bytes, int] | None = None) -> Codes | None:
    """bytes, as many as they must be -> codes (n,), those beside what a bitmap keeps 0."""
    if backend.native is None or not n:
        return None
    data, codes = np.ascontiguousarray(data), np.empty(n, np.int8)
    bitmap, count = (0, n) if kept is None else (kept[0].ctypes.data, kept[1])
    arguments = (data.ctypes.data, len(data), bitmap, count, n, levels, codes.ctypes.data)
    return codes if backend.native.restore(WIDTHS[encoding], *arguments) else None


def encode_gaps(bitmap: Bytes, n: int, r: int, low: int, unary: int) -> tuple[Bytes, Bytes] | None:
    """bitmap of n places -> the low bits of its gaps and their unary part, of `low` and `unary` bytes."""
    if backend.native is None or not n:
        return None
    parts = np.empty(low, np.uint8), np.empty(unary, np.uint8)
    backend.native.store_gaps(bitmap.ctypes.data, n, r, parts[0].ctypes.data, low, parts[1].ctypes.data, unary)
    return parts


def decode_gaps(low: Bytes, unary: Bytes, kept: int, r: int, n: int) -> Bytes | None:
    """The two parts of `kept` gaps with parameter r -> bitmap of n places."""
    if backend.native is None or not n:
        return None
    low, unary, bitmap = np.ascontiguousarray(low), np.ascontiguousarray(unary), np.zeros(-(-n // 8), np.uint8)
    arguments = (low.ctypes.data, unary.ctypes.data, len(unary), kept, r, n, bitmap.ctypes.data)
    return bitmap if backend.native.restore_gaps(*arguments) else None
