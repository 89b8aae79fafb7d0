"""`robustq export MODEL`."""

from typing import Annotated

import typer

from .options import ModelOptions, OutputOptions, RunOptions, grouped, to_recipe
from .run import Run


@grouped
def export(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="Any checkpoint, or `-` for standard input.", metavar="MODEL")],
    to: Annotated[str, typer.Option(help="Formats (`robustq methods exporter`).", metavar="FORMAT[,FORMAT...]")],
    model: ModelOptions,
    run: RunOptions,
    output: OutputOptions,
    option: Annotated[
        list[str] | None,
        typer.Option(
            help="An option of the formats that have it, such as style=base3; repeatable.", metavar="KEY=VALUE"
        ),
    ] = None,
    out: Annotated[
        str | None,
        typer.Option("-o", help="File, or with several formats the place for NAME.ENDING; `-` is standard output."),
    ] = None,
) -> None:
    """Write a model for other tools, then read the file back and compare; a mismatch is exit status 5.

    safetensors and state-dict give the dense weights and need no class; onnx keeps low-bit weights at their size.
    """
    from robustq.core import execution, exporting
    from robustq.core.checkpoint import load
    from robustq.core.comparison import build

    from . import flags, render, streams

    job: Run = ctx.obj
    report = job.start("export", output, render.export)
    recipe = to_recipe(run, model)
    formats = flags.formats(to)
    options = flags.exporter_options(formats, option or [])
    if out == "-":
        streams.check_binary_output(job.printed)
    execution.use(recipe.run)
    checkpoint = load(streams.source(file), trust_pickle=model.trust_pickle)
    classifier = build(checkpoint, recipe) if exporting.need_class(formats) else None
    report.recipe = recipe.to_dict()
    if out == "-":
        streams.write_binary(exporting.render(checkpoint, formats, classifier=classifier, options=options))
        return
    report.content["files"] = exporting.export(
        checkpoint, formats, out, classifier=classifier, force=job.force, options=options
    )
