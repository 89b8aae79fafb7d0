"""Fast adaptive boundary attack: the smallest perturbation, by projections on linearised decision boundaries."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..option import option
from .aim import faced, facing, lead, number
from .attack import Attack, Key, State
from .boundary import shortest
from .norms import NORMS

_OVERSHOOT = 1.05  # eta of the paper
_BIAS = 0.1  # alpha_max: the largest share of the projection of the image itself
_BACK = 0.9  # beta: what is kept of a perturbation that is adversarial


@dataclass(frozen=True, kw_only=True)
class Fab(Attack):
    """Shortest ways across the nearest of all boundaries, ever nearer to the image; only those within eps count.

    One iteration linearises the model at a point, which takes one gradient of each class, goes across the nearest
    boundary, and comes a tenth of the way back where the model's answer has changed.
    """

    SOURCE = "Croce & Hein 2020 (FAB), alg. 1 and eq. 7-10"
    minimal = True
    steps: int = option(100, "iterations of one start", low=1)
    restarts: int = option(1, "starts; those after the first from random points half of eps away", low=1)
    targets: int = option(9, "classes whose boundaries are compared: those with the highest logits on the image", low=1)

    @property
    def sees_answers(self) -> bool:
        return True

    def fitted(self, classes: int) -> "Fab":
        return replace(self, targets=min(self.targets, classes - 1))

    @property
    def looks(self) -> int:
        """The classes looked at in one iteration."""
        return self.targets

    @property
    def iterations(self) -> int:
        return self.steps * (self.looks + 1)  # a point beyond the boundary is evaluated only to know that

    @property
    def repeats(self) -> int:
        return self.restarts

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        nothing = torch.zeros_like(y)
        state = {"moves": nothing, "fresh": nothing, "rank": nothing}  # fresh: 1 where x has not been judged yet
        return (
            state
            | {"x": self._first(x, key, index), "nearest": x, "norm": x.new_full((len(x),), torch.inf)}
            | (facing(x, y))
        )

    def _first(self, x: Tensor, key: Key, index: Tensor) -> Tensor:
        if number(key) < self.repeats // self.restarts:
            return x
        shape = NORMS[self.norm]
        delta = shape.ball((*key, "start"), index, tuple(x.shape[1:])).to(x)
        return (x + 0.5 * self.radius * delta / _rows(shape.size(delta).clamp_min(1e-30))).clamp(0, 1)

    def objective(self, state: State, logits: Tensor) -> Tensor:
        return lead(state, logits)

    def success(self, state: State, logits: Tensor) -> Tensor:
        near = NORMS[self.norm].size(state["x"] - state["clean"]) <= self.radius
        return super().success(state, logits) & near

    def finished(self, state: State, logits: Tensor) -> Tensor:
        return state["moves"] + state["fresh"] >= self.steps

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        x, clean = state["x"], state["clean"]
        wrong = logits.argmax(1) != state["y"]
        crossed = wrong & (state["fresh"] == 1)
        new = self._kept(state, wrong) | faced(state, grad, self.norm)
        ready = ~crossed & (new["seen"] >= self.looks)
        x = torch.where(_rows(crossed), clean + _BACK * (x - clean), x)
        if ready.any():
            x[ready] = self._across(x[ready], clean[ready], new["slope"][ready], new["gap"][ready])
        over = crossed | ready
        new["seen"] = new["seen"].masked_fill(over, 0)
        new["distance"] = new["distance"].masked_fill(over, torch.inf)
        new |= {"x": x, "moves": state["moves"] + state["fresh"], "fresh": ready.long()}
        return new | self._turned(new["seen"])

    def _turned(self, seen: Tensor) -> State:
        """The class to look at next."""
        return {"rank": seen}

    def _kept(self, state: State, wrong: Tensor) -> State:
        norm = NORMS[self.norm].size(state["x"] - state["clean"])
        nearer = wrong & (norm < state["norm"])
        return {
            "nearest": torch.where(_rows(nearer), state["x"], state["nearest"]),
            "norm": torch.where(nearer, norm, state["norm"]),
        }

    def _across(self, x: Tensor, clean: Tensor, slope: Tensor, gap: Tensor) -> Tensor:
        """Eq. 9 and 10: beyond the plane where gap + <slope, . - x> is zero, from x and a little from the image."""
        here = shortest(x, slope, -gap, self.norm)
        there = shortest(clean, slope, (slope * (x - clean)).flatten(1).sum(1) - gap, self.norm)
        size = NORMS[self.norm].size
        from_here, from_there = size(here).clamp_min(1e-8), size(there).clamp_min(1e-8)
        share = _rows((from_here / (from_here + from_there)).clamp_max(_BIAS))
        return ((1 - share) * (x + _OVERSHOOT * here) + share * (clean + _OVERSHOOT * there)).clamp(0, 1)

    def final(self, state: State, randomized: bool) -> Tensor:
        """The nearest point that was misclassified, else the last one."""
        return torch.where(_rows(state["norm"].isfinite()), state["nearest"], state["x"])


@dataclass(frozen=True, kw_only=True)
class FabT(Fab):
    """Shortest ways across the boundary to each of the likeliest other classes in turn; only those within eps count."""

    SOURCE = "Croce & Hein 2020 (FAB), alg. 1 and eq. 7-10; targeted version of the AutoAttack paper"
    targets: int = option(9, "classes aimed at: those with the highest logits on the image itself", low=1)

    @property
    def looks(self) -> int:
        return 1

    @property
    def repeats(self) -> int:
        return self.targets * self.restarts

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        return super().start(x, y, key, index) | {"rank": torch.full_like(y, number(key) % self.targets)}

    def _turned(self, seen: Tensor) -> State:
        return {}


def _rows(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
