"""Charts as SVG: a frame with axes, and series drawn into it. Colours come from the page's style."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from .markup import Markup, tag
from .scale import Scale

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 46, 428, 24, 250  # the plotting area
COLOURS = 8
_CHARACTER = 7.6  # width of a character of the labels, a little generous
_CUT = 22  # characters of a name beside a point

_SHAPES = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",
    "M-3.6,-3.6h7.2v7.2h-7.2z",
    "M0,-4.8L4.6,3.4H-4.6z",
    "M0,-5L5,0L0,5L-5,0z",
    "M0,4.8L4.6,-3.4H-4.6z",
    "M-1.5,-4.5h3v3h3v3h-3v3h-3v-3h-3v-3h3z",
)


@dataclass(frozen=True)
class Point:
    """A value with its interval, in the units of the axes."""

    x: float
    y: float
    low: float
    high: float


@dataclass
class Frame:
    """A plotting area with two axes; `drawn` are the elements in it, `taken` the boxes that labels must not touch."""

    x: Scale
    y: Scale
    drawn: list[Markup] = field(default_factory=list)
    taken: list[tuple[float, float, float, float]] = field(default_factory=list)

    def axes(self, x_label: str, y_label: str, x_text: Callable[[float], str], y_text: Callable[[float], str]) -> None:
        """Grid lines, ticks and the names of both axes; none upright where the caption says it."""
        for value in self.y.ticks:
            place = self.y(value)
            self.drawn.append(line(LEFT, place, RIGHT, place, "grid"))
            self.drawn.append(text(LEFT - 7, place + 4, y_text(value), "tick", anchor="end"))
        for value in self.x.ticks:
            place = self.x(value)
            self.drawn.append(line(place, BOTTOM, place, BOTTOM + 4, "axis"))
            self.drawn.append(text(place, BOTTOM + 18, x_text(value), "tick"))
        self.drawn.append(line(LEFT, BOTTOM, RIGHT, BOTTOM, "axis"))
        self.drawn.append(text((LEFT + RIGHT) / 2, HEIGHT - 8, x_label, "name"))
        if y_label:
            self.drawn.append(text(0, 12, y_label, "name", "start"))

    def rule(self, x: float, label: str) -> None:
        """A dashed line across, with what it means written at its upper end, on the side that has room."""
        place = self.x(x)
        self.drawn.append(line(place, TOP, place, BOTTOM, "rule"))
        right = place + 6 + _CHARACTER * len(label) < RIGHT
        self.drawn.append(text(place + (6 if right else -6), TOP + 4, label, "note", "start" if right else "end"))

    def path(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        """A line through places in the units of the axes."""
        steps = " ".join(f"{'L' if k else 'M'}{self.x(x):.2f},{self.y(y):.2f}" for k, (x, y) in enumerate(points))
        self.drawn.append(tag("path", d=steps, class_=f"line {kind}"))

    def band(self, points: Sequence[Point], kind: str) -> None:
        """The area between lower and upper ends."""
        edge = [(p.x, p.high) for p in points] + [(p.x, p.low) for p in reversed(points)]
        steps = " ".join(f"{'L' if k else 'M'}{self.x(x):.2f},{self.y(y):.2f}" for k, (x, y) in enumerate(edge))
        self.drawn.append(tag("path", d=f"{steps}z", class_=f"band {kind}"))

    def mark(self, point: Point, number: int, shift: float = 0.0, hollow: bool = False, hint: str = "") -> None:
        """A marker of series `number` with its error bar, moved aside by `shift` so that others stay visible."""
        x, y = self.x(point.x) + shift, self.y(point.y)
        low, high = self.y(point.low), self.y(point.high)
        bar = f"M{x:.2f},{low:.2f}V{high:.2f}M{x - 3:.2f},{low:.2f}h6M{x - 3:.2f},{high:.2f}h6"
        self.drawn.append(tag("path", d=bar, class_=f"bar {colour(number)}"))
        kind, place = f"mark {colour(number)}{' hollow' if hollow else ''}", f"translate({x:.2f} {y:.2f})"
        named = tag("title", hint) if hint else None
        self.drawn.append(tag("path", named, d=_SHAPES[number % len(_SHAPES)], transform=place, class_=kind))
        self.taken += [(x - 6, y - 6, x + 6, y + 6), (x - 4, high, x + 4, low)]

    def stem(self, a: Point, b: Point, number: int, shift: float = 0.0) -> None:
        """A thin upright line between two points of the same place."""
        x, high, low = self.x(a.x) + shift, *sorted((self.y(a.y), self.y(b.y)))
        self.drawn.append(line(x, high, x, low, f"thin {colour(number)}"))
        self.taken.append((x - 2, high, x + 2, low))

    def label(self, point: Point, name: str, number: int, shift: float = 0.0) -> None:
        """A name beside a point, where it touches nothing; left out where there is no such place."""
        shown = name if len(name) <= _CUT else f"{name[: _CUT - 1]}…"
        wide, px, py = _CHARACTER * len(shown), self.x(point.x) + shift, self.y(point.y)
        sides = (
            ("start", px + 9, py + 4), ("end", px - 9, py + 4), ("start", px + 7, py - 8), ("start", px + 7, py + 16),
            ("end", px - 7, py - 8), ("end", px - 7, py + 16), ("middle", px, py - 12), ("middle", px, py + 20),
        )  # fmt: skip
        for anchor, tx, ty in sides:
            left = tx - {"start": 0.0, "end": wide, "middle": wide / 2}[anchor]
            box = (left, ty - 11, left + wide, ty + 4)
            inside = box[0] >= LEFT and box[2] <= WIDTH and box[1] >= 0 and box[3] <= BOTTOM
            if inside and not any(_touch(box, other) for other in self.taken):
                self.taken.append(box)
                self.drawn.append(text(tx, ty, shown, f"label {colour(number)}", anchor))
                return

    def svg(self, title: str, description: str) -> Markup:
        """The whole drawing, with what it shows in words for who cannot see it."""
        described = (tag("title", title), tag("desc", description))
        return tag("svg", *described, *self.drawn, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", class_="chart")


def legend(names: Iterable[str], extra: Iterable[Markup] = ()) -> Markup:
    """Names beside their markers, outside the drawing, where they can wrap."""
    items = [tag("li", swatch(number), name) for number, name in enumerate(names)]
    return tag("ul", *items, *extra, class_="legend")


def swatch(number: int, kind: str | None = None) -> Markup:
    """The marker of one series, in its own colour unless another is named."""
    shape = tag("path", d=_SHAPES[number % len(_SHAPES)], class_=f"mark {kind or colour(number)}")
    return tag("svg", shape, viewBox="-7 -7 14 14", class_="swatch", aria_hidden="true")


def colour(number: int) -> str:
    return f"s{number % COLOURS}"


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return tag("line", x1=float(x1), y1=float(y1), x2=float(x2), y2=float(y2), class_=kind)


def text(x: float, y: float, content: str, kind: str, anchor: str = "middle") -> Markup:
    return tag("text", content, x=float(x), y=float(y), class_=kind, text_anchor=anchor)


def _touch(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
