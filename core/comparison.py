"""Models side by side, from files: load, build, attack, measure, compare with the float parent, check the gates."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import torch

from robustq.kernels import pack_model, status

from . import architecture, bundled, datasets, size
from .attacks.attack import Attack
from .benchmark import Candidate, Listener, benchmark
from .checkpoint import Checkpoint, load, sha256
from .datasets.dataset import Dataset
from .errors import OptionError
from .fit import check_shape
from .gates import Gates
from .illustration import Illustration
from .latency import median_ms
from .packed import Quantized
from .recipe import Recipe
from .report import Report
from .sweep import Sweep, curve
from .threat import resolve_attack

Model = str | Path | BinaryIO | Checkpoint


def evaluate(
    models: Sequence[Model],
    recipe: Recipe,
    *,
    gates: Gates | None = None,
    trust_pickle: bool = False,
    report: Report | None = None,
    on_event: Listener | None = None,
    sweep: Sweep | None = None,
    examples: bool = False,
) -> Report:
    """Clean and robust accuracy, size and latency of models (files or checkpoints) on the recipe's data and attacks.

    Without models, the bundled ones on the bundled data. The report is filled as results come, so that after an
    interruption it holds what was done. A file that records its data set is measured on that one if no other is named.
    `sweep` adds accuracy at several radii, `examples` a few images with the answers to them. A missed gate makes the
    report's exit code 1. Raises what loading, building and attacking raise.
    """
    report = report or Report("benchmark")
    checkpoints = _load(models, trust_pickle) if models else {n: bundled.model(n) for n in bundled.MODELS}
    recipe = recipe.replace("data", name=recipe.data.name or (None if models else bundled.DATA))
    recipe = with_recorded_data(recipe, list(checkpoints.values()))
    report.recipe = recipe.to_dict()
    gates = gates or Gates()
    if gates.min_robust_acc is not None and not recipe.attack:
        raise OptionError("--min-robust-acc has nothing to judge: no attack is run.", "Name one: --attack pgd.")
    asked = list(checkpoints)
    baselines = _baselines(checkpoints, trust_pickle) if gates.max_drop is not None else None
    for note in _inform_parents(checkpoints):
        report.warn(note)
    data = images(recipe)
    report.warnings += data.notes
    attacks = named_attacks(recipe)
    entries: list[dict[str, Any]] = []
    report.content |= {
        "data": described(data),
        "threat": {label: threat(attack) for label, attack in attacks.items()},
        "baseline": baselines,
        "models": entries,
    }
    plan = sweep.planned(attacks) if sweep else None
    shown = Illustration.of(*next(iter(attacks.items())), data) if examples and attacks else None
    report.content |= {"sweep": plan.described(data)} if plan else {}
    report.content |= {"examples": shown.described()} if shown else {}
    for name, checkpoint in checkpoints.items():
        model = build(checkpoint, recipe)
        check_shape(model, data, name)
        candidate = Candidate(name, model, size.measure(checkpoint))
        run = recipe.run
        benchmark(
            [candidate], data, attacks, seed=run.seed, batch_size=run.batch_size, on_event=on_event, entries=entries
        )
        parent = (checkpoint.meta.get("parent") or {}).get("sha256")
        facts = {"sha256": checkpoint.source.sha256, "parent": parent, "packed": _packed(checkpoint, model, data)}
        entries[-1] |= facts
        if plan:
            entries[-1]["curve"] = curve(plan, model, data, seed=run.seed, batch_size=run.batch_size)
        if shown:
            entries[-1]["examples"] = shown.answers(model, seed=run.seed, batch_size=run.batch_size)
        for warning in entries[-1]["warnings"]:
            report.warn(f"{name}: {warning}")
    if not models and (story := bundled.story(entries)):
        report.content["story"] = story
    measured = {entry["name"]: entry for entry in entries}
    references = {name: measured[baseline] for name, baseline in (baselines or {}).items()}
    parents = set(_parents(checkpoints).values())
    for missed in gates.missed([measured[name] for name in asked], references, parents):
        report.miss(missed)
    return report


def named_attacks(recipe: Recipe) -> dict[str, Attack]:
    """Label -> attack; a name that occurs twice gets its place as a suffix."""
    labels = [spec.name for spec in recipe.attack]
    labels = [f"{n}-{i + 1}" if labels.count(n) > 1 else n for i, n in enumerate(labels)]
    return {n: resolve_attack(spec, recipe.data.name) for n, spec in zip(labels, recipe.attack, strict=True)}


def described(data: Dataset) -> dict[str, Any]:
    """Which images, for the report."""
    return {"name": data.name, "split": data.split, "n": len(data), "sha256": data.sha256}


def threat(attack: Attack) -> dict[str, Any]:
    """What an attack may do, for the report."""
    options = attack.options()
    return {"name": type(attack).__name__, "norm": attack.norm, "radius": attack.radius, "options": options}


def _load(models: Sequence[Model], trust_pickle: bool) -> dict[str, Checkpoint]:
    """Name -> checkpoint; a name is the file's, without its ending, made unique."""
    found: dict[str, Checkpoint] = {}
    for model in models:
        checkpoint = model if isinstance(model, Checkpoint) else load(model, trust_pickle=trust_pickle)
        stem = _stem(checkpoint.source.path)
        name, n = stem, 1
        while name in found:
            n += 1
            name = f"{stem}-{n}"
        found[name] = checkpoint
    return found


def _stem(path: str) -> str:
    if path in ("", "-"):
        return "model" if path == "" else "stdin"
    name = Path(path).name
    return name.removesuffix(".rq.safetensors") if name.endswith(".rq.safetensors") else Path(name).stem


