"""`robustq methods [KIND]`."""

from typing import Annotated

import typer

from .options import OutputOptions, grouped
from .run import Run, console


@grouped
def methods(
    ctx: typer.Context,
    output: OutputOptions,
    kind: Annotated[
        str | None,
        typer.Argument(
            help="attack, objective, quantizer, pruner, structure, model, dataset or exporter", metavar="KIND"
        ),
    ] = None,
) -> None:
    """List the methods there are, with their options, defaults, units and sources.

    The list goes to standard output; with --json it is a list of {kind, name, summary, options, source}.
    """
    import json
    import sys

    from robustq.core.catalogue import catalogue

    run: Run = ctx.obj
    run.start("methods", output)
    found = catalogue(kind)
    run.silent = True
    if output.json:
        print(json.dumps(found, indent=2))
        return
    from .listings import show_methods

    show_methods(found, console(sys.stdout))
