"""Checks of a few passes over at most 128 images."""

import torch
from torch import Tensor

from ..attacks.fgsm import Fgsm
from ..driver import perturb
from ..inference import Net, device_of, frozen
from ..report import Proportion
from .evidence import FEW, PROBES, Evidence, modules, white_box
from .finding import Finding, judged, points, skipped
from .table import Check

_PASSES = 5
_TOLERANCE = 1e-4  # of the length of the logits
_SATURATED = 50.0  # distance of the two highest logits from which on float32 has no cross entropy left
_DARK = 0.1  # the brightest pixel of images that were divided once too often


def differentiable(check: Check, evidence: Evidence) -> Finding:
    """RQ001."""
    if evidence.gradient == "none":
        return judged(check, 1.0, "the model has no gradient, and no float parent that could lend it one")
    if evidence.gradient == "surrogate":
        return judged(check, 1.0, "the model has no gradient; the float parent's was taken for it, judged on the model")
    absent = evidence.gradients[0]
    return _share(check, absent, "images have no path from their logits back to the input")


def zero_gradient(check: Check, evidence: Evidence) -> Finding:
    """RQ002."""
    if evidence.gradient != "autograd":
        return skipped(check, "the model has no gradient of its own")
    absent, entropy, lead = evidence.gradients
    text = "images have neither a cross entropy nor a margin with a gradient"
    if any(survey.through_rounding for survey in evidence.surveys.values()):
        text += "; the attacks went straight through the rounding"
    return _share(check, entropy & lead & ~absent, text)


def saturated(check: Check, evidence: Evidence) -> Finding:
    """RQ003."""
    if evidence.gradient != "autograd":
        return skipped(check, "the model has no gradient of its own")
    _, entropy, lead = evidence.gradients
    return _share(check, entropy & ~lead, "images have no gradient of the cross entropy, but one of the margin")


def randomized(check: Check, evidence: Evidence) -> Finding:
    """RQ004."""
    x, _, _ = evidence.first(FEW)
    first, *others = [evidence.ask(x) for _ in range(_PASSES)]
    limit = _TOLERANCE * first.norm(dim=1)
    differs = torch.stack([(other - first).norm(dim=1) > limit for other in others]).any(0)
    return _share(check, differs, f"images have other logits in another of {_PASSES} passes")


def not_logits(check: Check, evidence: Evidence) -> Finding:
    """RQ005."""
    logits = evidence.logits
    sums = (logits.sum(1) - 1).abs() < 1e-3
    probabilities = (logits >= 0).all(1) & (logits <= 1).all(1) & sums
    finding = _share(check, probabilities, "images have outputs in [0, 1] that sum to 1")
    top = logits.topk(2, dim=1).values
    gap = float((top[:, 0] - top[:, 1]).max()) if len(top) else 0.0
    if finding.status == "pass" and gap > _SATURATED:
        share = float((top[:, 0] - top[:, 1] > _SATURATED).float().mean())
        return Finding(check, "warn", share, f"the highest logits are up to {gap:.0f} apart: cross entropy underflows")
    return finding


def one_step(check: Check, evidence: Evidence) -> Finding:
    """RQ011: FGSM on images that the gradient attacks left."""
    found = white_box(evidence)
    if found is None:
        return skipped(check, "no attack that follows the gradient was run")
    label, attack = found
    if attack.iterations < 2:
        return skipped(check, "no iterative attack was run")
    places = evidence.surveys[label].robust.nonzero()[:, 0]
    tried = places[:PROBES]
    x, y = evidence.data.batch(tried)
    step = Fgsm(eps=attack.radius, norm=attack.norm)
    taken = perturb(
        step, evidence.model, x, y, index=tried, seed=evidence.seed, micro_batch=evidence.batch_size,
        predictions=y, randomized=evidence.randomized,
    ).fooled.sum()  # fmt: skip
    # Of the robust images at most PROBES are tried; the share they stand for is that of all robust images.
    measured = points(int(taken), len(tried)) * len(places) / max(1, len(evidence.data))
    text = f"one step fooled {int(taken)} of {len(tried)} images that {label} left robust"
    return judged(check, measured, text, lone=int(taken) == 1)


