"""robustq as a library.

    from robustq.core import DataPart, Recipe, Spec, compress, evaluate, load, save

    parent = load("model.pt")                                    # any checkpoint, nothing in it is run
    made = compress(parent, [Spec("projection", {"bits": 4})])   # no data, no class
    save(made.checkpoint, "model.rq.safetensors")
    recipe = Recipe(data=DataPart(name="fashion-mini"), attack=(Spec("pgd"),))
    report = evaluate([parent, made.checkpoint], recipe)         # the report of `robustq bench`

Every function raises children of `RobustqError` for what a caller can get wrong, and prints nothing.
Names are imported when they are first used, so that importing this package does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .architecture import Classifier, build
    from .attacks.attack import Attack
    from .checkpoint import Checkpoint, load, save
    from .comparison import evaluate
    from .compression import compress
    from .crafting import craft_examples
    from .driver import perturb
    from .errors import RobustqError
    from .exporting import export
    from .inspection import inspect
    from .recipe import DataPart, Recipe, Spec
    from .report import Report
    from .training import train

_PLACES = {
    "Attack": "attacks.attack",
    "Checkpoint": "checkpoint",
    "Classifier": "architecture",
    "DataPart": "recipe",
    "Recipe": "recipe",
    "Report": "report",
    "RobustqError": "errors",
    "Spec": "recipe",
    "build": "architecture",
    "compress": "compression",
    "craft_examples": "crafting",
    "evaluate": "comparison",
    "export": "exporting",
    "inspect": "inspection",
    "load": "checkpoint",
    "perturb": "driver",
    "save": "checkpoint",
    "train": "training",
}

__all__ = [
    "Attack",
    "Checkpoint",
    "Classifier",
    "DataPart",
    "Recipe",
    "Report",
    "RobustqError",
    "Spec",
    "build",
    "compress",
    "craft_examples",
    "evaluate",
    "export",
    "inspect",
    "load",
    "perturb",
    "save",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f".{_PLACES[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
