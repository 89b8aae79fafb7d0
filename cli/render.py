"""Reports as tables for people, on standard error. Nothing is shown that is not in the report."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from robustq.core.report import Report

from . import checks, grids
from .phrases import chosen, compared, distances, images, setting, threat
from .tables import NONE, accuracy, drawn, figure, percent, size, table
from .text import visible

MANY_LAYERS, WORST = 20, 10  # from how many layers on only the worst are shown, unless -v is given
LAST_EPOCHS = 10


def benchmark(report: Report, console: Console, verbose: int = 0) -> None:
    """One row a model, one column an attack; above it which images and what the attacker may do."""
    content = report.content
    if "comparison" in content:
        console.print(drawn(grids.comparison(content["comparison"])))
        for line in compared(content["comparison"]):
            console.print(visible(line))
        return
    models: Sequence[Mapping[str, Any]] = content.get("models", ())
    if "data" in content:
        console.print(visible("; ".join(setting(content, report.recipe))))
    if not models:
        return
    console.print(drawn(grids.models(content)))
    for model in models:
        _details(model, console, verbose)
    for name, baseline in (content.get("baseline") or {}).items():
        console.print(f"{visible(name)} is compared with {visible(baseline)}")
    if content.get("story"):
        console.print(visible(content["story"]))


def kernels(report: Report, console: Console, verbose: int = 0) -> None:
    """One row a packed layer; other libraries' times as multiples of its own."""
    if rows := report.content.get("kernels"):
        console.print(drawn(grids.kernels(rows)))
        console.print("Median CPU time of one thread, in turns. Other columns: their time divided by ours.")


def _details(model: Mapping[str, Any], console: Console, verbose: int) -> None:
    """How a model runs from packed weights; with -v also what each attack cost."""
    if packed := model.get("packed"):
        parts = [f"{packed['layers']} layers packed ({packed['isa']}), {packed['mode']}"]
        parts.append(f"error {packed['max_error']:.1g} of the largest logit")
        parts += [f"clean {accuracy(packed['clean'])}"] if "clean" in packed else []
        for n, how in packed.get("fastest", {}).items():
            times = ", ".join(f"{name} {figure(ms[n])} ms" for name, ms in packed["latency"].items())
            parts.append(f"batch {n} fastest {how} ({times})")
        console.print(f"{visible(model['name'])}: {'; '.join(parts)}")
    for line in distances(model):
        console.print(visible(line))
    for line in checks.lines(model, verbose):
        console.print(line)
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
    if shrunk := content.get("shrunk"):
        _shrunk(shrunk, console, verbose)
    if measured := content.get("accuracy"):
        before, after = accuracy(measured["before"]), accuracy(measured["after"])
        console.print(f"accuracy on {visible(images(measured['data']))}: {before} before, {after} after")
    _totals(content, console)


def _shrunk(shrunk: Mapping[str, Any], console: Console, verbose: int) -> None:
    """How far the layers were cut, and which zero channels stayed and why."""
    if verbose:
        console.print(drawn(grids.shrunk(shrunk["layers"])))
    before, after = (shrunk["weights"][when] for when in ("before", "after"))
    console.print(
        f"channels cut from {len(shrunk['layers'])} layers: {before:,} -> {after:,} numbers; "
        f"largest difference {shrunk['max_error']:.1g} of the largest logit"
    )
    for entry in shrunk["stay"]:
        console.print(f"{entry['channels']} zero channels stay: {visible(entry['why'])}")


def train(report: Report, console: Console, verbose: int = 0) -> None:
    """The last epochs, which of them was chosen, and the file."""
    compress(report, console, verbose)


def _layers(layers: Sequence[Mapping[str, Any]], console: Console, verbose: int) -> None:
    chosen = list(layers)
    if len(layers) > MANY_LAYERS and not verbose:
        worst = sorted(layers, key=lambda layer: -layer["relative_error"])[:WORST]
        chosen = [layer for layer in layers if layer in worst]
        console.print(f"the {WORST} of {len(layers)} layers that changed most (-v shows all):")
    console.print(drawn(grids.layers(chosen)))


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
    kept = chosen(content)
    console.print(drawn(grids.epochs(history if verbose else history[-LAST_EPOCHS:], kept)))
    if kept is not None:
        console.print(f"epoch {kept} of {len(history)} was chosen by its accuracy on the validation images")


def attack(report: Report, console: Console, verbose: int = 0) -> None:
    """How many images were fooled, and by how much they were moved."""
    content = report.content
    console.print(f"{visible(images(content['data']))}; {threat(content['threat']['name'].lower(), content['threat'])}")
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


OF = {"benchmark": benchmark, "compress": compress, "train": train, "attack": attack, "export": export}
