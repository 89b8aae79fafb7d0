"""How closely a benchmark looks: which checks are made, whether a failed one is a missed gate, where the parent is."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import twin
from .checkpoint import Checkpoint
from .datasets.dataset import Dataset
from .diagnostics import MODES
from .errors import OptionError
from .lineage import Lineage
from .recipe import Recipe


@dataclass(frozen=True, kw_only=True)
class Scrutiny:
    """checks: default, all or none; strict: a check that fails is a missed gate.

    parent         file of the float model that the models were made from; else it is found by what they record
    parent_arch    its class, where it is another than the models'
    trust_program  run TorchScript programs, the code in them included
    mode           how packed layers run, "exact", "accurate" or "int8": accuracy and what fools the model are asked of
                   them in that mode too; None is "exact"
    """

    checks: str = "default"
    strict: bool = False
    parent: str | Path | None = None
    parent_arch: str | None = None
    trust_program: bool = False
    mode: str | None = None

    def __post_init__(self) -> None:
        if self.checks not in MODES:
            raise OptionError(f"--checks is {self.checks!r}.", f"It can be one of: {', '.join(MODES)}.")
        if self.mode is not None and self.mode not in twin.MODES:
            raise OptionError(f"--mode is {self.mode!r}.", f"It can be one of: {', '.join(twin.MODES)}.")
        if self.strict and self.checks == "none":
            raise OptionError("--strict has nothing to judge: --checks none makes no checks.", "Leave one of them out.")
        if self.parent_arch is not None and self.parent is None:
            raise OptionError("--parent-arch is the class of the model of --parent.", "Give --parent FILE too.")

    def lineage(
        self, checkpoints: Mapping[str, Checkpoint], recipe: Recipe, data: Dataset, trust_pickle: bool
    ) -> Lineage:
        """What finds the parents of these models."""
        return Lineage(
            checkpoints, recipe, data, self.parent, self.parent_arch, trust_pickle, trust_program=self.trust_program
        )

    def missed(self, models: Sequence[Mapping[str, Any]]) -> list[str]:
        """With `strict`, one line for each check that failed; `models` are the report's entries."""
        if not self.strict:
            return []
        return [
            f"{model['name']}: {check['id']} {check['name']} failed: {check['message']}"
            for model in models
            for check in model["checks"]
            if check["status"] == "fail"
        ]
