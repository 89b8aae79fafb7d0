"""ADMM pruning: adversarial training pulled towards sparse weights, then pruned for good and trained on."""

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
class Admm(Compressor):
    """Alternate training with (rho/2) ||w - z + u||^2, z = P(w + u) and u += w - z; then prune and train what is kept.

    Made for a network that is trained robustly already: start from a checkpoint.
    """

    SOURCE = "Ye et al. 2019 (ICCV, Adversarial robustness vs model compression, or both?)"
    sparsity: float = option(
        0.9, "share of each layer's weights (columns, channels) that becomes zero, between 0 and 1"
    )
    granularity: str = option(
        "weight",
        "what is dropped: weights, columns (an input at a place of the kernel), or output channels (filters)",
        choices=("weight", "column", "channel"),
    )
    switch: float = option(0.5, "training progress at which is pruned for good; half of it in the paper", low=0, high=1)
    updates: int = option(10, "how often z and u are updated until then", low=1)
    rho: float = option(1e-3, "weight of the pull at first", low=0)
    growth: float = option(1.3, "factor on rho at each update", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sparsity < 1:
            raise OptionError(f"Admm: sparsity is {self.sparsity!r}, not between 0 and 1.", "Half of all is 0.5.")

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return AdmmSession(self, weights)

    def mask(self, weight: Tensor) -> Tensor:
        """bool of the weight's shape: the projection on the sparse set keeps exactly these."""
        n = len(mask.strength(weight, self.granularity))
        return mask.keeping(weight, self.granularity, max(1, n - mask.pruned_count(n, self.sparsity)))


class AdmmSession(Session):
    """State: z, u, how many updates there have been, and the masks once they are fixed."""

    def __init__(self, options: Admm, weights: Weights) -> None:
        self.options, self.names = options, tuple(weights)
        self.z = {name: self._projected(w.detach()) for name, w in weights.items()}
        self.u = {name: torch.zeros_like(w.detach()) for name, w in weights.items()}
        self.done, self.residual = 0, 1.0
        self.masks: dict[str, Tensor] = {}
        if options.switch == 0:
            self._prune(weights)

    def view(self, weights: Weights) -> dict[str, Tensor]:
        return mask.shown(weights, self.masks)

    @property
    def rho(self) -> float:
        """The weight of the pull."""
        return self.options.rho * self.options.growth**self.done

    @property
    def exact(self) -> bool:
        return bool(self.masks)

    def penalty(self, weights: Weights) -> Tensor | float:
        if self.exact or not self.names:
            return 0.0
        terms = [(weights[name] - self.z[name] + self.u[name]).square().sum() for name in self.names]
        return 0.5 * self.rho * torch.stack(terms).sum()

    @torch.no_grad()
    def after_step(self, weights: Weights, progress: float) -> None:
        if self.exact:
            return
        if progress >= min(self.options.switch, LAST):
            self._prune(weights)
        elif int(progress / self.options.switch * self.options.updates) > self.done:
            self.update(weights)

    @torch.no_grad()
    def update(self, weights: Weights) -> None:
        """z <- P(w + u), u <- u + w - z."""
        apart = whole = 0.0
        for name in self.names:
            w = weights[name].detach()
            self.z[name] = self._projected(w + self.u[name])
            self.u[name] = self.u[name] + w - self.z[name]
            apart += float((w - self.z[name]).square().sum())
            whole += float(w.square().sum())
        self.residual = (apart / whole) ** 0.5 if whole else 0.0
        self.done += 1

    def encode(self, weights: Weights) -> dict[str, Packed]:
        return mask.sparse(weights, self.masks or {name: self.options.mask(weights[name]) for name in self.names})

    def metrics(self) -> dict[str, float]:
        """rho, and ||w - z|| / ||w|| at the last update."""
        return {} if self.exact else {"rho": self.rho, "residual": self.residual}

    def state_dict(self) -> dict[str, Any]:
        return {"z": self.z, "u": self.u, "done": self.done, "residual": self.residual, "masks": self.masks}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.z, self.u, self.masks = dict(state["z"]), dict(state["u"]), dict(state["masks"])
        self.done, self.residual = int(state["done"]), float(state["residual"])

    def _projected(self, weight: Tensor) -> Tensor:
        return weight * self.options.mask(weight)

    @torch.no_grad()
    def _prune(self, weights: Weights) -> None:
        self.masks = {name: self.options.mask(weights[name]) for name in self.names}
        for name, kept in self.masks.items():
            weights[name].mul_(kept)
