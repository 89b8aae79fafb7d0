"""Accuracy against the radius: one attack at several radii, on part of the images."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from . import registry
from .attacks.attack import Attack
from .attacks.pgd import Pgd
from .datasets.dataset import Dataset
from .driver import Progress
from .errors import OptionError
from .evaluation import predictions, survey
from .option import number
from .report import Proportion

IMAGES = 200  # that are attacked, where no other number is given
MULTIPLES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)  # of the attack's radius, where no radii are given


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Which radii, in input units, on how many of the first images; without radii, `MULTIPLES` of the attack's."""

    radii: tuple[float, ...] = ()
    limit: int = IMAGES

    @classmethod
    def parse(cls, radii: str | None, limit: int | None, default: bool) -> "Sweep | None":
        """`auto`, `none`, or radii such as "0,4/255,8/255"; without text a sweep is made if `default`."""
        if radii == "none" or (radii is None and not default):
            if limit is not None:
                raise OptionError("--sweep-limit has nothing to limit: no radii are swept.", "Give --eps-sweep auto.")
            return None
        if limit is not None and limit < 1:
            raise OptionError(f"--sweep-limit is {limit}.", "It is a number of images, at least 1.")
        found: list[float] = []
        if radii not in (None, "auto"):
            found = sorted({number(part.strip(), "--eps-sweep") for part in str(radii).split(",") if part.strip()})
            if not found or found[0] < 0:
                raise OptionError(f"--eps-sweep is {radii!r}.", "Write radii, at least 0: --eps-sweep 0,0.05,0.1.")
        return cls(radii=tuple(found), limit=IMAGES if limit is None else limit)

    def planned(self, attacks: Mapping[str, Attack]) -> "Plan | None":
        """The attack and its radii; None where neither an attack nor radii were asked for.

        It is the first attack if that climbs a gradient in one ball; otherwise PGD in the norm of the first.
        """
        first = next(iter(attacks.values()), None)
        label, attack = next(iter(attacks), "pgd"), first
        if first is None and not self.radii:
            return None
        if attack is None or len(attack.members) > 1 or attack.minimal or not attack.uses_gradient:
            label, attack = "pgd", Pgd(eps=attack.radius if attack else 0.0, norm=attack.norm if attack else "linf")
        radii = self.radii
        if not radii:
            most = 1.0 if attack.norm == "linf" else float("inf")
            radii = tuple(dict.fromkeys(min(round(m * attack.radius, 9), most) for m in MULTIPLES))
        return Plan(label, attack, radii, self.limit)


@dataclass(frozen=True)
class Plan:
    """A sweep whose attack and radii are known."""

    label: str
    attack: Attack
    radii: tuple[float, ...]
    limit: int

    def described(self, data: Dataset) -> dict[str, Any]:
        """For the report."""
        options = {name: value for name, value in self.attack.options().items() if name not in ("eps", "step")}
        facts = {"name": registry.name_of(self.attack), "norm": self.attack.norm, "options": options}
        return {"attack": self.label, **facts, "n": min(self.limit, len(data)), "radii": list(self.radii)}

    def at(self, radius: float) -> Attack:
        """The attack with that radius; a step of its own grows with it."""
        step = getattr(self.attack, "step", None)
        scaled = {} if step is None or not self.attack.eps else {"step": step * radius / self.attack.eps}
        return replace(self.attack, eps=radius, **scaled)


def curve(
    plan: Plan,
    model: nn.Module,
    data: Dataset,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """[{"eps", "accuracy"}] as measured, one entry a radius; nothing is smoothed, and no radius learns of another.

    Progress counts radii.
    """
    part = data.first(plan.limit)
    answers = predictions(model, part, batch_size=batch_size)
    found = []
    for done, radius in enumerate(plan.radii):
        if progress:
            progress(done, len(plan.radii))
        robust = answers == part.labels
        if radius > 0 and bool(robust.any()):
            robust = survey(plan.at(radius), model, part, seed=seed, batch_size=batch_size, answers=answers).robust
        found.append({"eps": radius, "accuracy": Proportion(int(torch.sum(robust)), len(part)).to_dict()})
    return found
