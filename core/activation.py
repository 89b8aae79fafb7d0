"""A ReLU that gives few values: multiples of a resolution that is learnt, with a coarse gradient."""

from typing import Any

import torch
from torch import Tensor, nn

LEAST, MOST = 1e-3, 5.0  # what a resolution is kept between, as in the released code
COARSE = ("mean", "ae", "min", "pact")


class QuantizedReLU(nn.Module):
    """x -> 0 below 0, ceil(x / r) r up to L r, L r beyond; L = 2^bits - 1 (Yin et al. 2018, arXiv 1808.05240).

    Backward to x: the gradient where 0 < x <= L r, as of a ReLU that is clipped. Backward to r: L where x is beyond;
    within, by spec["coarse"]: "ae" ceil(x / r), "mean" 2^(bits - 1), "min" 1, "pact" 0.
    """

    def __init__(self, start: float, **spec: Any) -> None:
        super().__init__()
        self.resolution = nn.Parameter(torch.full((1,), start))
        self.spec = spec  # what the file's header says of it: kind, bits, coarse

    def forward(self, x: Tensor) -> Tensor:
        levels = 2 ** self.spec["bits"] - 1
        if torch.compiler.is_exporting():
            return quantized(x, self.resolution, levels)
        return _Coarse.apply(x, self.resolution, levels, self.spec["coarse"])  # type: ignore[no-any-return]


def quantized(x: Tensor, resolution: Tensor, levels: int) -> Tensor:
    """x, resolution (1,) > 0 -> the multiple of it next above x, in [0, levels * resolution]."""
    return (x / resolution).ceil().clamp(0, levels) * resolution


class _Coarse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, resolution: Tensor, levels: int, coarse: str) -> Tensor:
        ctx.save_for_backward(x, resolution)
        ctx.levels, ctx.coarse = levels, coarse
        return quantized(x, resolution, levels)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, Tensor | None, None, None]:
        x, resolution = ctx.saved_tensors
        grad, top = grads[0], ctx.levels * resolution
        within, beyond = (x > 0) & (x <= top), x > top
        if not ctx.needs_input_grad[1]:
            return grad * within, None, None, None
        slopes = {"mean": (ctx.levels + 1) / 2, "min": 1.0, "pact": 0.0}
        slope = (x / resolution).ceil() if ctx.coarse == "ae" else slopes[ctx.coarse]
        along = (grad * (within * slope + beyond * ctx.levels)).sum().view(1)
        return grad * within, along, None, None
