"""What a training run would write now: the exported checkpoint, and what validation says of it."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import evaluation, inserted, preparation, rng, size
from .architecture import Classifier
from .attacks.attack import Attack
from .checkpoint import Checkpoint, Source
from .datasets.augment import augment
from .datasets.dataset import Dataset
from .folding import Folding
from .noise import noise_off, noises
from .objectives.objective import Objective
from .packed import Half, Packed, half_float
from .recipe import Recipe, Spec
from .replicas import alone
from .session import Session
from .shrinking import narrow
from .targets import Targets
from .view import View


@dataclass(frozen=True)
class Snapshots:
    """Makes and measures checkpoints of a run; holds what does not change during it."""

    recipe: Recipe
    arch: Spec
    parent: Source | None
    targets: Targets
    sessions: Sequence[Session]
    objective: Objective
    attack: Attack | None
    folding: Folding
    data: Dataset
    validation: Dataset

    def take(
        self,
        model: Classifier,
        weights: Mapping[str, Tensor],
        epoch: int,
        progress: float,
        memory: Mapping[str, Tensor],
        averaged: bool,
    ) -> Checkpoint:
        """The checkpoint as it would be written: the latent `weights` encoded by the sessions one after the other.

        Batch statistics are re-estimated with the exported weights where these are not the trained ones.
        """
        current: dict[str, Tensor] = {name: weight.detach() for name, weight in weights.items()}
        packed: dict[str, Packed] = {}
        for session in self.sessions:
            packed |= session.encode(current)
            current |= {name: tensor.dense() for name, tensor in packed.items()}
        packed |= {name: Half(half_float(current[name])) for name in self.targets.kept}
        current |= {name: tensor.dense() for name, tensor in packed.items()}
        model = copy.deepcopy(model)
        model.net = alone(model.net)
        model.net.load_state_dict(current, strict=False)
        if self.sessions or averaged:
            self._reestimate(model, epoch, progress, memory)
        state = {name: t.detach().clone() for name, t in model.net.state_dict().items() if name not in packed}
        return Checkpoint(state, packed, {}, self._meta(model), Source("", "robustq", "", 0, ()))

    def measure(self, model: Classifier, exported: Checkpoint) -> dict[str, Any]:
        """Accuracies {"clean", "robust"} on validation images as the file gives them, noise included if it has any.

        Then with "_noise_off" the same without noise; and the sparsity where something is compressed.
        """
        model = copy.deepcopy(model).eval()
        model.net.load_state_dict(exported.dense())
        found: dict[str, Any] = self.accuracies(model)
        if noises(model):
            with noise_off(model):
                found |= {f"{name}_noise_off": value for name, value in self.accuracies(model).items()}
        if exported.packed:
            found["sparsity"] = size.measure(exported)["sparsity"]
        return found

    def accuracies(self, model: torch.nn.Module) -> dict[str, Any]:
        """{"clean", "robust"}: on validation images, and on the first of them under PGD; None without an attack."""
        clean = evaluation.accuracy(model, self.validation).to_dict()
        if self.attack is None:
            return {"clean": clean, "robust": None}
        part = self.validation.first(self.recipe.train.validation_attack_limit)
        check = preparation.validation_attack(self.attack)
        robust = evaluation.robust_accuracy(model, part, check, seed=self.recipe.run.seed)
        return {"clean": clean, "robust": robust.to_dict()}

    def _reestimate(self, model: Classifier, epoch: int, progress: float, memory: Mapping[str, Tensor]) -> None:
        """Batch-norm statistics of the exported weights: the averages over forward passes as training makes them.

        On augmented images where training saw these: with plain ones a ResNet-20 for CIFAR-10 lost 3 points.
        """
        norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        settings, seed = self.recipe.train, self.recipe.run.seed
        if not norms or not settings.bn_images:
            return
        momenta = [m.momentum for m in norms]
        for m in norms:
            # None averages over all batches; with a zeroed counter the first batch replaces the old statistics,
            # which until then serve the inner attack.
            m.momentum = None
            if m.num_batches_tracked is not None:
                m.num_batches_tracked.zero_()
        key = (seed, "batch norm", epoch)
        order = rng.permutation(key, len(self.data))[: settings.bn_images]
        weights = dict(model.net.named_parameters())
        view = View(model.train(), (), weights, progress=progress, memory=dict(memory), folding=self.folding)
        with torch.no_grad():
            for index in order.split(settings.batch_size):
                x, y = self.data.batch(index, model.mean.device)
                index = index.to(x.device)
                x = augment(x, self.recipe.data.augment or "none", key, index)
                self.objective.loss(view, x, y, self.attack, key, index)
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
        model.eval()

    def _meta(self, model: Classifier) -> dict[str, Any]:
        meta: dict[str, Any] = {
            "arch": {"name": self.arch.name, "args": self.arch.options},
            "normalization": model.normalization,
            "data": {"name": self.recipe.data.name, "shape": list(self.data.shape)},
            "recipe": self.recipe.portable().to_dict(),
        }
        if record := inserted.record(model.net):
            meta["inserted"] = record
        if shrunk := narrow.record(model.net):
            meta["shrunk"] = shrunk
        if self.recipe.compress:
            meta |= {"methods": [spec.to_dict() for spec in self.recipe.compress], "keep_fp": list(self.recipe.keep_fp)}
        if self.parent is not None and self.parent.sha256:
            name = Path(self.parent.path).name
            meta["parent"] = {"sha256": self.parent.sha256, "name": name, "bytes": self.parent.bytes}
        return meta
