"""Smooth adversarial training with a probability curriculum: attacks stop once they are hard enough for now."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ..attacks.attack import Attack, Key
from ..errors import OptionError
from ..option import option
from ..view import View
from .objective import Objective, hits


@dataclass(frozen=True, kw_only=True)
class PSat(Objective):
    """CE(f(x_hat), y); an image's attack stops once max_{j != y} p_j - p_y exceeds a gap, which grows in training."""

    SOURCE = "Sitawarin et al. 2021 (arXiv 2003.09347), P-SAT (ATES)"
    gap_start: float = option(0.0, "gap at the beginning", low=-1, high=1)
    gap_end: float = option(0.4, "gap at the end: 0.4 for CIFAR, 1 for MNIST in the paper's code", low=-1, high=1)
    rise: float = option(0.3, "training progress at which the gap begins to grow", low=0, high=1)
    top: float = option(0.7, "training progress at which it is full-grown", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.top < self.rise:
            raise OptionError(f"PSat: top is {self.top}, before rise at {self.rise}.", "Give rise <= top.")

    def gap(self, progress: float) -> float:
        """The gap at a training progress in [0, 1]; linear between `rise` and `top`."""
        if progress >= self.top:
            return self.gap_end
        if progress <= self.rise:
            return self.gap_start
        share = (progress - self.rise) / (self.top - self.rise)
        return self.gap_start + share * (self.gap_end - self.gap_start)

    def loss(
        self, net: View, x: Tensor, y: Tensor, attack: Attack | None, key: Key, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert attack is not None
        gap = self.gap(net.progress)
        x_hat = net.attacked(attack, x, y, key, index, done=lambda logits, y: difficulty(logits, y) > gap)
        logits = net(x_hat)
        return F.cross_entropy(logits, y), {"train_robust": hits(logits, y)}


def difficulty(logits: Tensor, y: Tensor) -> Tensor:
    """Logits (n, classes), y (n,) -> the highest other probability minus that of y, (n,) in [-1, 1]."""
    p = logits.softmax(1)
    return p.scatter(1, y[:, None], 0.0).amax(1) - p.gather(1, y[:, None])[:, 0]
