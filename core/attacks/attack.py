"""The interface of an attack. The driver in `evaluation.py` owns everything else: batching, dropping, seeds, counts."""

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor

from ..option import Method

State = dict[str, Tensor]  # per-sample tensors only: the driver selects rows of every entry when samples are dropped
Key = tuple[int | str, ...]


class Attack(Method):
    """An attack on inputs in [0, 1]; pixels are clipped to the box by the attack, verified by the driver.

    `state["x"]` (n, c, h, w) is the point that is evaluated next; `state["clean"]` the original image.
    """

    norm: ClassVar[str] = "linf"

    def start(self, x: Tensor, y: Tensor, key: Key, index: Tensor) -> State:
        """x (n, c, h, w) in [0, 1], y (n,) -> the state of n samples; draws depend on key and index alone."""
        raise NotImplementedError

    def step(self, state: State, logits: Tensor, grad: Tensor) -> State:
        """One step: logits (n, classes) at state["x"], grad of `objective` there, shaped like x."""
        raise NotImplementedError

    def objective(self, logits: Tensor, y: Tensor) -> Tensor:
        """(n,) the loss to increase, one value a sample."""
        return F.cross_entropy(logits, y, reduction="none")

    @property
    def radius(self) -> float:
        """The bound on the perturbation in `norm`, verified on every claimed adversarial."""
        raise NotImplementedError

    @property
    def iterations(self) -> int:
        """How many steps one restart takes."""
        raise NotImplementedError

    @property
    def repeats(self) -> int:
        """How many independent starts there are."""
        return 1
