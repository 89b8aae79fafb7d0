"""Iterated FGSM with momentum."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ..option import option
from .attack import Key, State
from .pgd import Ifgsm


@dataclass(frozen=True, kw_only=True)
class MiFgsm(Ifgsm):
    """Iterated FGSM along the sum of past gradients, each at L1 size 1; steps of eps/steps from the image itself."""

    SOURCE = "Dong et al. 2018, alg. 1"
    steps: int = option(10, "number of steps", low=1)
    decay: float = option(1.0, "of what past gradients count, at each step", low=0.0, high=1.0)

    @property
    def length(self) -> float:
        return self.radius / self.steps if self.step is None else self.step

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        return super().start(x, y, key, index) | {"velocity": torch.zeros_like(x)}

    def update(self, state: State, logits: Tensor, grad: Tensor, key: Key) -> State:
        # The largest entry is divided out first, so that the sum of tiny gradients does not underflow.
        scaled = grad / _rows(grad.abs().flatten(1).amax(1).clamp_min(torch.finfo(grad.dtype).tiny))
        unit = scaled / _rows(scaled.abs().flatten(1).sum(1).clamp_min(1e-30))
        velocity = self.decay * state["velocity"] + unit
        return super().update(state, logits, velocity, key) | {"velocity": velocity}


def _rows(values: Tensor) -> Tensor:
    return values.view(-1, 1, 1, 1)
