"""The only training loop: objective, compressors as sessions, validation, checkpoint selection, resume.

Every random draw is a function of (seed, purpose, epoch or step, image index), so a run that was killed and resumed
gives the weights of one that was not.
"""

import copy
import io
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import evaluation, preparation, resume, rng, targets
from .architecture import Classifier
from .checkpoint import Checkpoint, Source, dumps, load
from .datasets.augment import augment
from .errors import TrainingError
from .fit import check_shape
from .packed import Half, Packed, half_float
from .recipe import Recipe
from .schedule import learning_rate
from .view import Noisy, View

Event = Callable[[dict[str, Any]], None]
SAVE_SECONDS = 30.0  # how much work a kill may lose


@dataclass(frozen=True)
class TrainResult:
    """The chosen checkpoint, one entry an epoch of what was measured, and what the user should know."""

    checkpoint: Checkpoint
    history: list[dict[str, Any]]
    warnings: list[str]


def train(
    recipe: Recipe,
    *,
    start: Checkpoint | None = None,
    state_path: Path | None = None,
    on_event: Event | None = None,
) -> TrainResult:
    """Train from the recipe's architecture, or go on from `start`; with `state_path`, save there and resume from it.

    The returned checkpoint is the one with the best robust (else clean) validation accuracy among the epochs in which
    every session showed exactly the weights it exports; if there is none, the last one.
    """
    with rng.seeded(recipe.run.seed, "initial weights"):
        run = _Run(recipe, start)
    if state_path is not None and state_path.exists():
        run.restore(resume.load(state_path, run.fingerprint()))
    try:
        with rng.seeded(recipe.run.seed, "training"):
            run.loop(state_path, on_event or (lambda event: None))
    except KeyboardInterrupt:
        if state_path is not None:
            resume.save(state_path, run.fingerprint(), run.state())
        raise
    if state_path is not None:
        state_path.unlink(missing_ok=True)
    return TrainResult(load(io.BytesIO(run.best)), run.history, run.warnings + run.objective.remarks(run.history))


