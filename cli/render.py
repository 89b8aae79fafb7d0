"""Reports as tables for people, on standard error. Nothing is shown that is not in the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from robustq.core.report import Report

from .tables import NONE, accuracy, figure, percent, radius, shape, size, table
from .text import visible

MANY_LAYERS, WORST = 20, 10  # from how many layers on only the worst are shown, unless -v is given
LAST_EPOCHS = 10
NORMS = {"linf": "L-inf", "l2": "L2", "l1": "L1", "l0": "L0"}


def benchmark(report: Report, console: Console, verbose: int = 0) -> None:
    """One row a model, one column an attack; above it which images and what the attacker may do."""
    content = report.content
    models: Sequence[Mapping[str, Any]] = content.get("models", ())
    if "data" in content:
        seed = (report.recipe.get("run") or {}).get("seed", 0)
        setting = [images(content["data"]), *(threat(n, t) for n, t in content["threat"].items()), f"seed {seed}"]
        console.print("; ".join(setting))
    if not models:
        return
    attacks, several = list(content["threat"]), len(content["threat"]) > 1
    channels = any(model["channel_sparsity"] for model in models)
    columns = ["model", "clean", *attacks, *(["worst case"] if several else []), "size", "bits/weight", "zeros"]
    shown = table(*columns, *(["zero channels"] if channels else []), "latency ms")
    for model in models:
        found = [accuracy(model["attacks"].get(name)) for name in attacks]
        shown.add_row(
            visible(model["name"]) + ("" if model["complete"] else " (unfinished)"),
            accuracy(model["clean"]),
            *found,
            *([accuracy(model["worst_case"])] if several else []),
            size(model["bytes"]),
            figure(model["bits_per_weight"]),
            percent(model["sparsity"]),
            *([percent(model["channel_sparsity"])] if channels else []),
            figure(model["latency_ms"]),
        )
    console.print(shown)
    for model in models:
        _details(model, console, verbose)
    for name, baseline in (content.get("baseline") or {}).items():
        console.print(f"{visible(name)} is compared with {visible(baseline)}")
    if content.get("story"):
        console.print(visible(content["story"]))


def _details(model: Mapping[str, Any], console: Console, verbose: int) -> None:
    """How a model runs from packed weights; with -v also what each attack cost."""
    if packed := model.get("packed"):
        console.print(
            f"{visible(model['name'])}: {packed['layers']} layers run from packed weights ({packed['isa']}) in "
            f"{figure(packed['latency_ms'])} ms; largest difference {packed['max_error']:.1g} of the largest logit"
        )
    if not verbose:
        return
    for name, found in model["details"].items():
        console.print(
            f"{visible(model['name'])}, {name}: {found['forwards_per_image']:g} forward and "
            f"{found['backwards_per_image']:g} backward passes an image, {found['seconds']:.1f} s"
        )


def compress(report: Report, console: Console, verbose: int = 0) -> None:
    """The error of each layer, what stayed in fp16, accuracy where it was measured, and the sizes."""
    content = report.content
    for note in (content.get("input") or {}).get("notes", ()):
        console.print(f"note: {visible(note)}")
    _history(content, console, verbose)
    if layers := content.get("layers"):
        _layers(layers, console, verbose)
        half = [visible(layer["name"]) for layer in layers if layer["scheme"] == "half"]
        console.print(f"kept as fp16: {', '.join(half)}" if half else "kept as fp16: none")
    if measured := content.get("accuracy"):
        before, after = accuracy(measured["before"]), accuracy(measured["after"])
        console.print(f"accuracy on {images(measured['data'])}: {before} before, {after} after")
    _totals(content, console)


def train(report: Report, console: Console, verbose: int = 0) -> None:
    """The last epochs, which of them was chosen, and the file."""
    compress(report, console, verbose)


def _layers(layers: Sequence[Mapping[str, Any]], console: Console, verbose: int) -> None:
    chosen = list(layers)
    if len(layers) > MANY_LAYERS and not verbose:
        worst = sorted(layers, key=lambda layer: -layer["relative_error"])[:WORST]
        chosen = [layer for layer in layers if layer in worst]
        console.print(f"the {WORST} of {len(layers)} layers that changed most (-v shows all):")
    energy = any("energy" in layer for layer in chosen)
    shown = table(
        "layer", "shape", "stored as", "bits", "relative error", "zeros", *(["energy"] if energy else []), left=3
    )
    for layer in chosen:
        count = 1
        for side in layer["shape"]:
            count *= side
        shown.add_row(
            visible(layer["name"]),
            shape(layer["shape"]),
            layer["scheme"],
            str(layer["bits"]),
            f"{layer['relative_error']:.4f}",
            percent(layer["zeros"] / count if count else None),
            *([percent(layer.get("energy"))] if energy else []),
        )
    console.print(shown)


def _totals(content: Mapping[str, Any], console: Console) -> None:
    """`model.pt 1,099,000 bytes -> small.rq.safetensors 77,966 bytes (14.1x), 2.1 bits a weight`."""
    output, source = content.get("output"), content.get("input")
    written = f"{_place(output['path'])} {output['bytes']:,} bytes" if output else "nothing was written"
    line = f"{_place(source['name'])} {source['bytes']:,} bytes -> {written}" if source else written
    if source and output and output["bytes"]:
        line += f" ({source['bytes'] / output['bytes']:.1f}x)"
    if content.get("bits_per_weight") is not None:
        line += f", {content['bits_per_weight']:.2f} bits a weight"
    if content.get("sparsity"):
        line += f", {percent(content['sparsity'])} zeros"
    if content.get("channel_sparsity"):
        line += f", {percent(content['channel_sparsity'])} zero channels"
    console.print(line)


def _place(path: str) -> str:
    return "standard stream" if path == "-" else visible(path)


def _history(content: Mapping[str, Any], console: Console, verbose: int) -> None:
    history: Sequence[Mapping[str, Any]] = content.get("history") or ()
    if not history:
        return
    chosen = (content.get("validation") or {}).get("epoch")
    robust = any(entry["robust"] for entry in history)
    shown = table("epoch", "loss", "learning rate", "clean", *(["robust"] if robust else []), "seconds", "")
    for entry in history if verbose else history[-LAST_EPOCHS:]:
        shown.add_row(
            str(entry["epoch"]),
            f"{entry['loss']:.4f}",
            f"{entry['lr']:.3g}",
            accuracy(entry["clean"]),
            *([accuracy(entry["robust"])] if robust else []),
            f"{entry['seconds']:.1f}",
            "chosen" if entry["epoch"] == chosen else "",
        )
    console.print(shown)
    if chosen is not None:
        console.print(f"epoch {chosen} of {len(history)} was chosen by its accuracy on the validation images")


def attack(report: Report, console: Console, verbose: int = 0) -> None:
    """How many images were fooled, and by how much they were moved."""
    content = report.content
    console.print(f"{images(content['data'])}; {threat(content['threat']['name'].lower(), content['threat'])}")
    shown = table("model", "clean", "robust", "fooled", "largest norm", "median norm")
    norms = content["norms"] or {}
    shown.add_row(
        _place(content["model"]),
        accuracy(content["clean"]),
        accuracy(content["robust"]),
        str(content["fooled"]),
        *(figure(norms.get(key), 4) for key in ("max", "median")),
    )
    console.print(shown)
    for what, key in (("images", "output"), ("picture", "grid")):
        if content.get(key):
            console.print(f"{what}: {_place(content[key])}")


def export(report: Report, console: Console, verbose: int = 0) -> None:
    """One row a file, with the largest difference that reading it back showed."""
    shown = table("file", "format", "size", "verified", "largest difference")
    for entry in report.content["files"]:
        error = entry["max_error"]
        shown.add_row(
            _place(entry["path"]),
            entry["format"],
            size(entry["bytes"]),
            "yes" if entry["verified"] else "no",
            NONE if error is None else f"{error:.2g}",
        )
    console.print(shown)


def images(data: Mapping[str, Any]) -> str:
    """`fashion-mini test, 1,000 images`."""
    return f"{visible(data['name'])} {data['split']}, {data['n']:,} images"


def threat(label: str, found: Mapping[str, Any]) -> str:
    """`pgd: L-inf radius 0.1, 40 steps, 1 restart`."""
    parts = [f"{NORMS.get(found['norm'], found['norm'])} radius {radius(found['radius'])}"]
    options = found["options"]
    for name in ("steps", "restarts"):
        if name in options:
            parts.append(f"{options[name]} {name if options[name] != 1 else name[:-1]}")
    parts += [f"{options['loss']} loss"] if options.get("loss", "ce") != "ce" else []
    return f"{label}: {', '.join(parts + ['targeted'] * bool(options.get('targeted')))}"
