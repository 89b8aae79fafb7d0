"""Which ternary linear layers run from lists of their weights that are not zero (native/sparse.h), and those lists.

Lists are made at the first call that pays for them and kept as long as the packed codes live, beside them: at 90%
zeros half the codes' size again, at 50% one and a half times it. Codes that are changed in place (`load_state_dict`)
get new ones; a change that torch does not count, through numpy or `.data`, is not seen.

ROBUSTQ_SPARSE=always|never overrides the choice, for measurements and tests; "auto" is the default.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from . import backend, lowbit
from .direct import address

# The smallest share of zeros from which lists are faster, for so many rows and more, by instruction set and mode; None
# where they are not. Measured at 4096 x 4096, 50 to 95% zeros, one thread, against the dense kernel of the mode on an
# Intel Xeon with AMX (its older instruction sets forced). How many times as fast, exact, 4, 8, 16, 64 and 256 rows:
# at 50% zeros 0.6, 0.8, 1.1, 2.0, 2.0; at 90% 1.4, 2.4, 3.7, 5.6, 5.5. Accurate against AMX, at 95%: 0.6 (16), 0.9
# (32), 1.04 (64), 1.05 (256), at 97%: 0.8, 1.3, 1.4, 1.4; against AVX-512 VNNI, at 80%: 0.8 (8), 1.2, 1.5, 1.4. With
# 1536 x 1536 and AVX-512 without VNNI at 50%: exact 0.8 (16), 1.5 (64), accurate 3 (16); AVX2 2 for both from 16 rows
# on. What is not named was not measured and stays dense.
EXACT = ((4, 0.88), (8, 0.78), (32, 0.48))
# Against a matrix unit, 4, 16, 32, 64 and 256 rows at 95% zeros: 0.7, 0.8, 1.0, 1.3, 1.3 times as fast as with float16,
# 0.9, 1.0, 1.5, 1.8, 1.7 with bfloat16.
EXACT_BF16 = ((4, 0.97), (16, 0.95), (32, 0.91), (64, 0.89))
EXACT_FP16 = ((4, 0.98), (16, 0.97), (32, 0.95), (64, 0.93))
ACCURATE_AMX = ((4, None), (16, 0.98), (32, 0.96), (64, 0.95))
CROSSOVER: dict[str, dict[str, tuple[tuple[int, float | None], ...]]] = {
    "avx2": {"exact": ((16, 0.48),), "accurate": ((16, 0.48),)},
    "avx512": {"exact": EXACT, "accurate": ((8, 0.78), (16, 0.48))},
    "avx512vnni": {"exact": EXACT, "accurate": ((8, 0.88), (16, 0.78))},
    "amx": {"exact": EXACT_BF16, "accurate": ACCURATE_AMX},
    "amxfp16": {"exact": EXACT_FP16, "accurate": ACCURATE_AMX},
}
LEAST_ROWS = 4  # of all of them
# The tables cost the same for few outputs, most where they are of triples. Measured with 1024 columns and 64 rows,
# exact: 128 outputs 0.6 times as fast at 50% zeros, 2.4 at 90%; 256 outputs 0.9 and 3.4.
LEAST_OUTPUTS = 128
MANY_OUTPUTS, FEW_ZEROS = 512, 0.88  # with fewer outputs than that, so many zeros are needed at least
TOGETHER = ((0.82, 1), (0.65, 2), (0.0, 3))  # from so many zeros on: columns that an entry stands for


@dataclass
class Known:
    """What was found out about packed codes when their version was `version`."""

    version: int
    zeros: float | None  # None: a code is corrupt
    lists: Any = None


known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()


def lists_for(packed: Tensor, out: int, columns: int, rows: int, mode: str) -> Any:
    """The lists (native `Lists`) that a call should run from, or None where the dense kernel is the better one.

    packed is contiguous, int32 words or uint8 codes of two bits in one group; rows > 0.
    """
    if rows < LEAST_ROWS and backend.sparse == "auto":
        return None  # soon: such a call takes microseconds
    least = needed_zeros(out, rows, mode)
    if least is None or packed.is_inference():
        return None
    entry = known.get(packed)
    if entry is None or entry.version != packed._version:
        known[packed] = entry = look(packed, out, columns)
    if entry.zeros is None or entry.zeros < least:
        return None
    if entry.lists is None:
        together = next(count for zeros, count in TOGETHER if entry.zeros >= zeros)
        entry.lists = backend.native.make_lists(packed.data_ptr(), packed.element_size() == 4, out, columns, together)
    return entry.lists


def look(packed: Tensor, out: int, columns: int) -> Known:
    version = packed._version
    count = backend.native.count_nonzero(packed.data_ptr(), packed.element_size() == 4, out, columns)
    return Known(version, None if count < 0 else 1 - count / (out * columns))


def needed_zeros(out: int, rows: int, mode: str) -> float | None:
    """The share of zeros from which such a call runs from lists; None: it never does."""
    if backend.native is None or backend.sparse == "never" or mode not in ("exact", "accurate"):
        return None
    if backend.sparse == "always":
        return 0.0
    if out < LEAST_OUTPUTS:
        return None
    steps = CROSSOVER.get(backend.native.isa(), {}).get(mode, ())
    zeros = next((zeros for least, zeros in reversed(steps) if rows >= least), None)
    return zeros if zeros is None or out >= MANY_OUTPUTS else max(zeros, FEW_ZEROS)


def multiply(
    lists: Any, x: Tensor, rows: int, scale: Tensor, bias: Tensor | None, y: Tensor, mode: str, relu: bool, threads: int
) -> bool:
    """y = act(x W^T + bias), x (*, in) of `rows` rows, y (*, out); all float32, contiguous; scale has 1 or out values.

    In mode "accurate" x is rounded as lowbit.py has it; the products are integers in float32. False, and y is
    undefined, where x holds NaN or infinity, which zeros do not hide in the dense kernels.
    """
    return backend.native.sparse_linear(
        lists,
        x.data_ptr(),
        rows,
        scale.data_ptr(),
        scale.numel(),
        address(bias),
        lowbit.LEVELS.get(mode, 0.0),
        relu,
        y.data_ptr(),
        threads,
    )


@contextmanager
def choice(wanted: str) -> Iterator[None]:
    """ "always", "never" or "auto" for the calls inside, of all threads."""
    before, backend.sparse = backend.sparse, wanted
    try:
        yield
    finally:
        backend.sparse = before
