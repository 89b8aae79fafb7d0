"""What a benchmark's results depend on, by hash or by value: the key of its state folder."""

import hashlib
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

import torch

from .attacks.attack import Attack
from .checkpoint import Checkpoint, dumps
from .datasets.dataset import Dataset
from .ledger import described
from .lineage import Lineage
from .recipe import Recipe


def of_run(
    checkpoints: Mapping[str, Checkpoint],
    lineage: Lineage,
    recipe: Recipe,
    data: Dataset,
    attacks: Mapping[str, Attack],
) -> dict[str, Any]:
    """JSON values; how many processes share the run is not among them."""
    run = recipe.to_dict()
    return {
        "robustq": version("robustq"),
        "torch": torch.__version__,
        "models": {name: _model(checkpoint, lineage, name) for name, checkpoint in checkpoints.items()},
        "architecture": {key: value for key, value in run["model"].items() if key != "init"},
        "data": data.sha256,
        "attacks": {label: described(attack) for label, attack in attacks.items()},
        "seed": recipe.run.seed,
        "batch size": recipe.run.batch_size or "auto",
        "threads": torch.get_num_threads(),
        "device": recipe.run.device,
    }


def _model(checkpoint: Checkpoint, lineage: Lineage, name: str) -> dict[str, Any]:
    parent = lineage.of(name)
    return {
        "sha256": checkpoint.source.sha256 or hashlib.sha256(dumps(checkpoint)).hexdigest(),
        "normalization": checkpoint.meta.get("normalization"),
        "parent": parent.sha256 if parent else None,
    }
