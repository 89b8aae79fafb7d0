"""`robustq report REPORT.json`."""

from typing import Annotated

import typer

from robustq.core.errors import OptionError

from .options import CurveOptions, OutputOptions, grouped
from .run import Run


@grouped
def report(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="What --json or -o wrote, or `-`.", metavar="REPORT.json")],
    documents: CurveOptions,
    output: OutputOptions,
) -> None:
    """Show a saved report again, as tables or as documents, and end with its exit status; nothing is measured."""
    from robustq.core import reading
    from robustq.core.report import Report

    from . import render, streams

    job: Run = ctx.obj
    job.start("robustq", output, documents=vars(documents))
    document = reading.read(streams.source(file)).document
    if document["status"] not in ("ok", "gate missed"):
        raise OptionError(f"{file}: that run ended with status {document['status']!r}.", "There is nothing to show.")
    job.report = Report.from_dict(document)
    job.render = render.kernels if "kernels" in document else render.OF.get(job.report.command)
