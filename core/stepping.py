"""One step of an attack on a batch, and an attack of all its steps without a driver, as training uses it."""

from collections.abc import Callable

import torch
from torch import Tensor

from .attacks.attack import Attack, Key, State, begin
from .inference import Net

Loss = Callable[[Tensor, Tensor], Tensor]  # logits (n, classes), y (n,) -> (n,)
Done = Callable[[Tensor, Tensor], Tensor]  # logits (n, classes), y (n,) -> (n,) bool


def craft(
    attack: Attack,
    model: Net,
    x: Tensor,
    y: Tensor,
    key: Key,
    index: Tensor,
    loss: Loss | None = None,
    *,
    start: Tensor | None = None,
    done: Done | None = None,
) -> Tensor:
    """x (n, c, h, w) in [0, 1], y (n,) -> adversarial images, detached: the inner attack of training.

    All steps of one start for all images. The model is called as it is: train or eval mode is the caller's choice,
    and no weight gradient is computed. Draws depend on key and index (n,) alone. `loss` replaces the attack's own,
    `start` (n, c, h, w) its first points; an image for which `done` holds at a point stays there.
    """
    with torch.no_grad():
        state = begin(attack, x.detach(), y, key, index, model(x) if attack.sees_answers else None)
    if start is not None:
        state = state | {"x": start}
    for _ in range(attack.iterations):
        logits, grad, value = gradient(attack, model, state, loss)
        later = advance(attack, state, logits, grad, value, key)
        state = later if done is None else _held(state, later, done(logits, y))
    return state["x"]


def _held(state: State, later: State, held: Tensor) -> State:
    """The later state, except for the images that are `held` (n,): they keep what they had."""
    return {
        name: torch.where(held.view(-1, *[1] * (new.dim() - 1)), state[name], new) if name in state else new
        for name, new in later.items()
    }


def gradient(attack: Attack, model: Net, state: State, loss: Loss | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (n, classes) at state["x"], the gradient of the objective there, and its values (n,).

    Means over as many passes as the attack averages (expectation over transformation, Athalye et al. 2018).
    The gradient is zero where there is none or it is not finite, and (n, 0) for attacks that use none.
    """
    logits, grad, value = _one_pass(attack, model, state, loss)
    for _ in range(attack.eot - 1):
        again = _one_pass(attack, model, state, loss)
        logits, grad, value = logits + again[0], grad + again[1], value + again[2]
    return (logits, grad, value) if attack.eot == 1 else (logits / attack.eot, grad / attack.eot, value / attack.eot)


def _one_pass(attack: Attack, model: Net, state: State, loss: Loss | None) -> tuple[Tensor, Tensor, Tensor]:
    with torch.set_grad_enabled(attack.uses_gradient):
        x = state["x"].detach().requires_grad_(attack.uses_gradient)
        logits = model(x)
        value = loss(logits, state["y"]) if loss else attack.objective(state, logits)
        if not attack.uses_gradient:
            return logits, x.new_zeros(len(x), 0), value
        # A model that thresholds its input has no path back to it: None, as good as zero.
        found = torch.autograd.grad(value.sum(), x, allow_unused=True)[0] if value.requires_grad else None
    grad = torch.zeros_like(state["x"]) if found is None else found
    return logits.detach(), _finite(grad), value.detach()


def _finite(grad: Tensor) -> Tensor:
    """The gradient, 0 where it is not finite. A CPU looks first, which is quicker; for a GPU one would have to wait."""
    if grad.device.type == "cpu" and bool(grad.sum().isfinite()):
        return grad
    return grad.nan_to_num(0.0, 0.0, 0.0)


def advance(attack: Attack, state: State, logits: Tensor, grad: Tensor, value: Tensor, key: Key) -> State:
    """The state one step later."""
    return state | attack.update(state | {"value": value}, logits, grad, key) | {"taken": state["taken"] + 1}
