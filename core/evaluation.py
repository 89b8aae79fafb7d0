"""Accuracy of a model on a data set, clean and under attack, in chunks so that memory does not grow with the data."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from .attacks.attack import Attack
from .datasets.dataset import Dataset
from .driver import MASKED, AttackResult, Progress, craft, perturb
from .inference import DRAWS, PROBE_IMAGES, Net, Victim, fitting, fitting_batch, frozen, is_randomized
from .pieces import Piece, parts
from .report import Proportion
from .rng import seeded
from .work import Work

__all__ = ["AttackResult", "Survey", "accuracy", "craft", "perturb", "predictions", "robust_accuracy", "survey"]


@dataclass
class Survey:
    """One attack on a whole data set: per image whether it is robust, and the sums of `AttackResult`'s counts."""

    robust: Tensor  # (n,) bool
    first_step: Tensor  # (n,) int64
    done: Tensor  # (n,) bool; where a deadline left images out they are neither robust nor fooled
    forwards: int = 0
    backwards: int = 0
    unconfirmed: int = 0
    zero_gradient: int = 0
    close: int = 0  # attacked images whose final margin is so small that another batch size may decide otherwise
    seconds: float = 0.0  # of all processes together
    through_rounding: bool = False  # on some of the images at least
    rescaled: bool = False  # likewise
    survivors: dict[str, int] = field(default_factory=dict)
    minimal_norms: Tensor | None = None  # (n,) float32, of minimal-norm attacks only
    warnings: list[str] = field(default_factory=list)

    @property
    def accuracy(self) -> Proportion:
        """Of the images that were done."""
        return Proportion(int(self.robust.sum()), int(self.done.sum()))


def predictions(
    model: Net, data: Dataset, *, batch_size: int | None = None, randomized: bool | None = None, seed: int = 0
) -> Tensor:
    """(n,) int64 predicted classes; for a randomized model the most frequent of its answers in `DRAWS` passes."""
    if not len(data):
        return data.labels.clone()
    probe = data.batch(torch.arange(min(PROBE_IMAGES, len(data))))[0]
    with frozen(model):
        random = is_randomized(model, probe) if randomized is None else randomized
        most = fitting_batch(model, probe[:1])

        def attempt(part: Tensor, batch: int) -> Tensor:
            with seeded(seed, "clean", int(part[0])) if random else nullcontext():
                return Victim(model, batch, DRAWS if random else 1).answers(*data.batch(part))

        return torch.cat([fitting(partial(attempt, part), batch_size, most) for part in parts(len(data))])


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
    work: Work | None = None,
    job: str = "",
) -> Survey:
    """`perturb` over a whole data set, part by part; answers (n,) are the clean predictions where known already.

    Progress counts images. An image's draws depend on its place in `data`, so parts and batches change nothing. `work`
    says where finished parts are kept (under the name `job`), until when to go on, and who shares the images.
    """
    if randomized is None and len(data):
        with frozen(model):
            randomized = is_randomized(model, data.batch(torch.arange(min(PROBE_IMAGES, len(data))))[0])

    def do(part: Tensor, batch: int | None, told: Progress) -> Piece:
        x, y = data.batch(part)
        known = None if answers is None else answers[part]
        found = perturb(
            attack, model, x, y, index=part, seed=seed, drop=drop, micro_batch=batch_size, fitted=batch,
            predictions=known, randomized=randomized, progress=told,
        )  # fmt: skip
        return Piece.of(found)

    portions = parts(len(data), attack)
    found = (work or Work()).carry_out(job, portions, do, progress)
    result = _joined(len(data), {place: (portions[place], piece) for place, piece in found.items()})
    result.warnings = _warnings(attack, result, bool(randomized))
    return result


def _joined(n: int, pieces: Mapping[int, tuple[Tensor, Piece]]) -> Survey:
    """One survey from its parts: place -> (images (k,), results)."""
    result = Survey(torch.zeros(n, dtype=torch.bool), torch.full((n,), -1), torch.zeros(n, dtype=torch.bool))
    for part, piece in pieces.values():
        result.done[part] = True
        result.robust[part], result.first_step[part] = piece.robust, piece.first_step
        for name in ("forwards", "backwards", "unconfirmed", "zero_gradient", "close", "seconds"):
            setattr(result, name, getattr(result, name) + getattr(piece, name))
        if piece.minimal_norms is not None:
            whole = torch.full((n,), torch.inf) if result.minimal_norms is None else result.minimal_norms
            whole[part] = piece.minimal_norms
            result.minimal_norms = whole
        result.through_rounding |= piece.through_rounding
        result.rescaled |= piece.rescaled
        for name, left in piece.survivors.items():
            result.survivors[name] = result.survivors.get(name, 0) + left
    return result


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
    elif result.rescaled:
        found.append(
            f"{name}: the gradient is exactly zero for {result.zero_gradient} of {len(result.robust)} images, because "
            "the logits saturate the loss: the attack went on with rescaled ones (temperature=auto)."
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
