"""The natural-adversarial trade-off loss of the integrated approach."""

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ..attacks.attack import Attack, Key
from ..option import option
from ..view import View
from .objective import Objective, hits


@dataclass(frozen=True, kw_only=True)
class TradeOff(Objective):
    """alpha * CE(f(x), y) + beta * CE(f(x_hat), y): raises clean accuracy and channel sparsity over pure PGD-AT."""

    SOURCE = "Li, Wang, Xin 2021 (arXiv 2008.13305), loss (9)"
    alpha: float = option(1.0, "weight of the clean term", low=0)
    beta: float = option(8.0, "weight of the adversarial term", low=0)
    normalise_loss: bool = option(
        True, "divide by alpha + beta, so that learning rate and weight decay keep their meaning; false replicates"
    )

    def loss(
        self, net: View, x: Tensor, y: Tensor, attack: Attack | None, key: Key, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        assert attack is not None
        clean = net(x)
        attacked = net(net.attacked(attack, x, y, key, index))
        loss = self.alpha * F.cross_entropy(clean, y) + self.beta * F.cross_entropy(attacked, y)
        if self.normalise_loss:
            loss = loss / max(self.alpha + self.beta, 1e-12)
        return loss, {"train_clean": hits(clean, y), "train_robust": hits(attacked, y)}
