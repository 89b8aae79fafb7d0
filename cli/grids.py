"""What the tables of a report say, cell by cell; the terminal, Markdown and HTML show the same cells.

Cells hold text as it is in the report: whoever shows it makes it fit for its medium.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .tables import NONE, accuracy, figure, percent, shape, size

Entry = Mapping[str, Any]
RESULT, WORDS, VERDICT = "result", "what it says", "judged"  # columns that hold no figures
SEVERITY = ("fail", "warn", "pass", "skipped")  # results of diagnostics


@dataclass
class Grid:
    """A table: the first `left` columns hold names, the others figures."""

    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)
    left: int = 1


def models(content: Entry) -> Grid:
    """One row a model, one column an attack."""
    entries: Sequence[Entry] = content["models"]
    attacks = list(content.get("threat") or {})
    several, channels = len(attacks) > 1, any(entry["channel_sparsity"] for entry in entries)
    grid = Grid(["model", "clean", *attacks, *(["worst case"] if several else []), "size", "bits/weight", "zeros"])
    grid.columns += [*(["zero channels"] if channels else []), "latency ms"]
    for entry in entries:
        row = [entry["name"] + _remark(entry), accuracy(entry["clean"])]
        row += [accuracy(entry["attacks"].get(name)) for name in attacks]
        row += [accuracy(entry["worst_case"])] if several else []
        row += [size(entry["bytes"]), figure(entry["bits_per_weight"]), percent(entry["sparsity"])]
        row += [percent(entry["channel_sparsity"])] if channels else []
        grid.rows.append([*row, figure(entry["latency_ms"])])
    return grid


def kernels(rows: Sequence[Entry]) -> Grid:
    """One row a packed layer, one column a peer: how many times as long it takes."""
    peers = list(dict.fromkeys(name for row in rows for name in row["baselines"]))
    columns = ["layer", "batch", "zeros", "cache", "mode", "isa", "us", *peers, "error", "roofline"]
    grid = Grid(columns, left=1)
    for row in rows:
        times = [row["baselines"].get(name) for name in peers]
        cells = [f"{row['bits']}-bit {shape(row['shape'])}", str(row["batch"]), percent(row["zeros"])]
        mode = f"{row['mode']} sparse" if row.get("kernel") == "sparse" else row["mode"]
        cells += [row["cache"], mode, row["isa"], figure(row["us"])]
        cells += [NONE if us is None else f"{us / row['us']:.1f}x" for us in times]
        grid.rows.append([*cells, f"{row['max_error']:.0e}", percent(row["roofline_fraction"])])
    return grid


def _remark(entry: Entry) -> str:
    """What has to be known of a model before its figures are read."""
    gradient = {"surrogate": " (gradient of its parent)", "none": " (no gradient)"}.get(entry.get("gradient", ""), "")
    return gradient + ("" if entry["complete"] else " (unfinished)")


def layers(found: Sequence[Entry]) -> Grid:
    """One row a compressed tensor."""
    energy = any("energy" in layer for layer in found)
    columns = ["layer", "shape", "stored as", "bits", "relative error", "zeros", *(["energy"] if energy else [])]
    grid = Grid(columns, left=3)
    for layer in found:
        count = 1
        for side in layer["shape"]:
            count *= side
        row = [layer["name"], shape(layer["shape"]), layer["scheme"], str(layer["bits"])]
        row += [f"{layer['relative_error']:.4f}", percent(layer["zeros"] / count if count else None)]
        grid.rows.append([*row, *([percent(layer.get("energy"))] if energy else [])])
    return grid


def shrunk(found: Sequence[Entry]) -> Grid:
    """One row a weight that was cut."""
    grid = Grid(["layer", "before", "after"], left=3)
    grid.rows += [[layer["name"], shape(layer["before"]), shape(layer["after"])] for layer in found]
    return grid


def epochs(history: Sequence[Entry], chosen: int | None) -> Grid:
    """One row an epoch of training; `chosen` is the one whose weights were kept."""
    robust = any(entry["robust"] for entry in history)
    grid = Grid(["epoch", "loss", "learning rate", "clean", *(["robust"] if robust else []), "seconds", ""])
    for entry in history:
        row = [str(entry["epoch"]), f"{entry['loss']:.4f}", f"{entry['lr']:.3g}", accuracy(entry["clean"])]
        row += [accuracy(entry["robust"])] if robust else []
        grid.rows.append([*row, f"{entry['seconds']:.1f}", "chosen" if entry["epoch"] == chosen else ""])
    return grid


def sizes(content: Entry) -> Grid:
    """What was read and what was written."""
    grid = Grid(["", "bytes", "bits/weight", "zeros", "zero channels"])
    if source := content.get("input"):
        grid.rows.append([source["name"], f"{source['bytes']:,}", NONE, NONE, NONE])
    name = (content.get("output") or {}).get("path", "not written")
    shares = [percent(content.get(key)) for key in ("sparsity", "channel_sparsity")]
    grid.rows.append([name, f"{content['bytes']:,}", figure(content.get("bits_per_weight")), *shares])
    return grid


def attack(content: Entry) -> Grid:
    """What one attack did to one model."""
    grid = Grid(["model", "clean", "robust", "fooled", "largest norm", "median norm"])
    norms = content["norms"] or {}
    moved = [figure(norms.get(key), 4) for key in ("max", "median")]
    found = [accuracy(content[key]) for key in ("clean", "robust")]
    grid.rows.append([content["model"], *found, str(content["fooled"]), *moved])
    return grid


def costs(entries: Sequence[Entry]) -> Grid:
    """One row for each attack on each model: what it did to an image on average, and how long it took."""
    grid = Grid(["model", "attack", "forward passes an image", "backward passes an image", "seconds"], left=2)
    for entry in entries:
        for label, found in entry["details"].items():
            passes = [figure(found.get(key)) for key in ("forwards_per_image", "backwards_per_image")]
            grid.rows.append([entry["name"], label, *passes, figure(found["seconds"], 1)])
    return grid


def checks(entry: Entry) -> Grid:
    """One row a diagnostic of one model, what needs attention first."""
    grid = Grid(["check", "", RESULT, "measured", "threshold", WORDS], left=2)
    for found in sorted(entry.get("checks") or (), key=lambda check: SEVERITY.index(check["status"])):
        said = found.get("message") or found.get("reason")
        remedy = found["remedy"] if found["status"] in ("warn", "fail") else None
        text = ". ".join(part for part in (said, remedy) if part)
        measured, threshold = (_in_units(found[key], found["unit"]) for key in ("measured", "threshold"))
        grid.rows.append([found["id"], found["name"], found["status"], measured, threshold, text])
    return grid


def _in_units(value: float | None, unit: str) -> str:
    """A figure of a diagnostic: shares in per cent, the others as they are."""
    if value is None:
        return NONE
    return percent(value) if unit == "share" else f"{value:.4g}{' points' * (unit == 'points')}"


def comparison(found: Entry) -> Grid:
    """One row for each figure of a model in two benchmarks: all accuracies, of the others what changed."""
    grid = Grid(["model", "figure", "before", "after", "change", VERDICT], left=2)
    for entry in found["models"]:
        name = entry["name"] + ("" if entry["before_name"] == entry["name"] else f" (was {entry['before_name']})")
        accuracies = {"clean": entry["clean"], **entry["attacks"]}
        accuracies |= {"worst case": entry["worst_case"]} if len(entry["attacks"]) > 1 else {}
        for label, moved in accuracies.items():
            if moved:
                low, high = (f"{100 * end:+.1f}" for end in moved["ci95"])
                cells = [accuracy(moved["before"]), accuracy(moved["after"])]
                verdict = ("better" if moved["change"] > 0 else "worse") if moved["clear"] else "within noise"
                grid.rows.append([name, label, *cells, f"{100 * moved['change']:+.1f} [{low}, {high}]", verdict])
        for key, (label, shown) in _COMPARED.items():
            old, new = entry[key]["before"], entry[key]["after"]
            if old != new:
                relative = f"{100 * (new / old - 1):+.1f}%" if old and new is not None else ""
                grid.rows.append([name, label, shown(old), shown(new), relative, ""])
        for check in entry["checks"]:
            grid.rows.append([name, f"{check['id']} {check['name']}", check["before"], check["after"], "", ""])
    return grid


_COMPARED: dict[str, tuple[str, Callable[[Any], str]]] = {
    "bytes": ("bytes", lambda count: NONE if count is None else f"{count:,.0f}"),
    "bits_per_weight": ("bits/weight", figure),
    "sparsity": ("zeros", percent),
    "channel_sparsity": ("zero channels", percent),
    "latency_ms": ("latency ms", figure),
}
