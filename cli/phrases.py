"""Sentences about a report that the terminal, Markdown and HTML share; names in them are as they are in the report."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from .tables import accuracy, radius

NORMS = {"linf": "L-inf", "l2": "L2", "l1": "L1", "l0": "L0"}


def setting(content: Mapping[str, Any], recipe: Mapping[str, Any]) -> list[str]:
    """Which images, what each attacker may do, and the seed."""
    run = recipe.get("run")
    seed = run.get("seed", 0) if isinstance(run, Mapping) else 0
    return [images(content["data"]), *(threat(n, t) for n, t in content["threat"].items()), f"seed {seed}"]


def images(data: Mapping[str, Any]) -> str:
    """`fashion-mini test, 1,000 images`."""
    return f"{data['name']} {data['split']}, {data['n']:,} images"


def threat(label: str, found: Mapping[str, Any]) -> str:
    """`pgd: L-inf radius 0.1, 40 steps, 1 restart`."""
    parts = [f"{NORMS.get(found['norm'], found['norm'])} radius {radius(found['radius'])}"]
    options = found["options"]
    for name in ("steps", "restarts"):
        if name in options:
            parts.append(f"{options[name]} {name if options[name] != 1 else name[:-1]}")
    parts += [f"{options['loss']} loss"] if options.get("loss", "ce") != "ce" else []
    return f"{label}: {', '.join(parts + ['targeted'] * bool(options.get('targeted')))}"


def chosen(content: Mapping[str, Any]) -> int | None:
    """The epoch whose weights were kept."""
    epoch = (content.get("validation") or {}).get("epoch")
    return epoch if isinstance(epoch, int) else None


def headline(models: Sequence[Mapping[str, Any]]) -> list[str]:
    """One line a model: the share of images that withstands every attack, or the clean accuracy where none was run."""
    lines = []
    for entry in models:
        attacks, worst = len(entry["attacks"]), entry["worst_case"]
        if worst and attacks:
            against = f"all {attacks} attacks" if attacks > 1 else f"{next(iter(entry['attacks']))}, the only attack"
            lines.append(f"{entry['name']}: {accuracy(worst)} of images withstand {against}")
        elif entry["clean"]:
            lines.append(f"{entry['name']}: {accuracy(entry['clean'])} of images are right; no attack was run")
    return lines


def distances(model: Mapping[str, Any]) -> list[str]:
    """One line a minimal-norm attack: how far the nearest adversarials that it found are."""
    lines = []
    for label, found in (model.get("details") or {}).items():
        norms = found.get("norms")
        if not norms:
            continue
        values = {"a tenth below": norms["p10"], "median": norms["median"], "a tenth above": norms["p90"]}
        told = [f"{name} {value:.4g}" for name, value in values.items() if value is not None]
        lines.append(
            f"{model['name']}, {label}: the smallest {NORMS.get(found['norm'], found['norm'])} perturbations of "
            f"{norms['found']:,} of {norms['n']:,} images{': ' * bool(told)}{', '.join(told)}"
        )
    return lines


def outcome(checks: Sequence[Mapping[str, Any]]) -> str:
    """`2 fail, 1 warn, 9 pass`."""
    counts = Counter(found["status"] for found in checks)
    return ", ".join(f"{counts[status]} {status}" for status in ("fail", "warn", "pass", "skipped") if counts[status])


def compared(found: Mapping[str, Any]) -> list[str]:
    """Which two benchmarks, which models only one of them has, and how to read the changes."""
    old, new = found["before"], found["after"]
    lines = [f"{new['path']} (robustq {new['robustq']}) against {old['path']} (robustq {old['robustq']})"]
    lines += [f"{name} was not measured before" for name in found["added"]]
    lines += [f"{name} is no longer measured" for name in found["removed"]]
    return [*lines, NOISE]


NOISE = (
    "Changes are in points, with a 95% interval that takes both sets of answers as independent; on the same images "
    "the true one is narrower. Within noise: the interval holds 0."
)


def conditions(report: Mapping[str, Any]) -> list[str]:
    """What has to be known to judge or repeat a run: data, files, versions, hardware."""
    lines = []
    if data := report.get("data"):
        lines.append(f"data: {images(data)}, sha256 {data['sha256']}")
    for entry in report.get("models") or ():
        if entry.get("sha256"):
            made = f", made from {entry['parent']}" if entry.get("parent") else ""
            lines.append(f"model {entry['name']}: sha256 {entry['sha256']}{made}")
    if (source := report.get("input")) and source.get("sha256"):
        lines.append(f"input {source['name']}: {source['bytes']:,} bytes, sha256 {source['sha256']}")
    return [*lines, *machine(report["environment"])]


def machine(environment: Mapping[str, Any]) -> list[str]:
    """Versions and hardware."""
    versions = ", ".join(
        f"{name} {environment[name]}" for name in ("robustq", "python", "torch") if name in environment
    )
    kernels = environment.get("kernels") or {}
    found = f"native kernels ({kernels.get('isa')})" if kernels.get("native") else "no native kernels"
    threads = (
        f", {environment['threads']} thread{'s' * (environment['threads'] != 1)}" if "threads" in environment else ""
    )
    return [versions, f"{environment['platform']}{threads}{f', {found}' if kernels else ''}"]
