"""The ops `robustq::lowbit_linear` and `robustq::lowbit_conv2d`: schema, fake, autograd and the native override.

Rounding the activations counts as the identity in the backward pass: the gradient is that of the dequantized layer.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import grad as gradients

from . import backend, lowbit
from .direct import plain
from .ops import LIBRARY

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
LIBRARY.impl("lowbit_linear", lowbit.linear, "CompositeExplicitAutograd")
LIBRARY.impl("lowbit_conv2d", lowbit.conv2d, "CompositeExplicitAutograd")


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

    zero: uint8 (groups, out), the zero points of asymmetric codes. "exact" has no kernel of its own; "accurate" differs
    from float64 by about 4e-5 of the largest output, "int8" by about 1e-2 (Gaussian x).
    Differentiable in x and bias.
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

    An implicit matrix product: no column matrix is built. Differentiable in x and bias.
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


def linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    packed, scale, zero, output = ctx.saved_tensors
    wide = grad.float() if output is None else grad.float() * (output > 0)
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        grad_x = (wide @ lowbit.dense(packed, scale, ctx.bits, ctx.in_features, zero)).to(ctx.dtype)
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
    wide = grad.float() if output is None else grad.float() * (output > 0)
    grad_x = grad_bias = None
    if ctx.needs_input_grad[0]:
        weight = lowbit.kernel_weight(packed, scale, ctx.bits, ctx.shape[1] // ctx.window[3], ctx.kernel)
        grad_x = gradients.conv2d_input(ctx.shape, weight, wide, *ctx.window).to(ctx.dtype)
    if ctx.needs_input_grad[3]:
        grad_bias = wide.sum((0, 2, 3)).to(ctx.bias_dtype)
    return grad_x, None, None, grad_bias, *(None for _ in range(8))


torch.library.register_autograd("robustq::lowbit_linear", linear_backward, setup_context=keep_linear, lib=LIBRARY)
torch.library.register_autograd("robustq::lowbit_conv2d", conv2d_backward, setup_context=keep_conv2d, lib=LIBRARY)


def address(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()


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
    """`lowbit.linear` by the native module; mode "exact" has no kernel."""
    lowbit.check_linear(x, packed, scale, bias, bits, in_features, mode, zero)
    if mode == "exact":
        return lowbit.linear(x, packed, scale, bias, bits, in_features, mode, relu, zero)
    groups, out = scale.shape
    y = x.new_empty((*x.shape[:-1], out), dtype=torch.float32)
    rows = x.numel() // in_features
    if not rows:
        return y.to(x.dtype)
    wide, packed, scale = x.float().contiguous(), packed.contiguous(), scale.contiguous()
    bias = None if bias is None else bias.float().contiguous()
    zero = None if zero is None else zero.contiguous()
    backend.native.integer_linear(
        wide.data_ptr(),
        rows,
        packed.data_ptr(),
        scale.data_ptr(),
        address(bias),
        bits,
        groups,
        out,
        in_features,
        lowbit.PLANES[mode],
        relu,
        y.data_ptr(),
        torch.get_num_threads(),
        address(zero),
    )
    return y if x.dtype is torch.float32 else y.to(x.dtype)


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
    """`lowbit.conv2d` by the native module."""
    lowbit.check_conv2d(x, packed, scale, bias, bits, kernel, stride, padding, dilation, groups, mode)
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
            lowbit.PLANES[mode],
            relu,
            y.data_ptr(),
            torch.get_num_threads(),
        )
    return y.to(x.dtype).permute(0, 3, 1, 2)


if backend.native is not None:
    LIBRARY.impl("lowbit_linear", native_linear, "CPU")
    LIBRARY.impl("lowbit_conv2d", native_conv2d, "CPU")
if torch.backends.cuda.is_built():
    from .cuda import ops as _cuda_ops  # noqa: F401  registers itself for CUDA tensors
