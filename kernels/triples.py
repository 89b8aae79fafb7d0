"""Exact ternary layers for one row of x, from codes written anew: five bits for three columns (native/triples.h).

A layer that is kept for more calls than one (ready.py) writes them at its first call on one row, and again where its
codes were changed in place; a change that torch does not count, through numpy or `.data`, is not seen. They take 16/18
of the memory of the packed codes besides, and 4 ms to write for 4096 x 4096. Against tables of pairs, one row, AMX
Xeon: 1024 x 1024 11 us (16), 512 x 4608 24 (36), 4096 x 4096 161 (252).
"""

from typing import Any

from torch import Tensor

from . import backend
from .direct import address

FAST = ("avx512", "avx512vnni", "amx", "amxfp16")  # where one instruction looks five bits up
LEAST = 64  # outputs, and columns


class Alone:
    """y = x W^T + bias for one row; packed words, scale and bias lie where they do as long as this is used."""

    __slots__ = ("layer", "made", "packed", "rest")

    def __init__(self, packed: Tensor, scale: Tensor, bias: Tensor | None, out: int, columns: int) -> None:
        self.packed, self.layer = packed, (packed.data_ptr(), out, columns)
        self.rest = (scale.data_ptr(), scale.shape[0], address(bias))
        self.made: tuple[int, Any] = (-1, None)  # version of the packed codes; one tuple, as threads may call at once

    def __call__(self, x: Tensor, y: Tensor, threads: int) -> None:
        version, codes = self.made
        if version != self.packed._version:
            version = self.packed._version  # before the codes are read
            codes = backend.native.make_triples(*self.layer)
            self.made = (version, codes)
        backend.native.triples_linear(codes, x.data_ptr(), *self.rest, y.data_ptr(), threads)


def alone(packed: Tensor, scale: Tensor, bias: Tensor | None, out: int, columns: int) -> Alone | None:
    """For float32 scales of one group; None where it would not be faster, or changes in place are not counted."""
    if backend.native.isa() not in FAST or min(out, columns) < LEAST or scale.shape[1] != 1 or packed.is_inference():
        return None
    return Alone(packed, scale, bias, out, columns)
