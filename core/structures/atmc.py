"""ATMC: adversarial training of sparse factors under one budget of non-zero entries, and of their codebooks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import factors
from ..errors import OptionError
from ..option import option
from ..packed import Factored, Packed, half_float
from ..pruners import mask
from ..quantizers.binary_relax import straight_through
from ..quantizers.lloyd import clustered
from ..session import LAST, Compressor, Session, Weights

FLOAT = 32  # bits that mean: no codebook


@dataclass(frozen=True, kw_only=True)
class Atmc(Compressor):
    """Every weight as U V + C with few non-zero entries in all layers together, each of few different values.

    Three stages of one run, from a network that is trained robustly already: the weights alone are projected on the
    budget after every step; then U V + C are, with one of U and V the identity and C zero at first; then ADMM pulls
    them towards copies with codebooks (Lloyd's), which take their place after the last step. As in the authors' code
    the identity is a constant: the matrix that is added to it is what is counted, quantized and stored. Averages of
    weights and other methods that change weights are refused beside it; its layers keep their channels when shrunk.
    """

    SOURCE = "Gui, Wang et al. 2019 (NeurIPS, arXiv 1902.03538)"
    sparsity: float = option(
        0.9,
        "1 - non-zero entries of all factors (but for U's or V's constant identity) per weight, over all layers"
        " together; from 0 to below 1",
    )
    bits: int = option(
        8,
        "each factor of a layer takes at most 2^bits values that are not zero; 32: no codebooks",
        choices=(1, 2, 3, 4, 5, 6, 7, 8, FLOAT),
    )
    factor: float = option(
        0.35, "training progress at which the factors join; 200 of 550 epochs in the paper", low=0, high=1
    )
    quantize: float = option(
        0.7, "training progress at which the pull to codebooks begins; 400 of 550 epochs in the paper", low=0, high=1
    )
    rho: float = option(0.1, "weight of the pull", low=0)
    interval: int = option(5, "steps between updates of the copies and duals", unit="steps", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.sparsity < 1:
            raise OptionError(f"Atmc: sparsity is {self.sparsity!r}, not from 0 to below 1.", "Half of all is 0.5.")

    def attach(self, weights: Weights, total_steps: int) -> Session:
        return AtmcSession(self, weights)


class AtmcSession(Session):
    """State: square and rest of each weight, copies z and duals u of all factors, steps, and whether z took over."""

    alone = True

    def __init__(self, options: Atmc, weights: Weights) -> None:
        if not weights:
            raise OptionError("atmc: there is no weight to compress.", "Keep fewer layers with --keep-fp.")
        self.options = options
        self.square, self.rest = {}, {}
        for name, w in weights.items():
            side = factors.side(w.shape)
            self.square[name] = nn.Parameter(w.new_zeros(side, side))
            self.rest[name] = nn.Parameter(torch.zeros_like(w.detach()).flatten(1))
        numbers = sum(w.numel() for w in weights.values())
        self.budget = numbers - mask.pruned_count(numbers, options.sparsity)
        self.size = numbers
        self.progress, self.steps, self.settled = 0.0, 0, False
        self.z: list[Tensor] = []
        self.u: list[Tensor] = []
        self._project(weights)
        self._check(weights)

    def join(self, optimizer: Optimizer) -> None:
        optimizer.add_param_group({"params": [*self.square.values(), *self.rest.values()]})

    def view(self, weights: Weights) -> dict[str, Tensor]:
        out = dict(weights)
        for name in self.square:
            stored = [straight_through(m, half_float(m.detach()).float()) for m in self._of(weights, name)]
            if self.progress < self.options.factor:
                stored[1:] = [m.detach() for m in stored[1:]]
            seen = factors.exact(*(m.detach() for m in stored))
            out[name] = straight_through(factors.product(*stored), seen).reshape(weights[name].shape)
        return out

    @property
    def exact(self) -> bool:
        return self.settled or self.options.bits == FLOAT

    def penalty(self, weights: Weights) -> Tensor | float:
        if not self.z:
            return 0.0
        terms = [(w - z + u).square().sum() for w, z, u in zip(self._all(weights), self.z, self.u, strict=True)]
        return 0.5 * self.options.rho * torch.stack(terms).sum()

    @torch.no_grad()
    def after_step(self, weights: Weights, progress: float) -> None:
        self.progress, self.steps = progress, self.steps + 1
        self._project(weights)
        if self.exact or progress < min(self.options.quantize, LAST):
            return
        if not self.z or progress >= LAST or self.steps % self.options.interval == 0:
            self.update(weights)
        if progress >= LAST:
            self._put(weights, self.z)
            self.z, self.u, self.settled = [], [], True

    @torch.no_grad()
    def update(self, weights: Weights) -> None:
        """z <- P(w + u), u <- u + w - z; P keeps the budget and clusters what is kept."""
        now = self._all(weights)
        self.u = self.u or [torch.zeros_like(w) for w in now]
        self.z = self._clustered([w + u for w, u in zip(now, self.u, strict=True)])
        self.u = [u + w - z for w, z, u in zip(now, self.z, self.u, strict=True)]

    @torch.no_grad()
    def encode(self, weights: Weights) -> dict[str, Packed]:
        found = self._all(weights)
        if not self.exact:
            found = self._clustered([w + u for w, u in zip(found, self.u, strict=True)] if self.u else found)
        packed: dict[str, Packed] = {}
        for i, name in enumerate(self.square):
            weight, square, rest = (half_float(m) for m in found[3 * i : 3 * i + 3])
            packed[name] = Factored(weight, square, rest, tuple(weights[name].shape))
        return packed

    @torch.no_grad()
    def metrics(self) -> dict[str, float]:
        """The share of U and C in the budget, and ||u||, what the pull has not closed yet, where there is one."""
        own = sum(int((m != 0).sum()) for m in (*self.square.values(), *self.rest.values()))
        found = {"factored": own / self.budget}
        return found | ({"dual": float(torch.stack([u.norm() for u in self.u]).norm())} if self.u else {})

    def state_dict(self) -> dict[str, Any]:
        own = {
            "square": {name: m.detach() for name, m in self.square.items()},
            "rest": {name: m.detach() for name, m in self.rest.items()},
        }
        return {**own, "z": self.z, "u": self.u, "progress": self.progress, "steps": self.steps, "done": self.settled}

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in self.square:  # the optimizer holds these very tensors
            self.square[name].copy_(state["square"][name])
            self.rest[name].copy_(state["rest"][name])
        self.z, self.u = list(state["z"]), list(state["u"])
        self.progress, self.steps, self.settled = float(state["progress"]), int(state["steps"]), bool(state["done"])

    def _of(self, weights: Weights, name: str) -> list[Tensor]:
        return [weights[name].flatten(1), self.square[name], self.rest[name]]

    def _all(self, weights: Weights) -> list[Tensor]:
        """Three matrices a weight, in their order."""
        return [m for name in self.square for m in self._of(weights, name)]

    def _put(self, weights: Weights, found: Sequence[Tensor]) -> None:
        for i, name in enumerate(self.square):
            weights[name].copy_(found[3 * i].reshape(weights[name].shape))
            self.square[name].copy_(found[3 * i + 1])
            self.rest[name].copy_(found[3 * i + 2])

    def _clustered(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        return [clustered(m, 2**self.options.bits) for m in self._kept(matrices)]

    def _kept(self, matrices: Sequence[Tensor]) -> list[Tensor]:
        """The projection on the budget: of all entries together the largest in magnitude."""
        chosen = mask.top(torch.cat([m.abs().flatten() for m in matrices]), self.budget)
        parts = chosen.split([m.numel() for m in matrices])
        return [m * part.view_as(m) for m, part in zip(matrices, parts, strict=True)]

    @torch.no_grad()
    def _project(self, weights: Weights) -> None:
        self._put(weights, self._kept(self._all(weights)))

    def _check(self, weights: Weights) -> None:
        empty = [name for name in self.square if not bool(weights[name].any())]
        if empty:
            raise OptionError(
                f"atmc: of {self.size} weights {self.budget} are kept at sparsity={self.options.sparsity}, and none of"
                f" them in {', '.join(empty)}: nothing would pass through.",
                "Give a lower sparsity, or keep that layer in floating point (--keep-fp).",
            )
