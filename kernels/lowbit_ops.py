"""The ops `robustq::lowbit_linear` and `robustq::lowbit_conv2d`: schema, fake, autograd and the native override.

Rounding the activations counts as the identity in the backward pass: the gradient is that of the dequantized layer.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import grad as gradients

from . import backend, lowbit, reference
from .direct import address, plain
from .ops import LIBRARY
from .ready import Ready

WINDOW = "int[] kernel, int[] stride, int[] padding, int[] dilation, int groups"
LIBRARY.define(
    "lowbit_linear(Tensor x, Tensor packed, Tensor scale, Tensor? bias, int bits, int in_features, str mode, bool relu,"
    " Tensor? zero=None) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.define(
    f"lowbit_conv2d(Tensor x, Tensor packed, Tensor scale, Tensor? bias, int bits, {WINDOW}, str mode, bool relu)"
    " -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.define(
    "lowbit_dense(Tensor packed, Tensor scale, int bits, int in_features, Tensor? zero=None) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.impl("lowbit_linear", lowbit.linear, "CompositeExplicitAutograd")
LIBRARY.impl("lowbit_conv2d", lowbit.conv2d, "CompositeExplicitAutograd")


def dense_columns(packed: Tensor, scale: Tensor, bits: int, in_features: int, zero: Tensor | None = None) -> Tensor:
    """The transpose of `lowbit.dense`, (in, out): what native code writes in order."""
    return lowbit.dense(packed, scale, bits, in_features, zero).T.contiguous()


LIBRARY.impl("lowbit_dense", dense_columns, "CompositeExplicitAutograd")


@torch.library.register_fake("robustq::lowbit_dense", lib=LIBRARY)
def _(packed: Tensor, scale: Tensor, bits: int, in_features: int, zero: Tensor | None = None) -> Tensor:
    lowbit.check(packed, scale, bits, in_features)
    return scale.new_empty((in_features, scale.shape[1]))


def lowbit_dense(packed: Tensor, scale: Tensor, bits: int, in_features: int, zero: Tensor | None = None) -> Tensor:
    """packed codes, scale and zero points (groups, out) (lowbit.py) -> weight (out, in) float32, not contiguous."""
    return torch.ops.robustq.lowbit_dense(packed, scale, bits, in_features, zero).T


def lowbit_linear(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    bits: int,
    in_features: int,
    mode: str = "accurate",
    relu: bool = False,
    zero: Tensor | None = None,
) -> Tensor:
    """x (*, in), packed codes and scale (groups, out) (lowbit.py), bias (out,) or None -> y (*, out), dtype of x.

    zero: uint8 (groups, out), the zero points of asymmetric codes. "exact" leaves x as it is (5e-7 of the largest
    output from float64, which it sums in where x is float64), "accurate" differs by about 4e-5, "int8" by about 1e-2
    (Gaussian x). Differentiable in x and bias.
    """
    if backend.native is not None and plain(x, packed, scale, bias, zero):
        return native_linear(x, packed, scale, bias, bits, in_features, mode, relu, zero)
    return torch.ops.robustq.lowbit_linear.default(x, packed, scale, bias, bits, in_features, mode, relu, zero)


def lowbit_conv2d(
    x: Tensor,
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    bits: int,
    kernel: list[int],
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int = 1,
    mode: str = "accurate",
    relu: bool = False,
) -> Tensor:
    """x (n, c, h, w), packed kernel and scale (1, out) (lowbit.py) -> y (n, out, oh, ow), channels last in memory.

    An implicit matrix product: no column matrix is built. Modes as of `lowbit_linear`; in mode "exact" NaN and infinity
    go where torch's convolution takes them. Differentiable in x and bias.
    """
    if backend.native is not None and plain(x, packed, scale, bias):
        return native_conv2d(x, packed, scale, bias, bits, kernel, stride, padding, dilation, groups, mode, relu)
    return torch.ops.robustq.lowbit_conv2d(
        x, packed, scale, bias, bits, kernel, stride, padding, dilation, groups, mode, relu
    )


@torch.library.register_fake("robustq::lowbit_linear", lib=LIBRARY)
def _(
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
    lowbit.check_linear(x, packed, scale, bias, bits, in_features, mode, zero)
    return x.new_empty((*x.shape[:-1], scale.shape[1]))


@torch.library.register_fake("robustq::lowbit_conv2d", lib=LIBRARY)
def _(
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
    lowbit.check_conv2d(x, packed, scale, bias, bits, kernel, stride, padding, dilation, groups, mode)
    height, width = lowbit.output_size(x.shape[2:], kernel, stride, padding, dilation)
    return x.new_empty((x.shape[0], height, width, scale.shape[1])).permute(0, 3, 1, 2)


def keep_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, packed, scale, bias, ctx.bits, ctx.in_features, _, relu, zero = inputs
    ctx.save_for_backward(packed, scale, zero, output if relu else None)
    ctx.dtype, ctx.bias_dtype = x.dtype, None if bias is None else bias.dtype


def behind(grad: Tensor, output: Tensor | None) -> Tensor:
    """The gradient before the ReLU that gave `output`, if there is one, in the dtype that sums are taken in."""
    wide = grad.to(reference.sum_dtype(grad.dtype))
    return wide if output is None else wide * (output > 0)


def linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    packed, scale, zero, output = ctx.saved_tensors
    wide = behind(grad, output)
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        weight = lowbit_dense(packed, scale, ctx.bits, ctx.in_features, zero).to(wide.dtype)
        grad_x = (wide @ weight).to(ctx.dtype)
    if ctx.needs_input_grad[3]:
        grad_bias = wide.reshape(-1, wide.shape[-1]).sum(0).to(ctx.bias_dtype)
    return grad_x, None, None, grad_bias, None, None, None, None, None


def keep_conv2d(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, packed, scale, bias, ctx.bits, ctx.kernel, *window, _, relu = inputs
    ctx.window = window  # stride, padding, dilation, groups
    ctx.save_for_backward(packed, scale, output if relu else None)
    ctx.shape, ctx.dtype, ctx.bias_dtype = x.shape, x.dtype, None if bias is None else bias.dtype


def conv2d_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    packed, scale, output = ctx.saved_tensors
    wide = behind(grad, output)
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        channels = ctx.shape[1] // ctx.window[3]
        flat = lowbit_dense(packed, scale, ctx.bits, lowbit.kernel_columns(channels, ctx.kernel))
        weight = lowbit.kernel_view(flat, channels, ctx.kernel).to(wide.dtype)
        grad_x = gradients.conv2d_input(ctx.shape, weight, wide, *ctx.window).to(ctx.dtype)
    if ctx.needs_input_grad[3]:
        grad_bias = wide.sum((0, 2, 3)).to(ctx.bias_dtype)
    return grad_x, None, None, grad_bias, *(None for _ in range(8))


torch.library.register_autograd("robustq::lowbit_linear", linear_backward, setup_context=keep_linear, lib=LIBRARY)
torch.library.register_autograd("robustq::lowbit_conv2d", conv2d_backward, setup_context=keep_conv2d, lib=LIBRARY)


def native_linear(
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
    """`lowbit.linear` by the native module; sums in float64 go to the reference."""
    lowbit.check_linear(x, packed, scale, bias, bits, in_features, mode, zero)
    if mode == "exact" and x.dtype is torch.float64:
        return lowbit.linear(x, packed, scale, bias, bits, in_features, mode, relu, zero)
    y = ready(packed, scale, bias, bits, in_features, mode, relu, zero)(x.float())
    return y if x.dtype is torch.float32 else y.to(x.dtype)


def ready(
    packed: Tensor,
    scale: Tensor,
    bias: Tensor | None,
    bits: int,
    in_features: int,
    mode: str,
    relu: bool,
    zero: Tensor | None,
) -> Ready:
    """A layer that has passed `lowbit.check_layer`, for native code."""
    packed, scale = packed.contiguous(), scale.contiguous()
    bias = None if bias is None else bias.float().contiguous()
    zero = None if zero is None else zero.contiguous()
    groups, out = scale.shape
    size = (packed.data_ptr(), scale.data_ptr(), address(bias), address(zero), bits, groups, out, in_features)
    tensors = (packed, scale, bias, zero, (out, in_features), mode, relu)
    if mode == "exact":
        return Ready(backend.native.float_linear, (*size, relu), *tensors, ternary=False)
    ternary = bits == 2 and groups == 1 and zero is None
    return Ready(backend.native.integer_linear, (*size, lowbit.PLANES[mode], relu), *tensors, ternary=ternary)


def native_dense(packed: Tensor, scale: Tensor, bits: int, in_features: int, zero: Tensor | None = None) -> Tensor:
    """`dense_columns` by the native module."""
    lowbit.check(packed, scale, bits, in_features)
    if zero is not None:
        lowbit.check_zero(zero, scale)
        zero = zero.contiguous()
    groups, out = scale.shape
    weight = scale.new_empty((in_features, out))
    packed, scale = packed.contiguous(), scale.contiguous()
    numbers = (weight.data_ptr(), torch.get_num_threads(), address(zero))
    backend.native.integer_dense(packed.data_ptr(), scale.data_ptr(), bits, groups, out, in_features, *numbers)
    return weight


def native_conv2d(
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
    """`lowbit.conv2d` by the native module; sums in float64 go to the reference."""
    lowbit.check_conv2d(x, packed, scale, bias, bits, kernel, stride, padding, dilation, groups, mode)
    if mode == "exact" and x.dtype is torch.float64:
        return lowbit.conv2d(x, packed, scale, bias, bits, kernel, stride, padding, dilation, groups, mode, relu)
    n, channels, height, width = x.shape
    out = scale.shape[1]
    y = torch.empty((n, *lowbit.output_size(x.shape[2:], kernel, stride, padding, dilation), out), dtype=torch.float32)
    if y.numel():
        rows, packed, scale = x.float().permute(0, 2, 3, 1).contiguous(), packed.contiguous(), scale.contiguous()
        bias = None if bias is None else bias.float().contiguous()
        backend.native.integer_convolution(
            rows.data_ptr(),
            (n, height, width, channels),
            (*kernel, *stride, *padding, *dilation),
            groups,
            packed.data_ptr(),
            scale.data_ptr(),
            address(bias),
            bits,
            out,
            lowbit.PLANES.get(mode, 0),
            relu,
            y.data_ptr(),
            torch.get_num_threads(),
        )
    return y.to(x.dtype).permute(0, 3, 1, 2)


if backend.native is not None:
    LIBRARY.impl("lowbit_linear", native_linear, "CPU")
    LIBRARY.impl("lowbit_dense", native_dense, "CPU")
    LIBRARY.impl("lowbit_conv2d", native_conv2d, "CPU")
if torch.backends.cuda.is_built():
    from .cuda import ops as _cuda_ops  # noqa: F401  registers itself for CUDA tensors