class _Run:
    """Everything one training run holds; `state` is what a resumed one needs of it."""

    def __init__(self, recipe: Recipe, start: Checkpoint | None) -> None:
        recipe = preparation.resolved(recipe, start)
        self.recipe, self.settings, self.seed = recipe, recipe.train, recipe.run.seed
        self.train_data, self.validation = preparation.data(recipe)
        self.augment = recipe.data.augment or "none"
        self.arch = preparation.arch(recipe, start)
        self.model = preparation.model(recipe, start, self.arch)
        check_shape(self.model, self.validation, self.arch.name)
        self.parent = start.source if start is not None else None
        self.objective = preparation.objective(recipe)
        self.attack = preparation.attack(recipe, self.objective)
        self.latent = dict(self.model.net.named_parameters())
        self.targets = targets.find(self.latent, recipe.keep_fp) if recipe.compress else targets.Targets((), ())
        self.batches = math.ceil(len(self.train_data) / self.settings.batch_size)
        self.steps_per_epoch = self.batches * self.objective.replays
        self.total = self.steps_per_epoch * self.settings.epochs
        self.sessions = preparation.sessions(recipe, {n: self.latent[n] for n in self.targets.names}, self.total)
        self.optimizer = torch.optim.SGD(
            self.latent.values(),
            lr=learning_rate(self.settings, 0.0),
            momentum=self.settings.momentum,
            nesterov=self.settings.nesterov and self.settings.momentum > 0,
            weight_decay=self.settings.weight_decay,
        )
        for session in self.sessions:
            session.join(self.optimizer)
        self.memory: dict[str, Tensor] = {}
        self.step = 0
        self.best, self.best_score = b"", (False, -1.0, -1.0)
        self.history: list[dict[str, Any]] = []
        self.warnings = [*self.train_data.notes]
        self.sums: dict[str, float] = {}

    # ------------------------------------------------------------------ the loop

    def loop(self, state_path: Path | None, on_event: Event) -> None:
        saved = time.monotonic()
        while len(self.history) < self.settings.epochs:
            epoch = len(self.history)
            place = self.step - epoch * self.steps_per_epoch  # all steps, where the run was killed before validation
            order = rng.permutation((self.seed, "order", epoch), len(self.train_data))
            begun = time.monotonic()
            for i in range(place, self.steps_per_epoch):
                first = i // self.objective.replays * self.settings.batch_size
                self._step(order[first : first + self.settings.batch_size], epoch)
                on_event({"kind": "step", "step": self.step, "total": self.total, "loss": self.sums["loss"] / (i + 1)})
                last = i + 1 == self.steps_per_epoch
                if state_path is not None and not last and time.monotonic() - saved > SAVE_SECONDS:
                    resume.save(state_path, self.fingerprint(), self.state())
                    saved = time.monotonic()
            self._finish_epoch(epoch, time.monotonic() - begun)
            on_event({"kind": "epoch", "total_epochs": self.settings.epochs, **self.history[-1]})
            if state_path is not None:
                resume.save(state_path, self.fingerprint(), self.state())
                saved = time.monotonic()

    def _step(self, index: Tensor, epoch: int) -> None:
        x, y = self.train_data.batch(index)
        x = augment(x, self.augment, (self.seed, "augment", epoch), index)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, self.step / self.total)
        torch.manual_seed(rng.number(self.seed, "layers", self.step))  # dropout and noise layers of the network
        self.model.train()
        key, progress = (self.seed, self.step), self.step / self.total
        view = View(self.model, self.sessions, self.latent, key, progress=progress, memory=self.memory)
        loss, logs = self.objective.loss(view, x, y, self.attack, (self.seed, "train", epoch), index)
        for session in self.sessions:
            loss = loss + session.penalty(self.latent)
        value = float(loss.detach())
        if not math.isfinite(value):
            self._diverged(value, epoch)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.step += 1
        for session in self.sessions:
            session.after_step(self.latent, min(self.step / self.total, 1 - 1e-9))
        for name, amount in {"loss": value, **{k: float(v) for k, v in logs.items()}}.items():
            self.sums[name] = self.sums.get(name, 0.0) + amount

    def _diverged(self, value: float, epoch: int) -> None:
        broken = [name for name, weight in self.latent.items() if not bool(torch.isfinite(weight).all())]
        where = f"; not finite: {', '.join(broken[:3])}" if broken else ""
        kept = f"the last good epoch is {self.history[-1]['epoch']}" if self.history else "no epoch was finished"
        raise TrainingError(
            f"training diverged: the loss is {value} at step {self.step} (epoch {epoch + 1}){where}; {kept}.",
            f"Lower the learning rate (--lr {learning_rate(self.settings, 0.5) / 10:g}) or add warm-up"
            " (--set train.warmup=0.05).",
        )

    # ------------------------------------------------------------------ validation and export

    def _finish_epoch(self, epoch: int, seconds: float) -> None:
        exact = all(session.exact for session in self.sessions)
        exported = self.export(epoch)
        clean, robust = self._validate(exported)
        entry = {
            "epoch": epoch + 1,
            "lr": learning_rate(self.settings, self.step / self.total),
            **{name: total / self.steps_per_epoch for name, total in self.sums.items()},
            "clean": clean.to_dict(),
            "robust": None if robust is None else robust.to_dict(),
            "exact": exact,
            **self._noise_on(exported),
            **{k: v for session in self.sessions for k, v in session.metrics().items()},
            "seconds": round(seconds, 2),
        }
        self.history.append(entry)
        self.sums = {}
        score = (exact, clean.value if robust is None else robust.value, clean.value)
        # Before the first exact epoch the latest one is kept, whatever its score (as the authors do).
        if score >= self.best_score if exact else not self.best_score[0]:
            meta = {**exported.meta, "validation": {k: entry[k] for k in ("epoch", "clean", "robust")}}
            self.best, self.best_score = dumps(replace(exported, meta=meta)), score

    def export(self, epoch: int) -> Checkpoint:
        """The checkpoint as it would be written now, batch statistics re-estimated with the exported weights."""
        current: dict[str, Tensor] = {name: weight.detach() for name, weight in self.latent.items()}
        packed: dict[str, Packed] = {}
        for session in self.sessions:
            packed |= session.encode(current)
            current |= {name: tensor.dense() for name, tensor in packed.items()}
        packed |= {name: Half(half_float(current[name])) for name in self.targets.kept}
        current |= {name: tensor.dense() for name, tensor in packed.items()}
        model = copy.deepcopy(self.model)
        model.net.load_state_dict(current, strict=False)
        if self.sessions:
            self._reestimate(model, epoch)
        weights = {n: t.detach().clone() for n, t in model.net.state_dict().items() if n not in packed}
        return Checkpoint(weights, packed, {}, self._meta(), Source("", "robustq", "", 0, ()))

    def _reestimate(self, model: Classifier, epoch: int) -> None:
        """Batch-norm statistics of the exported weights: the averages over forward passes as training makes them."""
        norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        if not norms or not self.settings.bn_images:
            return
        momenta = [m.momentum for m in norms]
        for m in norms:
            # None averages over all batches; with a zeroed counter the first batch replaces the old statistics,
            # which until then serve the inner attack.
            m.momentum = None
            if m.num_batches_tracked is not None:
                m.num_batches_tracked.zero_()
        order = rng.permutation((self.seed, "batch norm", epoch), len(self.train_data))[: self.settings.bn_images]
        weights = dict(model.net.named_parameters())
        view = View(model.train(), (), weights, progress=self.step / self.total, memory=dict(self.memory))
        with torch.no_grad():
            for index in order.split(self.settings.batch_size):
                x, y = self.train_data.batch(index)
                self.objective.loss(view, x, y, self.attack, (self.seed, "batch norm", epoch), index)
        for m, momentum in zip(norms, momenta, strict=True):
            m.momentum = momentum
        model.eval()

    def _validate(self, exported: Checkpoint) -> tuple[Any, Any]:
        model = copy.deepcopy(self.model).eval()
        model.net.load_state_dict(exported.dense())
        return self._accuracies(model)

    def _noise_on(self, exported: Checkpoint) -> dict[str, Any]:
        """The validation figures with the sessions' weight noise, where there is any."""
        if not any(session.noisy for session in self.sessions):
            return {}
        model = copy.deepcopy(self.model).eval()
        model.net.load_state_dict(exported.dense())
        clean, robust = self._accuracies(Noisy(model, self.sessions, (self.seed, "noise on", self.step)).eval())
        return {"clean_noise_on": clean.to_dict(), "robust_noise_on": None if robust is None else robust.to_dict()}

    def _accuracies(self, model: torch.nn.Module) -> tuple[Any, Any]:
        clean = evaluation.accuracy(model, self.validation)
        if self.attack is None:
            return clean, None
        part = self.validation.first(self.settings.validation_attack_limit)
        check = preparation.validation_attack(self.attack)
        return clean, evaluation.robust_accuracy(model, part, check, seed=self.seed)

    def _meta(self) -> dict[str, Any]:
        meta: dict[str, Any] = {
            "arch": {"name": self.arch.name, "args": self.arch.options},
            "normalization": self.model.normalization,
            "data": {"name": self.recipe.data.name, "shape": list(self.train_data.shape)},
            "recipe": self.recipe.portable().to_dict(),
        }
        if self.recipe.compress:
            meta |= {"methods": [spec.to_dict() for spec in self.recipe.compress], "keep_fp": list(self.recipe.keep_fp)}
        if self.parent is not None and self.parent.sha256:
            name = Path(self.parent.path).name
            meta["parent"] = {"sha256": self.parent.sha256, "name": name, "bytes": self.parent.bytes}
        return meta

    # ------------------------------------------------------------------ resume

    def fingerprint(self) -> dict[str, Any]:
        """What a saved state must agree with: the run's description, its data and its parent."""
        parent = self.parent.sha256 if self.parent else None
        return {"recipe": self.recipe.portable().to_dict(), "data": self.train_data.sha256, "parent": parent}

    def state(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "sessions": [session.state_dict() for session in self.sessions],
            "step": self.step,
            "best": torch.frombuffer(bytearray(self.best or b"-"), dtype=torch.uint8),
            "best_score": list(self.best_score),
            "history": self.history,
            "sums": self.sums,
            "memory": self.memory,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for session, saved in zip(self.sessions, state["sessions"], strict=True):
            session.load_state_dict(saved)
        best = bytes(state["best"].numpy())
        self.step, self.best = int(state["step"]), b"" if best == b"-" else best
        exact, robust, clean = state["best_score"]
        self.best_score = (bool(exact), robust, clean)
        self.history, self.sums = list(state["history"]), dict(state["sums"])
        self.memory = dict(state.get("memory", {}))
