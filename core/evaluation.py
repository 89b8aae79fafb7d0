"""Accuracy of a model on a data set, clean and under attack, in chunks so that memory does not grow with the data."""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from .attacks.attack import Attack
from .datasets.dataset import Dataset
from .driver import MASKED, AttackResult, Progress, craft, perturb
from .inference import DRAWS, PROBE_IMAGES, Net, Victim, fitting_batch, frozen, is_randomized
from .report import Proportion

__all__ = ["AttackResult", "Survey", "accuracy", "craft", "perturb", "predictions", "robust_accuracy", "survey"]

_CHUNK = 1024  # images in memory as floats at a time


@dataclass
class Survey:
    """One attack on a whole data set: per image whether it is robust, and the sums of `AttackResult`'s counts."""

    robust: Tensor  # (n,) bool
    first_step: Tensor  # (n,) int64
    forwards: int = 0
    backwards: int = 0
    unconfirmed: int = 0
    zero_gradient: int = 0
    seconds: float = 0.0
    through_rounding: bool = False  # on some of the images at least
    survivors: dict[str, int] = field(default_factory=dict)
    minimal_norms: Tensor | None = None  # (n,) float32, of minimal-norm attacks only
    warnings: list[str] = field(default_factory=list)

    @property
    def accuracy(self) -> Proportion:
        return Proportion(int(self.robust.sum()), len(self.robust))


def predictions(model: Net, data: Dataset, *, batch_size: int | None = None, randomized: bool | None = None) -> Tensor:
    """(n,) int64 predicted classes; for a randomized model the most frequent of its answers in `DRAWS` passes."""
    if not len(data):
        return data.labels.clone()
    probe = data.batch(torch.arange(min(PROBE_IMAGES, len(data))))[0]
    with frozen(model):
        random = is_randomized(model, probe) if randomized is None else randomized
        victim = Victim(model, batch_size or fitting_batch(model, probe[:1]), DRAWS if random else 1)
        return torch.cat([victim.answers(*data.batch(part)) for part in _chunks(data)])


def accuracy(model: Net, data: Dataset, *, batch_size: int | None = None) -> Proportion:
    """Share of images classified correctly."""
    return Proportion(int((predictions(model, data, batch_size=batch_size) == data.labels).sum()), len(data))


def robust_accuracy(
    model: Net, data: Dataset, attack: Attack, *, seed: int = 0, batch_size: int | None = None
) -> Proportion:
    """Share of images classified correctly and not fooled by the attack; images that are wrong anyway count."""
    return survey(attack, model, data, seed=seed, batch_size=batch_size).accuracy


def survey(
    attack: Attack,
    model: Net,
    data: Dataset,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    drop: bool = True,
    answers: Tensor | None = None,
    randomized: bool | None = None,
    progress: Progress | None = None,
) -> Survey:
    """`perturb` over a whole data set, chunk by chunk; answers (n,) are the clean predictions where known already.

    Progress counts images. An image's draws depend on its place in `data`, so chunks and batches change nothing.
    """
    done, result = 0, Survey(torch.zeros(len(data), dtype=torch.bool), torch.full((len(data),), -1))
    for part in _chunks(data):
        x, y = data.batch(part)
        known = None if answers is None else answers[part]
        found = perturb(
            attack, model, x, y, index=part, seed=seed, drop=drop, micro_batch=batch_size, predictions=known,
            randomized=randomized, progress=_within(progress, done, len(part), len(data)),
        )  # fmt: skip
        randomized = found.randomized  # the same for every chunk
        done += len(part)
        result.robust[part], result.first_step[part] = found.robust, found.first_step
        for name in ("forwards", "backwards", "unconfirmed", "zero_gradient", "seconds"):
            setattr(result, name, getattr(result, name) + getattr(found, name))
        if found.minimal_norms is not None:
            whole = torch.full((len(data),), torch.inf) if result.minimal_norms is None else result.minimal_norms
            whole[part] = found.minimal_norms
            result.minimal_norms = whole
        result.through_rounding |= found.through_rounding
        for name, left in found.survivors.items():
            result.survivors[name] = result.survivors.get(name, 0) + left
    result.warnings = _warnings(attack, result, bool(randomized))
    if progress:
        progress(len(data), len(data))
    return result


def _chunks(data: Dataset) -> tuple[Tensor, ...]:
    return torch.arange(len(data)).split(_CHUNK) if len(data) else ()


def _within(progress: Progress | None, done: int, here: int, total: int) -> Progress | None:
    """Progress of one chunk in image steps -> progress of the data set in images."""
    return progress and (lambda steps, of: progress(done + here * steps // max(1, of), total))


def _warnings(attack: Attack, result: Survey, randomized: bool) -> list[str]:
    name = type(attack).__name__
    found = [f"{name}: {remark}" for remark in attack.remarks()]
    if randomized:
        found.append(
            f"The model is randomized: it is judged by its most frequent answer in {DRAWS} passes, and {name} follows "
            f"{'single draws' if attack.eot == 1 else f'the mean of {attack.eot} draws'} of its gradient. Its robust "
            f"accuracy is an upper bound{'; eot=20 comes closer' if attack.eot == 1 else ''}."
        )
    if result.through_rounding and not result.zero_gradient:
        found.append(
            f"{name}: the model rounds: straight-through gradients were taken. Its robust accuracy is an upper bound."
        )
    elif result.through_rounding:
        found.append(
            f"{name}: the gradient is exactly zero for {result.zero_gradient} of {len(result.robust)} images, because "
            "the model rounds: the attack went on with straight-through gradients. Its robust accuracy is an upper "
            "bound; square and the adversarials of the float model tell more."
        )
    elif result.zero_gradient > MASKED * len(result.robust):
        found.append(
            f"{name}: the gradient is exactly zero for {result.zero_gradient} of {len(result.robust)} images, so its "
            "robust accuracy is overestimated. loss=margin helps where logits saturate, not where the model rounds."
        )
    if result.unconfirmed:
        found.append(
            f"{name}: {result.unconfirmed} images were fooled during the attack but not when verified; they count as "
            "robust."
        )
    return found
