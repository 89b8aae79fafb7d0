"""The attack driver: batches with refill, dropping of fooled images, restarts, counts, and the final verification."""

from collections.abc import Callable

import torch
from torch import Tensor

from .attacks.attack import Attack, Key, State, begin

Net = Callable[[Tensor], Tensor]  # x (n, c, h, w) in [0, 1] -> logits (n, classes); an nn.Module or any function
Loss = Callable[[Tensor, Tensor], Tensor]  # logits (n, classes), y (n,) -> (n,)


def craft(
    attack: Attack, model: Net, x: Tensor, y: Tensor, key: Key, index: Tensor, loss: Loss | None = None
) -> Tensor:
    """x (n, c, h, w) in [0, 1], y (n,) -> adversarial images, detached: the inner attack of training.

    All steps of one start for all images. The model is called as it is: train or eval mode is the caller's choice,
    and no weight gradient is computed. Draws depend on key and index (n,) alone. `loss` replaces the attack's own.
    """
    state = begin(attack, x.detach(), y, key, index)
    for _ in range(attack.iterations):
        logits, grad = gradient(attack, model, state, loss)
        state = advance(attack, state, logits, grad, key)
    return state["x"]


def gradient(attack: Attack, model: Net, state: State, loss: Loss | None = None) -> tuple[Tensor, Tensor]:
    """Logits (n, classes) at state["x"], and the gradient of the objective there (zero where it is not finite)."""
    with torch.enable_grad():
        x = state["x"].detach().requires_grad_()
        logits = model(x)
        value = loss(logits, state["y"]) if loss else attack.objective(state, logits)
        (grad,) = torch.autograd.grad(value.sum(), x)
    return logits.detach(), grad if grad.sum().isfinite() else grad.nan_to_num_(0.0, 0.0, 0.0)


def advance(attack: Attack, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
    """The state one step later."""
    return state | attack.update(state, logits, grad, key) | {"taken": state["taken"] + 1}
