"""Fast adaptive boundary attack: the smallest perturbation, by projections on linearised decision boundaries."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..option import option
from .aim import lead, rank
from .attack import Attack, Key, State
from .norms import NORMS

_OVERSHOOT = 1.05  # eta of the paper
_BIAS = 0.1  # alpha_max: the largest share of the projection of the image itself
_BACK = 0.9  # beta: what is kept of a perturbation that is adversarial but too large


@dataclass(frozen=True, kw_only=True)
class FabT(Attack):
    """Shortest ways across the boundary to each of the likeliest other classes in turn; only those within eps count."""

    SOURCE = "Croce & Hein 2020 (FAB), alg. 1 and eq. 7-10; targeted version of the AutoAttack paper"
    sees_answers = True
    steps: int = option(200, "points evaluated in one start; 100 published iterations take up to two each", low=1)
    targets: int = option(9, "classes aimed at: those with the highest logits on the image itself", low=1)

    @property
    def iterations(self) -> int:
        return self.steps

    @property
    def repeats(self) -> int:
        return self.targets

    def fitted(self, classes: int) -> "FabT":
        return replace(self, targets=min(self.targets, classes - 1))

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        return {"x": x, "rank": rank(key, y, self.targets)}

    def objective(self, state: State, logits: Tensor) -> Tensor:
        return lead(state, logits)

    def success(self, state: State, logits: Tensor) -> Tensor:
        near = NORMS[self.norm].size(state["x"] - state["clean"]) <= self.radius
        return super().success(state, logits) & near

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        x, clean, size = state["x"], state["clean"], NORMS[self.norm].size
        needed = -state["value"]  # by how much the lead must rise along the gradient
        here = shortest(x, grad, needed, self.norm)
        there = shortest(clean, grad, needed + (grad * (x - clean)).flatten(1).sum(1), self.norm)
        from_here, from_there = size(here).clamp_min(1e-8), size(there).clamp_min(1e-8)
        share = (from_here / (from_here + from_there)).clamp_max(_BIAS).view(-1, 1, 1, 1)
        ahead = (1 - share) * (x + _OVERSHOOT * here) + share * (clean + _OVERSHOOT * there)
        crossed = (logits.argmax(1) != state["y"]).view(-1, 1, 1, 1)
        return {"x": torch.where(crossed, clean + _BACK * (x - clean), ahead.clamp(0, 1))}

    def final(self, state: State, randomized: bool) -> Tensor:
        """The last point drawn into the ball: a larger perturbation would be no answer."""
        delta = NORMS[self.norm].project(state["x"] - state["clean"], self.radius)
        return (state["clean"] + delta).clamp_(0, 1)


def shortest(x: Tensor, slope: Tensor, needed: Tensor, norm: str) -> Tensor:
    """The smallest d in `norm` with <slope, d> = needed (n,) and x + d in [0, 1]; as far as it goes where none has it.

    Every entry moves towards the plane by min(way * speed, room): speed 1 for L-inf, |slope| for L2. What that gains
    is a concave, piecewise linear function of `way`, whose corners are sorted.
    """
    weight = slope.flatten(1)
    scale = weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    weight, wanted = weight / scale, (needed.abs()[:, None] / scale)
    direction = weight.sign() * needed.sign()[:, None]
    weight, points = weight.abs(), x.flatten(1)
    room = torch.where(direction > 0, 1 - points, points)
    speed = weight.clamp_min(1e-20) if norm == "l2" else torch.ones_like(weight)
    corners, order = (room / speed).sort(1)
    rate = (weight * speed).gather(1, order)
    spent = (weight * room).gather(1, order).cumsum(1)  # gained by the entries that are at the edge of the box
    left = rate.flip(1).cumsum(1).flip(1) - rate  # what the others gain for one unit of way
    gained = spent + left * corners
    first = torch.searchsorted(gained, wanted).clamp_max(gained.shape[1] - 1)
    before = (first - 1).clamp_min(0)
    zero = first == 0
    base = spent.gather(1, before).masked_fill(zero, 0.0)
    pace = torch.where(zero, left.gather(1, before) + rate.gather(1, before), left.gather(1, before))
    way = torch.minimum((wanted - base).clamp_min(0) / pace.clamp_min(1e-30), corners[:, -1:])
    return (direction * torch.minimum(way * speed, room)).view_as(x)
