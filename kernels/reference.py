"""Plain torch: the specification of every op, and what runs where no native kernel does.

Packed ternary matrix. `packed` is int32 (ceil(out / 16), ceil(in / 16), 16): word (b, w, lane) holds the codes of row
16 b + lane, columns 16 w ... 16 w + 15, two bits each, the first column in the lowest bits, in two's complement:
00 = 0, 01 = +1, 11 = -1. The pattern 10 is never written; a corrupt buffer that holds it decodes to NaN.
Rows and columns beyond (out, in) are padding, written as 0 and never read.

`scale` is floating (rows, groups), rows 1 (one scale a layer) or out; group g covers columns
[g * width, (g + 1) * width), width = ceil(in / groups). The weight is codes * scale, in float32 (float64 if the scale
is float64); products are summed in float32 (float64 for float64 x) and returned in the dtype of x.

Errors are TypeError for a dtype and ValueError for a size, with the values found.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

LANES = 16  # rows of a block, and columns of a word
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


def pack(codes: Tensor) -> Tensor:
    """codes (out, in) int8 in {-1, 0, 1} -> packed int32 (ceil(out / 16), ceil(in / 16), 16)."""
    if codes.dim() != 2 or codes.dtype != torch.int8:
        raise TypeError(f"codes must be int8 of 2 dimensions, found {codes.dtype} of shape {tuple(codes.shape)}")
    if bool(((codes < -1) | (codes > 1)).any()):
        low, high = int(codes.min()), int(codes.max())
        raise ValueError(f"ternary codes must be -1, 0 or 1, found values from {low} to {high}")
    out, columns = codes.shape
    codes = F.pad(codes, (0, -columns % LANES, 0, -out % LANES))
    blocks = codes.view(codes.shape[0] // LANES, LANES, codes.shape[1] // LANES, LANES).transpose(1, 2)
    shifts = 2 * torch.arange(LANES, device=codes.device)
    words = ((blocks.long() & 3) << shifts).sum(-1)
    return torch.where(words >= 2**31, words - 2**32, words).int()  # the same 32 bits, signed


def fields(packed: Tensor, out_features: int, in_features: int) -> Tensor:
    """packed -> the raw two-bit fields (out, in) int32 in 0 ... 3."""
    shifts = 2 * torch.arange(LANES, device=packed.device, dtype=torch.int32)
    blocks, words, _ = packed.shape
    codes = (packed.unsqueeze(-1) >> shifts & 3).transpose(1, 2).reshape(blocks * LANES, words * LANES)
    return codes[:out_features, :in_features]


def corrupt(packed: Tensor, out_features: int, in_features: int) -> int:
    """How many codes hold the pattern 10, which is never written."""
    return int((fields(packed, out_features, in_features) == 2).sum())


def unpack(packed: Tensor, out_features: int, in_features: int) -> Tensor:
    """packed -> codes (out, in) int8 in {-1, 0, 1}; ValueError where a code is corrupt."""
    check_packed(packed, out_features, in_features)
    raw = fields(packed, out_features, in_features)
    wrong = int((raw == 2).sum())
    if wrong:
        raise ValueError(f"{wrong} of {raw.numel()} packed codes hold the bit pattern 10, which stands for nothing")
    return ((raw & 1) - (raw & 2)).to(torch.int8)


def check_packed(packed: Tensor, out_features: int, in_features: int) -> None:
    """TypeError or ValueError unless `packed` is int32 of the size that (out, in) needs."""
    if out_features < 1 or in_features < 1:
        raise ValueError(f"out_features and in_features must be positive, found {out_features} and {in_features}")
    if packed.dtype != torch.int32:
        raise TypeError(f"packed codes must be int32, found {packed.dtype}")
    wanted = (-(-out_features // LANES), -(-in_features // LANES), LANES)
    if tuple(packed.shape) != wanted:
        raise ValueError(
            f"packed codes of a {out_features} x {in_features} matrix have shape {wanted}, found {tuple(packed.shape)}"
        )


def check_scale(scale: Tensor, out_features: int, in_features: int) -> None:
    """TypeError or ValueError unless `scale` is floating (1 or out, 1 ... in)."""
    if scale.dtype not in FLOATS:
        raise TypeError(f"the scale must be floating, found {scale.dtype}")
    if scale.dim() != 2 or scale.shape[0] not in (1, out_features) or not 1 <= scale.shape[1] <= in_features:
        raise ValueError(
            f"the scale of a {out_features} x {in_features} matrix has 1 or {out_features} rows and 1 to {in_features} "
            f"groups, found shape {tuple(scale.shape)}"
        )


def check_x(x: Tensor, in_features: int) -> None:
    """TypeError or ValueError unless `x` is floating (*, in)."""
    if x.dtype not in FLOATS:
        raise TypeError(f"x must be floating, found {x.dtype}")
    if x.dim() < 1 or x.shape[-1] != in_features:
        raise ValueError(f"the last dimension of x must be {in_features}, found shape {tuple(x.shape)}")


def check_bias(bias: Tensor | None, out_features: int) -> None:
    """TypeError or ValueError unless `bias` is floating (out,), or None."""
    if bias is None:
        return
    if bias.dtype not in FLOATS:
        raise TypeError(f"the bias must be floating, found {bias.dtype}")
    if tuple(bias.shape) != (out_features,):
        raise ValueError(f"the bias must have shape ({out_features},), found {tuple(bias.shape)}")


def check_layer(packed: Tensor, scale: Tensor, bias: Tensor | None, out_features: int, in_features: int) -> None:
    """TypeError or ValueError unless the arguments of `ternary_linear` but x fit together."""
    check_packed(packed, out_features, in_features)
    check_scale(scale, out_features, in_features)
    check_bias(bias, out_features)


def check_linear(
    x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None, out_features: int, in_features: int
) -> None:
    """TypeError or ValueError unless the arguments of `ternary_linear` fit together."""
    check_layer(packed, scale, bias, out_features, in_features)
    check_x(x, in_features)


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are taken in: float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def spread(scale: Tensor, out_features: int, in_features: int) -> Tensor:
    """scale (rows, groups) -> one factor a weight, (rows, in)."""
    width = -(-in_features // scale.shape[1])
    return scale.repeat_interleave(width, dim=1)[:, :in_features]


def ternary_dense(packed: Tensor, scale: Tensor, out_features: int, in_features: int) -> Tensor:
    """packed, scale -> weight (out, in) = codes * scale, float32 (float64 if the scale is)."""
    check_packed(packed, out_features, in_features)
    check_scale(scale, out_features, in_features)
    dtype = sum_dtype(scale.dtype)
    values = torch.tensor([0.0, 1.0, float("nan"), -1.0], dtype=dtype, device=packed.device)
    codes = values[fields(packed, out_features, in_features)]
    return codes * spread(scale.to(dtype), out_features, in_features)


def ternary_linear(
    x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None, out_features: int, in_features: int
) -> Tensor:
    """x (*, in) -> y (*, out) = x @ (codes * scale).T + bias, in the dtype of x."""
    check_linear(x, packed, scale, bias, out_features, in_features)
    dtype = sum_dtype(x.dtype)
    weight = ternary_dense(packed, scale, out_features, in_features).to(dtype)
    return F.linear(x.to(dtype), weight, None if bias is None else bias.to(dtype)).to(x.dtype)
