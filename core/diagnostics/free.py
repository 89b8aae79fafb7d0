"""Checks that cost nothing: they read what the attacks found."""

from itertools import pairwise

from .. import registry
from ..attacks.attack import Attack
from ..evaluation import Survey
from ..report import Proportion
from .evidence import Evidence, is_white_box
from .finding import Finding, judged, points, skipped
from .table import Check

_LATE = 0.9  # share of the steps after which few images should still fall
_FEWEST = 10  # steps from which on a last tenth has a meaning


def black_box(check: Check, evidence: Evidence) -> Finding:
    """RQ007: the most that an attack without gradients takes from what gradient attacks before it had left."""
    n, left = len(evidence.data), evidence.answers == evidence.data.labels
    found: list[tuple[int, str]] = []
    seen = False  # a gradient attack
    for label, attack in evidence.attacks.items():
        survey = evidence.surveys[label]
        if is_white_box(attack):
            found += _inside(label, attack, survey)
            left, seen = left & survey.robust, True
        elif seen:
            found.append((int((left & ~survey.robust).sum()), label))
    if not found:
        return skipped(
            check, "no attack without gradients came after one with gradients; add square, or use compressed"
        )
    most, where = max(found)
    return judged(check, points(most, n), f"{where} fooled {most} of {n} images that the gradient attacks had left")


def _inside(label: str, attack: Attack, survey: Survey) -> list[tuple[int, str]]:
    """What each later member without gradients took, in an ensemble."""
    found: list[tuple[int, str]] = []
    seen, before = False, 0
    for member, left in zip(attack.members, survey.survivors.values(), strict=False):
        if seen and not member.uses_gradient:
            found.append((before - left, f"{label}: {registry.name_of(member)}"))
        seen, before = seen or member.uses_gradient, left
    return found


def not_converged(check: Check, evidence: Evidence) -> Finding:
    """RQ008: what an attack of one kind of step still fools in its last tenth."""
    n = len(evidence.data)
    found: list[tuple[int, str, int]] = []
    for label, attack in evidence.attacks.items():
        steps = attack.iterations
        if len(attack.members) > 1 or not attack.uses_gradient or steps < _FEWEST or evidence.randomized:
            continue
        late = (evidence.surveys[label].first_step > _LATE * steps).sum()
        half = (evidence.surveys[label].first_step > 0.5 * steps).sum()
        found.append((int(late), label, int(half)))
    if not found:
        return skipped(check, f"no single gradient attack of {_FEWEST} steps or more on a deterministic model was run")
    late, label, half = max(found)
    text = f"{label}: {late} of {n} images fell in the last tenth of the steps, {half} in the second half"
    return judged(check, points(late, n), text)


def monotone(check: Check, evidence: Evidence) -> Finding:
    """RQ010: robust accuracy of one attack at several radii, where the benchmark has that."""
    by_name: dict[str, list[tuple[float, float]]] = {}
    for label, attack in evidence.attacks.items():
        others = {k: v for k, v in attack.options().items() if k not in ("eps", "step")}
        accuracy = evidence.surveys[label].accuracy.value
        by_name.setdefault(f"{registry.name_of(attack)} {others}", []).append((attack.radius, accuracy))
    sweeps = [sorted(curve) for curve in by_name.values() if len({eps for eps, _ in curve}) > 1]
    if not sweeps:
        return skipped(check, "one radius for each attack; --checks all tries others")
    rise = 100 * max(0.0, *(b[1] - a[1] for curve in sweeps for a, b in pairwise(curve)))
    return judged(check, rise, f"robust accuracy rises by {rise:.2f} points at most")


def statistics(check: Check, evidence: Evidence) -> Finding:
    """RQ013: how wide the interval of the headline is."""
    worst = Proportion(int(evidence.robust.sum()), len(evidence.robust))
    low, high = worst.ci95
    return judged(
        check,
        50 * (high - low),
        f"{worst.value:.2%} of {worst.n} images, between {low:.2%} and {high:.2%} (Wilson, 95%)",
    )


def valid(check: Check, evidence: Evidence) -> Finding:
    """RQ022: the driver verifies every image and raises VerificationError at the first that is not allowed."""
    radii = ", ".join(f"{label} {attack.norm} {attack.radius:g}" for label, attack in evidence.attacks.items())
    return judged(check, 0.0, f"all perturbations were verified to lie in [0, 1] and within {radii}")
