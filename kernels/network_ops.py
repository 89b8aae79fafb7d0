"""The op `robustq::lowbit_network` (network.py): schema, fake, autograd and the native override."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from . import backend, lowbit, network
from .direct import plain
from .ops import LIBRARY

LIBRARY.define(
    "lowbit_network(Tensor[] inputs, Tensor codes, Tensor factors, str program, str mode) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.impl("lowbit_network", network.run, "CompositeExplicitAutograd")


def lowbit_network(inputs: Sequence[Tensor], codes: Tensor, factors: Tensor, program: str, mode: str) -> Tensor:
    """inputs (n, c, h, w), codes uint8, factors float32 -> y (n, c, h, w), channels last, in the first input's dtype.

    Differentiable in the inputs: the gradient is that of the dequantized layers at these activations.
    """
    if backend.native is not None and inputs and plain(inputs[0], *inputs[1:], codes, factors):
        return native_network(inputs, codes, factors, program, mode)
    return torch.ops.robustq.lowbit_network(inputs, codes, factors, program, mode)


@torch.library.register_fake("robustq::lowbit_network", lib=LIBRARY)
def _(inputs: Sequence[Tensor], codes: Tensor, factors: Tensor, program: str, mode: str) -> Tensor:
    network.check(inputs, codes, factors, mode)
    channels, height, width = network.result_size(program, network.sizes_of(inputs))
    return inputs[0].new_empty((len(inputs[0]), height, width, channels)).permute(0, 3, 1, 2)


def keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    given, codes, factors, ctx.program, ctx.mode = inputs
    ctx.save_for_backward(*given, codes, factors)


def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    """Once more layer by layer, with a gradient each: what the op itself does not keep."""
    *given, codes, factors = ctx.saved_tensors
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_(x.requires_grad) for x in given]
        y = network.run(leaves, codes, factors, ctx.program, ctx.mode)
    wanted = [x for x in leaves if x.requires_grad]
    found = iter(torch.autograd.grad(y, wanted, grad, allow_unused=True))
    return [next(found) if x.requires_grad else None for x in leaves], None, None, None, None


torch.library.register_autograd("robustq::lowbit_network", backward, setup_context=keep, lib=LIBRARY)


def native_network(inputs: Sequence[Tensor], codes: Tensor, factors: Tensor, program: str, mode: str) -> Tensor:
    """`network.run` by the native module."""
    network.check(inputs, codes, factors, mode)
    if mode == "exact" and inputs[0].dtype == torch.float64:
        return network.run(inputs, codes, factors, program, mode)
    channels, height, width = network.known_size(program, network.sizes_of(inputs))
    batch, dtype = len(inputs[0]), inputs[0].dtype
    y = torch.empty((batch, height, width, channels), dtype=torch.float32)
    if batch:
        rows = [x.float().permute(0, 2, 3, 1).contiguous() for x in inputs]
        codes, factors = codes.contiguous(), factors.contiguous()
        backend.native.integer_network(
            program,
            [(x.data_ptr(), *x.shape[1:]) for x in rows],
            batch,
            codes.data_ptr(),
            codes.numel(),
            factors.data_ptr(),
            factors.numel(),
            lowbit.PLANES.get(mode, 0),
            y.data_ptr(),
            channels * height * width,
            torch.get_num_threads(),
        )
    return y.to(dtype).permute(0, 3, 1, 2)


if backend.native is not None:
    LIBRARY.impl("lowbit_network", native_network, "CPU")
if torch.backends.cuda.is_built():
    from .cuda import network_ops as _cuda_ops  # noqa: F401  registers itself for CUDA tensors
