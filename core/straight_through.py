"""A usable gradient for models that round: rounding and signs pass the gradient through as if they were not there.

Backward pass differentiable approximation with the identity (Athalye et al. 2018, section 4.1; Bengio et al. 2013).
The forward pass stays exactly what it is. Reached: rounding, signs, integer tensors and quantized tensors that become
floating point again, and custom autograd functions whose gradient is zero (not None). Fake quantization brings a
straight-through gradient of its own. Not reached: integer arithmetic beyond sums and products with numbers,
comparisons, TorchScript.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import Node
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
_CASTS = {getattr(Tensor, name) for name in ("to", "type", "int", "long", "short", "char", "byte")}
_CASTS |= {getattr(torch, name) for name in ("quantize_per_tensor", "quantize_per_channel")}
_BACK = {getattr(Tensor, name) for name in ("to", "type", "float", "double", "half", "bfloat16", "dequantize")}
_BACK |= {torch.dequantize}
_SUMS = ("clamp", "clip", "add", "sub", "mul", "div")
_ARITHMETIC = {getattr(owner, name) for owner in (torch, Tensor) for name in _SUMS}
_ARITHMETIC |= {getattr(Tensor, f"__{name}__") for name in ("add", "sub", "mul", "truediv", "radd", "rmul")}
_SOURCE = "_robustq_source"  # of an integer tensor: the floating-point tensor that it stands for


class StraightThrough(TorchFunctionMode):
    """Inside, the derivative of round, floor, ceil, trunc, sign and of casts is 1; `replaced` counts their calls."""

    def __init__(self) -> None:
        super().__init__()
        self.replaced = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        x = args[0] if args else kwargs.get("input")
        if not isinstance(x, Tensor) or "out" in kwargs:
            return func(*args, **kwargs)
        if x.is_floating_point() and (func in _STEPS or func in _IN_PLACE):
            return self._step(func, x, args, kwargs)
        if hasattr(x, _SOURCE) or (func in _CASTS and x.requires_grad):
            return self._cast(func, x, args, kwargs)
        return func(*args, **kwargs)

    def _step(self, func: Callable[..., Any], x: Tensor, args: tuple[Any, ...], kwargs: Any) -> Tensor:
        self.replaced += 1
        if func in _IN_PLACE:
            return x.copy_(passed(x, _IN_PLACE[func](x.detach(), *args[1:], **kwargs)))
        with torch.no_grad():
            value = func(*args, **kwargs)
        return passed(x, value)

    def _cast(self, func: Callable[..., Any], x: Tensor, args: tuple[Any, ...], kwargs: Any) -> Any:
        """Integer tensors remember the floating-point tensor they stand for, and give it the gradient afterwards."""
        source, value = getattr(x, _SOURCE, x), func(*args, **kwargs)
        if not isinstance(value, Tensor) or value.shape != x.shape:
            return value
        whole = not value.is_floating_point()
        if func in _CASTS and whole:
            setattr(value, _SOURCE, source)
            return value
        if func in _ARITHMETIC and not any(isinstance(arg, Tensor) for arg in args[1:]):
            source = func(source, *args[1:], **{k: v for k, v in kwargs.items() if k != "input"})
        elif func not in _BACK:
            return value
        if whole:
            setattr(value, _SOURCE, source)
            return value
        self.replaced += 1
        return passed(source.to(value.dtype), value)


class _Identity(torch.autograd.Function):
    """The value, with the gradient of x: x + (value - x).detach() would round twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


def passed(x: Tensor, value: Tensor) -> Tensor:
    """The value (of x's shape), its gradient going to x as it comes."""
    found = _Identity.apply(x, value)
    assert isinstance(found, Tensor)
    return found


def straight_through(model: Net) -> Net:
    """The model, its rounding with the gradient of the identity; the modules themselves are not touched."""

    def net(x: Tensor) -> Tensor:
        with StraightThrough():
            logits = model(x)
        _mend(logits)
        return logits

    return net


def rounds(model: Net, x: Tensor) -> bool:
    """Whether straight-through gradients change anything for images x (n, c, h, w)."""
    with torch.enable_grad():
        point = x.detach().requires_grad_()
        try:
            with StraightThrough() as mode:
                logits = model(point)
        except RuntimeError:  # integer operations refuse tensors that want a gradient
            return False
        mended = _mend(logits)
        if mended is None or mode.replaced:
            return mode.replaced > 0
        torch.autograd.grad(logits.sum(), point, allow_unused=True)
    return bool(mended)


def _mend(logits: Tensor) -> list[Node] | None:
    """Give custom autograd functions without a gradient that of the identity; those that needed it, once they ran.

    Their `apply` cannot be intercepted, but every one of them is a node of the graph, whose result a hook can replace.
    None where there is no custom function at all.
    """
    mended: list[Node] = []
    found = _custom(logits.grad_fn)
    for node in found:
        node.register_hook(_mender(mended, node))
    return mended if found else None


def _mender(mended: list[Node], node: Node) -> Callable[..., Any]:
    def hook(inputs: tuple[Tensor | None, ...], outputs: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...] | None:
        given = outputs[0] if outputs else None
        if given is None or any(grad is not None and bool(grad.any()) for grad in inputs) or not given.any():
            return None
        fits = [place for place, grad in enumerate(inputs) if grad is not None and grad.shape == given.shape]
        if not fits:  # a gradient of None cannot be replaced
            return None
        mended.append(node)
        return tuple(given if i == fits[0] else grad for i, grad in enumerate(inputs))

    return hook


def _custom(root: Node | None) -> list[Node]:
    """The nodes of a graph that are custom autograd functions, ours aside."""
    seen, open_, found = set[Node](), [root], list[Node]()
    while open_:
        node = open_.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        open_ += [following for following, _ in node.next_functions]
        if isinstance(node, torch.autograd.function.BackwardCFunction) and not isinstance(node, _OURS):
            found.append(node)
    return found


_OURS: type = _Identity._backward_cls  # type: ignore[attr-defined]
