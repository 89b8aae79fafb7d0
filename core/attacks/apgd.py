"""Auto-PGD: projected ascent that adapts its steps, image by image, to how the objective grows."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .. import rng
from ..option import option
from .aim import aim, rank
from .attack import Attack, Key, State
from .dlr import dlr, targeted_dlr
from .losses import AUTO, LOSSES, TEMPERATURE_HELP, Tempered, increased
from .norms import NORMS
from .pace import pace, rows

_STAGES = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))  # radius in eps, and share of the steps, from larger balls inwards


@dataclass(frozen=True, kw_only=True)
class Stepped(Attack):
    """What all variants of Auto-PGD share; their objectives differ."""

    SOURCE = "Croce & Hein 2020, alg. 1; L1: Croce & Hein 2021, alg. 1"
    steps: int = option(100, "number of steps of one start", low=1)
    restarts: int = option(1, "independent random starts; an image counts as fooled if any start fools it", low=1)
    inwards: bool = option(False, "begin in balls of 3 eps and 2 eps, as AutoAttack does in the L1 norm")

    @property
    def iterations(self) -> int:
        return self.steps

    @property
    def repeats(self) -> int:
        return self.restarts

    @property
    def stages(self) -> list[tuple[float, int]]:
        """Radius and number of steps of each stage."""
        if not self.inwards or self.steps < len(_STAGES):
            return [(self.radius, self.steps)]
        early = [(factor * self.radius, math.ceil(share * self.steps)) for factor, share in _STAGES[:-1]]
        return [*early, (self.radius, self.steps - sum(steps for _, steps in early))]

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        state = {"clean": x, "stage": torch.zeros_like(y)} | self._limits(torch.zeros_like(y), x)
        state["x"] = self._first(x, key, index, state["radius"])
        return state | self._stage(state, drawn=len(self.stages) == 1)

    def _first(self, x: Tensor, key: Key, index: Tensor, radius: Tensor) -> Tensor:
        """A random point of the sphere; in the L1 norm a Gaussian one, drawn into ball and box."""
        shape, size = NORMS[self.norm], tuple(x.shape[1:])
        if self.norm == "l1":
            return shape.confine(x, rng.normal((*key, "start"), index, size).to(x), radius)
        delta = shape.ball((*key, "start"), index, size).to(x)
        return shape.confine(x, delta * rows(radius / shape.size(delta).clamp_min(1e-30)), radius)

    def _limits(self, stage: Tensor, x: Tensor) -> State:
        """The radius and the number of steps of the stage (n,) that each image is in."""
        radii, budgets = zip(*self.stages, strict=True)
        return {"radius": x.new_tensor(radii)[stage], "budget": stage.new_tensor(budgets)[stage]}

    def _stage(self, state: State, drawn: bool) -> State:
        """The entries with which a stage starts from the points `x`."""
        low, zero = torch.full_like(state["radius"], -math.inf), torch.zeros_like(state["budget"])
        return {
            "last": state["x"],
            "best": state["x"],
            "best_grad": torch.zeros_like(state["x"]),
            "best_value": low,
            "last_value": -low,  # so that the first value counts as no rise
            "age": zero,
            "since": zero - 1,  # steps since the last checkpoint
        } | pace(self.norm).entries(state, drawn)

    def success(self, state: State, logits: Tensor) -> Tensor:
        return super().success(state, logits) & (state["stage"] == len(self.stages) - 1)

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        value, adapted = state["value"], pace(self.norm)
        better = value > state["best_value"]
        new = {
            "best": torch.where(rows(better), state["x"], state["best"]),
            "best_grad": torch.where(rows(better), grad, state["best_grad"]),
            "best_value": torch.where(better, value, state["best_value"]),
            "since": state["since"] + 1,
            "last_value": value,
        } | adapted.noted(state)
        here = state["x"]
        due = new["since"] == state["until"]
        if due.any():
            back, changed = adapted.checked(state | new, due)
            here = torch.where(rows(back), new["best"], here)
            grad = torch.where(rows(back), new["best_grad"], grad)
            new |= changed | {"since": new["since"].masked_fill(due, 0)}
        new |= {"x": adapted.moved(state | new, here, grad, self.norm), "last": state["x"], "age": state["age"] + 1}
        return new if len(self.stages) == 1 else new | self._further(state | new)

    def _further(self, state: State) -> State:
        """The entries of a new stage, from their best points, for images that have had all steps of the last one."""
        over = (state["age"] >= state["budget"]) & (state["stage"] < len(self.stages) - 1)
        if not over.any():
            return {}
        stage = state["stage"] + over
        limits = self._limits(stage, state["x"])
        point = NORMS[self.norm].confine(state["clean"], state["best"] - state["clean"], limits["radius"])
        new = limits | {"stage": stage, "x": point}
        new |= self._stage(state | new, drawn=False)
        return {n: torch.where(over.view(-1, *[1] * (v.dim() - 1)), v, state[n]) for n, v in new.items()}

    def final(self, state: State, randomized: bool) -> Tensor:
        return state["best"] if randomized else state["x"]


@dataclass(frozen=True, kw_only=True)
class ApgdCe(Tempered, Stepped):
    """Auto-PGD on the cross entropy: projected ascent whose step is halved where the objective stalls."""

    temperature: float | str = option(1.0, TEMPERATURE_HELP)

    def rescaled(self) -> "ApgdCe | None":
        return replace(self, temperature=AUTO) if self.temperature != AUTO else None

    def objective(self, state: State, logits: Tensor) -> Tensor:
        return increased("ce", state, logits, self.temperature)


@dataclass(frozen=True, kw_only=True)
class Apgd(ApgdCe):
    """Auto-PGD on a loss of choice: ascent from a random point of the sphere whose steps need no tuning."""

    loss: str = option("ce", "cross entropy, margin to the best other class, or DLR", choices=LOSSES)

    def rescaled(self) -> "ApgdCe | None":
        return super().rescaled() if self.loss == "ce" else None

    def objective(self, state: State, logits: Tensor) -> Tensor:
        return increased(self.loss, state, logits, self.temperature)


@dataclass(frozen=True, kw_only=True)
class ApgdDlr(Stepped):
    """Auto-PGD on the difference of logits ratio, which is blind to the scale of the logits."""

    SOURCE = "Croce & Hein 2020, alg. 1 and eq. 6"

    def objective(self, state: State, logits: Tensor) -> Tensor:
        return dlr(logits, state["y"])


@dataclass(frozen=True, kw_only=True)
class ApgdT(Stepped):
    """Auto-PGD towards each of the most likely other classes in turn (targeted DLR; margin for two classes)."""

    SOURCE = "Croce & Hein 2020, alg. 1 and eq. 7"
    targets: int = option(9, "classes aimed at: those with the highest logits on the image itself", low=1)

    @property
    def sees_answers(self) -> bool:
        return True

    @property
    def repeats(self) -> int:
        return self.restarts * self.targets

    def fitted(self, classes: int) -> "ApgdT":
        return replace(self, targets=min(self.targets, classes - 1))

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        return super().start(x, y, key, index) | {"rank": rank(key, y, self.targets)}

    def objective(self, state: State, logits: Tensor) -> Tensor:
        return targeted_dlr(logits, state["y"], aim(state))
