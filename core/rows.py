"""The rows of a benchmark's report: each model built, attacked, timed, and its noise switched off for a second row."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from . import size
from .architecture import Classifier
from .attacks.attack import Attack
from .benchmark import Candidate, Listener, benchmark, reporter
from .checkpoint import Checkpoint
from .datasets.dataset import Dataset
from .fit import check_shape
from .illustration import Illustration
from .inference import PROBE_IMAGES
from .lineage import Lineage
from .noise import noises
from .recipe import Recipe
from .report import Report
from .scrutiny import Scrutiny
from .surrogate import Opaque, Surrogate, has_gradient
from .sweep import Plan, curve
from .twin import Twin, facts, twin
from .work import Work


@dataclass(frozen=True)
class Rows:
    """Measures models one after the other on the same images, and adds what it finds to `entries`."""

    report: Report
    entries: list[dict[str, Any]]
    recipe: Recipe
    data: Dataset
    attacks: Mapping[str, Attack]
    lineage: Lineage
    scrutiny: Scrutiny
    work: Work
    plan: Plan | None = None
    shown: Illustration | None = None
    on_event: Listener | None = None

    def add(self, name: str, model: Classifier, checkpoint: Checkpoint) -> None:
        """A row of the model, and one without its noise where it has any. Raises what attacking raises."""
        candidate, packed = self._candidate(name, model, checkpoint)
        self._measure(candidate, packed, checkpoint)
        entry = self.entries[-1]
        self._several_radii(entry, candidate)
        if self.shown and entry["complete"]:
            known = self.shown.informed(candidate.parent)
            run = self.recipe.run
            entry["examples"] = known.answers(candidate.model, seed=run.seed, batch_size=run.batch_size)
        for warning in entry["warnings"]:
            self.report.warn(f"{name}: {warning}")
        if entry["complete"] and noises(candidate.model):
            self._measure(*self._quiet(candidate, checkpoint), checkpoint)

    def _candidate(self, name: str, model: Classifier, checkpoint: Checkpoint) -> tuple[Candidate, Twin | None]:
        """The model with what is known of it, and packed; where it has no gradient, with that of its parent."""
        check_shape(model, self.data, name)
        parent, packed = self.lineage.of(name), self._twin(checkpoint, model)
        images = len(self.data)
        gradient = "autograd" if not images or has_gradient(model, self._probe) else "surrogate" if parent else "none"
        if gradient == "surrogate" and parent and isinstance(parent.model, torch.nn.Module):
            asked = Surrogate(model, parent.model)
            return Candidate(name, asked, size.measure(checkpoint), parent, None, gradient), None
        asked = Opaque(model) if gradient == "none" else model
        artefact = packed.model if packed else None
        return Candidate(name, asked, size.measure(checkpoint), parent, artefact, gradient), packed

    def _quiet(self, candidate: Candidate, checkpoint: Checkpoint) -> tuple[Candidate, Twin | None]:
        """The same model without its noise: what of the robustness is noise shows beside it."""
        model = copy.deepcopy(candidate.model)
        for layer in noises(model):
            layer.silent = True
        packed = self._twin(checkpoint, model) if isinstance(model, Classifier) else None
        artefact = packed.model if packed else None
        return replace(candidate, name=f"{candidate.name} (noise off)", model=model, artefact=artefact), packed

    def _measure(self, candidate: Candidate, packed: Twin | None, checkpoint: Checkpoint) -> None:
        run = self.recipe.run
        benchmark(
            [candidate], self.data, self.attacks, seed=run.seed, batch_size=run.batch_size, on_event=self.on_event,
            entries=self.entries, checks=self.scrutiny.checks, work=self.work,
        )  # fmt: skip
        entry = self.entries[-1]
        parent = (checkpoint.meta.get("parent") or {}).get("sha256")
        entry |= {"sha256": checkpoint.source.sha256, "parent": parent, "packed": None}
        if packed and len(self.data) and entry["complete"]:
            alone = self.scrutiny.mode is not None
            entry["packed"] = facts(checkpoint, candidate.model, packed, self.data, alone=alone)

    def _several_radii(self, entry: dict[str, Any], candidate: Candidate) -> None:
        """Accuracy against the radius, where that was asked for and the model has a gradient."""
        if self.plan is None:
            return
        name, run = candidate.name, self.recipe.run
        if candidate.gradient == "none":
            self.report.warn(f"{name}: no curve over radii: {self.plan.label} needs a gradient, and there is none.")
        elif entry["complete"]:
            told = reporter(self.on_event, f"{name}: several radii")
            model = candidate.model
            entry["curve"] = curve(self.plan, model, self.data, seed=run.seed, batch_size=run.batch_size, progress=told)

    def _twin(self, checkpoint: Checkpoint, model: Classifier) -> Twin | None:
        return twin(checkpoint, model, self._probe, self.scrutiny.mode)

    @property
    def _probe(self) -> Tensor:
        """The first images, (n, c, h, w)."""
        return self.data.batch(torch.arange(min(PROBE_IMAGES, len(self.data))))[0]
