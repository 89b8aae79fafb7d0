"""Options that several commands share, in groups, and how they become a recipe.

A parameter annotated with one of the groups is spread by `grouped` into the group's fields, which is what Typer sees.
"""

import dataclasses
import functools
import inspect
import typing
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from robustq.core.recipe import Recipe

VERBOSE = typer.Option("--verbose", "-v", count=True, help="Say more.", show_default=False)


def _option(*names: str, help: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, show_default=False)


@dataclass(kw_only=True)
class ModelOptions:
    """The class of a model and its normalisation."""

    arch: Annotated[
        str | None,
        _option(
            "--arch",
            help="Class of the model; built-in ones are found from the weights.",
            panel="Model",
            metavar="NAME|FILE.py:FACTORY|PKG.MOD:FACTORY",
        ),
    ] = None
    arch_arg: Annotated[
        list[str] | None,
        _option("--arch-arg", help="An argument of the class; repeatable.", panel="Model", metavar="KEY=VALUE"),
    ] = None
    mean: Annotated[
        str | None,
        _option(
            "--mean",
            help="Input mean per channel, in [0, 1]; becomes a layer inside the model.",
            panel="Model",
            metavar="M[,M...]",
        ),
    ] = None
    std: Annotated[
        str | None,
        _option("--std", help="Input standard deviation per channel.", panel="Model", metavar="S[,S...]"),
    ] = None
    trust_pickle: Annotated[
        bool, _option("--trust-pickle", help="DANGEROUS: run the code inside a pickled model.", panel="Model")
    ] = False


@dataclass(kw_only=True)
class DataOptions:
    """Which images."""

    data: Annotated[
        str | None,
        _option(
            "--data", help="Data set (`robustq methods dataset`), file or folder.", panel="Data", metavar="NAME|PATH"
        ),
    ] = None
    split: Annotated[str | None, _option("--split", help="Split to use.", panel="Data", metavar="NAME")] = None
    data_dir: Annotated[
        str | None, _option("--data-dir", help="Folder that holds the named data sets.", panel="Data", metavar="DIR")
    ] = None
    data_range: Annotated[
        str | None,
        _option("--data-range", help="What stored values are divided by to lie in [0, 1].", panel="Data", metavar="R"),
    ] = None
    limit: Annotated[int | None, _option("--limit", help="Use the first N images only.", panel="Data", metavar="N")] = (
        None
    )


@dataclass(kw_only=True)
class AttackOptions:
    """Which attack, how strong. The flags are options of every attack named by --attack that has them."""

    attack: Annotated[
        str | None,
        _option(
            "--attack",
            help="Attacks (`robustq methods attack`); default pgd.",
            panel="Attack",
            metavar="NAME[:K=V,...][,NAME...]",
        ),
    ] = None
    eps: Annotated[
        str | None,
        _option("--eps", help="Radius in input units of [0, 1]; default by data set.", panel="Attack", metavar="8/255"),
    ] = None
    step: Annotated[str | None, _option("--step", help="Length of a step.", panel="Attack", metavar="2/255")] = None
    steps: Annotated[int | None, _option("--steps", help="Steps of one start.", panel="Attack", metavar="N")] = None
    restarts: Annotated[
        int | None, _option("--restarts", help="Independent random starts.", panel="Attack", metavar="N")
    ] = None
    targeted: Annotated[
        bool, _option("--targeted", help="Aim at a drawn class instead of any wrong one.", panel="Attack")
    ] = False


@dataclass(kw_only=True)
class TrainOptions:
    """The training loop."""

    epochs: Annotated[int | None, _option("--epochs", help="Passes over the data.", panel="Training", metavar="N")] = (
        None
    )
    lr: Annotated[str | None, _option("--lr", help="Peak learning rate.", panel="Training", metavar="RATE")] = None
    augment: Annotated[
        str | None,
        _option(
            "--augment", help="Augmentation; default by data set.", panel="Training", metavar="none|flip|crop|crop+flip"
        ),
    ] = None
    objective: Annotated[
        str | None,
        _option(
            "--objective",
            help="Training loss (`robustq methods objective`).",
            panel="Training",
            metavar="NAME[:K=V,...]",
        ),
    ] = None
    precision: Annotated[
        str | None,
        _option(
            "--precision", help="Of passes while training; bf16 is autocast.", panel="Training", metavar="float32|bf16"
        ),
    ] = None
    average: Annotated[
        str | None,
        _option(
            "--average",
            help="Export weights averaged over steps: a decaying mean, or the plain one of the last quarter.",
            panel="Training",
            metavar="ema|swa",
        ),
    ] = None
    distill: Annotated[
        str | None,
        _option(
            "--distill",
            help="Share of the loss that is agreement with the model training starts from.",
            panel="Training",
            metavar="0..1",
        ),
    ] = None


