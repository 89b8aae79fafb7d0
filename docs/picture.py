"""Draw docs/images/reference.png from a report of the bundled models.

robustq bench --attack pgd --json > docs/reference.json
python docs/picture.py docs/reference.json docs/images/reference.png
"""

import json
import sys
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

INK, QUIET = "#1f2933", "#8a94a0"
COLOURS = {"undefended": "#c0392b"}


def main(source: str, target: str) -> None:
    """One bar pair a model: clean and robust accuracy with 95% intervals, the file's size beside the name."""
    report = json.loads(Path(source).read_text())
    models = report["models"][::-1]
    figure = Figure(figsize=(8, 3.4), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for row, entry in enumerate(models):
        colour = COLOURS.get(entry["name"], "#2471a3")
        _bar(axes, row + 0.19, entry["clean"], colour, 0.35)
        _bar(axes, row - 0.19, entry["worst_case"], colour, 1.0)
    axes.set_yticks(range(len(models)), [f"{m['name']}\n{m['bytes'] / 1000:.1f} kB" for m in models], color=INK)
    axes.set_xlim(0, 100)
    axes.set_xlabel("accuracy on 1,000 images, % (pale: clean, full: under attack; bars: 95% interval)", color=INK)
    (threat,) = report["threat"].values()
    steps = threat["options"]["steps"]
    title = f"{threat['name'].upper()}-{steps}, L-inf radius {threat['radius']:g}, Fashion-MNIST"
    axes.set_title(title, loc="left", color=INK, fontsize=11)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.tick_params(colors=INK)
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(target)


def _bar(axes: object, y: float, accuracy: dict, colour: str, alpha: float) -> None:  # type: ignore[type-arg]
    value, (low, high) = 100 * accuracy["value"], (100 * end for end in accuracy["ci95"])
    axes.barh(y, value, height=0.34, color=colour, alpha=alpha)  # type: ignore[attr-defined]
    error = [[max(0.0, value - low)], [max(0.0, high - value)]]
    axes.errorbar(value, y, xerr=error, color=QUIET, capsize=2, linewidth=1)  # type: ignore[attr-defined]
    axes.annotate(f"{value:.1f}", (max(value, high) + 1, y), va="center", fontsize=8, color=INK)  # type: ignore[attr-defined]


if __name__ == "__main__":
    main(*sys.argv[1:])
