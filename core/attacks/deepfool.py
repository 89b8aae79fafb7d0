"""DeepFool: steps across the nearest linearised boundary until the model's answer changes."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..option import option
from .aim import faced, facing, lead
from .attack import Attack, Key, State
from .norms import NORMS

_MORE = 1e-4  # added to every step, as in the authors' code: without it the box keeps points just short of a boundary


@dataclass(frozen=True, kw_only=True)
class DeepFool(Attack):
    """A small perturbation by projections on the nearest linearised boundary; only those within eps count.

    A step takes one gradient of each class that is compared, and goes a little beyond the nearest boundary. Exact on
    linear models; on others FAB and C&W find smaller ones.
    """

    SOURCE = "Moosavi-Dezfooli et al. 2016, alg. 2; L-inf: section 3.3 there"
    minimal = True
    norm: str = option("linf", "norm of the perturbation", choices=("linf", "l2"))
    steps: int = option(50, "most steps", low=1)
    overshoot: float = option(0.02, "share by which the perturbation is lengthened, to be across", low=0.0, high=1.0)
    targets: int = option(9, "classes whose boundaries are compared: those with the highest logits on the image", low=1)

    @property
    def sees_answers(self) -> bool:
        return True

    def fitted(self, classes: int) -> "DeepFool":
        return replace(self, targets=min(self.targets, classes - 1))

    @property
    def iterations(self) -> int:
        return self.steps * self.targets

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        return {"x": x, "rank": torch.zeros_like(y), "way": torch.zeros_like(x)} | facing(x, y)

    def objective(self, state: State, logits: Tensor) -> Tensor:
        return lead(state, logits)

    def success(self, state: State, logits: Tensor) -> Tensor:
        return super().success(state, logits) & (NORMS[self.norm].size(state["x"] - state["clean"]) <= self.radius)

    def finished(self, state: State, logits: Tensor) -> Tensor:
        return super().success(state, logits)

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        new = faced(state, grad, self.norm)
        ready = new["seen"] >= self.targets
        length = (new["distance"].nan_to_num(posinf=0.0) + _MORE).view(-1, 1, 1, 1)
        step = NORMS[self.norm].steepest(new["slope"]) * length
        way = torch.where(ready.view(-1, 1, 1, 1), state["way"] + step, state["way"])
        x = (state["clean"] + (1 + self.overshoot) * way).clamp(0, 1)
        new["seen"] = new["seen"].masked_fill(ready, 0)
        new["distance"] = new["distance"].masked_fill(ready, torch.inf)
        return new | {"x": x, "way": way, "rank": new["seen"]}
