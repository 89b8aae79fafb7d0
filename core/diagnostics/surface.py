"""Checks of the loss around the images, and of the attack against a model whose answer is known; when asked for."""

import torch
from torch import Tensor, nn

from ..attacks.attack import margin
from ..attacks.norms import is_zero
from ..driver import perturb
from ..inference import device_of, frozen
from .evidence import FEW, Evidence, white_box
from .finding import Finding, judged, skipped
from .table import Check

_STEP = 0.01  # L2 length of a finite difference: small against the distance of kinks, large against rounding
_FIRST = 0.1  # share of the radius that the first step along the gradient's sign goes
_RIDGE = 1e-2


def gradient(check: Check, evidence: Evidence) -> Finding:
    """RQ019: along its own direction the gradient promises its length; two passes tell what the margin does there."""
    if evidence.gradient != "autograd":
        return skipped(check, "the model has no gradient of its own")
    x, y, _ = evidence.first(FEW)
    if not len(x):
        return skipped(check, "no image is classified correctly")
    grad = _gradient(evidence, x, y)
    length = grad.flatten(1).norm(dim=1)
    other = torch.ones_like(grad)  # where there is no gradient, along the diagonal
    along = torch.where(is_zero(grad).view(-1, 1, 1, 1), other, grad)
    along = along / along.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    rise = margin(evidence.ask(x + _STEP * along), y) - margin(evidence.ask(x - _STEP * along), y)
    found = rise / (2 * _STEP)
    error = (found - length).abs() / torch.maximum(found.abs(), length).clamp_min(1e-12)
    median = float(error.median())
    return judged(check, median, f"median error {median:.2%} over {len(x)} images")


def surface(check: Check, evidence: Evidence) -> Finding:
    """RQ020."""
    if evidence.gradient != "autograd":
        return skipped(check, "the model has no gradient of its own")
    x, y, _ = evidence.first(FEW)
    if not len(x):
        return skipped(check, "no image is classified correctly")
    step = _FIRST * evidence.threat.radius * _gradient(evidence, x, y).sign()
    falls = margin(evidence.ask((x + step).clamp(0, 1)), y) < margin(evidence.ask(x), y)
    text = f"the margin falls at first for {int(falls.sum())} of {len(x)} images"
    return judged(check, float(falls.float().mean()), text)


def known_answer(check: Check, evidence: Evidence) -> Finding:
    """RQ023: the attack on a linear classifier fitted to the images, where the L-inf optimum is known exactly."""
    found = white_box(evidence)
    if found is None or found[1].norm != "linf":
        return skipped(check, "no L-inf attack that follows the gradient was run")
    label, attack = found
    places = torch.arange(min(1000, len(evidence.data)))
    x, y = evidence.data.batch(places)
    model = _linear(x, y, evidence.data.classes)
    right = (model(x).argmax(1) == y).nonzero()[:, 0][: 4 * FEW]
    x, y = x[right], y[right]
    weak = _beatable(model, x, y, attack.radius)
    if not weak.any():
        return skipped(check, "the radius is too small to fool a linear classifier")
    fooled = perturb(attack, model, x[weak], y[weak], index=right[weak], seed=evidence.seed).fooled
    missed = int((~fooled).sum())
    text = f"{label} missed {missed} of {int(weak.sum())} images that a linear classifier can be fooled on"
    return judged(check, missed / int(weak.sum()), text)


def _gradient(evidence: Evidence, x: Tensor, y: Tensor) -> Tensor:
    """(k, c, h, w) of the margin, zero where there is none."""
    found = []
    with frozen(evidence.model), torch.enable_grad():
        for part, labels in zip(x.split(evidence.batch), y.split(evidence.batch), strict=True):
            device = device_of(evidence.model, part.device)
            point = part.to(device).requires_grad_()
            try:
                value = margin(evidence.model(point), labels.to(device)).sum()
            except (RuntimeError, NotImplementedError):  # integer operations refuse tensors that want a gradient
                found.append(torch.zeros_like(part))
                continue
            grad = torch.autograd.grad(value, point, allow_unused=True)[0] if value.requires_grad else None
            found.append(torch.zeros_like(part) if grad is None else grad.nan_to_num().cpu())
    return torch.cat(found)


def _linear(x: Tensor, y: Tensor, classes: int) -> nn.Module:
    """Ridge regression of the labels on the pixels, as a classifier."""
    flat = torch.cat([x.flatten(1), torch.ones(len(x), 1)], 1).double()
    wanted = torch.nn.functional.one_hot(y, classes).double()
    gram = flat.T @ flat + _RIDGE * len(x) * torch.eye(flat.shape[1], dtype=torch.float64)
    weights = torch.linalg.solve(gram, flat.T @ wanted).float()
    layer = nn.Linear(flat.shape[1] - 1, classes)
    with torch.no_grad():
        layer.weight.copy_(weights[:-1].T)
        layer.bias.copy_(weights[-1])
    return nn.Sequential(nn.Flatten(), layer).eval()


def _beatable(model: nn.Module, x: Tensor, y: Tensor, eps: float) -> Tensor:
    """(k,) bool: whether an image within eps, in the box, has another class; every pixel can be chosen by itself."""
    weight = next(model.parameters()).detach()
    low, high = (x - eps).clamp_min(0).flatten(1) - x.flatten(1), (x + eps).clamp_max(1).flatten(1) - x.flatten(1)
    with torch.no_grad():
        logits = model(x)
    beaten = torch.zeros(len(x), dtype=torch.bool)
    for other in range(logits.shape[1]):
        lead = weight[other] - weight[y]  # (k, pixels)
        gain = torch.where(lead > 0, lead * high, lead * low).sum(1)
        beaten |= (y != other) & (logits[:, other] - logits.gather(1, y[:, None])[:, 0] + gain > 1e-4)
    return beaten
