"""Checks that run PGD over again with one thing changed, on at most 64 images; only when all checks are asked for."""

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..attacks.attack import Attack
from ..attacks.noise import Noise
from ..attacks.pgd import Pgd
from ..inference import Net
from . import free
from .evidence import FEW, Evidence
from .finding import Finding, judged, points, skipped
from .probing import PASSES, attacked
from .table import Check

RADII = (0, 1, 2, 4, 8, 16, 32, 64, 255)  # of 255
STEPS = (10, 20, 50, 100, 200)
SCALES = (0.1, 1.0, 10.0, 100.0)
DRAWS = 1000
MANY = 100  # passes averaged in each step, against PASSES


def radii(check: Check, evidence: Evidence) -> Finding:
    """RQ010: robust accuracy over the radii, the attack's own L-inf radius among them."""
    known = free.monotone(check, evidence)
    if known.status != "skipped":
        return known
    tried = sorted({n / 255 for n in RADII} | {evidence.threat.radius})
    left = [_left(Pgd(eps=eps), evidence) for eps in tried]
    rise = max(0, *(after - before for before, after in pairwise(left)))
    curve = ", ".join(f"{eps:.3g}: {n}" for eps, n in zip(tried, left, strict=True))
    return judged(check, points(rise, _whole(evidence)), f"of {_whole(evidence)} images PGD leaves, by radius, {curve}")


def steps(check: Check, evidence: Evidence) -> Finding:
    """RQ015."""
    left = [_left(_pgd(evidence, steps=n), evidence) for n in STEPS]
    curve = ", ".join(f"{n}: {k}" for n, k in zip(STEPS, left, strict=True))
    text = f"of {_whole(evidence)} images PGD leaves, by steps, {curve}"
    return judged(check, points(left[-2] - left[-1], _whole(evidence)), text)


def restarts(check: Check, evidence: Evidence) -> Finding:
    """RQ016."""
    one, ten = (_left(_pgd(evidence, restarts=n), evidence) for n in (1, 10))
    text = f"of {_whole(evidence)} images PGD leaves {one} with one start and {ten} with ten"
    return judged(check, points(one - ten, _whole(evidence)), text)


def random_noise(check: Check, evidence: Evidence) -> Finding:
    """RQ017: random points of the ball, on images that are called robust."""
    if evidence.randomized:
        return skipped(check, "the model is randomized, so that chance fools it anyway")
    places = evidence.robust.nonzero()[:, 0][:FEW]
    if not len(places):
        return skipped(check, "no image is called robust")
    noise = Noise(eps=evidence.threat.radius, norm=evidence.threat.norm, points=DRAWS)
    taken = int(attacked(noise, evidence, places=places).fooled.sum())
    return judged(check, taken, f"{DRAWS} random points fooled {taken} of {len(places)} images called robust")


def loss_scale(check: Check, evidence: Evidence) -> Finding:
    """RQ018: the same attack on the same predictions, with logits of another scale.

    What counts is how much more it finds at another scale: that it finds less says nothing against the result.
    """
    if evidence.randomized:
        return skipped(check, "the model is randomized, so that the figures differ anyway")
    left = [_left(_pgd(evidence), evidence, Scaled(evidence.model, scale)) for scale in SCALES]
    curve = ", ".join(f"{scale:g}: {n}" for scale, n in zip(SCALES, left, strict=True))
    text = f"of {_whole(evidence)} images PGD leaves, by the factor of the logits, {curve}"
    return judged(check, points(left[SCALES.index(1.0)] - min(left), _whole(evidence)), text)


def eot(check: Check, evidence: Evidence) -> Finding:
    """RQ026."""
    if not evidence.randomized:
        return skipped(check, "the model is not randomized")
    few, many = (_left(_pgd(evidence, eot=n), evidence) for n in (PASSES, MANY))
    text = f"of {_whole(evidence)} images PGD leaves {few} with {PASSES} passes a step and {many} with {MANY}"
    return judged(check, points(few - many, _whole(evidence)), text)


class Scaled(nn.Module):
    """A model whose logits are multiplied."""

    def __init__(self, model: Net, scale: float) -> None:
        super().__init__()
        self.model, self.scale = model, scale

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x) * self.scale


def _pgd(evidence: Evidence, **options: float) -> Pgd:
    """PGD of the threat's radius and norm, averaging passes where the model is randomized."""
    passes = PASSES if evidence.randomized else 1
    return replace(Pgd(eps=evidence.threat.radius, norm=evidence.threat.norm, eot=passes), **options)


def _left(attack: Attack, evidence: Evidence, model: Net | None = None) -> int:
    """How many of the images stand the attack."""
    return int(torch.count_nonzero(attacked(attack, evidence, model=model).robust))


def _whole(evidence: Evidence) -> int:
    return min(FEW, len(evidence.correct))
