"""The attack driver: `perturb` runs an attack on images and verifies everything it claims."""

import time
from contextlib import nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from .attacks.attack import Attack
from .attacks.norms import NORMS
from .errors import VerificationError
from .findings import TOLERANCE
from .inference import (
    DRAWS,
    PROBE_IMAGES,
    Net,
    Victim,
    check_inputs,
    fitting,
    fitting_batch,
    frozen,
    is_randomized,
)
from .rng import seeded
from .search import MASKED, Progress, Search
from .stepping import craft
from .streamlining import streamlined

CLOSE = 1e-4  # of the logits: batches of another size change them by less
__all__ = ["MASKED", "AttackResult", "Progress", "craft", "perturb"]


@dataclass(frozen=True)
class AttackResult:
    """What an attack did to n images. An image is robust if it was classified correctly and not fooled.

    adversarial (n, c, h, w) in [0, 1]: where fooled the adversarial image, where robust the last point that was tried,
        where the model was wrong anyway the image itself; of a minimal-norm attack the nearest adversarial image, if
        one was found at all, even beyond the radius
    fooled, clean_correct (n,) bool; an image that was wrong anyway is not fooled
    predictions (n,) int64 on `adversarial`; norms (n,) float32 of the perturbations in the attack's norm
    first_step (n,) int64: after how many steps of its start an image was first fooled, -1 where it was not
    forwards, backwards: images that went through the model, and back
    unconfirmed: images that were fooled during the attack but not when verified, and count as robust
    margins (n,) float32: distance between the label's logit and the highest other one on `adversarial`; inf where the
        image was not attacked, and for randomized models
    zero_gradient: attacked images whose first gradient was exactly zero or not finite
    through_rounding: whether the attack went on with straight-through gradients, because the model rounds
    rescaled: whether it went on with logits rescaled in its loss, because they saturate it
    minimal_norms (n,) float32, of minimal-norm attacks only: the norm of the smallest perturbation that was found and
        verified, 0 where the model was wrong anyway, inf where none was found; the image counts as fooled only where
        it is within the radius
    survivors: how many images each member of an ensemble left robust
    batch: how many images went through the model at a time, at most
    """

    adversarial: Tensor
    fooled: Tensor
    clean_correct: Tensor
    predictions: Tensor
    norms: Tensor
    margins: Tensor
    first_step: Tensor
    forwards: int
    backwards: int
    unconfirmed: int
    zero_gradient: int
    randomized: bool
    seconds: float
    through_rounding: bool = False
    rescaled: bool = False
    survivors: dict[str, int] = field(default_factory=dict)
    minimal_norms: Tensor | None = None
    batch: int = 1

    @property
    def close(self) -> int:
        """How many images were decided by a margin below `CLOSE`: another batch size may decide them otherwise."""
        return int((self.margins < CLOSE).sum())

    @property
    def robust(self) -> Tensor:
        """(n,) bool: classified correctly, and not fooled."""
        return self.clean_correct & ~self.fooled


def perturb(
    attack: Attack,
    model: Net,
    x: Tensor,
    y: Tensor,
    *,
    index: Tensor | None = None,
    seed: int = 0,
    drop: bool = True,
    micro_batch: int | None = None,
    fitted: int | None = None,
    predictions: Tensor | None = None,
    randomized: bool | None = None,
    progress: Progress | None = None,
) -> AttackResult:
    """Attack images x (n, c, h, w) in [0, 1] with labels y (n,) int64; the model is left as it was found.

    index (n,) int64: place of each image in its data set (0..n-1 if not given), which with `seed` keys its draws, so
    that results do not depend on batches. drop=False goes on with images that are fooled already: slower, same flags.
    micro_batch: images at a time (None: what fits, `fitted` if that is known, halved where memory runs out).
    predictions (n,) int64: the model's answers for x where they are known already. randomized: whether the model draws
    noise (None: find out). A randomized model is judged by the most frequent of its answers in `DRAWS` forward passes;
    what it draws from torch's default generator depends on `seed` and the first place in `index` alone.
    Where more than `MASKED` of the images have no gradient at the first step and the model rounds, the attack starts
    over with straight-through gradients; where its logits saturate the loss instead, with logits that are rescaled.
    Every claim is verified on the model as it is.
    Raises DataError (images, labels), ArchitectureError, WeightError (NaN), VerificationError (beyond the radius),
    OptionError (the batch does not fit into memory).
    """
    begun, radius = time.perf_counter(), attack.radius
    check_inputs(x, y)
    index = torch.arange(len(x)) if index is None else index.cpu()
    with frozen(model):
        random = bool(len(x) and is_randomized(model, x[:PROBE_IMAGES])) if randomized is None else randomized
        attack = attack.informed(replace(attack.knowledge, randomized=random))

        def attempt(batch: int) -> Search:
            victim = Victim(model, batch, DRAWS if random else 1)
            with seeded(seed, "model", int(index[0])) if random and len(x) else nullcontext():
                with streamlined(model):
                    clean = victim.answers(x, y) if predictions is None else predictions
                run = Search(attack.members, victim, x, y, index, clean, drop, progress)
                run.whole(seed, attack.straight_through)
            return run

        run = fitting(attempt, micro_batch, fitted or (fitting_batch(model, x[:1]) if len(x) else 1))
    norms, victim = NORMS[attack.norm].size(run.adversarial - x), run.victim
    _verify(attack, radius, norms[run.fooled] if run.seeks_minimum else norms, run.adversarial)
    return AttackResult(
        adversarial=run.adversarial,
        fooled=run.fooled,
        clean_correct=run.correct,
        predictions=run.answers,
        norms=norms,
        margins=run.margins,
        first_step=run.first,
        forwards=victim.forwards,
        backwards=victim.backwards,
        unconfirmed=run.unconfirmed,
        zero_gradient=run.zero_gradient,
        randomized=random,
        seconds=time.perf_counter() - begun,
        through_rounding=run.through_rounding,
        rescaled=run.rescaled,
        survivors=run.survivors if len(attack.members) > 1 else {},
        minimal_norms=_minimal(run, norms) if run.seeks_minimum else None,
        batch=victim.batch,
    )


def _minimal(run: Search, norms: Tensor) -> Tensor:
    """(n,) the smallest verified norms, those of the adversarials as they are included."""
    return torch.where(run.fooled, torch.minimum(run.minimal, norms), run.minimal)


def _verify(attack: Attack, radius: float, norms: Tensor, adversarial: Tensor) -> None:
    """VerificationError where one of the norms is larger than allowed or an image leaves the box: a wrong attack."""
    worst = float(norms.max()) if len(norms) else 0.0
    if worst > radius + TOLERANCE or not (adversarial.numel() == 0 or 0 <= adversarial.min() <= adversarial.max() <= 1):
        raise VerificationError(
            f"{type(attack).__name__} gave a perturbation of {attack.norm} norm {worst:.8g} for a radius {radius:g}, "
            f"pixels from {adversarial.min():g} to {adversarial.max():g}.",
            "Please report this: an attack must stay inside its ball and the box.",
        )
