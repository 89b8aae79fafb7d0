"""Session: a compressor's state while a model trains. Every hook does nothing by default.

The training loop composes sessions in the order of the recipe: the view of the first is the input of the second.
It holds no isinstance and no method names; a method that needs a new moment gets a new hook here.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

from torch import Tensor, nn
from torch.optim import Optimizer

from .errors import OptionError
from .option import Method
from .packed import Packed

Weights = Mapping[str, Tensor]
LAST = 1 - 1e-9  # the training progress that `after_step` is told of after the last step


class Session:
    """One compressor attached to one model for one training run."""

    alone: ClassVar[bool] = False  # its weights are the parameters of a form that nothing else may change or average

    @property
    def changes_weights(self) -> bool:
        """Whether it does anything to the weights themselves."""
        hooks = ("view", "penalty", "encode")
        return any(getattr(type(self), hook) is not getattr(Session, hook) for hook in hooks)

    def install(self, net: nn.Module, images: Tensor) -> None:
        """Called once before training: layers of the session's own are put into the network here (see `inserted`).

        images (n, c, h, w): some training images, normalised. Raises OptionError where they do not fit it.
        """

    def join(self, optimizer: Optimizer) -> None:
        """Called once, after `install`: parameters of the session's own are added to the optimizer here.

        As nn.Parameter: of these several processes join the gradients.
        A group's "factor" multiplies the learning rate.
        """

    def view(self, weights: Weights) -> dict[str, Tensor]:
        """What forward, backward and the attack see, from the latent weights; called once a batch, differentiable."""
        return dict(weights)

    def penalty(self, weights: Weights) -> Tensor | float:
        """A term added to the loss."""
        return 0.0

    def after_step(self, weights: Weights, progress: float) -> None:
        """Called after each optimizer step with the training progress in [0, 1)."""

    @property
    def exact(self) -> bool:
        """Whether `view` now equals what `encode` would export (False in a relaxed phase); True after the last step."""
        return True

    def encode(self, weights: Weights) -> dict[str, Packed]:
        """The compressed form of the tensors this session owns, from latent weights (or earlier sessions' export)."""
        return {}

    def metrics(self) -> dict[str, float]:
        """Numbers worth a column in the training log."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Everything a resumed run needs, tensors and plain values only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take back what `state_dict` gave."""


class Compressor(Method):
    """A quantizer, pruner or structure.

    Data-free methods implement `project`; methods that train implement `attach`; some do both.
    """

    def project(self, weights: Weights) -> dict[str, Packed]:
        """{name: float32 weight of a convolution or linear layer} -> {name: Packed}, without data."""
        raise NotImplementedError

    def attach(self, weights: Weights, total_steps: int) -> Session:
        """Start a session on the weights this compressor is to own (chosen by `targets.find`)."""
        raise OptionError(
            f"{type(self).__name__} works without data and has nothing to train.",
            "Train with binary-relax, dnr or circulant, for example; `robustq methods` lists them.",
        )

    @classmethod
    def trains(cls) -> bool:
        """Whether the method needs training data."""
        return cls.attach is not Compressor.attach and cls.project is Compressor.project
