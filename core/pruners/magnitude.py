"""Magnitude pruning: the weights, or output channels, that are smallest become exactly zero."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from ..option import option
from ..packed import Packed
from ..session import LAST, Compressor, Session, Weights
from . import mask

_STEPS = 100  # in which a sparsity grows


@dataclass(frozen=True, kw_only=True)
class Magnitude(Compressor):
    """Set the weights (or output channels) of smallest magnitude to zero, exactly as many as asked for."""

    SOURCE = "Han et al. 2015 (arXiv 1506.02626)"
    sparsity: float = option(0.5, "share of the weights (channels) that become zero, between 0 and 1")
    scope: str = option("global", "compare within each layer or across all", choices=("global", "layer"))
    granularity: str = option("weight", "what is dropped", choices=("weight", "channel"))
    ramp: float = option(
        0.0,
        "training progress up to which the sparsity grows, as a cubic (Zhu & Gupta 2017); 0: all before the first step",
        low=0,
        high=0.9,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sparsity < 1:
            raise OptionError(f"Magnitude: sparsity is {self.sparsity!r}, not between 0 and 1.", "Half of all is 0.5.")

    def masks(self, weights: Weights, sparsity: float | None = None) -> dict[str, Tensor]:
        """What is kept at this sparsity (None: the final one): a bool tensor of each weight's shape."""
        choose = mask.by_channel if self.granularity == "channel" else mask.by_weight
        return choose(weights, self.sparsity if sparsity is None else sparsity, self.scope) if weights else {}

    def project(self, weights: Weights) -> dict[str, Packed]:
        return mask.sparse(weights, self.masks(weights))

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return MaskSession(self.masks(weights)) if self.ramp == 0 else GradualSession(self, weights)

    def reached(self, progress: float) -> float:
        """The sparsity at a training progress in [0, 1] where it grows."""
        return self.sparsity * (1 - (1 - min(1.0, progress / self.ramp)) ** 3)


class MaskSession(Session):
    """Trains with the mask of the first step: what was dropped stays zero."""

    def __init__(self, masks: dict[str, Tensor]) -> None:
        self.masks = masks

    def view(self, weights: Weights) -> dict[str, Tensor]:
        return mask.shown(weights, self.masks)

    def encode(self, weights: Weights) -> dict[str, Packed]:
        return mask.sparse(weights, self.masks)

    def state_dict(self) -> dict[str, Any]:
        return {"masks": self.masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.masks = dict(state["masks"])


class GradualSession(MaskSession):
    """Trains while the sparsity grows in 100 steps; what is dropped stays zero. State: the masks and the step."""

    def __init__(self, options: Magnitude, weights: Weights) -> None:
        super().__init__({name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()})
        self.options, self.done = options, 0

    @property
    def exact(self) -> bool:
        return self.done >= _STEPS

    @torch.no_grad()
    def after_step(self, weights: Weights, progress: float) -> None:
        due = min(_STEPS, int(progress / min(self.options.ramp, LAST) * _STEPS))
        if due <= self.done:
            return
        self.done = due
        kept = {name: weights[name] * old for name, old in self.masks.items()}
        self.masks = self.options.masks(kept, self.options.reached(due / _STEPS * self.options.ramp))
        for name, stays in self.masks.items():
            weights[name].mul_(stays)

    def encode(self, weights: Weights) -> dict[str, Packed]:
        if self.exact:
            return super().encode(weights)
        return mask.sparse(weights, self.options.masks({name: weights[name] * m for name, m in self.masks.items()}))

    def metrics(self) -> dict[str, float]:
        return {"sparsity": self.options.reached(self.done / _STEPS * self.options.ramp)}

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.done = int(state["done"])
