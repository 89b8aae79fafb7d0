"""Relaxed variable splitting: weights are drawn to a thresholded copy of themselves, which is what is exported."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import OptionError
from ..option import option
from ..packed import Packed
from ..session import Compressor, Session, Weights
from . import mask


@dataclass(frozen=True, kw_only=True)
class Rvsm(Compressor):
    """min f(w) + lam ||u||_0 + (beta/2) ||w - u||^2: u keeps the weights beyond sqrt(2 lam / beta); no multiplier.

    The sparsity is not set but found: a smaller beta or a larger lam gives more of it.
    """

    SOURCE = "Dinh et al. 2020 (Sparsity meets robustness), RVSM"
    lam: float = option(1e-6, "weight of the number of weights", low=0)
    beta: float = option(0.1, "weight of the pull; 0.5, 0.1 and 0.01 in the paper")

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
    """No state: u is a function of the weights. Forward and attack see w itself."""

    def __init__(self, options: Rvsm, names: tuple[str, ...]) -> None:
        self.options, self.names = options, names
        self.sparsity = 0.0

    def penalty(self, weights: Weights) -> Tensor | float:
        """(beta / 2) ||w - u||^2, where u is w or zero."""
        if not self.names:
            return 0.0
        terms = [(weights[n] * ~self.options.keeps(weights[n])).square().sum() for n in self.names]
        return 0.5 * self.options.beta * torch.stack(terms).sum()

    @property
    def exact(self) -> bool:
        return not self.names

    def encode(self, weights: Weights) -> dict[str, Packed]:
        masks = {name: self.options.keeps(weights[name]) for name in self.names}
        total = sum(kept.numel() for kept in masks.values())
        self.sparsity = 1 - sum(int(kept.sum()) for kept in masks.values()) / max(1, total)
        return mask.sparse(weights, masks)

    def metrics(self) -> dict[str, float]:
        """The sparsity of what was exported last."""
        return {"sparsity": self.sparsity}
