"""Weights as scale times a power of two or zero: a multiplication becomes a shift."""

from torch import Tensor

from ..errors import OptionError
from ..packed import Quantized, short_float
from .projection import check, grouped, powers_of_two

EXPONENTS = {3: 3, 4: 7}  # bits -> how many powers; with their negatives and zero they fill 2^bits - 1 codes


def quantize_powers(w: Tensor, bits: int, group: str | int = "channel") -> Quantized:
    """w (out, ...) -> its projection on scale * {0, +-1, +-2, ..., +-2^(m - 1)}, m = 3 at 3 bits and 7 at 4 bits.

    One scale a group, rounded as it is stored. Up to 7 a code is stored in 4 bits, beyond it (m = 7) in 8.
    """
    check_powers(bits, group)
    rows, _, groups = grouped(w.detach(), group)
    codes, scale = powers_of_two(rows, EXPONENTS[bits])
    axis = 1 if group == "layer" else w.shape[0]
    codes = codes.reshape(axis, -1)[:, : w.numel() // axis].reshape(w.shape)
    return Quantized(codes, short_float(scale.reshape(axis, groups)), 2 ** (EXPONENTS[bits] - 1))


def check_powers(bits: int, group: str | int) -> None:
    """Raise OptionError for a number of bits or a group that powers of two cannot have."""
    check(bits, group)
    if bits not in EXPONENTS:
        raise OptionError(
            f"the alphabet of powers of two is for 3 and 4 bits, not {bits}.",
            "Give bits=3 or bits=4; at 2 bits it is the ternary one.",
        )
