"""`robustq inspect FILE`."""

from typing import Annotated

import typer

from .options import OutputOptions, grouped
from .run import Run, console


@grouped
def inspect(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="Any checkpoint, or `-` for standard input.", metavar="FILE")],
    output: OutputOptions,
) -> None:
    """Say what a file is: layers, shapes, bits, zeros, bytes, provenance, and whether loading it is safe.

    Nothing in the file is run. The listing goes to standard output.
    """
    import sys

    from robustq.core.inspection import inspect as look

    from .streams import source

    run: Run = ctx.obj
    report = run.start("inspect", output)
    report.content = look(source(file))
    if not output.json:
        from .listings import show_file

        show_file(report.content, console(sys.stdout))