@dataclass(kw_only=True)
class RunOptions:
    """Where and how."""

    recipe: Annotated[
        str | None,
        _option("--recipe", help="Read settings from a recipe; flags override it.", panel="Run", metavar="FILE.toml"),
    ] = None
    set_: Annotated[
        list[str] | None,
        _option("--set", help="Override a recipe entry; repeatable.", panel="Run", metavar="SECTION.KEY=VALUE"),
    ] = None
    seed: Annotated[
        int | None, _option("--seed", help="Seed of every random draw; default 0.", panel="Run", metavar="N")
    ] = None
    device: Annotated[str | None, _option("--device", help="cpu, cuda, ...", panel="Run", metavar="NAME")] = None
    threads: Annotated[int | None, _option("--threads", help="CPU threads.", panel="Run", metavar="N")] = None
    batch_size: Annotated[
        str | None, _option("--batch-size", help="Images at a time.", panel="Run", metavar="N|auto")
    ] = None


@dataclass(kw_only=True)
class OutputOptions:
    """What is printed and overwritten."""

    json: Annotated[
        bool, _option("--json", help="Write the report to standard output, as one JSON document.", panel="Output")
    ] = False
    force: Annotated[bool, _option("--force", help="Replace outputs that exist.", panel="Output")] = False
    quiet: Annotated[bool, _option("--quiet", "-q", help="Print errors only.", panel="Output")] = False
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Say more.", show_default=False, rich_help_panel="Output")
    ] = 0


@dataclass(kw_only=True)
class ScrutinyOptions:
    """How closely a benchmark looks."""

    parent: Annotated[
        str | None,
        _option("--parent", help="The float model the others were made from.", panel="Model", metavar="FILE"),
    ] = None
    parent_arch: Annotated[
        str | None,
        _option("--parent-arch", help="Its class, if another.", panel="Model", metavar="NAME|FILE.py:FACTORY"),
    ] = None
    trust_program: Annotated[
        bool, _option("--trust-program", help="DANGEROUS: run the code of a TorchScript program.", panel="Model")
    ] = False
    checks: Annotated[
        str,
        _option("--checks", help="Diagnostics (docs/checks.md).", panel="Attack", metavar="default|all|none"),
    ] = "default"
    mode: Annotated[
        str | None,
        _option("--mode", help="How packed layers run and are verified.", panel="Run", metavar="exact|accurate|int8"),
    ] = None
    strict: Annotated[
        bool, _option("--strict", help="A check that fails is a missed gate.", panel="Gates: exit status 1 when missed")
    ] = False


@dataclass(kw_only=True)
class DocumentOptions:
    """The report as documents for people."""

    markdown: Annotated[
        str | None,
        _option("--markdown", help="Write the report as Markdown; `-` prints it.", panel="Output", metavar="FILE"),
    ] = None
    html: Annotated[
        str | None,
        _option("--html", help="Write the report as one self-contained page.", panel="Output", metavar="FILE"),
    ] = None


@dataclass(kw_only=True)
class CurveOptions(DocumentOptions):
    """The documents of a command that trains."""

    csv: Annotated[
        str | None,
        _option("--csv", help="Write the curves of the training, a row an epoch.", panel="Output", metavar="FILE"),
    ] = None


def grouped(function: Callable[..., None]) -> Callable[..., None]:
    """The function with its group parameters spread into the groups' fields."""
    hints = typing.get_type_hints(function, include_extras=True)
    hints.pop("return", None)
    groups: dict[str, Any] = {name: hint for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    spread: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(function).parameters.items():
        if name in groups:
            types = typing.get_type_hints(groups[name], include_extras=True)
            spread += [_parameter(f.name, types[f.name], f.default) for f in dataclasses.fields(groups[name])]
        else:
            spread.append(_parameter(name, hints[name], parameter.default))

    @functools.wraps(function)
    def command(**values: Any) -> None:
        for name, cls in groups.items():
            values[name] = cls(**{f.name: values.pop(f.name) for f in dataclasses.fields(cls)})
        function(**values)

    del command.__wrapped__  # Typer would look through it at the groups again
    command.__annotations__ = {p.name: p.annotation for p in spread}
    command.__signature__ = inspect.Signature(spread)  # type: ignore[attr-defined]
    return command


def _parameter(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default)


def to_recipe(
    run: RunOptions,
    model: ModelOptions | None = None,
    data: DataOptions | None = None,
    attack: AttackOptions | None = None,
    train: TrainOptions | None = None,
    inner: bool = False,
) -> "Recipe":
    """The recipe file, then --set, then the flags: the later wins. `inner`: the attack is that of training."""
    from robustq.core.recipe import Recipe

    from . import flags

    recipe = (Recipe.read(run.recipe) if run.recipe else Recipe()).with_values(run.set_ or [])
    recipe = flags.with_run(recipe, run, training=train is not None)
    recipe = flags.with_model(recipe, model) if model else recipe
    recipe = flags.with_data(recipe, data) if data else recipe
    recipe = flags.with_training(recipe, train) if train else recipe
    if attack is None:
        return recipe
    return flags.with_inner_attack(recipe, attack) if inner else flags.with_attack(recipe, attack)
