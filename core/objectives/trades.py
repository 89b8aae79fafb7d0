"""TRADES: cross entropy on the images, and how far an attack can move the prediction away from there."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from .. import rng
from ..attacks.attack import Attack, Key
from ..option import option
from ..view import View
from .objective import Objective, hits


@dataclass(frozen=True, kw_only=True)
class Trades(Objective):
    """CE(f(x), y) + beta * KL(p(x) || p(x_hat)), the inner attack maximising the same divergence."""

    SOURCE = "Zhang et al. 2019 (arXiv 1901.08573), eq. 5"
    beta: float = option(6.0, "weight of the divergence, 1/lambda in the paper", low=0)
    nudge: float = option(
        0.001,
        "deviation of the Gaussian start; at the image itself the divergence has no slope",
        unit="input units",
        low=0,
    )

    def loss(
        self, net: View, x: Tensor, y: Tensor, attack: Attack | None, key: Key, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert attack is not None
        target = net.answers(x)
        start = nudged(x, self.nudge, key, index)
        x_hat = net.attacked(attack, x, y, key, index, lambda logits, _: divergence(target, logits), start=start)
        clean = net(x)
        attacked = net(x_hat)
        loss = F.cross_entropy(clean, y) + self.beta * divergence(clean, attacked).mean()
        return loss, {"train_clean": hits(clean, y), "train_robust": hits(attacked, y)}


def divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """Logits, both (n, classes) -> KL(softmax(clean) || softmax(attacked)), (n,); differentiable to both."""
    own = clean.log_softmax(1)
    return (own.exp() * (own - attacked.log_softmax(1))).sum(1)


def nudged(x: Tensor, deviation: float, key: Key, index: Tensor) -> Tensor:
    """x (n, c, h, w) in [0, 1] plus Gaussian noise, back in the box: the start that TRADES and MART use."""
    noise = rng.normal((*key, "nudge"), index, tuple(x.shape[1:])).to(x)
    return (x + deviation * noise).clamp(0, 1)
