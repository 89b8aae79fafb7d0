"""The report as a document: JSON, Markdown, a page, a table of the training; on standard output or in a file."""

import json
import os
from collections.abc import Callable, Mapping

from robustq.core.errors import OptionError
from robustq.core.report import Report

FLAGS = {"json": "-o", "markdown": "--markdown", "html": "--html", "csv": "--csv"}


def placed(asked: Mapping[str, str | None], json: bool, force: bool) -> tuple[str | None, dict[str, str]]:
    """The kind that goes to standard output, and {kind: file}, all of them places that can be written."""
    from robustq.core.files import check_output

    printed = [kind for kind, path in asked.items() if path == "-"]
    printed += ["json"] if json and "json" not in printed else []
    if len(printed) > 1:
        flags = " and ".join("--json" if json and kind == "json" else f"{FLAGS[kind]} -" for kind in printed)
        raise OptionError(f"{flags} both want standard output.", "Write one of them to a file.")
    files = {kind: path for kind, path in asked.items() if path not in (None, "-")}
    distinct(files)
    for path in files.values():
        check_output(str(path), force)
    return (printed[0] if printed else None), {kind: str(path) for kind, path in files.items()}


def distinct(files: Mapping[str, str | None], model: str | None = None) -> None:
    """OptionError where two outputs of one command, the model among them, would be the same file."""
    taken = {} if model is None else {os.path.realpath(model): "-o"}
    for kind, path in files.items():
        other = taken.setdefault(os.path.realpath(str(path)), FLAGS[kind])
        if other != FLAGS[kind]:
            raise OptionError(f"{FLAGS[kind]} {path}: {other} writes to the same file.", "Give them different names.")


def text(kind: str, report: Report) -> str:
    """The whole document, with a newline at its end."""
    if kind == "json":
        return report.to_json() + "\n"
    return _renderer(kind)(json.loads(report.to_json()))  # as a reader of the JSON has it: nothing but plain values


def write(kind: str, report: Report, path: str, force: bool) -> None:
    """The document to its file, whole or not at all."""
    from robustq.core import files

    files.write(path, text(kind, report).encode(), force)


def _renderer(kind: str) -> Callable[[Mapping[str, object]], str]:
    from . import curves, markdown
    from .page import document

    return {"markdown": markdown.render, "html": document.render, "csv": curves.render}[kind]
