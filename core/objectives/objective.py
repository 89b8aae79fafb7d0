"""The interface of a training objective."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn

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

    @property
    def adversarial(self) -> bool:
        """Whether an attack is needed, with these options."""
        return self.ADVERSARIAL

    def check(self, net: nn.Module) -> None:
        """Raise OptionError where the network is not one that this can train; called before training."""

    @property
    def replays(self) -> int:
        """How many optimizer steps are made on each batch."""
        return 1

    def remarks(self, history: Sequence[Mapping[str, Any]]) -> list[str]:
        """What a user should know of a run with this history (one entry an epoch, as the loop reports them)."""
        return []


def hits(logits: Tensor, y: Tensor) -> Tensor:
    """Share of the batch that is classified right, a 0-d tensor."""
    return (logits.detach().argmax(1) == y).float().mean()
