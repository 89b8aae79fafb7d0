"""The charts of a benchmark: accuracy against the radius, robustness against size."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..phrases import NORMS
from ..tables import accuracy, radius, size
from .chart import BOTTOM, LEFT, RIGHT, TOP, Frame, Point, legend, swatch
from .markup import Markup, tag
from .scale import Scale, exact, logarithmic

Entry = Mapping[str, Any]


def shares() -> Scale:
    """An upright axis from 0 to 100%."""
    return Scale(0.0, 1.0, BOTTOM, TOP + 12, (0.0, 0.2, 0.4, 0.6, 0.8, 1.0))


def curves(sweep: Entry, entries: Sequence[Entry], asked: float | None) -> Markup:
    """Accuracy at each radius, one line a model; `asked` is the radius of the benchmark itself."""
    radii = sorted({point["eps"] for entry in entries for point in entry["curve"]})
    frame = Frame(exact([*radii, *([asked] if asked else [])], LEFT + 10, RIGHT - 12, room=34), shares())
    frame.axes(f"{NORMS.get(sweep['norm'], sweep['norm'])} radius", "accuracy", radius, lambda v: f"{100 * v:.0f}%")
    if asked:
        frame.rule(asked, f"radius {radius(asked)}")
    spread = min(3.0, 9.0 / max(1, len(entries)))
    for number, entry in enumerate(entries):
        points = [interval(point["eps"], point["accuracy"]) for point in entry["curve"]]
        frame.path([(p.x, p.y) for p in points], f"s{number % 8}")
        for point, found in zip(points, entry["curve"], strict=True):
            hint = f"{entry['name']}, radius {radius(found['eps'])}: {accuracy(found['accuracy'])}"
            frame.mark(point, number, (number - (len(entries) - 1) / 2) * spread, hint=hint)
    title = f"Accuracy under {sweep['attack']} against the radius"
    svg = frame.svg(title, "; ".join(_ends(entry) for entry in entries))
    return tag("div", svg, legend(entry["name"] for entry in entries))


def _ends(entry: Entry) -> str:
    points = entry["curve"]
    if not points:
        return entry["name"]
    first, last = points[0], points[-1]
    return (
        f"{entry['name']}: {accuracy(first['accuracy'])} at {radius(first['eps'])}, "
        f"{accuracy(last['accuracy'])} at {radius(last['eps'])}"
    )


def tradeoff(entries: Sequence[Entry]) -> Markup | None:
    """Accuracy against the size of the file; filled markers are the worst case, hollow ones clean images."""
    shown = [(number, entry) for number, entry in enumerate(entries) if entry["bytes"] and entry["clean"]]
    if not shown:
        return None
    sizes = [entry["bytes"] for _, entry in shown]
    frame = Frame(logarithmic(min(sizes), max(sizes), LEFT + 4, RIGHT), shares())
    frame.axes("size of the file (logarithmic)", "accuracy", lambda v: size(round(v)), lambda v: f"{100 * v:.0f}%")
    shifts = _apart([frame.x(count) for count in sizes])
    for (number, entry), shift in zip(shown, shifts, strict=True):
        clean, worst = interval(entry["bytes"], entry["clean"]), entry["worst_case"]
        if worst:
            point = interval(entry["bytes"], worst)
            frame.stem(clean, point, number, shift)
            frame.mark(point, number, shift, hint=f"{entry['name']}, worst case: {accuracy(worst)}")
        frame.mark(clean, number, shift, hollow=True, hint=f"{entry['name']}, clean: {accuracy(entry['clean'])}")
    for (number, entry), shift in zip(shown, shifts, strict=True):
        found = interval(entry["bytes"], entry["worst_case"] or entry["clean"])
        frame.label(found, entry["name"], number, shift)
    told = "; ".join(f"{e['name']}: {size(e['bytes'])}, {accuracy(e['worst_case'] or e['clean'])}" for _, e in shown)
    svg = frame.svg("Accuracy against the size of the file", told)
    key = [tag("li", swatch(0, kind="ink"), "worst case"), tag("li", swatch(0, kind="ink hollow"), "clean")]
    names = tag("ul", *(tag("li", swatch(n), e["name"]) for n, e in shown), class_="legend")
    return tag("div", svg, names, tag("ul", *key, class_="legend key"))


def _apart(places: Sequence[float]) -> list[float]:
    """By how much each place is moved to the right, so that all are some pixels apart."""
    shifts, last = [0.0] * len(places), -1e9
    for i in sorted(range(len(places)), key=lambda i: places[i]):
        last = max(places[i], last + 12)
        shifts[i] = last - places[i]
    return shifts


def interval(x: float, found: Entry) -> Point:
    """An accuracy of the report at a place of the horizontal axis."""
    return Point(x, found["value"], *found["ci95"])
