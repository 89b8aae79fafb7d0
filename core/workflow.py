"""From a recipe to a finished checkpoint with its report: what `robustq compress` and `robustq train` do."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from . import comparison, compression, registry, size, training
from .checkpoint import Checkpoint, dumps
from .errors import RobustqError
from .evaluation import accuracy
from .packed import Packed
from .pruners.shrink import Shrink
from .recipe import Recipe, Spec
from .shrinking.shrink import shrink
from .training import Event

SHRINK = "shrink"  # the one method that works on the finished model


@dataclass(frozen=True)
class Made:
    """A checkpoint that is ready to be written (`data` are the file's bytes), and what the report says of it."""

    checkpoint: Checkpoint
    data: bytes
    content: dict[str, Any]
    warnings: list[str]


def compress(
    start: Checkpoint,
    recipe: Recipe,
    *,
    train: bool = False,
    state_path: Path | None = None,
    on_event: Event | None = None,
) -> Made:
    """Compress a checkpoint by the recipe's methods; trains if one of them must, or if `train` asks for it.

    Without training no class is needed, unless the recipe names data: then accuracy before and after is measured.
    Raises what `compression.compress`, `training.train` and loading raise.
    """
    if train or trains(recipe.compress):
        return _trained(recipe, start, state_path, on_event)
    methods = [spec for spec in recipe.compress if spec.name != SHRINK]
    made = compression.Compressed(start, [], [])
    if methods or not recipe.compress:
        made = compression.compress(start, methods, keep_fp=recipe.keep_fp)
    checkpoint = replace(made.checkpoint, meta={**_described(start, recipe), **made.checkpoint.meta})
    content: dict[str, Any] = {"layers": made.layers}
    images = None if recipe.data.name is None else comparison.images(recipe)
    if len(methods) < len(recipe.compress):
        checkpoint, content["shrunk"] = _shrunk(checkpoint, recipe, () if images is None else images.shape)
        done = [*checkpoint.meta.get("methods", ()), {"name": SHRINK}]
        checkpoint = replace(checkpoint, meta={**checkpoint.meta, "methods": done, "parent": compression.parent(start)})
    if images is not None:
        models = {"before": start, "after": checkpoint}
        measured = {when: accuracy(comparison.build(c, recipe), images).to_dict() for when, c in models.items()}
        content["accuracy"] = {**measured, "data": comparison.described(images)}
    return _made(checkpoint, content, made.warnings, start)


def _shrunk(checkpoint: Checkpoint, recipe: Recipe, shape: Sequence[int] = ()) -> tuple[Checkpoint, dict[str, Any]]:
    """The model without its dead channels, and what the report says of it."""
    (spec, *_) = (spec for spec in recipe.compress if spec.name == SHRINK)
    options: Shrink = registry.create(spec.name, spec.options, "pruner")
    of = recipe.model
    found = shrink(checkpoint, arch=of.arch, args=of.args, mean=of.mean, std=of.std, shape=options.input or shape)
    return found.checkpoint, found.facts


def train(
    recipe: Recipe,
    *,
    start: Checkpoint | None = None,
    state_path: Path | None = None,
    on_event: Event | None = None,
) -> Made:
    """Train by the recipe, from its architecture or from a checkpoint, with its compressors in the loop."""
    return _trained(recipe, start, state_path, on_event)


def trains(methods: Sequence[Spec]) -> bool:
    """Whether one of the methods needs training data."""
    return any(registry.find(spec.name, *registry.COMPRESSORS).trains() for spec in methods)


def _trained(recipe: Recipe, start: Checkpoint | None, state_path: Path | None, on_event: Event | None) -> Made:
    result = training.train(recipe, start=start, state_path=state_path, on_event=on_event)
    content = {"history": result.history, "validation": result.checkpoint.meta.get("validation")}
    if start is not None and result.checkpoint.packed:
        original = start.dense()
        layers = [compression.layer(n, original[n].float(), t) for n, t in _ordered(original, result.checkpoint)]
        content["layers"] = layers
    checkpoint, warnings = result.checkpoint, list(result.warnings)
    if any(spec.name == SHRINK for spec in recipe.compress):
        try:
            checkpoint, content["shrunk"] = _shrunk(checkpoint, recipe)
        except RobustqError as error:  # what was trained is not thrown away for it
            warnings.append(f"the network was not shrunk: {error.problem}")
    return _made(checkpoint, content, warnings, start)


def _ordered(names: Any, checkpoint: Checkpoint) -> list[tuple[str, Packed]]:
    return [(name, checkpoint.packed[name]) for name in names if name in checkpoint.packed]


def _described(start: Checkpoint, recipe: Recipe) -> dict[str, Any]:
    """Architecture and normalisation that were given by flags, so that the file can be used without them."""
    part, found = recipe.model, {}
    if part.arch is not None:
        found["arch"] = {"name": part.arch, "args": part.args}
    if part.mean is not None or part.std is not None:
        found["normalization"] = comparison.normalization(start, recipe)
    return found


def _made(checkpoint: Checkpoint, content: dict[str, Any], warnings: Sequence[str], start: Checkpoint | None) -> Made:
    data = dumps(checkpoint)
    facts = size.measure(checkpoint)
    source = None
    if start is not None:
        of = start.source
        source = {"name": of.path, "bytes": of.bytes, "sha256": of.sha256, "notes": list(of.notes)}
    return Made(checkpoint, data, {"input": source, **facts, "bytes": len(data), **content}, list(warnings))
