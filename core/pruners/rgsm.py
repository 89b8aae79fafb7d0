"""Relaxed group-wise splitting: as relaxed variable splitting, for whole output channels."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..option import option
from ..packed import Packed
from ..session import LAST, Compressor, Session, Weights
from . import mask


@dataclass(frozen=True, kw_only=True)
class Rgsm(Compressor):
    """f(w) + lam2 sum ||w_g|| + (beta/2) ||w - u||^2 over channels g, u_g = prox(w_g); u is exported.

    The channel sparsity is not set but found: a larger lam1 gives more of it.
    """

    SOURCE = "Dinh et al. 2020 (Sparsity meets robustness), RGSM"
    lam1: float = option(0.05, "of the prox; 0.05 and 0.1 for one network in the paper", low=0)
    lam2: float = option(1e-5, "weight of the channels' norms in the loss", low=0)
    beta: float = option(1.0, "weight of the pull", low=0)
    prox: str = option(
        "l0", "l0 keeps channels of norm above sqrt(2 lam1), lasso shortens all by lam1", choices=("l0", "lasso")
    )
    switch: float = option(
        1.0,
        "training progress at which w becomes u for good, and channels that are left train on; 1: after the last step",
        low=0,
        high=1,
    )

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return RgsmSession(self, tuple(weights))

    def near(self, weight: Tensor) -> Tensor:
        """weight (out, ...) -> u of the same shape, detached; dropped channels are exactly zero."""
        flat = weight.detach().flatten(1)
        norm = flat.norm(dim=1, keepdim=True)
        if self.prox == "l0":
            factor = (norm > math.sqrt(2 * self.lam1)).to(flat)
        else:
            factor = (norm - self.lam1).clamp(min=0) / norm.clamp(min=1e-30)
        return (flat * factor).view_as(weight)


class RgsmSession(Session):
    """State: the masks, once w has become u. Until then forward and attack see w itself."""

    def __init__(self, options: Rgsm, names: tuple[str, ...]) -> None:
        self.options, self.names = options, names
        self.masks: dict[str, Tensor] = {}

    def view(self, weights: Weights) -> dict[str, Tensor]:
        return mask.shown(weights, self.masks)

    def penalty(self, weights: Weights) -> Tensor | float:
        if self.exact:
            return 0.0
        total = torch.zeros(())
        for name in self.names:
            w = weights[name]
            norms = torch.linalg.vector_norm(w.flatten(1), dim=1)
            pull = (w - self.options.near(w)).square().sum()
            total = total.to(w) + self.options.lam2 * norms.sum() + 0.5 * self.options.beta * pull
        return total

    @torch.no_grad()
    def after_step(self, weights: Weights, progress: float) -> None:
        if not self.exact and progress >= min(self.options.switch, LAST):
            for name in self.names:
                weights[name].copy_(self.options.near(weights[name]))
            self.masks = {name: _alive(weights[name]) for name in self.names}

    @property
    def exact(self) -> bool:
        return bool(self.masks) or not self.names

    def encode(self, weights: Weights) -> dict[str, Packed]:
        if self.masks:
            return mask.sparse(weights, self.masks)
        u = {name: self.options.near(weights[name]) for name in self.names}
        return mask.sparse(u, {name: _alive(w) for name, w in u.items()})

    def state_dict(self) -> dict[str, Any]:
        return {"masks": self.masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.masks = dict(state["masks"])


def _alive(weight: Tensor) -> Tensor:
    """bool of the weight's shape: the channels that are not zero."""
    return mask.spread(mask.strength(weight, "channel") > 0, weight.shape, "channel")
