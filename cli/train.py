"""`robustq train`."""

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


@grouped
def train(
    ctx: typer.Context,
    model: ModelOptions,
    data: DataOptions,
    train: TrainOptions,
    attack: AttackOptions,
    run: RunOptions,
    output: OutputOptions,
    documents: CurveOptions,
    init: Annotated[str | None, typer.Option(help="Checkpoint to go on from.", metavar="MODEL")] = None,
    compress: Annotated[
        list[str] | None,
        typer.Option(help="A compressor in the loop; repeatable, applied in this order.", metavar="NAME[:K=V,...]"),
    ] = None,
    keep_fp: Annotated[
        str | None, typer.Option(help="Layers kept in fp16; default first,last.", metavar="first,last|none|NAME")
    ] = None,
    out: Annotated[str | None, typer.Option("-o", help="File to write; `-` is standard output.", metavar="OUT")] = None,
) -> None:
    """Train a network, adversarially or not, with compressors in the loop.

    A run that was stopped goes on where it was when the same command is given again; its state lies beside OUT.
    Under torchrun (`torchrun --nproc-per-node 4 -m robustq.cli train ...`) the processes share every batch.
    """
    from robustq.core import execution, workflow
    from robustq.core.checkpoint import load

    from . import flags, render, results, streams

    job: Run = ctx.obj
    report = job.start("train", output, render.train, vars(documents))
    recipe = flags.with_compressors(to_recipe(run, model, data, attack, train, inner=True), compress or [])
    recipe = flags.keeping(recipe, keep_fp).replace("model", init=init)
    place = results.place(recipe.model.init or recipe.model.arch or "model", out, job)
    execution.use(recipe.run)
    start = load(streams.source(recipe.model.init), trust_pickle=model.trust_pickle) if recipe.model.init else None
    with execution.crew(recipe.run) as crew:
        if crew and crew.rank:
            job.follow()
        with job.progress() as on_event:
            made = workflow.train(recipe, start=start, state_path=results.state(place), on_event=on_event)
    results.deliver(made, place, job, report, recipe)
