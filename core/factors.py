"""A weight as a product with a square matrix plus a rest, and the bytes of such matrices, which are mostly zeros.

W = (I + S) A + C, or A (I + S) + C where A has no more columns than rows: S is square, on the shorter side of A.

Each matrix is stored as the places of what is not zero (`encodings.pack_mask`), and the values there: one after the
other, or, where that is smaller, as a codebook of the different ones, ascending, and a code of
ceil(log2(their number)) bits, at least 1, for each value.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from . import bits, encodings
from .errors import InputFileError

MAX_CODEBOOK = 256
PARTS = ("masks", "codes", "values")


def product(weight: Tensor, square: Tensor, rest: Tensor) -> Tensor:
    """A (out, in), S (r, r) with r = min(out, in), C (out, in) -> W (out, in), differentiable."""
    return weight + (weight @ square if on_the_right(weight.shape) else square @ weight) + rest


@torch.no_grad()
def exact(weight: Tensor, square: Tensor, rest: Tensor) -> Tensor:
    """What `product` gives, as float32, the same bits on every machine.

    Summed in float64: of float16 numbers that is without any rounding, whatever the order, while the magnitudes of an
    entry's summands add up to less than 32, as those of weights do.
    """
    terms = [m.double() for m in (weight, square, rest)]
    return (product(*terms) if bool(square.any()) else terms[0] + terms[2]).float()


def on_the_right(shape: Sequence[int]) -> bool:
    """Whether S multiplies A (out, in) of this shape from the right."""
    return shape[1] <= shape[0]


def side(shape: Sequence[int]) -> int:
    """Rows of S for a weight of this shape (out, ...)."""
    return min(shape[0], math.prod(shape[1:]))


def pack(matrices: Sequence[Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """float16 or float32 matrices -> header {"encodings", "bytes", "distinct"}, payload of the parts `PARTS`.

    For each matrix: the encoding of its places and how many bytes they take, and the size of its codebook (0: none).
    """
    header: dict[str, Any] = {"encodings": [], "bytes": [], "distinct": []}
    masks, codes, values = [], [], []
    for matrix in matrices:
        encoding, places = encodings.pack_mask(matrix != 0)
        kept = matrix[matrix != 0].cpu()
        book, index = kept.float().unique(return_inverse=True)
        packed = torch.from_numpy(bits.pack(index.numpy(), _width(len(book))))
        coded = len(book) <= MAX_CODEBOOK and len(packed) < (len(kept) - len(book)) * kept.element_size()
        header["encodings"].append(encoding)
        header["bytes"].append(len(places))
        header["distinct"].append(len(book) if coded else 0)
        masks.append(places)
        codes.append(packed if coded else packed[:0])
        values.append(book.to(kept.dtype) if coded else kept)
    return header, dict(zip(PARTS, (torch.cat(masks), torch.cat(codes), torch.cat(values)), strict=True))


def code_bits(matrix: Tensor) -> int:
    """Bits of a code, or of a value where those that are not zero are too many for a codebook."""
    distinct = len(matrix[matrix != 0].float().unique())
    return _width(distinct) if distinct <= MAX_CODEBOOK else 8 * matrix.element_size()


def unpack(header: Mapping[str, Any], payload: Mapping[str, Tensor], shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """What `pack` gave, of these shapes -> the matrices; InputFileError where anything does not fit."""
    lists = [header.get(key) for key in ("encodings", "bytes", "distinct")]
    if not all(isinstance(entry, list) and len(entry) == len(shapes) for entry in lists):
        raise InputFileError(f"encodings, bytes and distinct are {lists}, not lists of {len(shapes)}.")
    readers = {part: _Reader(part, payload[part]) for part in PARTS}
    found = [_matrix(readers, *entry) for entry in zip(shapes, *lists, strict=True)]  # type: ignore[arg-type]
    for reader in readers.values():
        reader.finish()
    return found


class _Reader:
    """A row of numbers that is taken from the front."""

    def __init__(self, part: str, data: Tensor) -> None:
        if data.dim() != 1 or (part != "values" and data.dtype != torch.uint8):
            raise InputFileError(f"the {part} are {data.dtype} with shape {tuple(data.shape)}, not a row of bytes.")
        self.part, self.data = part, data

    def take(self, count: object) -> Tensor:
        if type(count) is not int or not 0 <= count <= len(self.data):
            raise InputFileError(f"{count!r} of the {self.part} are declared, but {len(self.data)} are left.")
        taken, self.data = self.data[:count], self.data[count:]
        return taken

    def finish(self) -> None:
        if len(self.data):
            raise InputFileError(f"{len(self.data)} more of the {self.part} are stored than are declared.")


def _matrix(
    readers: Mapping[str, _Reader], shape: tuple[int, int], encoding: object, size: object, distinct: object
) -> Tensor:
    mask = encodings.unpack_mask(encoding, readers["masks"].take(size), shape[0] * shape[1])
    count = int(mask.sum())
    if distinct == 0 and type(distinct) is int:
        kept = readers["values"].take(count)
    elif type(distinct) is int and 0 < distinct <= MAX_CODEBOOK:
        book = readers["values"].take(distinct)
        kept = book[_from_bits(readers["codes"].take(-(-count * _width(distinct) // 8)), count, distinct)]
    else:
        raise InputFileError(f"a codebook of {distinct!r} values is declared, not of 0 to {MAX_CODEBOOK}.")
    if not bool((kept != 0).all()):
        raise InputFileError(f"{int((kept == 0).sum())} of the values that are kept are 0.")
    out = kept.new_zeros(shape[0] * shape[1])
    out[mask] = kept
    return out.reshape(shape)


def _width(distinct: int) -> int:
    return max(1, (distinct - 1).bit_length())


def _from_bits(data: Tensor, count: int, distinct: int) -> Tensor:
    index = bits.unpack(data.numpy(), count, _width(distinct))
    if index is None:
        raise InputFileError("the unused places of the last byte of codes are not 0.")
    if count and int(index.max()) >= distinct:
        raise InputFileError(f"a stored code is {int(index.max())}, but the codebook has {distinct} values.")
    return torch.from_numpy(index)
