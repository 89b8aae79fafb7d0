"""Smooth adversarial training with a Hessian curriculum: attacks as strong as the loss surface allows."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import rng
from ..attacks.attack import Attack, Key
from ..errors import OptionError
from ..option import option
from ..view import View
from .objective import Objective, hits


@dataclass(frozen=True, kw_only=True)
class HSat(Objective):
    """CE(f(x + t delta), y), t in (1, 3/4, 1/2, 1/4, 0) the largest whose curvature is below a bound that grows.

    delta is what the inner attack finds for the batch; the curvature is the largest eigenvalue of the Hessian of the
    batch's loss to the weights, by power iteration. The bound is a multiple of the curvature at the clean images, so
    that it needs no tuning to a network; bound and ladder are robustq's, as the paper's exact constraint could not be
    had. A research option: each strength tried costs `iterations` double backward passes.
    """

    SOURCE = "Sitawarin et al. 2021 (arXiv 2003.09347), H-SAT; bound and ladder are robustq's"
    bound_start: float = option(2.0, "bound at the beginning", unit="curvatures of the clean batch", low=0)
    bound_end: float = option(20.0, "bound at the end; it grows geometrically", unit="curvatures of the clean batch")
    iterations: int = option(5, "steps of the power iteration", low=1)
    images: int = option(32, "of each batch, how many the curvature is measured on", low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.bound_start <= self.bound_end:
            raise OptionError(
                f"HSat: the bound goes from {self.bound_start} to {self.bound_end}.",
                "Give 0 < bound_start <= bound_end.",
            )

    def bound(self, progress: float) -> float:
        """The bound at a training progress in [0, 1], in curvatures of the clean batch."""
        return self.bound_start * (self.bound_end / self.bound_start) ** progress

    def loss(
        self, net: View, x: Tensor, y: Tensor, attack: Attack | None, key: Key, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert attack is not None
        delta = net.attacked(attack, x, y, key, index) - x
        strength = self.strength(net, x, y, delta, key) if torch.is_grad_enabled() else 1.0
        logits = net(x + strength * delta)
        logs = {"train_robust": hits(logits, y), "strength": torch.tensor(strength)}
        return F.cross_entropy(logits, y), logs

    def strength(self, net: View, x: Tensor, y: Tensor, delta: Tensor, key: Key) -> float:
        """The largest t of the ladder that the bound allows; 0 is always allowed."""
        few = slice(self.images)
        x, y, delta = x[few], y[few], delta[few]
        allowed = self.bound(net.progress) * abs(self.curvature(net, x, y, key))
        for t in (1.0, 0.75, 0.5, 0.25):
            if abs(self.curvature(net, x + t * delta, y, key)) <= allowed:
                return t
        return 0.0

    def curvature(self, net: View, x: Tensor, y: Tensor, key: Key) -> float:
        """The eigenvalue of largest magnitude of the Hessian of the mean loss to the weights, in evaluation mode."""
        weights = {n: w.detach().requires_grad_() for n, w in net.weights.items() if w.requires_grad}
        loss = F.cross_entropy(net.at(weights, x), y)
        return top_eigenvalue(loss, list(weights.values()), self.iterations, (*key, "curvature"))


def top_eigenvalue(loss: Tensor, weights: list[Tensor], iterations: int, key: Key) -> float:
    """The eigenvalue of largest magnitude of the Hessian of a scalar to weights: v <- H v / |H v|, the last v' H v.

    H v by double backward. 0 where the gradient does not depend on the weights.
    """
    grads = torch.autograd.grad(loss, weights, create_graph=True, materialize_grads=True)
    slope = torch.cat([g.flatten() for g in grads])
    if not slope.requires_grad:
        return 0.0
    v = torch.randn(slope.numel(), generator=rng.generator(*key)).to(slope)
    v = v / v.norm()
    value = 0.0
    for _ in range(iterations):
        product = torch.autograd.grad(slope, weights, v, retain_graph=True, materialize_grads=True)
        h = torch.cat([p.flatten() for p in product])
        value, length = float(v @ h), h.norm()
        if float(length) == 0:
            return 0.0
        v = h / length
    return value
