"""Numbers of a few bits one after the other, the lowest bit first; unused places of the last byte are 0."""

import numpy as np
from numpy.typing import NDArray


def pack(numbers: NDArray[np.int64], width: int) -> NDArray[np.uint8]:
    """numbers (k,), of which the lowest `width` bits are kept -> bytes (ceil(k * width / 8),)."""
    bits = (numbers[:, None] >> np.arange(width)) & 1
    return np.packbits(bits.astype(np.uint8), bitorder="little")


def unpack(data: NDArray[np.uint8], count: int, width: int) -> NDArray[np.int64] | None:
    """bytes (ceil(count * width / 8),) -> numbers (count,); None where an unused place is not 0."""
    bits = np.unpackbits(data, bitorder="little")
    if bits[count * width :].any():
        return None
    return bits[: count * width].reshape(count, width).astype(np.int64) @ (1 << np.arange(width))
