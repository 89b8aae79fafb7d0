"""The attacks of Carlini & Wagner: the smallest L2 perturbation, and what papers call C&W in L-inf."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import rng
from ..errors import OptionError
from ..option import option
from .adam import adam
from .attack import Attack, Key, State, margin
from .losses import LOSSES
from .norms import NORMS
from .pgd import Pgd
from .projected import target

_INNER = 0.999999  # keeps the variable finite where a pixel is 0 or 1
_CHECKS = 10  # of a round, whether it still makes progress
_PROGRESS = 0.9999  # of the value at the last check that a new one must be below
_MOST = 1e10  # weight that is raised no more


@dataclass(frozen=True, kw_only=True)
class CwLinf(Pgd):
    """PGD on the margin, which papers call C&W in L-inf (CW-20, CW-100)."""

    SOURCE = "Carlini & Wagner 2017, f6 (eq. 5), inside the attack of Madry et al. 2018"
    norm: str = option("linf", "norm of the perturbation", choices=("linf",))
    steps: int = option(100, "number of steps of one start", low=1)
    loss: str = option("margin", "cross entropy, margin to the best other class, or DLR", choices=LOSSES)


@dataclass(frozen=True, kw_only=True)
class Cw(Attack):
    """The smallest L2 perturbation by Adam, its weight against the margin found by bisection; only within eps counts.

    x' = (tanh(v) + 1) / 2 stays in the box by itself; minimised is |x' - x|^2 + c max(kappa - margin, 0). Each round
    has a weight c, ten times larger after a round without success, between two known ones afterwards.
    """

    SOURCE = "Carlini & Wagner 2017, section 6.1; rounds and early end as in the authors' code"
    minimal = True
    norm: str = option("l2", "l2; linf is the attack cw-linf", choices=("l2", "linf"))
    steps: int = option(1000, "most steps of Adam in a round; 10000 in the authors' code", low=1)
    rounds: int = option(9, "values of the weight", low=1)
    weight: float = option(1e-3, "first weight of the margin", low=1e-9)
    lr: float = option(0.01, "learning rate of Adam", low=0.0)
    confidence: float = option(0.0, "kappa: lead that another class shall have", unit="logits", low=0.0)
    early: bool = option(True, "end a round that makes no progress in a tenth of its steps")
    targeted: bool = option(False, "aim at one class other than the label, drawn for each image")

    @property
    def members(self) -> tuple[Attack, ...]:
        if self.norm == "l2":
            return (self,)
        return (CwLinf(eps=self.eps, eot=self.eot, targeted=self.targeted),)

    @property
    def iterations(self) -> int:
        return self.steps * self.rounds

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        if self.norm != "l2":
            raise OptionError("Cw: the inner attack of training cannot be cw in L-inf.", "Use cw-linf.")
        zero, low = torch.zeros_like(y), x.new_zeros(len(x))
        state = {"round": zero, "weight": low + self.weight, "lower": low, "upper": low + math.inf}
        state |= {"nearest": x, "norm": low + math.inf}
        if self.targeted:
            state["draw"] = rng.uniform((*key, "target"), index, ()).to(x.device)
        return state | self._round(x, y)

    def _round(self, clean: Tensor, y: Tensor) -> State:
        """The entries with which a round starts."""
        variable = torch.atanh((2 * clean - 1) * _INNER)
        still = torch.zeros_like(clean)
        return {
            "x": (torch.tanh(variable) + 1) / 2,
            "variable": variable,
            "first": still,
            "second": still,
            "age": torch.zeros_like(y),
            "hit": torch.zeros_like(y, dtype=torch.bool),
            "checked": clean.new_full((len(clean),), math.inf),
        }

    def _lead(self, state: State, logits: Tensor) -> Tensor:
        if not self.targeted:
            return margin(logits, state["y"])
        return -margin(logits, target(state, logits))

    def objective(self, state: State, logits: Tensor) -> Tensor:
        return (self._lead(state, logits) - self.confidence).clamp_max(0)

    def success(self, state: State, logits: Tensor) -> Tensor:
        near = NORMS["l2"].size(state["x"] - state["clean"]) <= self.radius
        return (self._lead(state, logits) > 0) & near

    def finished(self, state: State, logits: Tensor) -> Tensor:
        return state["round"] >= self.rounds

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        delta = state["x"] - state["clean"]
        norm = NORMS["l2"].size(delta)
        hit = self._lead(state, logits) > self.confidence
        nearer = hit & (norm < state["norm"])
        new = self._adam(state, 2 * delta - _rows(state["weight"]) * grad) | {
            "hit": state["hit"] | hit,
            "nearest": torch.where(_rows(nearer), state["x"], state["nearest"]),
            "norm": torch.where(nearer, norm, state["norm"]),
        }
        stale = self._stale(state, new, norm.square() - state["weight"] * state["value"])
        over = (new["age"] >= self.steps) | stale
        return new | self._next_round(state | new, over) if over.any() else new

    def _adam(self, state: State, slope: Tensor) -> State:
        """One step of Adam on the variable, down the slope (n, c, h, w) with respect to x."""
        slope = slope * 2 * state["x"] * (1 - state["x"])  # the derivative of (tanh + 1) / 2
        direction, first, second = adam(slope, state["first"], state["second"], state["age"])
        variable = state["variable"] - self.lr * direction
        x = (torch.tanh(variable) + 1) / 2
        return {"x": x, "variable": variable, "first": first, "second": second, "age": state["age"] + 1}

    def _stale(self, state: State, new: State, value: Tensor) -> Tensor:
        """(n,) bool: checks that found no progress; notes the value where there was one."""
        every = max(1, self.steps // _CHECKS)
        due = (state["age"] % every == 0) & self.early
        new["checked"] = torch.where(due, value, state["checked"])
        return due & (value > _PROGRESS * state["checked"])

    def _next_round(self, state: State, over: Tensor) -> State:
        """A new weight, and a fresh start, for images whose round is over (n,)."""
        hit, weight = state["hit"], state["weight"]
        upper = torch.where(over & hit, torch.minimum(state["upper"], weight), state["upper"])
        lower = torch.where(over & ~hit, torch.maximum(state["lower"], weight), state["lower"])
        middle = torch.where(upper.isfinite(), (lower + upper) / 2, (10 * weight).clamp_max(_MOST))
        fresh = self._round(state["clean"], state["y"])
        new = {n: torch.where(over.view(-1, *[1] * (v.dim() - 1)), v, state[n]) for n, v in fresh.items()}
        return new | {
            "upper": upper,
            "lower": lower,
            "weight": torch.where(over, middle, weight),
            "round": state["round"] + over,
        }

    def final(self, state: State, randomized: bool) -> Tensor:
        """The nearest point that was misclassified, else the last one."""
        return torch.where(_rows(state["norm"].isfinite()), state["nearest"], state["x"])


def _rows(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
