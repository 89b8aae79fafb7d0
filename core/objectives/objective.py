"""The interface of a training objective."""

from typing import ClassVar

from torch import Tensor

from ..attacks.attack import Attack, Key
from ..option import Method
from ..view import View


class Objective(Method):
    """The loss of one batch, the crafting of adversarial examples included."""

    ADVERSARIAL: ClassVar[bool] = True  # whether an attack is needed

    def loss(
        self, net: View, x: Tensor, y: Tensor, attack: Attack | None, key: Key, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """x (n, c, h, w) in [0, 1], y (n,) -> the scalar loss, and 0-d tensors worth logging."""
        raise NotImplementedError


def hits(logits: Tensor, y: Tensor) -> Tensor:
    """Share of the batch that is classified right, a 0-d tensor."""
    return (logits.detach().argmax(1) == y).float().mean()
