"""A model as its sessions show it for one batch: what the loss and the inner attack call."""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch.func import functional_call

from .architecture import Classifier
from .attacks.attack import Attack, Key
from .driver import craft
from .session import Session


class View:
    """The classifier with the composed view of its weights in place of the latent ones.

    Calling it is a forward pass in training mode, differentiable to the latent weights. `attacked` sees the same
    weights, detached: an attack on the latent weights would be an attack on another network.
    """

    def __init__(
        self, model: Classifier, sessions: Sequence[Session], weights: Mapping[str, Tensor], key: Key = ()
    ) -> None:
        self.model, self.sessions, self.key = model, sessions, key
        self.weights: Mapping[str, Tensor] = weights
        for session in sessions:
            self.weights = session.view(self.weights)
        self._passes = 0

    def __call__(self, x: Tensor) -> Tensor:
        """x (n, c, h, w) in [0, 1] -> logits (n, classes), batch statistics used and updated."""
        return self._forward(self.weights, x)

    def attacked(
        self,
        attack: Attack,
        x: Tensor,
        y: Tensor,
        key: Key,
        index: Tensor,
        loss: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """Adversarial examples for this batch, crafted in eval mode (running statistics, methods-core 8.0)."""
        detached = {name: weight.detach() for name, weight in self.weights.items()}
        training = self.model.training
        self.model.eval()
        try:
            with torch.enable_grad():
                return craft(attack, lambda z: self._forward(detached, z), x, y, key, index, loss)
        finally:
            self.model.train(training)

    def _forward(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        self._passes += 1
        for session in self.sessions:
            weights = session.jitter(weights, (*self.key, "jitter", self._passes))
        return functional_call(self.model, {f"net.{name}": weight for name, weight in weights.items()}, (x,))
