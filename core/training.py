"""The only training loop: objective, compressors as sessions, validation, checkpoint selection, resume.

Every random draw is a function of (seed, purpose, epoch or step, image index), so a run that was killed and resumed
gives the weights of one that was not; on a GPU to the rounding of those of its operations that add in any order.
"""

import io
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import divergence, execution, files, folding, preparation, resume, rng, targets
from .checkpoint import Checkpoint, dumps, load
from .datasets.augment import augment
from .errors import OptionError, TrainingError
from .fit import check_shape
from .recipe import Recipe
from .replicas import Replicas
from .schedule import learning_rate
from .session import LAST
from .snapshot import Snapshots
from .view import View

Event = Callable[[dict[str, Any]], None]
SAVE_SECONDS = 30.0  # how much work a kill may lose
_FEW = 64  # images that layers of sessions are fitted on


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
        run = _Run(recipe, start, state_path)
    if (saved := run.replicas.told(run.saved)) is not None:
        run.restore(resume.moved(saved, run.device))
    try:
        with rng.seeded(recipe.run.seed, "training"), execution.repeatable():
            run.loop(on_event or (lambda event: None))
    except KeyboardInterrupt:
        run.save()
        raise
    except torch.OutOfMemoryError:
        size = recipe.train.batch_size
        raise OptionError(
            f"training on batches of {size} images does not fit into the memory of {run.device}.",
            f"Give --batch-size {max(1, size // 2)}, or start more processes." if size > 1 else "Use another device.",
        ) from None
    if run.state_path is not None:
        run.state_path.unlink(missing_ok=True)
    return TrainResult(load(io.BytesIO(run.best)), run.history, run.warnings + run.objective.remarks(run.history))