def with_recorded_data(recipe: Recipe, checkpoints: Sequence[Checkpoint]) -> Recipe:
    """The recipe with its data named: where it names none, the set that all models were trained on."""
    if recipe.data.name is not None:
        return recipe
    names = {(checkpoint.meta.get("data") or {}).get("name") for checkpoint in checkpoints}
    if len(names) != 1 or None in names:
        agreed = "the models do not agree on one" if len(checkpoints) > 1 else "the model records none"
        raise OptionError(f"no data is named, and {agreed}.", "Give --data NAME or --data PATH.")
    return recipe.replace("data", name=names.pop())


def images(recipe: Recipe) -> Dataset:
    """The recipe's images: its split, else the test split."""
    if recipe.data.name is None:
        raise OptionError("no data is named.", "Give --data NAME or --data PATH.")
    return datasets.load(
        recipe.data.name,
        recipe.data.split or "test",
        directory=recipe.data.dir,
        data_range=recipe.data.range,
        limit=recipe.data.limit,
    )


def _parents(checkpoints: Mapping[str, Checkpoint]) -> dict[str, str]:
    """Model -> its float parent, where the file records it and it is among the models."""
    by_hash = {checkpoint.source.sha256: name for name, checkpoint in checkpoints.items()}
    recorded = {name: (c.meta.get("parent") or {}).get("sha256") for name, c in checkpoints.items()}
    return {name: by_hash[parent] for name, parent in recorded.items() if parent and parent in by_hash}


def _inform_parents(checkpoints: dict[str, Checkpoint]) -> list[str]:
    """Give a parent that records no normalisation that of its child; says so.

    A bare state dict has none, but what was made from it may: without it the parent would be measured on other inputs.
    """
    notes = []
    for name, parent in _parents(checkpoints).items():
        child, source = checkpoints[name].meta, checkpoints[parent]
        if child.get("normalization") and not source.meta.get("normalization"):
            checkpoints[parent] = replace(source, meta={**source.meta, "normalization": child["normalization"]})
            notes.append(f"{parent}: its normalisation is the one recorded in {name}, which was made from it")
    return notes


def _baselines(checkpoints: dict[str, Checkpoint], trust_pickle: bool) -> dict[str, str]:
    """Model -> the one that `--max-drop` compares it with: its recorded parent, else the first model.

    A parent that lies beside its child's file is added to the models, at the end. OptionError if there is nothing to
    compare.
    """
    first, asked = next(iter(checkpoints)), list(checkpoints)
    for name in asked:
        parent = checkpoints[name].meta.get("parent") or {}
        if name in _parents(checkpoints) or not parent.get("name"):
            continue
        beside = Path(checkpoints[name].source.path).parent / parent["name"]
        if beside.is_file() and sha256(beside) == parent["sha256"]:
            found = load(beside, trust_pickle=trust_pickle)
            stem = _stem(str(beside))
            checkpoints[stem if stem not in checkpoints else f"{stem} (parent of {name})"] = found
    parents = _parents(checkpoints)
    compared = [name for name in asked if name not in parents.values()]  # a parent is what others are compared with
    baselines = {name: parents.get(name, first) for name in compared if parents.get(name, first) != name}
    if not baselines:
        parent = (checkpoints[first].meta.get("parent") or {}).get("name")
        why = f"its float parent {parent} is not beside it" if parent else "it records no float parent"
        raise OptionError(f"--max-drop has nothing to compare {first} with: {why}.", "Name that as the first MODEL.")
    return baselines


def build(checkpoint: Checkpoint, recipe: Recipe) -> architecture.Classifier:
    """The checkpoint's network as the recipe says, on its device."""
    part = recipe.model
    model = architecture.build(checkpoint, arch=part.arch, args=part.args, mean=part.mean, std=part.std)
    return model.to(recipe.run.device)


def normalization(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, list[float]]:
    """{"mean", "std"} that the recipe and the file give together."""
    mean, std = architecture.normalization(checkpoint, recipe.model.mean, recipe.model.std)
    return architecture.Classifier(torch.nn.Identity(), mean, std).normalization


def _packed(checkpoint: Checkpoint, model: architecture.Classifier, data: Dataset) -> dict[str, Any] | None:
    """How the model runs from its packed ternary weights; None where it has none."""
    ternary = {
        name: tensor
        for name, tensor in checkpoint.packed.items()
        if isinstance(tensor, Quantized) and tensor.levels == 1 and isinstance(_owner(model.net, name), _LAYERS)
    }
    if not ternary or not len(data):
        return None
    run = architecture.Classifier(pack_model(model.net, ternary), None, None)
    run.mean, run.std = model.mean, model.std
    x, _ = data.batch(torch.arange(min(64, len(data))))
    with torch.no_grad():
        expected, found = model(x.to(model.mean.device)), run(x.to(model.mean.device))
    error = float((expected - found).abs().max() / expected.abs().max().clamp(min=1e-12))
    facts = status()
    return {
        "layers": len(ternary),
        "mode": "exact",
        "native": facts["native"],
        "isa": facts["isa"],
        "max_error": error,
        "latency_ms": round(median_ms(run, x[:1]), 4),
    }


_LAYERS = (torch.nn.Linear, torch.nn.Conv2d)


def _owner(net: torch.nn.Module, name: str) -> torch.nn.Module | None:
    """The module whose `weight` a name is."""
    path, _, leaf = name.rpartition(".")
    return net.get_submodule(path) if leaf == "weight" else None
