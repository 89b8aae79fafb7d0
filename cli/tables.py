"""Tables and figures for people: what goes into a cell, and how columns give way on a narrow terminal."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .text import visible

if TYPE_CHECKING:
    from rich.table import Table

    from .grids import Grid

NONE = "-"  # nothing was measured


def table(*columns: str, left: int = 1) -> "Table":
    """An empty table; the first `left` columns hold names and may be folded, the others hold figures."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for place, column in enumerate(columns):
        if place < left:
            made.add_column(column, overflow="fold")
        else:
            made.add_column(column, justify="right", no_wrap=place > 0)
    return made


def drawn(grid: "Grid") -> "Table":
    """A grid for the terminal."""
    made = table(*grid.columns, left=grid.left)
    for row in grid.rows:
        made.add_row(*(visible(cell) for cell in row))
    return made


def accuracy(found: Mapping[str, Any] | None) -> str:
    """`51.2% [48.1, 54.3]`: an accuracy of the report with its 95% interval."""
    if not found:
        return NONE
    low, high = found["ci95"]
    return f"{percent(found['value'])} [{100 * low:.1f}, {100 * high:.1f}]"


def percent(share: float | None) -> str:
    return NONE if share is None else f"{100 * share:.1f}%"


def figure(value: float | None, digits: int = 2) -> str:
    return NONE if value is None else f"{value:.{digits}f}"


def size(count: int | None) -> str:
    """`41.2 kB`: bytes in powers of 1000; the report has the exact number."""
    if count is None:
        return NONE
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.95 or unit == "GB":
            break
        amount /= 1000
    return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"


def radius(value: float | None) -> str:
    """`0.1`, or `8/255` where it is such a fraction."""
    if value is None:
        return NONE
    short = f"{value:.4g}"
    whole = round(value * 255)
    if float(short) != value and abs(value * 255 - whole) < 1e-6:
        return f"{whole}/255"
    return short


def shape(sides: list[int]) -> str:
    return "x".join(str(side) for side in sides) or "scalar"
