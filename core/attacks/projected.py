"""Steepest ascent inside a ball around the image: what FGSM, IFGSM and PGD share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .. import rng
from ..option import option
from .attack import Attack, Key, State, margin, stream
from .norms import NORMS, Norm, is_zero


@dataclass(frozen=True, kw_only=True)
class Projected(Attack):
    """x <- box(ball(x + step * steepest(gradient))); the box comes last, which cannot leave the ball."""

    step: float | None = option(None, "length of one step; see the method for the default", unit="input units", low=0.0)
    loss: str = option("ce", "cross entropy, or the margin to the best other class", choices=("ce", "margin"))
    targeted: bool = option(False, "aim at one class other than the label, drawn anew for each image and start")

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
            state["x"] = (x + self.shape.project(delta, self.radius)).clamp(0, 1)
        if self.targeted:
            state["draw"] = rng.uniform((*key, "target"), index, ()).to(x.device)
        return state

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        direction = self.shape.steepest(self._without_zeros(grad, state, key))
        delta = self.shape.project(state["x"] - state["clean"] + self.length * direction, self.radius)
        return {"x": (state["clean"] + delta).clamp_(0, 1)}

    def objective(self, state: State, logits: Tensor) -> Tensor:
        if not self.targeted:
            return super().objective(state, logits) if self.loss == "ce" else margin(logits, state["y"])
        aim = target(state, logits)
        if self.loss == "ce":
            return -super().objective(state | {"y": aim}, logits)
        return (logits.gather(1, aim[:, None]) - logits.gather(1, state["y"][:, None]))[:, 0]

    def success(self, state: State, logits: Tensor) -> Tensor:
        return logits.argmax(1) == target(state, logits) if self.targeted else super().success(state, logits)

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