class _Run:
    """Everything one training run holds; `state` is what a resumed one needs of it."""

    def __init__(self, recipe: Recipe, start: Checkpoint | None, state_path: Path | None) -> None:
        recipe = preparation.resolved(recipe, start)
        self.recipe, self.settings, self.seed = recipe, recipe.train, recipe.run.seed
        self.device = preparation.device(recipe)
        self.replicas = Replicas(self.device)
        self.replicas.check(self.settings.batch_size)
        self.train_data, validation = preparation.data(recipe)
        self.augment = recipe.data.augment or "none"
        arch = preparation.arch(recipe, start)
        self.model = preparation.model(recipe, start, arch).to(self.device)
        self.model.net = self.replicas.synchronised(self.model.net)
        check_shape(self.model, validation, arch.name)
        self.parent = start.source if start is not None else None
        self.teacher = preparation.teacher(recipe, start, self.device)
        self.objective = preparation.objective(recipe, start)
        self.objective.check(self.model.net)
        self.attack = preparation.attack(recipe, self.objective)
        self.batches = math.ceil(len(self.train_data) / self.settings.batch_size)
        self.steps_per_epoch = self.batches * self.objective.replays
        self.total = self.steps_per_epoch * self.settings.epochs
        bare = preparation.plain_parameters(self.model)
        found = targets.find(bare, recipe.keep_fp) if recipe.compress else targets.Targets((), ())
        self.sessions = preparation.sessions(recipe, {n: bare[n] for n in found.names}, self.total)
        images, _ = self.train_data.batch(torch.arange(min(_FEW, len(self.train_data))), self.device)
        self.optimizer = preparation.optimizer(recipe, self.model, self.sessions, images)
        self.latent = dict(self.model.net.named_parameters())
        self.folding = folding.find(self.model, images[:2]) if self.attack is not None else folding.Folding()
        self.average = preparation.average(recipe, self.model)
        self.snapshots = Snapshots(
            recipe=recipe,
            arch=arch,
            parent=self.parent,
            targets=found,
            sessions=self.sessions,
            objective=self.objective,
            attack=self.attack,
            folding=self.folding,
            data=self.train_data,
            validation=validation,
        )
        self.state_path = state_path if self.replicas.leads else None
        self.memory: dict[str, Tensor] = {}
        self.step = 0
        self.best, self.best_score = b"", (False, -1.0, -1.0)
        self.history: list[dict[str, Any]] = []
        self.replicas.own(self.model, [p for group in self.optimizer.param_groups for p in group["params"]])
        self.warnings = [*self.train_data.notes, *self.replicas.remarks(self.model)]
        self.sums: dict[str, float] = {}

    # ------------------------------------------------------------------ the loop

    def loop(self, on_event: Event) -> None:
        saved = time.monotonic()
        while len(self.history) < self.settings.epochs:
            epoch = len(self.history)
            place = self.step - epoch * self.steps_per_epoch  # all steps, where the run was killed before validation
            order = rng.permutation((self.seed, "order", epoch), len(self.train_data))
            begun = time.monotonic()
            where = {"epoch": epoch + 1, "total_epochs": self.settings.epochs}
            for i in range(place, self.steps_per_epoch):
                first = i // self.objective.replays * self.settings.batch_size
                self._step(order[first : first + self.settings.batch_size], epoch)
                loss = self.sums["loss"] / (i + 1)
                on_event({"kind": "step", "step": self.step, "total": self.total, "loss": loss, **where})
                if i + 1 < self.steps_per_epoch and time.monotonic() - saved > SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
            self._finish_epoch(epoch, time.monotonic() - begun)
            left = (self.settings.epochs - epoch - 1) * (time.monotonic() - begun)
            on_event({"kind": "epoch", "seconds_left": left, **where, **self.history[-1]})
            self.save()
            saved = time.monotonic()

    def _step(self, index: Tensor, epoch: int) -> None:
        index, weight = self.replicas.share(index)
        x, y = self.train_data.batch(index, self.device)
        index = index.to(self.device)
        x = augment(x, self.augment, (self.seed, "augment", epoch), index)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.settings, self.step / self.total) * group.get("factor", 1.0)
        self.model.train()
        loss, found = self.replicas.forward(lambda: self._loss(x, y, index, epoch, self.memory, weight))
        logs = self.replicas.mean({"loss": float(loss.detach()), **{k: weight * float(v) for k, v in found.items()}})
        value = logs["loss"]
        if not math.isfinite(value):
            self._diverged(f"the loss is {value}", self._origin(x, y, index, epoch), epoch)
        self.optimizer.zero_grad(set_to_none=True)
        self.replicas.backward(loss)
        if names := divergence.spoiled({name: w.grad for name, w in self.latent.items()}):
            self._diverged(f"the loss is {value:.4g}", divergence.gradients(names), epoch)
        self.optimizer.step()
        self.step += 1
        progress = self.step / self.total
        for session in self.sessions:
            session.after_step(self.latent, min(progress, LAST))
        self.average.update(self.latent, self.step, progress)
        for name, amount in logs.items():
            self.sums[name] = self.sums.get(name, 0.0) + amount

    def _loss(
        self, x: Tensor, y: Tensor, index: Tensor, epoch: int, memory: dict[str, Tensor], weight: float = 1.0
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of this step, that of the images times `weight`, with all penalties; and what is worth logging."""
        # Dropout and noise layers of the network: other draws for the images of another process.
        torch.manual_seed(rng.number(self.seed, "layers", self.step, *self.replicas.key))
        view = View(
            self.model,
            self.sessions,
            self.latent,
            progress=self.step / self.total,
            memory=memory,
            parent=self.teacher,
            folding=self.folding,
            precision=self.settings.precision,
        )
        loss, logs = self.objective.loss(view, x, y, self.attack, (self.seed, "train", epoch), index)
        loss = weight * loss if weight != 1 else loss
        for session in self.sessions:
            loss = loss + session.penalty(self.latent)
        return loss, logs

    # ------------------------------------------------------------------ divergence

    def _origin(self, x: Tensor, y: Tensor, index: Tensor, epoch: int) -> str:
        return divergence.origin(self.model, self.latent, lambda: self._loss(x, y, index, epoch, dict(self.memory)))

    def _diverged(self, what: str, where: str, epoch: int) -> None:
        """Write the best checkpoint so far beside the output, and stop; the state would only diverge again."""
        kept = "no epoch was finished before"
        rate = learning_rate(self.settings, 0.5) / 10
        remedy = f"Lower the learning rate (--lr {rate:g}) or add warm-up (--set train.warmup=0.05)."
        if self.best:
            done = load(io.BytesIO(self.best)).meta["validation"]["epoch"]
            kept = f"the last good checkpoint is that of epoch {done}"
            if self.state_path is not None:
                good = self.state_path.with_name(self.state_path.name.partition(".")[0] + ".last-good.rq.safetensors")
                files.write(good, self.best, force=True)
                kept += f", in {good}"
                remedy = f"{remedy} To go on from there: --init {good}."
        if self.state_path is not None:
            self.state_path.unlink(missing_ok=True)
        raise TrainingError(
            f"training diverged: {what} at step {self.step} (epoch {epoch + 1}); {where}; {kept}.", remedy
        )

    # ------------------------------------------------------------------ validation and export

    def _finish_epoch(self, epoch: int, seconds: float) -> None:
        entry, self.best, self.best_score = self.replicas.told(lambda: self._measured(epoch, seconds))
        self.history.append(entry)
        self.sums = {}

    def _measured(self, epoch: int, seconds: float) -> tuple[dict[str, Any], bytes, tuple[bool, float, float]]:
        """The entry of this epoch, and the best checkpoint so far with its score."""
        torch.manual_seed(rng.number(self.seed, "validation", epoch))  # a network with noise draws here too
        exact = all(session.exact for session in self.sessions)
        exported = self.export(epoch)
        measured = self._validate(exported)
        entry = {
            "epoch": epoch + 1,
            "lr": learning_rate(self.settings, self.step / self.total),
            **{name: total / self.steps_per_epoch for name, total in self.sums.items()},
            **measured,
            "exact": exact,
            **self.replicas.noted(),
            **{k: v for session in self.sessions for k, v in session.metrics().items()},
            "seconds": round(seconds, 2),
        }
        clean, robust = entry["clean"]["value"], (entry["robust"] or entry["clean"])["value"]
        score = (exact, robust, clean)
        # Before the first exact epoch the latest one is kept, whatever its score (as the authors do).
        if score >= self.best_score if exact else not self.best_score[0]:
            meta = {**exported.meta, "validation": {k: entry[k] for k in ("epoch", "clean", "robust")}}
            return entry, dumps(replace(exported, meta=meta)), score
        return entry, self.best, self.best_score

    def export(self, epoch: int) -> Checkpoint:
        """The checkpoint as it would be written now."""
        weights = {**self.latent, **self.average.values}
        progress = self.step / self.total
        return self.snapshots.take(self.model, weights, epoch, progress, self.memory, self.average.active)

    def _validate(self, exported: Checkpoint) -> dict[str, Any]:
        return self.snapshots.measure(self.model, exported)

    # ------------------------------------------------------------------ resume

    def saved(self) -> dict[str, Any] | None:
        """The saved state of this run, where there is one."""
        if self.state_path is None or not self.state_path.exists():
            return None
        return resume.load(self.state_path, self.fingerprint())

    def save(self) -> None:
        """Save the state, where there is a place for it."""
        if self.state_path is not None:
            resume.save(self.state_path, self.fingerprint(), self.state())

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
            "average": self.average.state_dict(),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        for session, saved in zip(self.sessions, state["sessions"], strict=True):
            session.load_state_dict(saved)
        best = bytes(state["best"].cpu().numpy())
        self.step, self.best = int(state["step"]), b"" if best == b"-" else best
        exact, robust, clean = state["best_score"]
        self.best_score = (bool(exact), robust, clean)
        self.history, self.sums = list(state["history"]), dict(state["sums"])
        self.memory = dict(state["memory"])
        self.average.load_state_dict(state["average"])
