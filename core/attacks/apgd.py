"""Auto-PGD: momentum, and a step that is halved, image by image, where the objective no longer grows."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..option import option
from .aim import aim, rank
from .attack import Attack, Key, State
from .dlr import dlr, targeted_dlr
from .norms import NORMS

_MOMENTUM = 0.25  # share of the last move in the next one
_RISING = 0.75  # share of steps that must raise the objective for the step to keep its length


@dataclass(frozen=True, kw_only=True)
class Apgd(Attack):
    """Projected gradient ascent from a random point of the sphere; the step begins at 2 eps, nothing is to be tuned."""

    SOURCE = "Croce & Hein 2020, alg. 1"
    steps: int = option(100, "number of steps of one start", low=1)
    restarts: int = option(1, "independent random starts; an image counts as fooled if any start fools it", low=1)

    @property
    def iterations(self) -> int:
        return self.steps

    @property
    def repeats(self) -> int:
        return self.restarts

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        shape, n = NORMS[self.norm], len(x)
        delta = shape.ball((*key, "start"), index, tuple(x.shape[1:])).to(x)
        point = self._inside(x, x + delta * _rows(self.radius / shape.size(delta).clamp_min(1e-30)))
        return {
            "x": point,
            "last": point,
            "best": point,
            "best_grad": torch.zeros_like(x),
            "best_value": x.new_full((n,), -math.inf),
            "last_value": x.new_full((n,), math.inf),  # so that the first value counts as no rise
            "length": x.new_full((n,), 2 * self.radius),
            "since": torch.full_like(y, -1),  # steps since the last checkpoint
            "until": torch.full_like(y, max(1, int(0.22 * self.steps))),  # steps from one checkpoint to the next
            "rises": torch.zeros_like(y),
            "checked_value": x.new_full((n,), -math.inf),
            "halved": torch.ones_like(y, dtype=torch.bool),
        }

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        value = state["value"]
        better = value > state["best_value"]
        new = {
            "best": torch.where(_rows(better), state["x"], state["best"]),
            "best_grad": torch.where(_rows(better), grad, state["best_grad"]),
            "best_value": torch.where(better, value, state["best_value"]),
            "checked_value": torch.where(state["taken"] == 0, value, state["checked_value"]),
            "rises": state["rises"] + (value > state["last_value"]),
            "since": state["since"] + 1,
            "last_value": value,
        }
        here = state["x"]
        due = new["since"] == state["until"]
        if due.any():
            halve = due & self._stalls(state | new)
            here = torch.where(_rows(halve), new["best"], here)
            grad = torch.where(_rows(halve), new["best_grad"], grad)
            new |= self._checked(state | new, due, halve)
        return new | {"x": self._moved(state | new, here, grad), "last": state["x"]}

    def final(self, state: State, randomized: bool) -> Tensor:
        return state["best"] if randomized else state["x"]

    def _stalls(self, state: State) -> Tensor:
        """(n,) bool: conditions 1 and 2 of the paper, for images at a checkpoint."""
        few = state["rises"] <= _RISING * state["until"]
        return few | (~state["halved"] & (state["checked_value"] >= state["best_value"]))

    def _checked(self, state: State, due: Tensor, halve: Tensor) -> State:
        """The entries a checkpoint changes."""
        shorter = (state["until"] - max(1, int(0.03 * self.steps))).clamp_min(max(1, int(0.06 * self.steps)))
        return {
            "length": torch.where(halve, state["length"] / 2, state["length"]),
            "halved": torch.where(due, halve, state["halved"]),
            "checked_value": torch.where(due, state["best_value"], state["checked_value"]),
            "until": torch.where(due, shorter, state["until"]),
            "since": state["since"].masked_fill(due, 0),
            "rises": state["rises"].masked_fill(due, 0),
        }

    def _moved(self, state: State, here: Tensor, grad: Tensor) -> Tensor:
        """One step from `here`, with momentum from the second step on."""
        ahead = self._inside(state["clean"], here + _rows(state["length"]) * NORMS[self.norm].steepest(grad))
        share = _rows(torch.where(state["taken"] == 0, 0.0, _MOMENTUM).to(here))
        return self._inside(state["clean"], here + (1 - share) * (ahead - here) + share * (here - state["last"]))

    def _inside(self, clean: Tensor, x: Tensor) -> Tensor:
        return (clean + NORMS[self.norm].project(x - clean, self.radius)).clamp_(0, 1)


@dataclass(frozen=True, kw_only=True)
class ApgdCe(Apgd):
    """Auto-PGD on the cross entropy: projected ascent whose step is halved where the objective stalls."""


@dataclass(frozen=True, kw_only=True)
class ApgdDlr(Apgd):
    """Auto-PGD on the difference of logits ratio, which is blind to the scale of the logits; three classes at least."""

    SOURCE = "Croce & Hein 2020, alg. 1 and eq. 6"

    def objective(self, state: State, logits: Tensor) -> Tensor:
        return dlr(logits, state["y"])


@dataclass(frozen=True, kw_only=True)
class ApgdT(Apgd):
    """Auto-PGD towards each of the most likely other classes in turn (targeted DLR; margin for two classes)."""

    SOURCE = "Croce & Hein 2020, alg. 1 and eq. 7"
    sees_answers = True
    targets: int = option(9, "classes aimed at: those with the highest logits on the image itself", low=1)

    @property
    def repeats(self) -> int:
        return self.restarts * self.targets

    def fitted(self, classes: int) -> "ApgdT":
        return replace(self, targets=min(self.targets, classes - 1))

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        return super().start(x, y, key, index) | {"rank": rank(key, y, self.targets)}

    def objective(self, state: State, logits: Tensor) -> Tensor:
        return targeted_dlr(logits, state["y"], aim(state))


def _rows(values: Tensor) -> Tensor:
    """(n,) -> (n, 1, 1, 1), to be multiplied with images."""
    return values.view(-1, 1, 1, 1)
