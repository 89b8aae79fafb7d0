"""What the checks look at: a model, the attacks it stood, and facts measured once for all checks."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..attacks.attack import Attack, margin
from ..attacks.norms import is_zero
from ..attacks.replay import Parent
from ..datasets.dataset import Dataset
from ..evaluation import Survey
from ..inference import Net, Victim, device_of, fitting_batch, frozen

PROBES = 128  # images of the single-pass checks
FEW = 64  # images of the checks that attack


@dataclass
class Evidence:
    """One model and what its benchmark found.

    attacks, surveys  by label, the surveys in the order in which they were run
    answers (n,) int64: the classes the model gives to the images themselves
    gradient "autograd", or "surrogate" (the parent's, taken for the model's own) or "none"
    parent   the float model that this one was made from
    artefact the file as it runs, where that is not `model` itself (packed weights)
    """

    model: Net
    data: Dataset
    attacks: Mapping[str, Attack]
    surveys: Mapping[str, Survey]
    answers: Tensor
    randomized: bool = False
    gradient: str = "autograd"
    parent: Parent | None = None
    artefact: Net | None = None
    seed: int = 0
    batch_size: int | None = None

    @cached_property
    def threat(self) -> Attack:
        """The attack that the checks take radius and norm from: the one of the largest radius."""
        return max(self.attacks.values(), key=lambda attack: attack.radius)

    @cached_property
    def robust(self) -> Tensor:
        """(n,) bool: robust to every attack."""
        found = self.answers == self.data.labels
        for survey in self.surveys.values():
            found = found & survey.robust
        return found

    @cached_property
    def correct(self) -> Tensor:
        """Places of the images that are classified correctly."""
        return (self.answers == self.data.labels).nonzero()[:, 0]

    def first(self, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """x, y and places of the first correctly classified images."""
        places = self.correct[:most]
        return *self.data.batch(places), places

    @cached_property
    def batch(self) -> int:
        """Images at a time."""
        return self.batch_size or fitting_batch(self.model, self.data.batch(torch.arange(1))[0])

    @cached_property
    def classes(self) -> int:
        """How many the model knows."""
        return self.logits.shape[1]

    @cached_property
    def logits(self) -> Tensor:
        """(k, classes) on the probe images."""
        return self.ask(self.first(PROBES)[0])

    def ask(self, x: Tensor, model: Net | None = None) -> Tensor:
        """x (k, c, h, w) -> logits (k, classes), of one pass."""
        net = self.model if model is None else model
        with frozen(net):
            victim, device = Victim(net, self.batch), device_of(net, x.device)
            return torch.cat([victim.logits(part.to(device)).cpu() for part in x.split(self.batch)])

    @cached_property
    def gradients(self) -> tuple[Tensor, Tensor, Tensor]:
        """(k,) bool for the probe images: no path to the input; the cross entropy's and the margin's gradient is dead.

        Dead is exactly zero or not finite. The model is called as it is, without straight-through gradients.
        """
        x, y, _ = self.first(PROBES)
        found = [self._gradients(*part) for part in zip(x.split(self.batch), y.split(self.batch), strict=True)]
        absent, entropy, lead = (torch.cat(parts) for parts in zip(*found, strict=True))
        return absent, entropy, lead

    def _gradients(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        device = device_of(self.model, x.device)
        x, y = x.to(device), y.to(device)
        yes = torch.ones_like(y, dtype=torch.bool)
        with frozen(self.model), torch.enable_grad():
            x = x.requires_grad_()
            try:
                logits = self.model(x)
            except (RuntimeError, NotImplementedError):  # integer operations refuse tensors that want a gradient
                return yes.cpu(), yes.cpu(), yes.cpu()
            if not logits.requires_grad:
                return yes.cpu(), yes.cpu(), yes.cpu()
            entropy = _gradient(F.cross_entropy(logits, y, reduction="sum"), x, keep=True)
            lead = _gradient(margin(logits, y).sum(), x)
        return torch.full_like(yes, lead is None).cpu(), _dead(entropy, yes), _dead(lead, yes)


def is_white_box(attack: Attack) -> bool:
    """Whether the attack, or any member of it, follows the gradient."""
    return any(member.uses_gradient for member in attack.members)


def white_box(evidence: Evidence) -> tuple[str, Attack] | None:
    """Label and the single attack that follows the gradient longest, out of all attacks and their members.

    One that looks for the smallest perturbation only where there is no other: it may take thousands of steps.
    """
    found = [
        (not member.minimal, member.iterations, label, member)
        for label, attack in evidence.attacks.items()
        for member in attack.members
        if member.uses_gradient
    ]
    if not found:
        return None
    _, _, label, member = max(found, key=lambda entry: entry[:2])  # the first of equals
    return label, member


def modules(model: Net) -> list[nn.Module]:
    return list(model.modules()) if isinstance(model, nn.Module) else []


def _gradient(value: Tensor, x: Tensor, keep: bool = False) -> Tensor | None:
    return torch.autograd.grad(value, x, retain_graph=keep, allow_unused=True)[0]


def _dead(grad: Tensor | None, like: Tensor) -> Tensor:
    if grad is None:
        return like.cpu()
    finite = grad.isfinite().flatten(1).all(1)
    return (is_zero(grad.nan_to_num()) | ~finite).cpu()
