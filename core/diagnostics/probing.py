"""Checks that attack at most 64 images."""

from dataclasses import replace

from torch import Tensor

from .. import registry, rng
from ..attacks.attack import Attack, Knowledge
from ..attacks.pgd import Pgd
from ..attacks.replay import Replay
from ..driver import AttackResult, perturb
from ..inference import Net, is_randomized
from ..noise import noise_off as silenced
from ..noise import noises
from .evidence import FEW, Evidence, white_box
from .finding import Finding, judged, points, skipped
from .table import Check

_STEPS = 15  # of each of the two attacks on the parent
PASSES = 20  # averaged in each step where the model draws noise


def unbounded(check: Check, evidence: Evidence) -> Finding:
    """RQ009: PGD with a radius that leaves nothing of the image."""
    x, _, _ = evidence.first(FEW)
    if not len(x):
        return skipped(check, "no image is classified correctly")
    if evidence.gradient == "none":
        return skipped(check, "the model has no gradient to follow")
    result = attacked(Pgd(eps=1.0, loss="margin", eot=4 if evidence.randomized else 1), evidence)
    left = int(result.robust.sum())
    allowed = 1 / evidence.classes if evidence.randomized else 0.0
    text = f"{left} of {len(x)} images stand PGD with 40 steps at radius 1"
    return judged(check, max(0.0, left / len(x) - allowed), text)


def transfer(check: Check, evidence: Evidence) -> Finding:
    """RQ006: the gradient attack alone, then the parent's adversarials on what it left."""
    if evidence.parent is None:
        return skipped(check, "no float parent is known; give --parent FILE")
    found = white_box(evidence)
    if found is None or evidence.gradient != "autograd":
        return skipped(check, "no attack followed a gradient of the model's own")
    label, attack = found
    if attack.iterations < 2:
        return skipped(check, "no iterative attack was run")
    if len(evidence.attacks[label].members) == 1:  # on its own: its result is known for every image
        left = evidence.surveys[label].robust.nonzero()[:, 0]
        tried, whole = left[: FEW // 2], len(evidence.data)
    else:
        places, label = evidence.first(FEW)[2], f"{registry.name_of(attack)} of {label}"
        tried = left = places[attacked(attack, evidence).robust]
        whole = len(places)
    if not len(tried):
        return judged(check, 0.0, f"{label} left nothing to take")
    x, y = evidence.data.batch(tried)
    replay = Replay(eps=attack.radius, norm=attack.norm, steps=_STEPS).informed(Knowledge(parent=evidence.parent))
    taken = perturb(
        replay, evidence.model, x, y, index=tried, seed=evidence.seed, micro_batch=evidence.batch_size, predictions=y,
        randomized=evidence.randomized,
    ).fooled.sum()  # fmt: skip
    measured = points(int(taken), len(tried)) * len(left) / max(1, whole)
    text = f"the parent's adversarials fooled {int(taken)} of {len(tried)} images that {label} had left"
    return judged(check, measured, text, lone=int(taken) == 1)


def noise_off(check: Check, evidence: Evidence) -> Finding:
    """RQ025: the same attack with the noise on, averaged over passes, and on the network without its noise."""
    if not evidence.randomized:
        return skipped(check, "the model is not randomized")
    found = white_box(evidence)
    if found is None:
        return skipped(check, "no attack that follows the gradient was run")
    x, _, _ = evidence.first(FEW)
    if not len(x):
        return skipped(check, "no image is classified correctly")
    if not noises(evidence.model):
        return skipped(check, "the model draws noise in layers that are not robustq's, which cannot be silenced")
    attack = replace(found[1], eot=max(PASSES, found[1].eot))
    with rng.seeded(evidence.seed, "noise off"):
        on = attacked(attack, evidence).robust.sum()
        with silenced(evidence.model):
            if is_randomized(evidence.model, x[:16]):
                return skipped(check, "the model still draws noise when its noise layers are silent")
            quiet = attacked(replace(attack, eot=1), evidence, randomized=False)
    off, clean = quiet.robust.sum(), quiet.clean_correct.sum()
    text = (
        f"{found[0]} on {len(x)} images: {int(on)} stand with the noise on (mean of {attack.eot} passes), {int(off)} "
        f"with it off ({int(clean)} of them classified correctly then)"
    )
    return judged(check, points(int(on - off), len(x)), text)


def attacked(
    attack: Attack,
    evidence: Evidence,
    randomized: bool | None = None,
    model: Net | None = None,
    places: Tensor | None = None,
) -> AttackResult:
    """The attack on these images, else the first correctly classified ones; of another model where one is given.

    randomized: where the noise is not that of the benchmark, so that the answers to the images are asked anew.
    """
    places = evidence.correct[:FEW] if places is None else places
    x, y = evidence.data.batch(places)
    random = evidence.randomized if randomized is None else randomized
    return perturb(
        attack, model or evidence.model, x, y, index=places, seed=evidence.seed, micro_batch=evidence.batch_size,
        predictions=y if randomized is None else None, randomized=random,
    )  # fmt: skip
