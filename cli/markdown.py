"""A report as GitHub-flavoured Markdown. Text out of files is escaped: a name cannot become a link, HTML or a table."""

import html
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from . import grids, toml
from .grids import Grid
from .phrases import chosen, compared, conditions, distances, headline, images, outcome, setting, threat
from .tables import accuracy
from .text import visible

MARKS = {"pass": "✅", "warn": "⚠️", "fail": "❌"}  # beside the word, for who skims


def render(report: Mapping[str, Any]) -> str:
    """The document of a report as `Report.to_dict` gives it."""
    body = {"benchmark": _benchmark, "compress": _making, "train": _making, "attack": _attack}.get(report["command"])
    blocks = [f"# robustq {report['command']}", *_failures(report), *(body(report) if body else ())]
    if report["warnings"]:
        blocks += ["## Warnings", _listed(report["warnings"])]
    blocks += ["## Conditions", _listed(conditions(report))]
    if report["recipe"]:
        blocks += [_folded("The recipe: save it, and run the same again with --recipe", _fenced(report["recipe"]))]
    return "\n\n".join(block for block in blocks if block) + "\n"


def escape(text: object) -> str:
    """One line of plain text, whatever characters it has."""
    line = html.escape(" ".join(visible(text).split()), quote=False)
    line = re.sub(r"([\\`*_\[\]|~$#])", r"\\\1", line)
    line = re.sub(r"\\\[([+-]?\d+\.\d, [+-]?\d+\.\d)\\\](?![(\[:])", r"[\1]", line)  # an interval is no link
    line = re.sub(r"(?i)(://|@|(?<=www)\.)", r"\\\1", line)  # nor is a name that looks like an address
    return re.sub(r"^(\d*)([-+=.)])(?=[-=\s]|$)", r"\1\\\2", line)  # nor, at the start of a line, a list or a rule


def table(grid: Grid) -> str:
    """Names to the left, figures to the right."""
    rules = [":--" if place < grid.left else "--:" for place in range(len(grid.columns))]
    rows = [[escape(cell) for cell in row] for row in grid.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in ([escape(c) for c in grid.columns], rules, *rows))


def _benchmark(report: Mapping[str, Any]) -> Iterator[str]:
    models: Sequence[Mapping[str, Any]] = report.get("models") or ()
    if comparison := report.get("comparison"):
        yield from ("## What changed", table(grids.comparison(comparison)), _listed(compared(comparison)))
        yield "## The second benchmark"
    if rows := report.get("kernels"):
        yield table(grids.kernels(rows))
    if not models:
        return
    yield _listed([*headline(models), *(line for model in models for line in distances(model))])
    yield escape("; ".join(setting(report, report["recipe"])))
    yield table(grids.models(report))
    for name, baseline in (report.get("baseline") or {}).items():
        yield f"{escape(name)} is compared with {escape(baseline)}."
    if report.get("story"):
        yield escape(report["story"])
    for entry in models:
        yield from _checks(entry)
    if (grid := grids.costs(models)).rows:
        yield _folded("What the attacks cost", table(grid))


def _checks(entry: Mapping[str, Any]) -> Iterator[str]:
    grid = grids.checks(entry)
    if not grid.rows:
        return
    place = grid.columns.index(grids.RESULT)
    for row in grid.rows:
        row[place] = f"{MARKS.get(row[place], '')} {row[place]}".strip()
    yield _folded(f"Diagnostics of {entry['name']}: {outcome(entry['checks'])}", table(grid))


def _making(report: Mapping[str, Any]) -> Iterator[str]:
    if measured := report.get("accuracy"):
        where = escape(images(measured["data"]))
        before, after = (escape(accuracy(measured[when])) for when in ("before", "after"))
        yield f"**Accuracy on {where}: {before} before, {after} after.**"
    if report.get("bytes") is not None:
        yield table(grids.sizes(report))
    if history := report.get("history"):
        kept = chosen(report)
        yield from ("## Training", table(grids.epochs(history, kept)))
    if layers := report.get("layers"):
        yield from ("## Layers", table(grids.layers(layers)))


def _attack(report: Mapping[str, Any]) -> Iterator[str]:
    if "threat" not in report:
        return
    name = report["threat"]["name"].lower()
    yield _listed([images(report["data"]), threat(name, report["threat"])])
    yield table(grids.attack(report))


def _failures(report: Mapping[str, Any]) -> Iterator[str]:
    if error := report["error"]:
        yield f"> **{escape(report['status'])}**: {escape(error['problem'])} {escape(error['remedy'])}".rstrip()
    for missed in report.get("gates_missed") or ():
        yield f"> ❌ **Gate missed**: {escape(missed)}"


def _listed(lines: Sequence[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)


def _folded(summary: str, inside: str) -> str:
    return f"<details><summary>{html.escape(visible(summary))}</summary>\n\n{inside}\n\n</details>"


def _fenced(recipe: Mapping[str, Any]) -> str:
    """In a fence longer than any that the text holds."""
    text = "\n".join(visible(line) for line in toml.dumps(recipe).splitlines())
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", text)), default=0))
    return f"{fence}toml\n{text}\n{fence}"
