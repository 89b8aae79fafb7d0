"""MART: adversarial training that weighs images by how wrong the network is about them."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from ..attacks.attack import Attack, Key
from ..option import option
from ..view import View
from .objective import Objective, hits
from .trades import divergence, nudged

_NEARLY = 1e-4  # the stabilisers of the authors' code
_TINY = 1e-12


@dataclass(frozen=True, kw_only=True)
class Mart(Objective):
    """BCE(f(x_hat), y) + beta * KL(p(x) || p(x_hat)) * (1 - p_y(x)), the BCE with a margin to the best other class."""

    SOURCE = "Wang et al. 2020 (ICLR, Improving adversarial robustness requires revisiting misclassified examples)"
    beta: float = option(5.0, "weight of the divergence", low=0)
    nudge: float = option(0.001, "deviation of the Gaussian start", unit="input units", low=0)

    def loss(
        self, net: View, x: Tensor, y: Tensor, attack: Attack | None, key: Key, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert attack is not None
        x_hat = net.attacked(attack, x, y, key, index, start=nudged(x, self.nudge, key, index))
        clean, attacked = net(x), net(x_hat)
        own = clean.softmax(1).gather(1, y[:, None])[:, 0]
        loss = boosted(attacked, y) + self.beta * (divergence(clean, attacked) * (1.0 + 1e-7 - own)).mean()
        return loss, {"train_clean": hits(clean, y), "train_robust": hits(attacked, y)}


def boosted(logits: Tensor, y: Tensor) -> Tensor:
    """Logits (n, classes), y (n,) -> mean of CE - log(1 - the highest other probability)."""
    others = logits.softmax(1).scatter(1, y[:, None], 0.0).amax(1)
    return F.cross_entropy(logits, y) - torch.log(1.0 + _NEARLY - others + _TINY).mean()
