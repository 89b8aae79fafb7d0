"""A gradient for models that have none: that of the float model they were made from, judged on the model itself.

The forward pass is the model's, the backward pass the parent's (backward pass differentiable approximation, Athalye et
al. 2018, section 4.2). Integer modules, ONNX files and programs that refuse to be differentiated become targets of
gradient attacks this way.
"""

import warnings

import torch
from torch import Tensor, nn

from .attacks.attack import margin
from .errors import ArchitectureError
from .inference import Net, device_of, frozen
from .straight_through import passed, straight_through

_ALIVE = 0.5  # share of images with a gradient from which on a model's own is used


class Surrogate(nn.Module):
    """x (n, c, h, w) -> the model's logits (n, classes), with the gradient of the parent's at the same point."""

    def __init__(self, model: nn.Module, parent: nn.Module) -> None:
        super().__init__()
        self.model, self.parent = model, parent

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            value = self.model(x)
        if not torch.is_grad_enabled():
            return value
        lent = self.parent(x)
        if lent.shape != value.shape:
            raise ArchitectureError(
                f"The parent answers with {lent.shape[1]} classes, the model with {value.shape[1]}.",
                "--parent is the float model that this one was made from.",
            )
        return passed(lent, value)


class Opaque(nn.Module):
    """x (n, c, h, w) -> the model's logits (n, classes); no gradient is ever asked of it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.model(x)


def has_gradient(model: Net, x: Tensor) -> bool:
    """Whether the model's margins have a gradient at images x (n, c, h, w), straight through any rounding."""
    with frozen(model), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of operators that have no gradient
        point = x.to(device_of(model, x.device)).detach().requires_grad_()
        try:
            logits = straight_through(model)(point)
            if not logits.requires_grad:
                return False
            value = margin(logits, logits.argmin(1))  # towards any other class than the least likely
            found = torch.autograd.grad(value.sum(), point, allow_unused=True)[0]
        except (RuntimeError, NotImplementedError):  # integer operations refuse tensors that want a gradient
            return False
    if found is None:
        return False
    alive = (found.nan_to_num() != 0).flatten(1).any(1)
    return float(alive.float().mean()) >= _ALIVE
