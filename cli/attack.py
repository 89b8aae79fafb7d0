"""`robustq attack MODEL`."""

from typing import Annotated

import typer

from .options import AttackOptions, DataOptions, ModelOptions, OutputOptions, RunOptions, grouped, to_recipe
from .run import Run


@grouped
def attack(
    ctx: typer.Context,
    file: Annotated[str, typer.Argument(help="Any checkpoint, or `-` for standard input.", metavar="MODEL")],
    model: ModelOptions,
    data: DataOptions,
    attack: AttackOptions,
    run: RunOptions,
    output: OutputOptions,
    out: Annotated[
        str | None, typer.Option("-o", help="Write the images (safetensors) to this file.", metavar="FILE")
    ] = None,
    grid: Annotated[
        str | None, typer.Option(help="Draw fooled images into this PNG (needs matplotlib).", metavar="FILE.png")
    ] = None,
) -> None:
    """Craft adversarial examples; every one that counts as fooling was verified on the model itself.

    The file holds x, adversarial, y, clean_prediction, prediction, fooled and norm, one row an image.
    """
    from robustq.core import execution
    from robustq.core.checkpoint import load
    from robustq.core.crafting import craft_examples
    from robustq.core.files import check_output, write

    from . import render, streams

    job: Run = ctx.obj
    report = job.start("attack", output, render.attack)
    recipe = to_recipe(run, model, data, attack)
    for path in (out, grid):
        if path not in (None, "-"):
            check_output(path, job.force)
    if out == "-":
        streams.check_binary_output(job.printed)
    execution.use(recipe.run)
    checkpoint = load(streams.source(file), trust_pickle=model.trust_pickle)
    with job.progress() as on_event:
        crafted = craft_examples(
            checkpoint,
            recipe,
            progress=lambda step, total: on_event({"kind": "step", "task": "attack", "step": step, "total": total}),
        )
    report.recipe = crafted.recipe.to_dict()
    report.content = {"model": checkpoint.source.path, **crafted.content, "output": out, "grid": grid}
    if grid is not None:
        write(grid, crafted.grid(), job.force)
    if out == "-":
        streams.write_binary(crafted.to_bytes())
    elif out is not None:
        write(out, crafted.to_bytes(), job.force)
