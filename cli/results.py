"""Where a model that was made goes: a file, or standard output."""

from pathlib import Path
from typing import TYPE_CHECKING

from . import documents, streams

if TYPE_CHECKING:
    from robustq.core.recipe import Recipe
    from robustq.core.report import Report
    from robustq.core.workflow import Made

    from .run import Run

ENDING = ".rq.safetensors"


def place(source: str, out: str | None, run: "Run") -> Path | None:
    """The file to write, checked before any work is done; None is standard output."""
    from robustq.core.files import check_output

    if out == "-" or (out is None and streams.is_pipe() and not run.printed):
        streams.check_binary_output(run.printed)
        return None
    path = Path(out) if out is not None else Path(stem(source) + ENDING)
    documents.distinct(run.documents, str(path))
    check_output(path, run.force)
    return path


def stem(source: str) -> str:
    """The name of what a model was made from, without folder and ending; "model" for standard input and factories."""
    if source == "-" or ":" in source:
        return "model"
    name = Path(source).name
    return name.removesuffix(ENDING) if name.endswith(ENDING) else Path(source).stem


def state(place: Path | None) -> Path | None:
    """Where a training run is saved, so that the same command goes on with it."""
    return None if place is None else place.with_name(place.name + ".state")


def deliver(made: "Made", place: Path | None, run: "Run", report: "Report", recipe: "Recipe") -> None:
    """Write the model, and what was done into the report; nothing where another process of the run does."""
    from robustq.core.files import write

    if run.silent:
        return

    report.recipe, report.content = recipe.to_dict(), {"output": None, **made.content}
    for warning in made.warnings:
        report.warn(warning)
    if place is None:
        streams.write_binary(made.data)
    else:
        write(place, made.data, run.force)
    report.content["output"] = {"path": "-" if place is None else str(place), "bytes": len(made.data)}
