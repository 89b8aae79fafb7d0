"""Compressed tensors: what a quantizer, pruner or structure makes of one weight, before it is turned into bytes.

Each kind knows the dense float32 weight it stands for (`dense`), which is exactly what is evaluated and attacked.
How codes become bytes is `encodings.py`; how files are laid out is `checkpoint.py` and docs/format.md.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from . import encodings, factors
from .errors import InputFileError


class Packed(Protocol):
    """One compressed weight."""

    scheme: ClassVar[str]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the dense weight."""
        ...

    @property
    def zeros(self) -> int:
        """How many entries of the dense weight are exactly zero."""
        ...

    def dense(self) -> Tensor:
        """The float32 weight of `shape` that this stands for."""
        ...

    def encode(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """(header, payload): JSON facts about the tensor, and the named tensors that are stored."""
        ...


@dataclass(frozen=True)
class Quantized:
    """Low-bit codes times a scale: `dense = codes * scale`, one scale per group of a row.

    codes  int8, the weight's shape, values in [-levels, levels]; binary has no 0
    scale  float16 or float32 (rows, groups), >= 0; rows is 1 for one scale a layer, else the weight's first axis
    levels M >= 1: 1 for binary and ternary, 7 for "4-bit" (15 symmetric levels)
    binary True if the alphabet is {-1, +1}
    """

    scheme: ClassVar[str] = "quantized"
    codes: Tensor
    scale: Tensor
    levels: int
    binary: bool = False

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.codes.shape)

    @property
    def zeros(self) -> int:
        # A scale that vanished makes its whole group zero, whatever the codes are.
        return int((self.dense() == 0).sum())

    def dense(self) -> Tensor:
        rows, groups = self.scale.shape
        width = -(-(self.codes.numel() // rows) // groups)
        flat = self.codes.reshape(rows, -1).float()
        scale = self.scale.float().repeat_interleave(width, dim=1)[:, : flat.shape[1]]
        return (flat * scale).reshape(self.shape)

    def encode(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        header, payload = encodings.pack_codes(self.codes, self.levels, self.binary)
        return {"levels": self.levels, "binary": self.binary, **header}, {**payload, "scale": self.scale}

    @classmethod
    def decode(cls, shape: tuple[int, ...], header: Mapping[str, Any], payload: Mapping[str, Tensor]) -> "Quantized":
        parts = _parts(payload, "codes", "scale")
        codes = encodings.unpack_codes(header, parts, math.prod(shape)).reshape(shape)
        scale, levels, binary = parts["scale"], header["levels"], header.get("binary", False)
        _check_floats("scale", scale, 2)
        rows, groups = scale.shape
        columns = codes.numel() // rows if rows else 0
        if rows not in {1, *shape[:1]} or groups < 1 or -(-columns // max(1, -(-columns // groups))) != groups:
            raise InputFileError(
                f"the scale has the shape {(rows, groups)}, not (1 or {shape[0] if shape else 1}, groups of a row)."
            )
        if scale.numel() and float(scale.min()) < 0:
            raise InputFileError(f"the smallest scale is {float(scale.min())}; scales are not negative.")
        return cls(codes, scale, levels, binary)


@dataclass(frozen=True)
class Circulant:
    """Block-circulant weight: only the first column of every block is stored.

    vectors float16 or float32 (positions, p, q, block): position is the place in a convolution kernel (1 for linear);
            block (i, j) of the (out, in) matrix is C[r, s] = vectors[., i, j, (r - s) mod block]
    """

    scheme: ClassVar[str] = "circulant"
    vectors: Tensor
    full_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.full_shape

    @property
    def zeros(self) -> int:
        return int((self.dense() == 0).sum())

    def dense(self) -> Tensor:
        from .structures.circulant import expand

        return expand(self.vectors.float(), self.full_shape)

    def encode(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {"block": self.vectors.shape[-1]}, {"vectors": self.vectors}

    @classmethod
    def decode(cls, shape: tuple[int, ...], header: Mapping[str, Any], payload: Mapping[str, Tensor]) -> "Circulant":
        vectors = _parts(payload, "vectors")["vectors"]
        _check_floats("vectors", vectors, 4)
        positions, p, q, block = vectors.shape
        blocks = [-(-size // block) for size in shape[:2]] if block else []
        if len(shape) < 2 or [positions, p, q] != [math.prod(shape[2:]), *blocks]:
            raise InputFileError(f"the vectors have the shape {tuple(vectors.shape)}, which does not fit the weight.")
        return cls(vectors, shape)


@dataclass(frozen=True)
class Sparse:
    """A pruned float weight: which are kept (a bitmap, or gaps where that is smaller) and the kept values in order.

    values float16 or float32 (kept,); mask bool, the weight's shape
    """

    scheme: ClassVar[str] = "sparse"
    values: Tensor
    mask: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.mask.shape)

    @property
    def zeros(self) -> int:
        return int((self.dense() == 0).sum())

    def dense(self) -> Tensor:
        out = torch.zeros(self.shape, device=self.values.device)
        out[self.mask] = self.values.float()
        return out

    def encode(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        encoding, mask = encodings.pack_mask(self.mask)
        return {"encoding": encoding}, {"values": self.values, "mask": mask}

    @classmethod
    def decode(cls, shape: tuple[int, ...], header: Mapping[str, Any], payload: Mapping[str, Tensor]) -> "Sparse":
        parts = _parts(payload, "values", "mask")
        encoding, values = header.get("encoding", "bitmap"), parts["values"]
        mask = encodings.unpack_mask(encoding, parts["mask"], math.prod(shape)).reshape(shape)
        _check_floats("values", values, 1)
        if int(mask.sum()) != values.numel():
            kept = int(mask.sum())
            raise InputFileError(f"the {encoding} keeps {kept} weights, but {values.numel()} values are stored.")
        return cls(values, mask)


@dataclass(frozen=True)
class Half:
    """A weight kept in floating point, stored as float16 (the first and last layers of a quantized model).

    values float16 of the weight's shape (float32 where float16 would overflow)
    """

    scheme: ClassVar[str] = "half"
    values: Tensor

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.values.shape)

    @property
    def zeros(self) -> int:
        return int((self.values == 0).sum())

    def dense(self) -> Tensor:
        return self.values.float()

    def encode(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return {}, {"values": self.values}

    @classmethod
    def decode(cls, shape: tuple[int, ...], header: Mapping[str, Any], payload: Mapping[str, Tensor]) -> "Half":
        values = _parts(payload, "values")["values"]
        _check_floats("values", values, len(shape))
        if tuple(values.shape) != shape:
            raise InputFileError(f"the values have the shape {tuple(values.shape)}.")
        return cls(values)


@dataclass(frozen=True)
class Factored:
    """A weight as a product with a square matrix plus a rest, all three mostly zeros (`factors.product`).

    weight, rest (out, in) and square (r, r) with r = min(out, in), each float16 or float32; the matrix (out, in) is the
    weight of `full_shape`, its axes after the first as one
    """

    scheme: ClassVar[str] = "factored"
    weight: Tensor
    square: Tensor
    rest: Tensor
    full_shape: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.full_shape

    @property
    def zeros(self) -> int:
        return int((self.dense() == 0).sum())

    @property
    def bits(self) -> int:
        """Bits of a stored code, or of a value where the matrices have too many of them for a codebook."""
        return max(factors.code_bits(matrix) for matrix in (self.weight, self.square, self.rest))

    def dense(self) -> Tensor:
        return factors.exact(self.weight, self.square, self.rest).reshape(self.full_shape)

    def encode(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        return factors.pack([self.weight, self.square, self.rest])

    @classmethod
    def decode(cls, shape: tuple[int, ...], header: Mapping[str, Any], payload: Mapping[str, Tensor]) -> "Factored":
        parts = _parts(payload, *factors.PARTS)
        _check_floats("values", parts["values"], 1)
        if len(shape) < 2:
            raise InputFileError(f"a weight of shape {shape} is no matrix.")
        matrix, side = (shape[0], math.prod(shape[1:])), factors.side(shape)
        weight, square, rest = factors.unpack(header, parts, [matrix, (side, side), matrix])
        return cls(weight, square, rest, shape)


SCHEMES: dict[str, type[Any]] = {kind.scheme: kind for kind in (Quantized, Circulant, Sparse, Half, Factored)}


def short_float(values: Tensor) -> Tensor:
    """float32 -> float16 where every non-zero value stays normal there, else float32 (scales must not vanish)."""
    size = values.abs()
    fits = bool(((size == 0) | ((size >= 2.0**-14) & (size <= 65504))).all())
    return values.to(torch.float16) if fits else values.to(torch.float32)


def half_float(values: Tensor) -> Tensor:
    """float32 -> float16, float32 kept only where a value would overflow (small weights may lose digits)."""
    return values.to(torch.float16) if bool((values.abs() <= 65504).all()) else values.to(torch.float32)


def _parts(payload: Mapping[str, Tensor], *names: str) -> Mapping[str, Tensor]:
    """The payload, once it is known to have exactly these parts."""
    if set(payload) != set(names):
        raise InputFileError(f"it is stored as {', '.join(sorted(payload)) or 'nothing'}, not as {', '.join(names)}.")
    return payload


def _check_floats(part: str, values: Tensor, dims: int) -> None:
    if values.dtype not in (torch.float16, torch.float32) or values.dim() != dims:
        raise InputFileError(
            f"the {part} are {str(values.dtype).removeprefix('torch.')} with shape {tuple(values.shape)}, "
            f"not float16 or float32 with {dims} axes."
        )
