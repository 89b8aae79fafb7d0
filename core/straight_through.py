"""A usable gradient for models that round: rounding and signs pass the gradient through as if they were not there.

Backward pass differentiable approximation with the identity (Athalye et al. 2018, section 4.1; Bengio et al. 2013).
The forward pass stays exactly what it is. Not reached: integer arithmetic, comparisons, custom autograd functions (they
bring a gradient of their own) and TorchScript.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from .inference import Net

_NAMES = ("round", "floor", "ceil", "trunc", "fix", "sign", "sgn")
_STEPS = {getattr(owner, name) for owner in (torch, Tensor) for name in _NAMES}
# The in-place function -> the one that makes a new tensor.
_IN_PLACE = {
    getattr(owner, f"{name}_"): getattr(Tensor, name)
    for owner in (torch, Tensor)
    for name in _NAMES
    if hasattr(owner, f"{name}_")
}


class StraightThrough(TorchFunctionMode):
    """Inside, the derivative of round, floor, ceil, trunc and sign is 1; `replaced` counts their calls."""

    def __init__(self) -> None:
        super().__init__()
        self.replaced = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        known = func in _STEPS or func in _IN_PLACE
        x = args[0] if args else kwargs.get("input")
        if not known or "out" in kwargs or not isinstance(x, Tensor) or not x.is_floating_point():
            return func(*args, **kwargs)
        self.replaced += 1
        if func in _IN_PLACE:
            return x.copy_(_pass(x, _IN_PLACE[func](x.detach(), *args[1:], **kwargs)))
        with torch.no_grad():
            value = func(*args, **kwargs)
        return _pass(x, value)


class _Identity(torch.autograd.Function):
    """The value, with the gradient of x: x + (value - x).detach() would round twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


def _pass(x: Tensor, value: Tensor) -> Tensor:
    found = _Identity.apply(x, value)
    assert isinstance(found, Tensor)
    return found


def straight_through(model: Net) -> Net:
    """The model, its rounding with the gradient of the identity; the modules themselves are not touched."""

    def net(x: Tensor) -> Tensor:
        with StraightThrough():
            return model(x)

    return net


def rounds(model: Net, x: Tensor) -> bool:
    """Whether the model calls any of these functions on images x (n, c, h, w)."""
    with StraightThrough() as mode, torch.no_grad():
        model(x)
    return mode.replaced > 0
