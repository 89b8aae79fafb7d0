"""Models side by side: clean and robust accuracy, size and latency, as the `models` entries of the report."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from . import diagnostics, registry
from .attacks.attack import Attack, Knowledge
from .attacks.replay import Parent
from .datasets.dataset import Dataset
from .evaluation import Survey, predictions, survey
from .inference import PROBE_IMAGES, frozen, is_randomized
from .latency import median_ms
from .report import Proportion
from .work import Work

Listener = Callable[[dict[str, Any]], None]  # {"kind": "step", "task", "step", "total"}

SIZES = ("bytes", "bits_per_weight", "sparsity", "channel_sparsity")
_BATCHES = (1, 64)  # that latency is measured for


@dataclass(frozen=True)
class Candidate:
    """A model to be measured: its name in the table, the classifier ([0, 1] images -> logits), `size.measure` of it.

    parent   the float model that it was made from, where it is known
    artefact the model as its file runs, where that is not `model` itself
    gradient "autograd", "surrogate" (the parent's) or "none"
    """

    name: str
    model: nn.Module
    size: Mapping[str, Any] = field(default_factory=dict)
    parent: Parent | None = None
    artefact: nn.Module | None = None
    gradient: str = "autograd"


def benchmark(
    candidates: Sequence[Candidate],
    data: Dataset,
    attacks: Mapping[str, Attack],
    *,
    seed: int = 0,
    batch_size: int | None = None,
    drop: bool = True,
    latency: bool = True,
    checks: str = "default",
    on_event: Listener | None = None,
    entries: list[dict[str, Any]] | None = None,
    work: Work | None = None,
) -> list[dict[str, Any]]:
    """One entry a model; attacks {label in the report: attack}, none of them for clean accuracy alone.

    name, clean, attacks {label: accuracy}, worst_case (robust to every attack; None without attacks), bytes,
    bits_per_weight, sparsity, channel_sparsity, latency_ms (one image), latency {batch size: ms a batch},
    randomized, gradient, details {label: name, options, radius, forwards, backwards, seconds, ...}, checks (of
    `diagnostics.run`, in the mode `checks`), warnings, complete.
    An accuracy is {"value", "ci95", "n"}, its share of all images: those that are wrong anyway count against it.

    `work` says where finished parts are kept, until when to go on, and who shares the images. Where its deadline left
    images out, `unfinished` is {label: {"done", "n"}} and `complete` False; accuracies are of the images that were
    done, the worst case of those that were done by every attack that was begun. Checks and latency are left out then.

    `entries` is the list that is filled, as results come: after an interruption it holds what was done, `complete` is
    False in the entry that was under way. Raises what `perturb` raises.
    """
    entries = [] if entries is None else entries
    for candidate in candidates:
        entry = _blank(candidate)
        entries.append(entry)
        evidence = _measure(entry, candidate, data, attacks, seed, batch_size, drop, on_event, work)
        if "unfinished" in entry:
            continue
        entry["checks"] = [finding.to_dict() for finding in diagnostics.run(evidence, checks)]
        if latency and len(data):
            times = {str(n): round(median_ms(candidate.model, _images(data, n)), 4) for n in _BATCHES}
            entry["latency_ms"], entry["latency"] = times["1"], times
        entry["complete"] = True
    return entries


def _blank(candidate: Candidate) -> dict[str, Any]:
    return {
        "name": candidate.name,
        "clean": None,
        "attacks": {},
        "worst_case": None,
        **{key: candidate.size.get(key) for key in SIZES},
        "latency_ms": None,
        "latency": {},
        "randomized": None,
        "gradient": candidate.gradient,
        "details": {},
        "checks": [],
        "warnings": [],
        "complete": False,
    }


def _measure(
    entry: dict[str, Any],
    candidate: Candidate,
    data: Dataset,
    attacks: Mapping[str, Attack],
    seed: int,
    batch_size: int | None,
    drop: bool,
    on_event: Listener | None,
    work: Work | None,
) -> diagnostics.Evidence:
    """Clean accuracy, each attack, and the worst case so far; what was found, for the checks."""
    model = candidate.model
    with frozen(model):
        randomized = bool(len(data)) and is_randomized(model, _images(data, PROBE_IMAGES))
    answers = predictions(model, data, batch_size=batch_size, randomized=randomized, seed=seed)
    robust, covered = answers == data.labels, torch.ones_like(answers, dtype=torch.bool)
    entry |= {"clean": _accuracy(robust), "randomized": randomized}
    surveys: dict[str, Survey] = {}
    knowledge = Knowledge(candidate.parent, randomized)
    informed = {label: attack.informed(knowledge) for label, attack in attacks.items()}
    for label, attack in informed.items():
        surveys[label] = found = survey(
            attack, model, data, seed=seed, batch_size=batch_size, drop=drop, answers=answers, randomized=randomized,
            progress=reporter(on_event, f"{candidate.name}: {label}"), work=work, job=f"{candidate.name} {label}",
        )  # fmt: skip
        if not found.done.all():
            _leave_out(entry, label, found)
        if len(data) and not found.done.any():
            continue
        robust, covered = robust & found.robust, covered & found.done
        entry["attacks"][label] = found.accuracy.to_dict()
        entry["worst_case"] = _accuracy(robust[covered])
        entry["details"][label] = _details(attack, found, answers == data.labels)
        entry["warnings"] += [w for w in found.warnings if w not in entry["warnings"]]
    return diagnostics.Evidence(
        model, data, informed, surveys, answers, randomized=randomized, gradient=candidate.gradient,
        parent=candidate.parent, artefact=candidate.artefact, seed=seed, batch_size=batch_size,
    )  # fmt: skip


def _leave_out(entry: dict[str, Any], label: str, found: Survey) -> None:
    """Say that the deadline left out images of an attack, or all of them."""
    done, n = int(found.done.sum()), len(found.done)
    entry.setdefault("unfinished", {})[label] = {"done": done, "n": n}
    if done:
        entry["warnings"].append(
            f"{label}: the time limit was reached after {done} of {n} images. Its accuracy is of these, and the worst "
            "case of the images that all attacks finished."
        )
    else:
        entry["warnings"].append(
            f"{label}: the time limit was reached before a part of it was finished. The worst case is without it."
        )


def _details(attack: Attack, found: Survey, right: Tensor) -> dict[str, Any]:
    """Everything that is needed to judge, and to repeat, one attack."""
    n = max(1, int(found.done.sum()))
    return {
        "name": registry.name_of(attack),
        "options": attack.options(),
        "norm": attack.norm,
        "radius": attack.radius,
        "forwards": found.forwards,
        "backwards": found.backwards,
        "forwards_per_image": round(found.forwards / n, 3),
        "backwards_per_image": round(found.backwards / n, 3),
        "unconfirmed": found.unconfirmed,
        "close": found.close,
        "zero_gradient": found.zero_gradient,
        "through_rounding": found.through_rounding,
        "rescaled": found.rescaled,
        "survivors": found.survivors,
        "seconds": round(found.seconds, 3),
        **({} if found.minimal_norms is None else {"norms": _distribution(found.minimal_norms, right)}),
    }


def _distribution(norms: Tensor, right: Tensor) -> dict[str, Any]:
    """Of the smallest perturbations (n,) of the images classified correctly (n,): inf counts where none was found.

    A percentile that falls on an image without an adversarial is None; so is a mean, unless all have one.
    """
    norms = norms[right].double().sort().values
    places = {"p10": 0.1, "median": 0.5, "p90": 0.9}
    values = {name: float(norms[int(q * (len(norms) - 1))]) if len(norms) else math.inf for name, q in places.items()}
    values["mean"] = float(norms.mean()) if len(norms) else math.inf
    return {
        "n": len(norms),
        "found": int(norms.isfinite().sum()),
        **{name: round(value, 6) if math.isfinite(value) else None for name, value in values.items()},
    }


def _images(data: Dataset, n: int) -> Tensor:
    """(n, c, h, w) the first images, over again where there are fewer."""
    return data.batch(torch.arange(n) % len(data))[0]


def _accuracy(hits: Tensor) -> dict[str, Any]:
    return Proportion(int(hits.sum()), len(hits)).to_dict()


def reporter(on_event: Listener | None, task: str) -> Callable[[int, int], None] | None:
    return on_event and (lambda done, total: on_event({"kind": "step", "task": task, "step": done, "total": total}))
