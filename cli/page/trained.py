"""The curves of a training run, one small chart for each quantity."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..curves import accuracies, known, series
from .chart import BOTTOM, LEFT, RIGHT, TOP, Frame, Point, legend
from .markup import Markup, tag
from .scale import Scale, linear

NAMES = {
    "clean": "clean images",
    "robust": "under attack",
    "clean_noise_on": "clean images, noise on",
    "robust_noise_on": "under attack, noise on",
}


def charts(history: Sequence[Mapping[str, Any]], chosen: int | None) -> list[tuple[str, Markup]]:
    """(caption, chart) of the accuracies together, then of each other quantity."""
    epochs = [entry["epoch"] for entry in history]
    drawn = [("Accuracy on the validation images, with 95% intervals", _accuracies(history, epochs, chosen))]
    for name, values in series(history).items():
        known = [(epoch, value) for epoch, value in zip(epochs, values, strict=True) if value is not None]
        if known and not (name == "seconds" or name.endswith("_seconds")):
            label = {"lr": "learning rate", "loss": "training loss"}.get(name, name.replace("_", " "))
            drawn.append((label.capitalize(), _quantity(known, epochs, chosen, label)))
    return drawn


def _accuracies(history: Sequence[Mapping[str, Any]], epochs: Sequence[int], chosen: int | None) -> Markup:
    present = accuracies(history)
    frame = Frame(_epochs(epochs), Scale(0.0, 1.0, BOTTOM, TOP + 12, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)))
    frame.axes("epoch", "accuracy", lambda v: f"{v:g}", lambda v: f"{100 * v:.0f}%")
    _rule(frame, chosen)
    for number, name in enumerate(present):
        pairs = [(entry["epoch"], found) for entry in history if (found := known(entry.get(name)))]
        points = [Point(epoch, value["value"], *value["ci95"]) for epoch, value in pairs]
        frame.band(points, f"s{number}")
        frame.path([(p.x, p.y) for p in points], f"s{number}")
        if len(points) <= 30:
            for p in points:
                frame.mark(Point(p.x, p.y, p.y, p.y), number, hint=f"epoch {p.x:g}: {100 * p.y:.1f}%")
    last = ", ".join(f"{NAMES[n]} {100 * history[-1][n]['value']:.1f}%" for n in present if known(history[-1].get(n)))
    svg = frame.svg("Validation accuracy against the epoch", f"last epoch: {last}")
    return tag("div", svg, legend(NAMES[name] for name in present))


def _quantity(known: Sequence[tuple[int, float]], epochs: Sequence[int], chosen: int | None, label: str) -> Markup:
    values = [value for _, value in known]
    low = 0.0 if min(values) >= 0 and min(values) < 0.7 * max(values) else min(values)
    frame = Frame(_epochs(epochs), linear(low, max(values), BOTTOM, TOP + 12, 4))
    frame.axes("epoch", "", lambda v: f"{v:g}", lambda v: f"{v:.4g}")
    _rule(frame, chosen)
    frame.path([(float(epoch), value) for epoch, value in known], "s0")
    if len(known) <= 30:
        for epoch, value in known:
            frame.mark(Point(epoch, value, value, value), 0, hint=f"epoch {epoch}: {value:.4g}")
    return tag("div", frame.svg(f"{label} against the epoch", f"{values[0]:.4g} first, {values[-1]:.4g} last"))


def _rule(frame: Frame, chosen: int | None) -> None:
    if chosen is not None:
        frame.rule(chosen, f"chosen: {chosen}")


def _epochs(epochs: Sequence[int]) -> Scale:
    """Whole numbers, a round step apart."""
    low, high = min(epochs), max(epochs)
    if low == high:
        return Scale(low - 1, high + 1, LEFT + 8, RIGHT - 10, (low,))
    step = next(s * 10**p for p in range(9) for s in (1, 2, 5) if (high - low) / (s * 10**p) <= 8)
    ticks = tuple(float(e) for e in range(low, high + 1) if e == low or e % step == 0)
    ticks = ticks[:1] + tuple(t for t in ticks[1:] if t - low >= step / 2)
    return Scale(low, high, LEFT + 8, RIGHT - 10, ticks)
