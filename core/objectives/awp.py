"""Adversarial weight perturbation around any other objective."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from .. import registry
from ..attacks.attack import Attack, Key
from ..errors import OptionError
from ..option import option
from ..recipe import Spec
from ..view import View
from .objective import Objective


@dataclass(frozen=True, kw_only=True)
class Awp(Objective):
    """Another objective's loss at the weights moved where it is higher, by gamma of each tensor's norm.

    The move is one normalised gradient step, for tensors of two axes or more, at the images attacked at the unmoved
    weights. It is made in the view of the weights: the trained weights themselves are never touched.
    """

    SOURCE = "Wu et al. 2020 (arXiv 2004.05884), algorithm 1"
    inner: str = option("pgd-at", "the objective that is wrapped: NAME or NAME:key=value;key=value")
    gamma: float = option(0.01, "length of the move: 0.01 for pgd-at, 0.005 for trades", unit="norms", low=0)
    warmup: float = option(0.0, "training progress before which weights are not moved", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.wrapped_spec().name == "awp":
            raise OptionError("Awp: inner is 'awp'.", "Wrap another objective, such as pgd-at or trades.")
        self.wrapped()

    def wrapped_spec(self) -> Spec:
        """Name and options of the objective inside."""
        return Spec.parse(self.inner.replace(";", ","))

    def wrapped(self) -> Objective:
        """The objective inside."""
        spec = self.wrapped_spec()
        return registry.create(spec.name, spec.options, "objective")

    def check(self, net: nn.Module) -> None:
        self.wrapped().check(net)

    @property
    def replays(self) -> int:
        return self.wrapped().replays

    def loss(
        self, net: View, x: Tensor, y: Tensor, attack: Attack | None, key: Key, index: Tensor
    ) -> tuple[Tensor, dict[str, Tensor]]:
        inner = self.wrapped()
        if net.progress < self.warmup or not torch.is_grad_enabled():
            return inner.loss(net, x, y, attack, key, index)
        trial = net.trial()
        loss, _ = inner.loss(trial, x, y, attack, key, index)
        matrices = {name: w for name, w in net.weights.items() if w.dim() > 1 and w.requires_grad}
        grads = torch.autograd.grad(loss, list(matrices.values()), allow_unused=True)
        pairs = zip(matrices.items(), grads, strict=True)
        shift = {name: self.move(w.detach(), grad) for (name, w), grad in pairs if grad is not None}
        return inner.loss(net.shifted(shift, trial), x, y, attack, key, index)

    def move(self, w: Tensor, grad: Tensor) -> Tensor:
        """w and the gradient there -> the move, along the gradient with gamma times the norm of w."""
        return self.gamma * grad * (w.norm() / (grad.norm() + 1e-20))
