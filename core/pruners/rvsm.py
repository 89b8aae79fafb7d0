"""Relaxed variable splitting: weights are drawn to a thresholded copy of themselves, which is what is exported."""

import math
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


@dataclass(frozen=True, kw_only=True)
class Rvsm(Compressor):
    """min f(w) + lam ||u||_0 + (beta/2) ||w - u||^2: u keeps the weights beyond sqrt(2 lam / beta); no multiplier.

    The sparsity is not set but found: a smaller beta or a larger lam gives more of it.
    """

    SOURCE = "Dinh et al. 2020 (Sparsity meets robustness), RVSM"
    lam: float = option(1e-6, "weight of the number of weights", low=0)
    beta: float = option(0.1, "weight of the pull; 0.5, 0.1 and 0.01 in the paper")
    switch: float = option(
        1.0,
        "training progress at which w becomes u for good, and what is not zero trains on; 1: after the last step",
        low=0,
        high=1,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.beta <= 0:
            raise OptionError(f"Rvsm: beta is {self.beta!r}.", "Give a number above 0, such as 0.1.")

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return RvsmSession(self, tuple(weights))

    def keeps(self, weight: Tensor) -> Tensor:
        """bool of the weight's shape: what the hard threshold leaves."""
        return weight.detach().abs() > math.sqrt(2 * self.lam / self.beta)


class RvsmSession(Session):
    """State: the masks, once w has become u. Until then forward and attack see w itself."""

    def __init__(self, options: Rvsm, names: tuple[str, ...]) -> None:
        self.options, self.names = options, names
        self.masks: dict[str, Tensor] = {}

    def view(self, weights: Weights) -> dict[str, Tensor]:
        return mask.shown(weights, self.masks)

    def penalty(self, weights: Weights) -> Tensor | float:
        """(beta / 2) ||w - u||^2, where u is w or zero."""
        if self.exact:
            return 0.0
        terms = [(weights[n] * ~self.options.keeps(weights[n])).square().sum() for n in self.names]
        return 0.5 * self.options.beta * torch.stack(terms).sum()

    @torch.no_grad()
    def after_step(self, weights: Weights, progress: float) -> None:
        if not self.exact and progress >= min(self.options.switch, LAST):
            self.masks = {name: self.options.keeps(weights[name]) for name in self.names}
            for name, kept in self.masks.items():
                weights[name].mul_(kept)

    @property
    def exact(self) -> bool:
        return bool(self.masks) or not self.names

    def encode(self, weights: Weights) -> dict[str, Packed]:
        return mask.sparse(weights, self.masks or {name: self.options.keeps(weights[name]) for name in self.names})

    def state_dict(self) -> dict[str, Any]:
        return {"masks": self.masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.masks = dict(state["masks"])
