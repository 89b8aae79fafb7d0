"""Models side by side, from files: load, build, attack, measure, compare with the float parent, check the gates."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch

from . import architecture, bundled, datasets
from .attacks.attack import Attack
from .benchmark import Listener
from .checkpoint import Checkpoint, load
from .crew import Crew
from .datasets.dataset import Dataset
from .deadline import Deadline
from .errors import OptionError
from .gates import Gates
from .identity import of_run
from .illustration import Illustration
from .ledger import Ledger
from .lineage import beside, informed, network, recorded
from .recipe import Recipe
from .report import Report
from .rows import Rows
from .runnable import Runnable, load_any
from .scrutiny import Scrutiny
from .sweep import Sweep
from .threat import resolve_attack
from .work import Work

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
    scrutiny: Scrutiny | None = None,
    state: str | Path | None = None,
    deadline: Deadline | None = None,
    crew: Crew | None = None,
) -> Report:
    """Clean and robust accuracy, size and latency of models (files or checkpoints) on the recipe's data and attacks.

    Without models, the bundled ones on the bundled data. The report is filled as results come, so that after an
    interruption it holds what was done. A file that records its data set is measured on that one if no other is named.
    `sweep` adds accuracy at several radii, `examples` a few images with the answers to them; `scrutiny` says which
    checks are made, and where the float parent is. `state` is a folder that keeps finished parts of the attacks, from
    which the same run goes on after an interruption; `deadline` ends the attacks, and then the report's exit code is
    124; a `crew` shares the images among processes, all of which get the same report. A missed gate makes the report's
    exit code 1. Raises what loading, building and attacking raise.
    """
    report = report or Report("benchmark")
    scrutiny = scrutiny or Scrutiny()
    checkpoints = (
        _load(models, trust_pickle, scrutiny.trust_program) if models else {n: bundled.model(n) for n in bundled.MODELS}
    )
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
    lineage = scrutiny.lineage(checkpoints, recipe, data, trust_pickle)
    identity = of_run(checkpoints, lineage, recipe, data, attacks) if state is not None else {}
    work = Work(Ledger(state, identity) if state is not None else None, deadline, crew)
    rows = Rows(report, entries, recipe, data, attacks, lineage, scrutiny, work, plan, shown, on_event)
    for name, checkpoint in checkpoints.items():
        rows.add(name, build(checkpoint, recipe), checkpoint)
    if not models and (story := bundled.story(entries)):
        report.content["story"] = story
    for note in lineage.notes:
        report.warn(note)
    _judge(report, entries, asked, baselines or {}, set(recorded(checkpoints).values()), gates, scrutiny)
    return report


def _judge(
    report: Report,
    entries: Sequence[dict[str, Any]],
    asked: Sequence[str],
    baselines: dict[str, str],
    parents: set[str],
    gates: Gates,
    scrutiny: Scrutiny,
) -> None:
    """What was asked for and missed, and whether time was enough, into the report."""
    measured = {entry["name"]: entry for entry in entries}
    references = {name: measured[baseline] for name, baseline in baselines.items()}
    judged = [measured[name] for name in asked]
    for missed in [*gates.missed(judged, references, parents), *scrutiny.missed(judged)]:
        report.miss(missed)
    if any("unfinished" in entry for entry in entries):
        report.expire("The time limit was reached: some attacks are not finished.")


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


def _load(models: Sequence[Model], trust_pickle: bool, trust_program: bool) -> dict[str, Checkpoint]:
    """Name -> checkpoint; a name is the file's, without its ending, made unique."""
    found: dict[str, Checkpoint] = {}
    for model in models:
        checkpoint = (
            model
            if isinstance(model, Checkpoint)
            else load_any(model, trust_pickle=trust_pickle, trust_program=trust_program)
        )
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


def _inform_parents(checkpoints: dict[str, Checkpoint]) -> list[str]:
    """Give a parent that records no normalisation that of its child; says so."""
    notes = []
    for name, parent in recorded(checkpoints).items():
        known = informed(checkpoints[parent], checkpoints[name])
        if known is not checkpoints[parent]:
            checkpoints[parent] = known
            notes.append(f"{parent}: its normalisation is the one recorded in {name}, which was made from it")
    return notes


def _baselines(checkpoints: dict[str, Checkpoint], trust_pickle: bool) -> dict[str, str]:
    """Model -> the one that `--max-drop` compares it with: its recorded parent, else the first model.

    A parent that lies beside its child's file is added to the models, at the end. OptionError if there is nothing to
    compare.
    """
    first, asked = next(iter(checkpoints)), list(checkpoints)
    for name in asked:
        path = None if name in recorded(checkpoints) else beside(checkpoints[name])
        if path is not None:
            found = load(path, trust_pickle=trust_pickle)
            stem = _stem(str(path))
            checkpoints[stem if stem not in checkpoints else f"{stem} (parent of {name})"] = found
    parents = recorded(checkpoints)
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
    if isinstance(checkpoint, Runnable):
        return network(checkpoint, part.mean, part.std)
    model = architecture.build(checkpoint, arch=part.arch, args=part.args, mean=part.mean, std=part.std)
    return model.to(recipe.run.device)


def normalization(checkpoint: Checkpoint, recipe: Recipe) -> dict[str, list[float]]:
    """{"mean", "std"} that the recipe and the file give together."""
    mean, std = architecture.normalization(checkpoint, recipe.model.mean, recipe.model.std)
    return architecture.Classifier(torch.nn.Identity(), mean, std).normalization
