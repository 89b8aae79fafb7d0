"""What packed layers share: codes in the format of the mode, the scale, the bias, and loading with a look at the codes.

| mode       | format                                | activations                                  |
|------------|---------------------------------------|----------------------------------------------|
| "exact"    | reference.py, ternary linear layers * | float32                                      |
| "exact"    | lowbit.py, all others                 | float32                                      |
| "accurate" | lowbit.py                             | 16 bits, one scale a row (image: a sample)   |
| "int8"     | lowbit.py                             | 8 bits, one scale a row (image: a sample)    |

* and the ternary convolutions that lowbit.py has no op for (`PackedConv2d`)
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from . import lowbit, lowbit_ops, ops, reference


class Packed(nn.Module):
    """A weight of any shape as packed codes of a matrix (rows = first axis), with scale and bias.

    packed  buffer: int32 where the codes are `words` (reference.py), uint8 (lowbit.py) else
    scale   buffer: floating (1 or rows, groups) of words, float32 (groups, rows) else
    zero    buffer: uint8 (groups, rows) zero points, or None
    bias    (rows,) parameter or None
    `.to(dtype)` and `.half()` convert the bias like any weight, and the scale of words; the codes stay.

    `words` False: ternary codes are as lowbit.py has them in mode "exact" too.

    Codes are int8, or with zero points (1 or rows, groups) uint8 like these: the weight is (code - zero) * scale.
    """

    packed: Tensor
    scale: Tensor
    zero: Tensor | None
    bias: nn.Parameter | None

    def __init__(
        self,
        codes: Tensor,
        scale: Tensor,
        bias: Tensor | None = None,
        mode: str = "exact",
        bits: int = 2,
        zero: Tensor | None = None,
        words: bool = True,
    ) -> None:
        super().__init__()
        lowbit.check_mode(mode)
        lowbit.check_bits(bits)
        self.words = words and mode == "exact" and bits == 2 and zero is None
        rows = codes.shape[0] if codes.dim() else 0
        self.mode, self.bits = mode, bits
        self.weight_shape = tuple(codes.shape)
        self.matrix = (rows, codes.numel() // max(rows, 1))
        self.groups_of_row = scale.shape[1] if scale.dim() == 2 else 0
        if min(self.matrix) < 1:
            raise ValueError(f"rows and columns must be positive, found {rows} and {self.matrix[1]}")
        reference.check_scale(scale, *self.matrix)
        if bias is not None and tuple(bias.shape) != (rows,):
            raise ValueError(f"the bias must have shape ({rows},), found {tuple(bias.shape)}")
        if zero is not None and (zero.shape != scale.shape or zero.dtype != torch.uint8):
            found = f"{zero.dtype} of shape {tuple(zero.shape)}"
            raise ValueError(f"zero points must be uint8 of the scale's shape {tuple(scale.shape)}, found {found}")
        if zero is not None:
            lowbit.check_zero_values(zero, bits)
        self.register_buffer("zero", None if zero is None else zero.detach().expand(rows, -1).T.contiguous())
        self.register_buffer("packed", self.encode(codes))
        if self.words:
            kept = scale.detach().to(reference.sum_dtype(scale.dtype), copy=True)
        else:
            kept = scale.detach().float().expand(rows, -1).T.contiguous()
        self.register_buffer("scale", kept)
        own = None if bias is None else nn.Parameter(bias.detach().clone(), requires_grad=bias.requires_grad)
        self.register_parameter("bias", own)

    def encode(self, codes: Tensor) -> Tensor:
        flat = codes.reshape(self.matrix)
        if self.words:
            return reference.pack(flat)
        pack = lowbit.pack if self.zero is None else lowbit.pack_fields
        return pack(flat, self.bits, self.groups_of_row)

    @property
    def weight(self) -> Tensor:
        """The dense weight these codes stand for, decoded anew at each access: float32 (float64 if the scale is)."""
        if self.words:
            return ops.ternary_dense(self.packed, self.scale, *self.matrix).view(self.weight_shape)
        return self.decode()

    def decode(self) -> Tensor:
        """The weight, unless the codes are words."""
        return lowbit_ops.lowbit_dense(self.packed, self.scale, self.bits, self.matrix[1], self.zero).reshape(
            self.weight_shape
        )

    def corrupt(self, found: Tensor) -> str | None:
        """What is wrong with codes of the right shape, or None."""
        if found.dtype != self.packed.dtype:
            return f"must be {str(self.packed.dtype).removeprefix('torch.')}, found {found.dtype}"
        if self.words:
            wrong, pattern = reference.corrupt(found, *self.matrix), "10"
        else:
            columns = self.columns()
            codes = lowbit.decode(found, self.bits, self.matrix[0], columns, self.groups_of_row)
            wrong = int((codes.abs() > lowbit.HIGHEST[self.bits]).sum())
            pattern = "11" if self.bits == 2 else "0000"
            wrong = 0 if self.zero is not None else wrong  # with zero points every pattern is a code
        return f"{wrong} of {math.prod(self.matrix)} codes hold the bit pattern {pattern}" if wrong else None

    def columns(self) -> int:
        """Columns of the packed matrix."""
        return self.matrix[1]

    def _apply(self, fn: Any, recurse: bool = True) -> "Packed":
        super()._apply(fn, recurse)
        if not self.words:
            self.scale = self.scale.float()  # their kernels take no other
        return self

    def extra_repr(self) -> str:
        shape = " x ".join(map(str, self.weight_shape))
        kind = "ternary" if self.bits == 2 else f"{self.bits}-bit"
        zero = "" if self.zero is None else ", zero points"
        return f"{kind} {shape}, scale {tuple(self.scale.shape)}{zero}, bias={self.bias is not None}, mode={self.mode}"

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        found = state_dict.get(f"{prefix}packed")
        if found is not None and found.shape == self.packed.shape and (wrong := self.corrupt(found)):
            error_msgs.append(f"{prefix}packed{':' if 'codes' in wrong else ''} {wrong}")  # torch reports the rest
        zero = state_dict.get(f"{prefix}zero")
        if self.zero is not None and zero is not None and zero.numel() and int(zero.max()) >= 2**self.bits:
            error_msgs.append(f"{prefix}zero: zero points of {self.bits} bits are below {2**self.bits}")
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
