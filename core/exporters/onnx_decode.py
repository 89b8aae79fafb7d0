"""Compressed weights as ONNX: small initializers and the standard operators that turn them into the dense weight.

The operators have constant inputs only, so a runtime that folds constants (onnxruntime does, on loading) runs the
network at dense speed; only the file is small. DequantizeLinear would be the operator for the purpose, but
onnxruntime 1.31 fuses it into kernels that are slower, and wrong for INT2 where N is no multiple of four.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from .. import factors
from ..packed import Circulant, Factored, Half, Packed, Quantized, Sparse

BASE_OPSET, INT4_OPSET, INT2_OPSET = 18, 21, 25
IR = {BASE_OPSET: 8, INT4_OPSET: 10, INT2_OPSET: 13}  # the first IR version released with each of them
_FEW = 64  # below so many numbers a Cast node costs more bytes than float16 saves


def opset(packed: Packed, style: str) -> int:
    """The lowest opset whose types and operators can say this tensor."""
    if style == "dense" or not isinstance(packed, Quantized) or packed.levels > 7:
        return BASE_OPSET
    if packed.levels == 1:
        return BASE_OPSET if style == "base3" else INT2_OPSET
    return INT4_OPSET


@dataclass
class Decoder:
    """Nodes and initializers whose last output is the dense float32 weight called `name`."""

    name: str
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)

    def add(self, packed: Packed, style: str) -> str:
        """Append the decoding of `packed`; returns what the file holds ("int2", "base3", ...)."""
        if isinstance(packed, Quantized) and style != "dense":
            kind = self._quantized(packed, style)
        elif isinstance(packed, Circulant) and style != "dense":
            kind = self._circulant(packed)
        elif isinstance(packed, Sparse) and style != "dense":
            kind = self._finish(self._scattered(packed.values, packed.mask), "bitmap")
        elif isinstance(packed, Factored) and style != "dense":
            kind = self._factored(packed)
        elif isinstance(packed, Half) and style != "dense":
            kind = self._finish(self._floats("values", packed.values.reshape(packed.shape)), "float16")
        else:
            kind = self._finish(self._constant("dense", packed.dense()), "float32")
        return kind

    def _quantized(self, packed: Quantized, style: str) -> str:
        rows, groups = packed.scale.shape
        per_row = packed.codes.numel() // rows
        width = -(-per_row // groups)
        codes = torch.nn.functional.pad(packed.codes.reshape(rows, per_row), (0, groups * width - per_row))
        # One scale a row (or layer) multiplies the codes in the weight's own shape: no Reshape to run.
        plain = groups == 1
        shape = packed.shape if plain else (rows, groups, width)
        ones = len(packed.shape) - 1 if plain else 1
        scale = self._floats("scale", packed.scale.reshape(rows, *([] if plain else [groups]), *[1] * ones))
        base3 = style == "base3" and packed.levels == 1
        kind = "base3" if base3 else {1: "int2"}.get(packed.levels, "int4" if packed.levels <= 7 else "int8")
        stored = self._base3(codes, shape) if base3 else self._integers(codes.reshape(shape), kind)
        weight = self._op("Mul", [self._op("Cast", [stored], to=TensorProto.FLOAT), scale])
        if not plain:
            if groups * width > per_row:
                weight = self._head(self._reshape(weight, (rows, groups * width)), per_row, axis=1)
            weight = self._reshape(weight, packed.shape)
        return self._finish(weight, kind)

    def _integers(self, codes: Tensor, kind: str) -> str:
        """An initializer of 2, 4 or 8 bits a code, the first code in the lowest bits of the first byte."""
        bits, element = {"int2": (2, TensorProto.INT2), "int4": (4, TensorProto.INT4), "int8": (8, TensorProto.INT8)}[
            kind
        ]
        each = 8 // bits
        flat = np.pad(codes.flatten().numpy().view(np.uint8) & (2**bits - 1), (0, -codes.numel() % each))
        data = np.bitwise_or.reduce(flat.reshape(-1, each) << np.arange(0, 8, bits, dtype=np.uint8), axis=1)
        name = f"{self.name}::codes"
        # Raw bytes: the int32 fields that make_tensor fills by default take up to ten bytes each.
        self.initializers.append(helper.make_tensor(name, element, list(codes.shape), data.tobytes(), raw=True))
        return name

    def _base3(self, codes: Tensor, shape: Sequence[int]) -> str:
        """Five ternary digits a byte: byte = sum of (code + 1) * 3^k, k = 0..4."""
        n = codes.numel()
        digits = torch.nn.functional.pad(codes.flatten() + 1, (0, -n % 5)).reshape(-1, 5).int()
        powers = torch.tensor([1, 3, 9, 27, 81], dtype=torch.int32)
        stored = self._constant("codes", (digits * powers).sum(1, keepdim=True).to(torch.uint8))
        digits_out = self._digits(stored, powers, 3)
        centred = self._op("Sub", [digits_out, self._constant("one", torch.tensor(1, dtype=torch.int32))])
        return self._reshape(self._flat(centred, digits.numel(), n), shape)

    def _scattered(self, values: Tensor, kept: Tensor) -> str:
        """A bitmap and the kept values (k,): weight = mask * values[(running count of the mask) - 1], float32."""
        mask, n = kept.flatten(), kept.numel()
        bits = torch.nn.functional.pad(mask.to(torch.int32), (0, -n % 8)).reshape(-1, 8)
        powers = 2 ** torch.arange(8, dtype=torch.int32)
        stored = self._constant("mask", (bits * powers).sum(1, keepdim=True).to(torch.uint8))
        flat = self._flat(self._digits(stored, powers, 2), bits.numel(), n)
        # Entry 0 of the values is the zero that every pruned weight gathers.
        stored = self._floats("values", torch.cat([torch.zeros(1, dtype=values.dtype), values.flatten()]))
        count = self._op("CumSum", [flat, self._constant("axis", torch.tensor(0))])
        weight = self._op("Gather", [stored, self._op("Mul", [count, flat])], axis=0)
        return self._reshape(weight, kept.shape)

    def _factored(self, packed: Factored) -> str:
        """A + S A + C (or A + A S + C), summed in float64 as `factors.exact` does."""
        found: dict[str, str] = {}
        for part in ("weight", "square", "rest"):
            matrix: Tensor = getattr(packed, part)
            if part == "weight" or bool(matrix.any()):
                single = self._scattered(matrix[matrix != 0], matrix != 0)
                found[part] = self._op("Cast", [single], to=TensorProto.DOUBLE)
        total = found["weight"]
        if "square" in found:
            pair = [found["weight"], found["square"]]
            right = factors.on_the_right(packed.weight.shape)
            total = self._op("Add", [total, self._op("MatMul", pair if right else pair[::-1])])
        if "rest" in found:
            total = self._op("Add", [total, found["rest"]])
        single = self._op("Cast", [total], to=TensorProto.FLOAT)
        return self._finish(self._reshape(single, packed.shape), "factors")

    def _circulant(self, packed: Circulant) -> str:
        """Block (i, j) at position t is C[r, s] = vectors[t, i, j, (r - s) mod k]: a Gather along the last axis."""
        positions, p, q, k = packed.vectors.shape
        out, inputs = packed.shape[:2]
        index = (torch.arange(k)[:, None] - torch.arange(k)[None, :]) % k
        vectors = self._floats("vectors", packed.vectors)
        blocks = self._op("Gather", [vectors, self._constant("index", index)], axis=3)
        matrix = self._reshape(self._op("Transpose", [blocks], perm=[1, 3, 2, 4, 0]), (p * k, q * k, positions))
        matrix = self._head(matrix, out, axis=0) if p * k > out else matrix
        matrix = self._head(matrix, inputs, axis=1) if q * k > inputs else matrix
        return self._finish(self._reshape(matrix, packed.shape), "circulant")

    def _digits(self, stored: str, powers: Tensor, base: int) -> str:
        """uint8 (n, 1) -> int32 (n, len(powers)): the digits of each byte, the lowest first."""
        wide = self._op("Cast", [stored], to=TensorProto.INT32)
        shifted = self._op("Div", [wide, self._constant("powers", powers)])
        return self._op("Mod", [shifted, self._constant("base", torch.tensor(base, dtype=torch.int32))])

    def _floats(self, part: str, values: Tensor) -> str:
        """float32 from an initializer that keeps float16 where the values are float16 and it saves bytes."""
        if values.dtype != torch.float16 or values.numel() < _FEW:
            return self._constant(part, values.float())
        return self._op("Cast", [self._constant(part, values)], to=TensorProto.FLOAT)

    def _flat(self, value: str, length: int, n: int) -> str:
        """(n,) of a value that holds `length` >= n entries."""
        flat = self._reshape(value, (-1,))
        return self._head(flat, n, axis=0) if length > n else flat

    def _head(self, value: str, n: int, axis: int) -> str:
        """The first n entries along an axis."""
        ends = [
            self._constant(f"{kind}{axis}", torch.tensor([v])) for kind, v in (("from", 0), ("to", n), ("axis", axis))
        ]
        return self._op("Slice", [value, *ends])

    def _reshape(self, value: str, shape: Sequence[int]) -> str:
        return self._op("Reshape", [value, self._constant("shape", torch.tensor(list(shape)))])

    def _constant(self, part: str, values: Tensor) -> str:
        name = f"{self.name}::{part}"
        taken = sum(t.name == name or t.name.startswith(f"{name}.") for t in self.initializers)
        name = f"{name}.{taken}" if taken else name
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(values.numpy()), name))
        return name

    def _op(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        output = f"{self.name}::{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def _finish(self, value: str, kind: str) -> str:
        """Give the last value the weight's own name, so that its consumers stay as they are."""
        if self.nodes and self.nodes[-1].output[0] == value:
            self.nodes[-1].output[0] = self.name
        else:
            self.initializers[-1].name = self.name
        return kind
