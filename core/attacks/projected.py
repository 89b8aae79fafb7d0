"""Steepest ascent inside a ball around the image: what FGSM, IFGSM and PGD share."""

import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from .. import rng
from ..option import option
from .attack import Attack, Key, State, stream
from .losses import AUTO, LOSSES, TEMPERATURE_HELP, Tempered, increased, increased_towards
from .norms import NORMS, Norm, is_zero, l1_ascent


@dataclass(frozen=True, kw_only=True)
class Projected(Tempered, Attack):
    """x <- the point of ball and box at x + step * steepest(gradient)."""

    _SPREAD: ClassVar[float] = 0.01  # share of the entries that one step changes in the L1 norm

    step: float | None = option(None, "length of one step; see the method for the default", unit="input units", low=0.0)
    loss: str = option("ce", "cross entropy, margin to the best other class, or DLR", choices=LOSSES)
    temperature: float | str = option(1.0, TEMPERATURE_HELP)
    targeted: bool = option(False, "aim at one class other than the label, drawn anew for each image and start")

    def rescaled(self) -> "Projected | None":
        return replace(self, temperature=AUTO) if self.loss == "ce" and self.temperature != AUTO else None

    @property
    def length(self) -> float:
        """The length of one step: eps/10, or 2.5 eps/steps where fewer than 25 steps could not cross the ball."""
        return max(self.radius / 10, 2.5 * self.radius / max(1, self.iterations)) if self.step is None else self.step

    @property
    def shape(self) -> Norm:
        """The geometry of the norm."""
        return NORMS[self.norm]

    def starts_at_random(self) -> bool:
        """Whether the first point is drawn uniformly from the ball."""
        return False

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        state = {"x": x}
        if self.starts_at_random():
            delta = self.shape.ball((*key, "start"), index, tuple(x.shape[1:])).to(x) * self.radius
            state["x"] = self.shape.confine(x, delta, self.radius)
        if self.targeted:
            state["draw"] = rng.uniform((*key, "target"), index, ()).to(x.device)
        return state

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        step = self._step(state["x"], self._without_zeros(grad, state, key))
        return {"x": self.shape.confine(state["clean"], state["x"] - state["clean"] + step, self.radius)}

    def objective(self, state: State, logits: Tensor) -> Tensor:
        if not self.targeted:
            return increased(self.loss, state, logits, self.temperature)
        return increased_towards(target(state, logits), self.loss, state, logits, self.temperature)

    def success(self, state: State, logits: Tensor) -> Tensor:
        return logits.argmax(1) == target(state, logits) if self.targeted else super().success(state, logits)

    def _step(self, x: Tensor, grad: Tensor) -> Tensor:
        """The steepest step of this length; in the L1 norm that would be one entry, and is a share of them."""
        if self.norm != "l1":
            return self.length * self.shape.steepest(grad)
        return l1_ascent(x, grad, self.length, max(1, math.ceil(self._SPREAD * grad[0].numel())))

    def _without_zeros(self, grad: Tensor, state: State, key: Key) -> Tensor:
        """A random direction for images whose gradient is exactly zero, which would otherwise never move."""
        zero = is_zero(grad)
        if not zero.any():
            return grad
        grad = grad.clone()
        grad[zero] = rng.normal((*key, "zero gradient"), stream(state)[zero], tuple(grad.shape[1:])).to(grad)
        return grad


def target(state: State, logits: Tensor) -> Tensor:
    """(n,) the class aimed at: any but the label, equally likely, from the image's draw in [0, 1)."""
    others = logits.shape[1] - 1
    offset = 1 + (state["draw"] * others).long().clamp_(max=others - 1)
    return torch.remainder(state["y"] + offset, others + 1)
