"""`robustq benchmark [MODEL...]`, short `bench`."""

from typing import Annotated

import typer

from .compare import compare as two_reports
from .options import (
    AttackOptions,
    DataOptions,
    DocumentOptions,
    ModelOptions,
    OutputOptions,
    RunOptions,
    ScrutinyOptions,
    grouped,
    to_recipe,
)
from .run import Run

PANEL = "Gates: exit status 1 when missed"


@grouped
def benchmark(
    ctx: typer.Context,
    model: ModelOptions,
    data: DataOptions,
    attack: AttackOptions,
    closely: ScrutinyOptions,
    run: RunOptions,
    output: OutputOptions,
    documents: DocumentOptions,
    files: Annotated[
        list[str] | None,
        typer.Argument(help="Checkpoints, or `-`; without any, the bundled models.", metavar="MODEL"),
    ] = None,
    min_acc: Annotated[
        str | None, typer.Option(help="Least clean accuracy, in [0, 1].", metavar="A", rich_help_panel=PANEL)
    ] = None,
    min_robust_acc: Annotated[
        str | None, typer.Option(help="Least worst-case accuracy, in [0, 1].", metavar="A", rich_help_panel=PANEL)
    ] = None,
    max_drop: Annotated[
        str | None,
        typer.Option(
            help="Most loss of either against the float parent, else the first MODEL.",
            metavar="D",
            rich_help_panel=PANEL,
        ),
    ] = None,
    max_bytes: Annotated[
        str | None, typer.Option(help="Largest file, float parents aside.", metavar="N", rich_help_panel=PANEL)
    ] = None,
    eps_sweep: Annotated[
        str | None,
        typer.Option(
            help="Accuracy at these radii too, with the first attack; auto with --html.",
            metavar="R,R...|auto|none",
            rich_help_panel="Attack",
        ),
    ] = None,
    sweep_limit: Annotated[
        int | None, typer.Option(help="Images of the sweep; default 200.", metavar="N", rich_help_panel="Attack")
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(
            help="Keep finished parts of the attacks here; the same command goes on from them.",
            metavar="DIR",
            rich_help_panel="Run",
        ),
    ] = None,
    time_limit: Annotated[
        str | None,
        typer.Option(
            help="Stop the attacks after this time, with exit status 124 if they are not finished.",
            metavar="90|10m|2h",
            rich_help_panel="Run",
        ),
    ] = None,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            help="Measure nothing: show what changed from report A to B; --max-drop judges B against A.",
            metavar="A.json B.json",
            rich_help_panel="Compare",
            show_default=False,
        ),
    ] = None,
    allow_different: Annotated[
        bool, typer.Option("--allow-different", help="Of other data or attacks, too.", rich_help_panel="Compare")
    ] = False,
    kernels: Annotated[
        bool,
        typer.Option("--kernels", help="Measure packed layers on this machine instead of models, in three minutes."),
    ] = False,
    out: Annotated[
        str | None, typer.Option("-o", help="Write the report (JSON) to this file as well.", metavar="FILE")
    ] = None,
) -> None:
    """Measure models side by side: clean and robust accuracy with 95% intervals, size, bits, zeros, latency.

    Robust accuracy is the share of images that are classified correctly and that no attack fools. Without a MODEL the
    four bundled reference models are attacked on bundled images. Under torchrun (`torchrun --nproc-per-node 4 -m
    robustq.cli bench ...`) the processes share the images.
    """
    from robustq.core import execution
    from robustq.core.comparison import evaluate
    from robustq.core.deadline import Deadline
    from robustq.core.gates import Gates
    from robustq.core.scrutiny import Scrutiny
    from robustq.core.sweep import Sweep

    from . import render, streams

    job: Run = ctx.obj
    if kernels:
        _kernels(job, files, output, out, documents)
        return
    report = job.start("benchmark", output, render.benchmark, {"json": out, **vars(documents)})
    gates = Gates.parse(min_acc, min_robust_acc, max_drop, max_bytes)
    if compare is not None:
        unused = [files, model, data, attack, closely, run]
        two_reports(compare, gates, report, allow_different=allow_different, unused=unused)
        return
    scrutiny = Scrutiny(**vars(closely))
    recipe = to_recipe(run, model, data, attack)
    streams.once(files or [])
    execution.use(recipe.run)
    sweep = Sweep.parse(eps_sweep, sweep_limit, default=documents.html is not None)
    deadline = Deadline.parse(time_limit)
    sources = [streams.source(path) for path in files or []]
    with execution.crew(recipe.run) as crew:
        if crew and crew.rank:
            job.follow()
        with job.progress() as on_event:
            evaluate(
                sources, recipe, gates=gates, trust_pickle=model.trust_pickle, report=report, on_event=on_event,
                sweep=sweep, examples=documents.html is not None, scrutiny=scrutiny, state=state, deadline=deadline,
                crew=crew,
            )  # fmt: skip


def _kernels(
    job: Run, files: list[str] | None, output: OutputOptions, out: str | None, documents: DocumentOptions
) -> None:
    from robustq.core.errors import OptionError
    from robustq.core.speed import kernels

    from . import render

    report = job.start("benchmark", output, render.kernels, {"json": out, **vars(documents)})
    if files:
        raise OptionError(f"--kernels measures layers, and takes no MODEL such as {files[0]}.", "Leave either out.")
    with job.progress() as on_event:
        kernels(report, on_event)