def preflight(check: Check, evidence: Evidence) -> Finding:
    """RQ014."""
    problems: list[str] = []
    with frozen(evidence.model):
        training = [type(m).__name__ for m in modules(evidence.model) if m.training]
    if training:
        problems.append(f"{training[0]} stays in training mode")
    brightest = float(evidence.data.batch(torch.arange(min(PROBES, len(evidence.data))))[0].max())
    if brightest < _DARK:
        problems.append(f"no pixel is above {brightest:.2g}")
    clean = Proportion(len(evidence.correct), len(evidence.data))
    chance = 1 / evidence.data.classes
    if clean.ci95[0] <= chance:
        problems.append(f"clean accuracy {clean.value:.1%} is not above chance, {chance:.1%}")
    return judged(check, len(problems), "; ".join(problems) or "evaluation mode, pixels in [0, 1], better than chance")


def train_mode(check: Check, evidence: Evidence) -> Finding:
    """RQ021: logits alone and in a batch; a forward pass that differentiates cannot run in inference mode."""
    if evidence.randomized:
        return skipped(check, "the model is randomized, so that its logits differ anyway")
    x, _, _ = evidence.first(16)
    if _differentiates(evidence.model, x[:1]):
        return judged(check, 1.0, "the forward pass calls autograd")
    together, alone = evidence.ask(x), torch.cat([evidence.ask(image[None]) for image in x])
    differs = (together - alone).norm(dim=1) > 1e-3 * together.norm(dim=1).clamp_min(1e-6)
    return _share(check, differs, "images have other logits alone than in a batch")


def same_images(check: Check, evidence: Evidence) -> Finding:
    """RQ024."""
    if evidence.randomized:
        return skipped(check, "the model is randomized, so that its answers differ anyway")
    places = torch.arange(min(FEW, len(evidence.data)))
    again = evidence.ask(evidence.data.batch(places)[0]).argmax(1)
    return _share(check, again != evidence.answers[places], "images are answered otherwise than before")


def cross_artefact(check: Check, evidence: Evidence) -> Finding:
    """RQ012: what fools the model that was attacked, asked of the file as it runs."""
    if evidence.gradient == "surrogate":
        return judged(check, 0.0, "every adversarial was judged on the file as it runs")
    if evidence.artefact is None:
        return skipped(check, "the model that was attacked is the one that is shipped")
    found = white_box(evidence)
    if found is None:
        return skipped(check, "no attack that follows the gradient was run")
    fooled = (~evidence.surveys[found[0]].robust & (evidence.answers == evidence.data.labels)).nonzero()[:, 0][:FEW]
    if not len(fooled):
        return skipped(check, "no image was fooled")
    x, y = evidence.data.batch(fooled)
    result = perturb(
        found[1], evidence.model, x, y, index=fooled, seed=evidence.seed, micro_batch=evidence.batch_size, predictions=y
    )
    there = evidence.ask(result.adversarial[result.fooled], evidence.artefact).argmax(1) == y[result.fooled]
    return _share(check, there, "adversarials of the dense model do not fool the packed one")


def _differentiates(model: Net, x: Tensor) -> bool:
    with frozen(model), torch.inference_mode():
        try:
            model(x.to(device_of(model, x.device)))
        except RuntimeError:
            return True
    return False


def _share(check: Check, bad: Tensor, text: str) -> Finding:
    """bad (k,) bool: the share of images it holds for."""
    if not len(bad):
        return skipped(check, "no image is classified correctly")
    return judged(check, float(bad.float().mean()), f"{int(bad.sum())} of {len(bad)} {text}")
