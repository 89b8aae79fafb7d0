"""Codes of two or four bits for integer kernels: the format, and plain torch as the specification of the ops on it.

Packed matrix. `codes` is uint8 (ceil(out / 64), steps, 32 * bits), bits 2 (codes -1, 0, 1) or 4 (codes -7 ... 7; with
zero points all that the bits hold).
A step is four columns; every group of columns is padded to whole steps. Byte (block, step, 64 h + 4 lane + c) holds in
its field b, bits b * bits and up, code + zero of output 64 block + 16 ((8 / bits) h + b) + lane at column c of the
step, with zero = 1 at two bits and 8 at four. Padding holds zero and is never read as a weight.

`scale` is float32 (groups, out), group g covering columns [g * width, (g + 1) * width), width = ceil(in / groups).
`zero`, if there is one, is uint8 (groups, out): the stored field that stands for 0, in place of 1 or 8, so that the
weight is (field - zero) * scale, as ONNX's MatMulNBits, GPTQ and AWQ have it.

Modes: "exact" leaves x as it is and sums in float32, in float64 where x is float64 (the scale is float32 either way).
"accurate" rounds each row of x (each sample of an image batch) to integers in [-32512, 32512] times its own scale,
"int8" to [-127, 127]; the products are then exact integers, summed exactly, and scaled in float32. There a row with NaN
or infinity gives NaN, and a row below 1e-30 throughout counts as zero.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from . import reference

OUTPUTS = 64  # of a block
STEP = 4  # columns
LEVELS = {"accurate": 32512.0, "int8": 127.0}  # 32512 = 256 * 127: two int8 halves that stay in range
PLANES = {"accurate": 2, "int8": 1}
MODES = ("exact", *LEVELS)
ZERO = {2: 1, 4: 8}
HIGHEST = {2: 1, 4: 7}
SMALLEST = 1e-30


def pack(codes: Tensor, bits: int, groups: int = 1) -> Tensor:
    """codes (out, in) int8 -> packed uint8 (ceil(out / 64), steps, 32 * bits)."""
    check_bits(bits)
    return _pack(codes, bits, groups, -HIGHEST[bits], HIGHEST[bits])


def pack_fields(fields: Tensor, bits: int, groups: int = 1) -> Tensor:
    """fields (out, in) uint8, any below 2^bits, for layers with zero points -> packed as by `pack`."""
    check_bits(bits)
    if fields.dtype != torch.uint8:
        raise TypeError(f"codes with zero points must be uint8, found {fields.dtype}")
    if fields.numel() and int(fields.max()) >= 2**bits:
        raise ValueError(f"codes of {bits} bits are below {2**bits}, found {int(fields.max())}")
    return _pack((fields.short() - ZERO[bits]).to(torch.int8), bits, groups, -ZERO[bits], 2**bits - 1 - ZERO[bits])


def _pack(codes: Tensor, bits: int, groups: int, lowest: int, highest: int) -> Tensor:
    if codes.dim() != 2 or codes.dtype != torch.int8:
        raise TypeError(f"codes must be int8 of 2 dimensions, found {codes.dtype} of shape {tuple(codes.shape)}")
    if not codes.numel():
        raise ValueError(f"a packed matrix has at least one weight, found shape {tuple(codes.shape)}")
    if bool(((codes < lowest) | (codes > highest)).any()):
        low, high = int(codes.min()), int(codes.max())
        raise ValueError(f"{bits}-bit codes must be in [{lowest}, {highest}], found values from {low} to {high}")
    out, columns = codes.shape
    if not 1 <= groups <= columns:
        raise ValueError(f"{columns} columns have 1 to {columns} groups, found {groups}")
    padded = codes.new_zeros((-(-out // OUTPUTS) * OUTPUTS, STEP * steps(columns, groups)))
    padded[:out, places(columns, groups).to(codes.device)] = codes
    fields = 8 // bits
    parts = (padded.shape[0] // OUTPUTS, OUTPUTS // (16 * fields), fields, 16, padded.shape[1] // STEP, STEP)
    shifts = bits * torch.arange(fields, device=codes.device)
    values = (padded.view(parts).permute(0, 4, 1, 3, 5, 2).long() + ZERO[bits]) << shifts
    return values.sum(-1).flatten(2).to(torch.uint8)


def unpack(packed: Tensor, bits: int, out_features: int, in_features: int, groups: int = 1) -> Tensor:
    """packed -> codes (out, in) int8; ValueError where a field holds what `pack` never writes."""
    check_packed(packed, bits, out_features, in_features, groups)
    codes = decode(packed, bits, out_features, in_features, groups)
    wrong = int((codes.abs() > HIGHEST[bits]).sum())
    if wrong:
        raise ValueError(f"{wrong} of {codes.numel()} packed codes are beyond {HIGHEST[bits]} in magnitude")
    return codes


def decode(packed: Tensor, bits: int, out_features: int, in_features: int, groups: int) -> Tensor:
    """packed -> codes (out, in) int8, as the kernels read them, unchecked."""
    blocks, count, _ = packed.shape
    fields = 8 // bits
    shifts = bits * torch.arange(fields, device=packed.device, dtype=torch.uint8)
    values = packed.view(blocks, count, OUTPUTS // (16 * fields), 16, STEP, 1) >> shifts & (2**bits - 1)
    flat = values.permute(0, 2, 5, 3, 1, 4).reshape(blocks * OUTPUTS, count * STEP).to(torch.int8) - ZERO[bits]
    if groups == 1:  # padded behind the last column only
        return flat[:out_features, :in_features]
    return flat[:out_features, places(in_features, groups).to(packed.device)]


def steps(in_features: int, groups: int) -> int:
    """Steps of a packed matrix: every group that has columns is padded to whole steps."""
    width = -(-in_features // groups)
    full, rest = in_features // width, in_features % width
    return full * -(-width // STEP) + -(-rest // STEP)


def places(in_features: int, groups: int) -> Tensor:
    """Where each column lies among the padded ones, (in,) int64."""
    width = -(-in_features // groups)
    column = torch.arange(in_features)
    return column // width * (-(-width // STEP) * STEP) + column % width


def dense(packed: Tensor, scale: Tensor, bits: int, in_features: int, zero: Tensor | None = None) -> Tensor:
    """packed, scale (groups, out), zero (groups, out) -> weight (out, in) float32 = (codes - zero points) * scale."""
    check(packed, scale, bits, in_features)
    groups, out = scale.shape
    codes = decode(packed, bits, out, in_features, groups).float()
    if zero is not None:
        check_zero(zero, scale)
        codes = codes - (reference.spread(zero.float().T, out, in_features) - ZERO[bits])
    return codes * reference.spread(scale.float().T, out, in_features)


def values_of(x: Tensor, mode: str, dims: tuple[int, ...]) -> Tensor:
    """What stands for x in the products, in the dtype that they are summed in; one scale for all of `dims`."""
    return x.to(reference.sum_dtype(x.dtype)) if mode == "exact" else rounded(x.float(), mode, dims)


def rounded(x: Tensor, mode: str, dims: tuple[int, ...]) -> Tensor:
    """x float32 -> the multiples of a scale that stand for it; one scale for all of `dims`."""
    most = x.detach().abs().amax(dims, keepdim=True)
    zero = most < SMALLEST
    safe = most.masked_fill(zero, 1.0)
    levels = safe.new_tensor(LEVELS[mode])  # a number divided by a tensor would be a product with the reciprocal
    scaled = torch.round(x * (levels / safe)) * (safe / levels)
    scaled = scaled.masked_fill(zero, 0.0)
    return torch.where(most.isfinite(), scaled, torch.nan)


def linear(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    bits: int,
    in_features: int,
    mode: str,
    relu: bool,
    zero: Tensor | None = None,
) -> Tensor:
    """x (*, in) -> y (*, out) in the dtype of x: act(values_of(x) @ weight.T + bias)."""
    check_linear(x, packed, scale, bias, bits, in_features, mode, zero)
    if zero is not None:
        check_zero_values(zero, bits)
    values = values_of(x, mode, (-1,))
    weight = dense(packed, scale, bits, in_features, zero).to(values.dtype)
    y = F.linear(values, weight, None if bias is None else bias.to(values.dtype))
    return (y.relu() if relu else y).to(x.dtype)


def conv2d(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    bits: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    mode: str,
    relu: bool,
) -> Tensor:
    """x (n, c, h, w) -> y (n, out, oh, ow), channels last in memory, in the dtype of x.

    The columns of the packed matrix are (kernel height, kernel width, c / groups rounded up to a multiple of four); one
    group of scales.
    """
    check_conv2d(x, packed, scale, bias, bits, kernel, stride, padding, dilation, groups, mode)
    values = values_of(x, mode, (1, 2, 3))
    weight = kernel_weight(packed, scale, bits, x.shape[1] // groups, kernel).to(values.dtype)
    y = F.conv2d(values, weight, None if bias is None else bias.to(values.dtype), stride, padding, dilation, groups)
    y = y.relu() if relu else y
    return y.to(x.dtype).permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def pack_kernel(codes: Tensor, bits: int) -> Tensor:
    """codes (out, c, kh, kw) int8 -> packed matrix of columns (kh, kw, c rounded up to a multiple of four)."""
    padded = F.pad(codes.permute(0, 2, 3, 1), (0, -codes.shape[1] % STEP))
    return pack(padded.reshape(codes.shape[0], -1), bits)


def kernel_weight(packed: Tensor, scale: Tensor, bits: int, channels: int, kernel: list[int]) -> Tensor:
    """The dense weight (out, c, kh, kw) float32 of a packed kernel."""
    return kernel_view(dense(packed, scale, bits, kernel_columns(channels, kernel)), channels, kernel)


def kernel_view(flat: Tensor, channels: int, kernel: list[int]) -> Tensor:
    """The weight (out, c, kh, kw) that a matrix (out, columns) holds."""
    return flat.unflatten(1, (*kernel, -1))[..., :channels].permute(0, 3, 1, 2)


def kernel_columns(channels: int, kernel: list[int]) -> int:
    return kernel[0] * kernel[1] * (channels + -channels % STEP)


def check_bits(bits: int) -> None:
    if bits not in ZERO:
        raise ValueError(f"packed codes have 2 or 4 bits, found {bits}")


def check_packed(packed: Tensor, bits: int, out_features: int, in_features: int, groups: int) -> None:
    """TypeError or ValueError unless `packed` is uint8 of the size that (out, in) needs."""
    check_bits(bits)
    if out_features < 1 or in_features < 1:
        raise ValueError(f"out_features and in_features must be positive, found {out_features} and {in_features}")
    if not 1 <= groups <= in_features:
        raise ValueError(f"{in_features} columns have 1 to {in_features} groups, found {groups}")
    if packed.dtype != torch.uint8:
        raise TypeError(f"packed codes must be uint8, found {packed.dtype}")
    wanted = (-(-out_features // OUTPUTS), steps(in_features, groups), 32 * bits)
    if tuple(packed.shape) != wanted:
        size = f"{out_features} x {in_features} matrix of {groups} groups"
        raise ValueError(f"{bits}-bit codes of a {size} have shape {wanted}, found {tuple(packed.shape)}")


def check(packed: Tensor, scale: Tensor, bits: int, in_features: int) -> None:
    if scale.dtype != torch.float32:
        raise TypeError(f"the scale must be float32, found {scale.dtype}")
    if scale.dim() != 2:
        raise ValueError(f"the scale must have the shape (groups, out), found {tuple(scale.shape)}")
    check_packed(packed, bits, scale.shape[1], in_features, scale.shape[0])


def check_zero(zero: Tensor, scale: Tensor) -> None:
    if zero.dtype != torch.uint8:
        raise TypeError(f"the zero points must be uint8, found {zero.dtype}")
    if zero.shape != scale.shape:
        raise ValueError(f"the zero points must have the scale's shape {tuple(scale.shape)}, found {tuple(zero.shape)}")


def check_zero_values(zero: Tensor, bits: int) -> None:
    highest = int(zero.max())
    if highest >= 2**bits:
        raise ValueError(f"zero points of {bits} bits are below {2**bits}, found {highest}")


def check_mode(mode: str) -> None:
    if mode not in MODES:
        raise ValueError(f"the mode of packed layers is one of {', '.join(MODES)}, found {mode!r}")


def check_layer(
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    bits: int,
    in_features: int,
    mode: str,
    zero: Tensor | None = None,
) -> None:
    """TypeError or ValueError unless the arguments of `linear` but x fit together."""
    check(packed, scale, bits, in_features)
    if zero is not None:
        check_zero(zero, scale)
    check_mode(mode)
    reference.check_bias(bias, scale.shape[1])


def check_linear(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    bits: int,
    in_features: int,
    mode: str,
    zero: Tensor | None = None,
) -> None:
    """TypeError or ValueError unless the arguments of `linear` fit together."""
    check_layer(packed, scale, bias, bits, in_features, mode, zero)
    reference.check_x(x, in_features)


def check_conv2d(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    bits: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    mode: str,
) -> None:
    """TypeError or ValueError unless the arguments of `conv2d` fit together."""
    for name, pair, least in [("kernel", kernel, 1), ("stride", stride, 1), ("padding", padding, 0)]:
        check_pair(name, pair, least)
    check_pair("dilation", dilation, 1)
    if x.dtype not in reference.FLOATS:
        raise TypeError(f"x must be floating, found {x.dtype}")
    if x.dim() != 4 or not x.shape[1]:
        raise ValueError(f"x must have the shape (n, channels, height, width), found {tuple(x.shape)}")
    if scale.dim() == 2 and scale.shape[0] != 1:
        raise ValueError(f"a packed kernel has one scale group, found {scale.shape[0]}")
    if groups < 1 or x.shape[1] % groups:
        raise ValueError(f"groups must divide the {x.shape[1]} channels of x, found {groups}")
    check(packed, scale, bits, kernel_columns(x.shape[1] // groups, kernel))
    if scale.shape[1] % groups:
        raise ValueError(f"groups must divide the {scale.shape[1]} channels of y, found {groups}")
    check_mode(mode)
    reference.check_bias(bias, scale.shape[1])
    if min(output_size(x.shape[2:], kernel, stride, padding, dilation)) < 1:
        raise ValueError(f"a kernel of {tuple(kernel)} does not fit into x of shape {tuple(x.shape)}")


def check_pair(name: str, pair: list[int], least: int) -> None:
    if len(pair) != 2 or min(pair) < least:
        raise ValueError(f"{name} must be two numbers from {least} on, found {tuple(pair)}")


def output_size(
    size: Sequence[int], kernel: list[int], stride: list[int], padding: list[int], dilation: list[int]
) -> tuple[int, int]:
    """Height and width of a convolution's output, from those of x."""
    sizes = zip(size, kernel, stride, padding, dilation, strict=True)
    height, width = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sizes)
    return height, width
