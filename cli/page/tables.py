"""Tables of the page."""

import re

from ..grids import RESULT, VERDICT, WORDS, Grid
from .markup import Markup, tag

_INTERVAL = re.compile(r"(.*) (\[[+-]?\d+\.\d, [+-]?\d+\.\d\])")
_KINDS = {"pass": "good", "better": "good", "warn": "warn", "fail": "bad", "worse": "bad"}


def table(grid: Grid, caption: str, kind: str | None = None) -> Markup:
    """A grid in a box that scrolls sideways where the page is narrow."""
    heads = [tag("th", cell, scope="col", class_=_side(grid, place)) for place, cell in enumerate(grid.columns)]
    rows = [tag("tr", *(_cell(grid, place, cell) for place, cell in enumerate(row))) for row in grid.rows]
    made = tag("table", tag("caption", caption), tag("thead", tag("tr", *heads)), tag("tbody", *rows), class_=kind)
    return tag("div", made, class_="scroll", role="region", aria_label=caption, tabindex="0")


def _cell(grid: Grid, place: int, cell: str) -> Markup:
    found = _INTERVAL.fullmatch(cell) if place >= grid.left else None
    inside = (found[1], " ", tag("small", found[2])) if found else (_badge(cell) if _is_status(grid, place) else cell,)
    if place == 0:
        return tag("th", *inside, scope="row")
    return tag("td", *inside, class_=_side(grid, place))


def _side(grid: Grid, place: int) -> str | None:
    if grid.columns[place] == WORDS:
        return "words"
    return None if place < grid.left or grid.columns[place] in (RESULT, VERDICT) else "figure"


def _is_status(grid: Grid, place: int) -> bool:
    return grid.columns[place] in (RESULT, VERDICT)


def _badge(status: str) -> Markup | None:
    if not status:
        return None
    kind = _KINDS.get(status, "quiet")
    return tag("span", status, class_=f"badge {kind}")
