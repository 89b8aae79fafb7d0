"""A model as its sessions show it for one batch: what the loss and the inner attack call."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.func import functional_call

from .architecture import Classifier
from .attacks.attack import Attack, Key
from .folding import Folding
from .inference import Net
from .session import Session
from .stepping import craft
from .streamlining import streamlined_view

_NOTHING = Folding()
PerImage = Callable[[Tensor, Tensor], Tensor]  # logits (n, classes), y (n,) -> (n,)


class View:
    """The classifier with the composed view of its weights in place of the latent ones.

    Calling it is a forward pass in training mode, differentiable to the latent weights. `attacked` sees the same
    weights, detached: an attack on the latent weights would be an attack on another network.

    progress  of the training, in [0, 1)
    memory    tensors an objective keeps from step to step; they are saved with the run
    parent    images in [0, 1] -> logits of the network that training started from, where there is one
    folding   what attacks may fold in the network (see `folding`)
    precision "bf16": passes in mixed precision (autocast), with logits and gradients in float32; else "float32"
    passes    (images, logits) of each training pass so far, once `heard` has been asked for
    """

    def __init__(
        self,
        model: Classifier,
        sessions: Sequence[Session],
        weights: Mapping[str, Tensor],
        *,
        progress: float = 0.0,
        memory: dict[str, Tensor] | None = None,
        parent: Net | None = None,
        folding: Folding = _NOTHING,
        precision: str = "float32",
    ) -> None:
        self.model = model
        self.folding = folding
        self.precision = precision
        self.progress = progress
        self.memory: dict[str, Tensor] = {} if memory is None else memory
        self.parent = parent
        self.passes: list[tuple[Tensor, Tensor]] | None = None
        self.weights: Mapping[str, Tensor] = weights
        for session in sessions:
            self.weights = session.view(self.weights)
        self.weights = {name: _ordered(weight) for name, weight in self.weights.items()}
        self._statistics: dict[str, Tensor] = {}
        self._found: list[Tensor] = []
        self._repeats = False

    def __call__(self, x: Tensor) -> Tensor:
        """x (n, c, h, w) in [0, 1] -> logits (n, classes), batch statistics used and updated."""
        logits = self._forward(self.weights, x)
        if self.passes is not None:
            self.passes.append((x, logits))
        return logits

    @torch.no_grad()
    def answers(self, x: Tensor) -> Tensor:
        """x (n, c, h, w) in [0, 1] -> logits (n, classes) in eval mode, without a gradient."""
        with _evaluating(self.model):
            return self._forward(self.weights, x)

    def at(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        """x (n, c, h, w) in [0, 1] -> logits (n, classes) in eval mode, with some weights in place of those seen.

        In float32 always: made for second derivatives.
        """
        with _evaluating(self.model):
            return self._precise({**self.weights, **weights}, x)

    def attacked(
        self,
        attack: Attack,
        x: Tensor,
        y: Tensor,
        key: Key,
        index: Tensor,
        loss: PerImage | None = None,
        *,
        start: Tensor | None = None,
        done: PerImage | None = None,
    ) -> Tensor:
        """Adversarial examples for this batch, crafted in eval mode (running statistics, methods-core 8.0).

        loss, start, done: as in `stepping.craft`.
        """
        if self._repeats:
            return self._found.pop(0)
        detached = {name: weight.detach() for name, weight in self.weights.items()}
        with torch.enable_grad(), _evaluating(self.model), streamlined_view(self.model, self.folding):
            found = craft(attack, lambda z: self._forward(detached, z), x, y, key, index, loss, start=start, done=done)
        self._found.append(found)
        return found

    def member(self, place: int) -> "View":
        """The view of one member of an ensemble (a network with `members`), normalisation included."""
        prefix, net = f"members.{place}.", self.model.net.get_submodule(f"members.{place}")
        other = copy.copy(self)
        other.model = Classifier(net).train(self.model.training)
        other.model.mean, other.model.std = self.model.mean, self.model.std
        other.weights = {n.removeprefix(prefix): w for n, w in self.weights.items() if n.startswith(prefix)}
        inner = f"net.{prefix}"
        own = {f"net.{n.removeprefix(inner)}": b for n, b in self._statistics.items() if n.startswith(inner)}
        other._statistics = own
        other.folding = self.folding.under(prefix)
        return other

    def heard(self) -> "View":
        """The same view, which collects its `passes` from now on."""
        other = copy.copy(self)
        other.passes = []
        return other

    def trial(self) -> "View":
        """The same view for a pass that leaves no trace: the model's statistics stay as they are."""
        other = copy.copy(self)
        other._statistics = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        other._found, other.passes, other.memory = [], None, dict(self.memory)
        return other

    def shifted(self, shift: Mapping[str, Tensor], trial: "View") -> "View":
        """A view of the weights moved by a constant; its attacks give what those of `trial` found, in their order."""
        other = copy.copy(self)
        other.weights = {n: w + shift[n] if n in shift else w for n, w in self.weights.items()}
        other._found, other._repeats = list(trial._found), True
        return other

    def _forward(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        if self.precision == "float32":
            return self._precise(weights, x)
        with torch.autocast(x.device.type, torch.bfloat16):
            return self._precise(weights, x).float()

    def _precise(self, weights: Mapping[str, Tensor], x: Tensor) -> Tensor:
        shown = {f"net.{name}": weight for name, weight in weights.items()}
        return functional_call(self.model, {**shown, **self._statistics}, (_ordered(x),))


@contextmanager
def _evaluating(model: Classifier) -> Iterator[None]:
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def _ordered(values: Tensor) -> Tensor:
    """Images and convolution weights in channels-last order, which takes a training step about a sixth less time."""
    return values.to(memory_format=torch.channels_last) if values.dim() == 4 else values
