"""Dynamic network rewiring: sparse and robust in one training run, at one density throughout."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .. import rng
from ..errors import OptionError
from ..option import option
from ..packed import Packed, half_float
from ..quantizers.binary_relax import straight_through
from ..session import Compressor, Session, Weights
from . import mask, rewiring


@dataclass(frozen=True, kw_only=True)
class Dnr(Compressor):
    """Sparse from the first step; the weakest connections move to where dense gradients have the largest momentum.

    Where the published description is silent: drawn connections start with their weights over the root of the density,
    so that signals keep their size in networks without batch norm; a channel that grows starts along its momentum with
    the length of the layer's weakest, since batch norm would turn a first step from zero into a leap.

    The number of weights never exceeds its share of all, and equals it for single weights; with channels as much is
    kept as whole channels fill. The published loss gives clean and adversarial images half the weight each:
    `--objective trade-off:alpha=0.5,beta=0.5`.
    """

    SOURCE = "Kundu et al. 2021 (arXiv 2011.03083); Dettmers & Zettlemoyer 2019 (arXiv 1907.04840), algorithm 1"
    sparsity: float = option(0.9, "share of the weights that is zero, at all times, between 0 and 1")
    granularity: str = option("weight", "what is rewired", choices=("weight", "channel"))
    start: str = option(
        "random", "the first connections: drawn, or the strongest of a trained network", choices=("random", "magnitude")
    )
    rewirings: int = option(20, "how often connections move, evenly over the training; published: each epoch", low=1)
    rate: float = option(
        0.5, "share of a layer's connections that move at first; falls to 0 as a cosine", low=0, high=1
    )
    momentum: float = option(0.9, "decay of the gradients' momentum, a step", low=0, high=1)
    rho_start: float = option(1e-4, "weight of the L2 term on what would be pruned next, at the beginning", low=0)
    rho_end: float = option(1e-2, "the same at the end; it grows geometrically with each rewiring", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.sparsity < 1:
            raise OptionError(f"Dnr: sparsity is {self.sparsity!r}, not between 0 and 1.", "Density 0.05 is 0.95.")

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return DnrSession(self, weights)

    def size(self, weight: Tensor) -> int:
        """How many weights are rewired together."""
        return weight[0].numel() if self.granularity == "channel" else 1

    def budget(self, weights: Weights) -> int:
        """How many weights may be active; OptionError where that does not leave every layer a unit."""
        total = sum(w.numel() for w in weights.values())
        budget = total - mask.pruned_count(total, self.sparsity)
        least = sum(self.size(w) for w in weights.values())
        if weights and least > budget:
            raise OptionError(
                f"Dnr: a sparsity of {self.sparsity:g} leaves {budget} of {total} weights; one {self.granularity} "
                f"for each of the {len(weights)} layers takes {least}.",
                f"Give at most sparsity={math.floor(1000 * (1 - least / total)) / 1000:g}.",
            )
        return budget


class DnrSession(Session):
    """State: the active units, the momentum, and how many rewirings there have been."""

    def __init__(self, options: Dnr, weights: Weights) -> None:
        self.options, self.budget = options, options.budget(weights)
        self.shapes = {name: w.shape for name, w in weights.items()}
        self.size = {name: options.size(w) for name, w in weights.items()}
        self.momentum = {name: torch.zeros_like(w, requires_grad=False) for name, w in weights.items()}
        self.done = 0
        scores = {name: mask.strength(w, options.granularity) for name, w in weights.items()}
        if options.start == "random":
            scores = {name: torch.rand(len(s)).to(s.device) for name, s in scores.items()}
        # Every layer has at least one unit, and beyond that the same density.
        left = self.budget - sum(self.size.values())
        portions = {name: float(w.numel()) for name, w in weights.items()}
        more = rewiring.allotted(portions, {name: len(s) - 1 for name, s in scores.items()}, self.size, left)
        self.active = {name: mask.top(s, 1 + more[name]) for name, s in scores.items()}
        self._optimizer: Optimizer | None = None
        if options.start == "random":
            with torch.no_grad():
                for name, kept in self.active.items():
                    weights[name].div_(float(kept.float().mean()) ** 0.5)
        self._show(weights)

    def join(self, optimizer: Optimizer) -> None:
        self._optimizer = optimizer  # its momentum of a channel that grows is forgotten

    def view(self, weights: Weights) -> dict[str, Tensor]:
        out = dict(weights)
        for name, kept in self.masks.items():
            rounded = half_float(weights[name].detach()).float() * kept  # as the file has them
            out[name] = straight_through(weights[name], rounded)  # the gradient stays dense
        return out

    def penalty(self, weights: Weights) -> Tensor | float:
        """(rho / 2) ||w - z||^2, z the weights that the next pruning will leave."""
        terms = [(weights[name] * doomed).square().sum() for name, doomed in self.doomed.items()]
        return 0.5 * self.rho * torch.stack(terms).sum() if terms else 0.0

    @property
    def rho(self) -> float:
        """The weight of the L2 term, constant between two rewirings."""
        low, high = max(self.options.rho_start, 1e-12), max(self.options.rho_end, 1e-12)
        return low * (high / low) ** (self.done / self.options.rewirings)

    @property
    def rate(self) -> float:
        """The share of connections that the next rewiring moves."""
        progress = min(1.0, (self.done + 1) / self.options.rewirings)
        return self.options.rate * 0.5 * (1 + math.cos(math.pi * progress))

    @torch.no_grad()
    def after_step(self, weights: Weights, progress: float) -> None:
        for name, kept in self.masks.items():
            grad = weights[name].grad
            if grad is not None:
                self.momentum[name].mul_(self.options.momentum).add_(grad)
            weights[name].mul_(kept)
        if int(progress * self.options.rewirings) > self.done:
            self.rewire(weights)

    @torch.no_grad()
    def rewire(self, weights: Weights) -> None:
        """Prune the weakest, share out what became free by momentum, and grow it where momentum is largest."""
        portions = rewiring.shares(self.active, self._momenta())
        self._drop(self._survivors(weights, portions), weights)
        used = sum(int(kept.sum()) * self.size[name] for name, kept in self.active.items())
        room = {name: len(kept) - int(kept.sum()) for name, kept in self.active.items()}
        more = rewiring.allotted(portions, room, self.size, self.budget - used)
        momenta = self._momenta()
        for name, kept in self.active.items():
            self.active[name] = rewiring.regrown(kept, momenta[name], more[name])
            if self.options.granularity == "channel":
                self._begin(name, weights[name], kept, self.active[name] & ~kept)
        self.done = min(self.done + 1, self.options.rewirings)
        self._show(weights)

    def encode(self, weights: Weights) -> dict[str, Packed]:
        return mask.sparse(weights, self.masks)

    def metrics(self) -> dict[str, float]:
        used = sum(int(kept.sum()) for kept in self.masks.values())
        return {"density": used / max(1, sum(kept.numel() for kept in self.masks.values())), "rewirings": self.done}

    def state_dict(self) -> dict[str, Any]:
        return {"active": self.active, "momentum": self.momentum, "doomed": self.doomed, "done": self.done}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.active, self.momentum = dict(state["active"]), dict(state["momentum"])
        self.done = int(state["done"])
        self.masks = self._spread(self.active)
        self.doomed = dict(state["doomed"])

    def _momenta(self) -> dict[str, Tensor]:
        """Mean |momentum| of a weight, or norm of a channel's over the root of its size: comparable across layers."""
        grain = self.options.granularity
        return {name: mask.strength(m, grain) / self.size[name] ** 0.5 for name, m in self.momentum.items()}

    def _survivors(self, weights: Weights, portions: Mapping[str, float]) -> dict[str, Tensor]:
        return {
            name: rewiring.pruned(
                kept,
                mask.strength(weights[name], self.options.granularity),
                self.rate,
                portions[name],
                len(self.active),
            )
            for name, kept in self.active.items()
        }

    def _drop(self, survivors: Mapping[str, Tensor], weights: Weights) -> None:
        """What does not survive becomes zero, and its momentum too, so that it is not what grows next."""
        for name, kept in survivors.items():
            gone = self._spread({name: self.active[name] & ~kept})[name]
            weights[name][gone] = 0
            self.momentum[name][gone] = 0
            self.active[name] = kept

    def _begin(self, name: str, weight: Tensor, kept: Tensor, new: Tensor) -> None:
        """Give new channels the direction that descends and the length of the weakest of those that were kept.

        A channel that was zero before a batch norm of bias 0 and a ReLU has had no gradient, and would never get one:
        it is given a random direction.
        """
        length = mask.strength(weight, "channel")[kept].min()
        direction = -self.momentum[name][new]
        still = mask.strength(direction, "channel") == 0
        draw = torch.randn(direction[still].shape, generator=rng.generator("dnr", name, self.done))
        direction[still] = draw.to(direction)
        norms = mask.strength(direction, "channel").clamp(min=1e-30)
        weight[new] = direction * (length / norms).view(-1, *[1] * (weight.ndim - 1))
        buffer = self._optimizer.state[weight].get("momentum_buffer") if self._optimizer is not None else None
        if buffer is not None:
            buffer[new] = 0

    def _show(self, weights: Weights) -> None:
        """Masks, and what the next pruning would take, from the active units and the weights as they are now."""
        self.masks = self._spread(self.active)
        survivors = self._survivors(weights, rewiring.shares(self.active, self._momenta()))
        self.doomed = self._spread({name: kept & ~survivors[name] for name, kept in self.active.items()})

    def _spread(self, units: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: mask.spread(kept, self.shapes[name], self.options.granularity) for name, kept in units.items()}
