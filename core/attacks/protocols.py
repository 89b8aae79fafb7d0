"""Evaluation protocols of papers, by name: their numbers can be repeated, and compared with those of real attacks."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..option import option
from .adam import adam
from .aim import lead
from .attack import Attack, Key, State
from .pgd import Ifgsm, Pgd

_RADIUS = "radius of the protocol"
_STEP = "length of one step"


@dataclass(frozen=True, kw_only=True)
class Ifgsm20(Ifgsm):
    """IFGSM with 20 steps of 1/255 at radius 0.031, without a random start."""

    SOURCE = "Wang et al. 2019 (EnResNet), section 3; as in the authors' code"
    eps: float | None = option(0.031, _RADIUS, unit="input units in [0, 1]", low=0.0)
    step: float | None = option(1 / 255, _STEP, unit="input units", low=0.0)


@dataclass(frozen=True, kw_only=True)
class Pgd7Dnr(Pgd):
    """PGD with 7 steps of 0.01 at radius 0.031 from one random start."""

    SOURCE = "Kundu et al. 2021 (DNR), section 4"
    caveat = "seven steps overestimate robustness: compare it with autoattack."
    eps: float | None = option(0.031, _RADIUS, unit="input units in [0, 1]", low=0.0)
    step: float | None = option(0.01, _STEP, unit="input units", low=0.0)
    steps: int = option(7, "number of steps of one start", low=1)


@dataclass(frozen=True, kw_only=True)
class Pgd20Trades(Pgd):
    """PGD with 20 steps of 0.003 at radius 0.031 from one random start."""

    SOURCE = "Zhang et al. 2019 (TRADES), section 5; as in the authors' code"
    eps: float | None = option(0.031, _RADIUS, unit="input units in [0, 1]", low=0.0)
    step: float | None = option(0.003, _STEP, unit="input units", low=0.0)
    steps: int = option(20, "number of steps of one start", low=1)


@dataclass(frozen=True, kw_only=True)
class Pgd50x10(Pgd):
    """PGD with 50 steps of 2/255 at radius 8/255 from ten random starts."""

    SOURCE = "Wong et al. 2020 (Fast-AT), section 5"
    eps: float | None = option(8 / 255, _RADIUS, unit="input units in [0, 1]", low=0.0)
    step: float | None = option(2 / 255, _STEP, unit="input units", low=0.0)
    steps: int = option(50, "number of steps of one start", low=1)
    restarts: int = option(10, "independent random starts; an image counts as fooled if any start fools it", low=1)


@dataclass(frozen=True, kw_only=True)
class Pgd100(Pgd):
    """PGD with 100 steps of eps/10 from one random start."""

    SOURCE = "Madry et al. 2018, section 2.1"
    steps: int = option(100, "number of steps of one start", low=1)


@dataclass(frozen=True, kw_only=True)
class CwEnresnet(Attack):
    """WEAK: fifty steps of C&W whose perturbation is then multiplied by the radius, as one group of papers reports it.

    Minimised is |w - x|^2 + c max(0, f_y - f_j), with j the runner-up on the image itself, by Adam, without the box and
    without bisection of c. What is judged is x + eps (w - x): about a thirtieth of what was found.
    """

    SOURCE = "Wang et al. 2019 (EnResNet), section 3; as in the authors' code"
    caveat = (
        "WEAK ATTACK, for the repetition of published numbers only. It multiplies the perturbation it finds by the "
        "radius; a real C&W attack leaves next to nothing. Compare its accuracy with no other."
    )
    eps: float | None = option(0.031, "factor of the perturbation, as in the protocol", low=0.0, high=1.0)
    norm: str = option("linf", "norm of the perturbation", choices=("linf",))
    steps: int = option(50, "steps of Adam", low=1)
    weight: float = option(10.0, "weight c of the margin", low=0.0)
    lr: float = option(6e-4, "learning rate of Adam", low=0.0, high=0.01)

    @property
    def sees_answers(self) -> bool:
        return True

    @property
    def iterations(self) -> int:
        return self.steps

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        still, cost = torch.zeros_like(x), x.new_full((len(x),), math.inf)
        return {"x": x, "first": still, "second": still, "best": x, "cost": cost, "rank": torch.zeros_like(y)}

    def objective(self, state: State, logits: Tensor) -> Tensor:
        return lead(state, logits).clamp_max(0)

    def success(self, state: State, logits: Tensor) -> Tensor:
        return torch.zeros_like(state["y"], dtype=torch.bool)  # only what is handed in at the end is judged

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        delta = state["x"] - state["clean"]
        cost = delta.flatten(1).square().sum(1) - self.weight * state["value"]
        slope = 2 * delta - self.weight * grad
        direction, first, second = adam(slope, state["first"], state["second"], state["taken"])
        return {
            "x": state["x"] - self.lr * direction,
            "first": first,
            "second": second,
            "best": torch.where((cost < state["cost"]).view(-1, 1, 1, 1), state["x"], state["best"]),
            "cost": torch.minimum(cost, state["cost"]),
        }

    def final(self, state: State, randomized: bool) -> Tensor:
        return (state["clean"] + self.radius * (state["best"] - state["clean"])).clamp(0, 1)
