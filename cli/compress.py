"""`robustq compress MODEL`."""

from typing import Annotated

import typer

from .options import (
    AttackOptions,
    CurveOptions,
    DataOptions,
    ModelOptions,
    OutputOptions,
    RunOptions,
    TrainOptions,
    grouped,
    to_recipe,
)
from .run import Run

PANEL = "Compression"


@grouped
def compress(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="Any checkpoint, or `-` for standard input.", metavar="MODEL")],
    model: ModelOptions,
    data: DataOptions,
    train: TrainOptions,
    attack: AttackOptions,
    run: RunOptions,
    output: OutputOptions,
    documents: CurveOptions,
    bits: Annotated[
        int | None,
        typer.Option(help="1 binary, 2 ternary, 3, 4 (15 levels), 8.", metavar="1|2|3|4|8", rich_help_panel=PANEL),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            help="Compressor (`robustq methods`); default: projection.",
            metavar="NAME[:K=V,...]",
            rich_help_panel=PANEL,
        ),
    ] = None,
    group: Annotated[
        str | None,
        typer.Option(help="What shares a scale; default channel.", metavar="channel|layer|N", rich_help_panel=PANEL),
    ] = None,
    sparsity: Annotated[
        str | None,
        typer.Option(help="Share of the weights to prune first, by magnitude.", metavar="S", rich_help_panel=PANEL),
    ] = None,
    block_size: Annotated[
        int | None, typer.Option(help="Side of circulant blocks.", metavar="K", rich_help_panel=PANEL)
    ] = None,
    shrink: Annotated[
        bool,
        typer.Option(
            "--shrink", help="Cut zero channels out of the network at the end; needs its class.", rich_help_panel=PANEL
        ),
    ] = False,
    keep_fp: Annotated[
        str | None,
        typer.Option(
            help="Layers kept in fp16; default first,last.", metavar="first,last|none|NAME", rich_help_panel=PANEL
        ),
    ] = None,
    out: Annotated[str | None, typer.Option("-o", help="File to write; `-` is standard output.", metavar="OUT")] = None,
) -> None:
    """Compress a checkpoint; without --data its class is not needed.

    Methods that train (binary-relax) take --data, --epochs and --lr. Without -o the model goes to standard output if
    that is a pipe, else to MODEL's name with the ending .rq.safetensors.
    """
    from robustq.core import execution, workflow
    from robustq.core.checkpoint import load

    from . import flags, render, results, streams

    job: Run = ctx.obj
    report = job.start("compress", output, render.compress, vars(documents))
    recipe = to_recipe(run, model, data, attack, train, inner=True)
    recipe = flags.with_compression(recipe, bits, method, group, sparsity, block_size)
    recipe = flags.shrinking(recipe) if shrink else recipe
    recipe = flags.keeping(recipe, keep_fp)
    place = results.place(file, out, job)
    execution.use(recipe.run)
    start = load(streams.source(file), trust_pickle=model.trust_pickle)
    with execution.crew(recipe.run) as crew:
        if crew and crew.rank:
            job.follow()
        with job.progress() as on_event:
            made = workflow.compress(
                start, recipe, train=train.epochs is not None, state_path=results.state(place), on_event=on_event
            )
    results.deliver(made, place, job, report, recipe)
