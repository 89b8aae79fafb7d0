"""The ops `robustq::ternary_linear` and `robustq::ternary_dense`: schema, fake, autograd and the native override.

The reference is registered for every device; where the native module is there it takes over float32 on the CPU.
Raw addresses go to nanobind: a tenth of the cost of passing tensors, and the build needs no torch.
"""

from typing import Any

import torch
from torch import Tensor

from . import backend, reference
from .direct import address, plain
from .ready import Ready

LIBRARY = torch.library.Library("robustq", "FRAGMENT")  # lives as long as the process, or the ops go away
LIBRARY.define(
    "ternary_linear(Tensor x, Tensor packed, Tensor scale, Tensor? bias, int out_features, int in_features) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.define(
    "ternary_dense(Tensor packed, Tensor scale, int out_features, int in_features) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.impl("ternary_linear", reference.ternary_linear, "CompositeExplicitAutograd")
LIBRARY.impl("ternary_dense", reference.ternary_dense, "CompositeExplicitAutograd")


def ternary_linear(
    x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None, out_features: int, in_features: int
) -> Tensor:
    """x (*, in), packed codes and scale (reference.py), bias (out,) or None -> y (*, out) in the dtype of x.

    Exact: differs from float64 by at most 1e-5 of the largest output (float32). Differentiable in x, scale and bias.
    """
    if backend.native is not None and plain(x, packed, scale, bias):
        return native_linear(x, packed, scale, bias, out_features, in_features)
    return torch.ops.robustq.ternary_linear.default(x, packed, scale, bias, out_features, in_features)


def ternary_dense(packed: Tensor, scale: Tensor, out_features: int, in_features: int) -> Tensor:
    """packed codes and scale (reference.py) -> weight (out, in), float32 or float64. Differentiable in scale."""
    return torch.ops.robustq.ternary_dense(packed, scale, out_features, in_features)


@torch.library.register_fake("robustq::ternary_linear", lib=LIBRARY)
def _(x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None, out_features: int, in_features: int) -> Tensor:
    reference.check_linear(x, packed, scale, bias, out_features, in_features)
    return x.new_empty((*x.shape[:-1], out_features))


@torch.library.register_fake("robustq::ternary_dense", lib=LIBRARY)
def _(packed: Tensor, scale: Tensor, out_features: int, in_features: int) -> Tensor:
    reference.check_packed(packed, out_features, in_features)
    reference.check_scale(scale, out_features, in_features)
    return scale.new_empty((out_features, in_features), dtype=reference.sum_dtype(scale.dtype))


def scale_gradient(grad_weight: Tensor, packed: Tensor, scale: Tensor) -> Tensor:
    """d loss / d weight (out, in) -> d loss / d scale (rows, groups): its products with the codes, summed by group."""
    out_features, in_features = grad_weight.shape
    ones = scale.new_ones((1, 1), dtype=grad_weight.dtype)
    grad = grad_weight * ternary_dense(packed, ones, out_features, in_features).to(grad_weight.dtype)
    groups = scale.shape[1]
    width = -(-in_features // groups)
    grad = torch.nn.functional.pad(grad, (0, groups * width - in_features)).view(out_features, groups, width).sum(-1)
    return (grad.sum(0, keepdim=True) if scale.shape[0] == 1 else grad).to(scale.dtype)


def keep_linear(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, packed, scale, bias, ctx.out_features, ctx.in_features = inputs
    ctx.save_for_backward(x, packed, scale)
    ctx.bias_dtype = None if bias is None else bias.dtype


def linear_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    x, packed, scale = ctx.saved_tensors
    dtype = reference.sum_dtype(x.dtype)
    wide = grad.to(dtype)
    grad_x = grad_scale = grad_bias = None
    if ctx.needs_input_grad[0]:
        weight = ternary_dense(packed, scale, ctx.out_features, ctx.in_features).to(dtype)
        grad_x = (wide @ weight).to(x.dtype)
    rows = wide.reshape(-1, ctx.out_features)
    if ctx.needs_input_grad[2]:
        grad_scale = scale_gradient(rows.T @ x.to(dtype).reshape(-1, ctx.in_features), packed, scale)
    if ctx.needs_input_grad[3]:
        grad_bias = rows.sum(0).to(ctx.bias_dtype)
    return grad_x, None, grad_scale, grad_bias, None, None


def keep_dense(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    packed, scale, _, _ = inputs
    ctx.save_for_backward(packed, scale)


def dense_backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    packed, scale = ctx.saved_tensors
    return None, scale_gradient(grad, packed, scale), None, None


torch.library.register_autograd("robustq::ternary_linear", linear_backward, setup_context=keep_linear, lib=LIBRARY)
torch.library.register_autograd("robustq::ternary_dense", dense_backward, setup_context=keep_dense, lib=LIBRARY)


def native_linear(
    x: Tensor, packed: Tensor, scale: Tensor, bias: Tensor | None, out_features: int, in_features: int
) -> Tensor:
    """`reference.ternary_linear` by the native module; float64 goes to the reference."""
    reference.check_linear(x, packed, scale, bias, out_features, in_features)
    if x.dtype == torch.float64 or scale.dtype == torch.float64:
        return reference.ternary_linear(x, packed, scale, bias, out_features, in_features)
    y = ready(packed, scale, bias, out_features, in_features)(x.float())
    return y if x.dtype is torch.float32 else y.to(x.dtype)


def ready(packed: Tensor, scale: Tensor, bias: Tensor | None, out_features: int, in_features: int) -> Ready:
    """A layer that has passed `reference.check_layer` and has no float64, for native code."""
    packed, scale = packed.contiguous(), scale.float().contiguous()
    bias = None if bias is None else bias.float().contiguous()
    numbers = (packed.data_ptr(), scale.data_ptr(), *scale.shape, address(bias), out_features, in_features)
    size, ternary = (out_features, in_features), scale.shape[1] == 1
    return Ready(backend.native.linear, numbers, packed, scale, bias, None, size, "exact", False, ternary)


def native_dense(packed: Tensor, scale: Tensor, out_features: int, in_features: int) -> Tensor:
    """`reference.ternary_dense` by the native module; a float64 scale goes to the reference."""
    reference.check_packed(packed, out_features, in_features)
    reference.check_scale(scale, out_features, in_features)
    if scale.dtype == torch.float64:
        return reference.ternary_dense(packed, scale, out_features, in_features)
    packed, scale = packed.contiguous(), scale.float().contiguous()
    weight = torch.empty((out_features, in_features), dtype=torch.float32)
    backend.native.dense(
        packed.data_ptr(),
        scale.data_ptr(),
        scale.shape[0],
        scale.shape[1],
        weight.data_ptr(),
        out_features,
        in_features,
    )
    return weight


if backend.native is not None:
    LIBRARY.impl("ternary_linear", native_linear, "CPU")
    LIBRARY.impl("ternary_dense", native_dense, "CPU")
