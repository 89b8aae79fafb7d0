"""Where a sparse tensor is not zero, as Golomb-Rice coded gaps: the smallest from about 70% zeros on.

For positions that are kept at random the gaps between them are geometric, for which Rice's code is within a few percent
of the entropy. Its three parts are stored one after the other, not interleaved, so that numpy decodes them at once:

| bytes             | content                                                                                  |
|-------------------|------------------------------------------------------------------------------------------|
| 1                 | r, the parameter, at most 31                                                             |
| 4                 | k, the number of kept positions, unsigned, little-endian                                 |
| ceil(k r / 8)     | the r low bits of each gap, the first gap in the lowest bits                             |
| the rest          | gap >> r of each gap in unary: so many bits 0, then a bit 1; the last byte is not 0      |

A gap is the number of positions that are not kept between a kept position and the one before it (or the start).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robustq.kernels import storage

from . import bits
from .errors import InputFileError

Bytes = NDArray[np.uint8]
Mask = NDArray[np.bool_]

HEAD = 5  # bytes of r and k
MAX_R = 31
MAX_N = 2**32 - 1


@dataclass(frozen=True)
class Places:
    """Which of n places are kept, and what their gaps take.

    bitmap  uint8 (ceil(n / 8),), the first place in the lowest bit
    r       the parameter that takes the fewest bits, or -1 where the gaps take as many bytes as the bitmap, or more
    unary   bits of the unary part
    """

    bitmap: Bytes
    n: int
    kept: int
    r: int
    unary: int

    @property
    def low_bytes(self) -> int:
        return -(-self.kept * self.r // 8)

    @property
    def size(self) -> int:
        """Bytes of the gaps, if r is not -1."""
        return HEAD + self.low_bytes + -(-self.unary // 8)


def survey(values: NDArray[Any], enough: int) -> Places:
    """The places where values (n,), a byte each, are not 0; r may be -1 if the gaps take `enough` bytes or more."""
    found = storage.survey(values, enough)
    if found is not None:
        return Places(found[0], len(values), *found[1:])
    mask = values != 0
    gaps = _gaps(mask)
    return Places(np.packbits(mask, bitorder="little"), len(mask), len(gaps), *_parameter(gaps))


def write(places: Places) -> Bytes:
    """The bytes of the gaps of fewer than 2^32 places, r not -1."""
    r, unary_bytes = places.r, -(-places.unary // 8)
    head = np.frombuffer(bytes([r]) + places.kept.to_bytes(4, "little"), np.uint8)
    parts = storage.encode_gaps(places.bitmap, places.n, r, places.low_bytes, unary_bytes)
    if parts is None:
        gaps = _gaps(np.unpackbits(places.bitmap, count=places.n, bitorder="little"))
        unary = np.zeros(places.unary, np.uint8)
        unary[np.cumsum((gaps >> r) + 1) - 1] = 1
        parts = bits.pack(gaps, r), np.packbits(unary, bitorder="little")
    return np.concatenate([head, *parts])


def count(data: Bytes) -> int:
    """k, before anything else is decoded."""
    if len(data) < HEAD:
        raise InputFileError(f"gaps take at least {HEAD} bytes, but {len(data)} are stored.")
    return int.from_bytes(data[1:HEAD].tobytes(), "little")


def decode(data: Bytes, n: int) -> Mask:
    """bytes -> mask (n,); InputFileError for anything that `write` would not have written."""
    return np.unpackbits(decode_bitmap(data, n), count=n, bitorder="little").view(np.bool_)


def decode_bitmap(data: Bytes, n: int) -> Bytes:
    """bytes -> bitmap (ceil(n / 8),); InputFileError as from `decode`."""
    k, r = count(data), int(data[0])
    if k > n or r > MAX_R or n > MAX_N:
        raise InputFileError(f"{k} gaps of parameter {r} are stored for {n} weights.")
    split = HEAD + -(-k * r // 8)
    if len(data) < split:
        raise InputFileError(f"{k} gaps of parameter {r} take more than {split - 1} bytes, but {len(data)} are stored.")
    bitmap = storage.decode_gaps(data[HEAD:split], data[split:], k, r, n)
    return np.packbits(_decode(data, n, k, r, split), bitorder="little") if bitmap is None else bitmap


def _decode(data: Bytes, n: int, k: int, r: int, split: int) -> Mask:
    low, unary = bits.unpack(data[HEAD:split], k, r), data[split:]
    if low is None or (len(unary) and unary[-1] == 0):
        raise InputFileError("the unused places of the gaps are not 0, or there are too many of them.")
    ends = np.flatnonzero(np.unpackbits(unary, bitorder="little"))
    if len(ends) != k:
        raise InputFileError(f"{k} gaps are declared, but {len(ends)} are stored.")
    high = np.diff(ends, prepend=-1) - 1
    if k and (int(ends[-1]) + 1 - k) << r > n:  # before the sum below could leave 64 bits
        raise InputFileError(f"the gaps reach past the {n} weights.")
    gaps = (high << r) + low
    places = np.cumsum(gaps + 1) - 1
    if k and int(places[-1]) >= n:
        raise InputFileError(f"the gaps reach to weight {int(places[-1])}, but there are {n}.")
    mask = np.zeros(n, np.bool_)
    mask[places] = True
    return mask


def _gaps(mask: NDArray[Any]) -> NDArray[np.int64]:
    return np.diff(np.flatnonzero(mask), prepend=-1) - 1


def _parameter(gaps: NDArray[np.int64]) -> tuple[int, int]:
    """(r, bits of the unary part) with the fewest bits; these are convex in r, so the first minimum is the least."""
    k, unary = len(gaps), int(gaps.sum()) + len(gaps)
    for r in range(MAX_R):
        shorter = int((gaps >> (r + 1)).sum()) + k
        if unary - shorter <= k:  # the next parameter saves no more than the bit it costs each gap
            return r, unary
        unary = shorter
    return MAX_R, unary
