"""Flags into recipe entries; an option that was not given changes nothing."""

import dataclasses
from typing import TYPE_CHECKING, Any

from robustq.core.errors import OptionError
from robustq.core.option import describe, number
from robustq.core.recipe import Recipe, Spec, pairs
from robustq.core.registry import COMPRESSORS, find, names

if TYPE_CHECKING:
    from .options import AttackOptions, DataOptions, ModelOptions, RunOptions, TrainOptions


def with_run(recipe: Recipe, run: "RunOptions", training: bool) -> Recipe:
    """Seed, device, threads and batch size (of training where the command trains)."""
    size = None
    if run.batch_size not in (None, "auto"):
        size = at_least("--batch-size", number(run.batch_size, "--batch-size"), 1)
    if run.threads is not None:
        at_least("--threads", run.threads, 1)
    recipe = recipe.replace("run", seed=run.seed, device=run.device, threads=run.threads)
    return recipe.replace("train" if training else "run", batch_size=size)


def with_model(recipe: Recipe, model: "ModelOptions") -> Recipe:
    args = pairs(model.arch_arg or [])
    mean, std = channels("--mean", model.mean), channels("--std", model.std)
    if std is not None and min(std) <= 0:
        raise OptionError(f"--std is {model.std}.", "Standard deviations are above 0.")
    return recipe.replace("model", arch=model.arch, args=args or None, mean=mean, std=std)


def with_data(recipe: Recipe, data: "DataOptions") -> Recipe:
    scale = None if data.data_range is None else number(data.data_range, "--data-range")
    if scale is not None and scale <= 0:
        raise OptionError(f"--data-range is {data.data_range}.", "It is what stored values are divided by: above 0.")
    if data.limit is not None:
        at_least("--limit", data.limit, 1)
    return recipe.replace("data", name=data.data, split=data.split, dir=data.data_dir, range=scale, limit=data.limit)


def with_training(recipe: Recipe, train: "TrainOptions") -> Recipe:
    lr = None if train.lr is None else number(train.lr, "--lr")
    if lr is not None and lr <= 0:
        raise OptionError(f"--lr is {train.lr}.", "A learning rate is above 0.")
    if train.epochs is not None:
        at_least("--epochs", train.epochs, 1)
    recipe = recipe.replace("train", epochs=train.epochs, lr=lr, precision=train.precision)
    recipe = recipe.replace("data", augment=train.augment)
    weight = None if train.distill is None else number(train.distill, "--distill")
    recipe = recipe.replace("average", kind=train.average).replace("distill", weight=weight)
    if train.objective is None:
        return recipe
    return dataclasses.replace(recipe, objective=known(Spec.parse(train.objective), "objective"))


def with_attack(recipe: Recipe, attack: "AttackOptions") -> Recipe:
    """The attacks to run: those named, else the recipe's, else PGD; `none` leaves none."""
    specs = (recipe.attack or (Spec("pgd"),)) if attack.attack is None else attack_specs(attack.attack)
    return dataclasses.replace(recipe, attack=with_flags(specs, strength(attack)))


def with_inner_attack(recipe: Recipe, attack: "AttackOptions") -> Recipe:
    """The attack of adversarial training: the one named, else the recipe's; without either the loop has its own."""
    given = strength(attack)
    if attack.attack is None and not given:
        return recipe
    specs = (recipe.attack or (Spec("pgd", {"steps": 7}),)) if attack.attack is None else attack_specs(attack.attack)
    if len(specs) > 1:
        raise OptionError(f"--attack {attack.attack}: training uses one attack.", "Name one, such as --attack pgd.")
    return dataclasses.replace(recipe, attack=with_flags(specs, given))


def strength(attack: "AttackOptions") -> dict[str, Any]:
    """The options of an attack that have flags of their own, as far as they are given."""
    given: dict[str, Any] = {name: getattr(attack, name) for name in ("eps", "step", "steps", "restarts")}
    given["targeted"] = attack.targeted or None
    return {name: value for name, value in given.items() if value is not None}


def with_compression(
    recipe: Recipe, bits: int | None, method: str | None, group: str | None, sparsity: str | None, block: int | None
) -> Recipe:
    """The compressors that flags name (pruning first, then the quantizer or structure); else the recipe's."""
    if group is not None and bits is None and method is None:
        raise OptionError("--group is for quantization.", "Give --bits too.")
    specs: list[Spec] = []
    named = Spec.parse(method) if method is not None else Spec("projection")
    if sparsity is not None and not _prunes(named.name):
        specs.append(Spec("magnitude", {"sparsity": sparsity}))
        sparsity = None
    if block is not None and method is None:
        specs.append(Spec("circulant", {"block": block}))
        block = None
    if bits is not None or method is not None:
        options = {"bits": bits, "group": group, "sparsity": sparsity, "block": block}
        given = {key: value for key, value in options.items() if value is not None}
        specs.append(known(Spec(named.name, {**given, **named.options}), *COMPRESSORS))
    return dataclasses.replace(recipe, compress=tuple(specs)) if specs else recipe


def _prunes(method: str) -> bool:
    """Whether the method takes --sparsity itself."""
    known_methods = names(*COMPRESSORS)
    options = describe(find(method, *COMPRESSORS)) if method in known_methods else []
    return method in names("pruner") or any(info.name == "sparsity" for info in options)


def shrinking(recipe: Recipe) -> Recipe:
    """With the removal of dead channels as the last method, unless the recipe names it already."""
    named = any(spec.name == "shrink" for spec in recipe.compress)
    return recipe if named else dataclasses.replace(recipe, compress=(*recipe.compress, Spec("shrink")))


def with_compressors(recipe: Recipe, given: list[str]) -> Recipe:
    """The compressors of --compress, in their order; else the recipe's."""
    if not given:
        return recipe
    return dataclasses.replace(recipe, compress=tuple(known(Spec.parse(text), *COMPRESSORS) for text in given))


def keeping(recipe: Recipe, keep_fp: str | None) -> Recipe:
    """The layers of --keep-fp; else the recipe's."""
    if keep_fp is None:
        return recipe
    return dataclasses.replace(recipe, keep_fp=tuple(name.strip() for name in keep_fp.split(",") if name.strip()))


def formats(text: str) -> list[str]:
    """`onnx,safetensors` -> names of exporters, each once."""
    found = [name.strip() for name in text.split(",") if name.strip()]
    for name in found:
        find(name, "exporter")
    return list(dict.fromkeys(found))


def exporter_options(formats: list[str], given: list[str]) -> dict[str, dict[str, Any]]:
    """Each KEY=VALUE goes to the formats that have such an option; one that none has is an error."""
    known_options = {name: [info.name for info in describe(find(name, "exporter"))] for name in formats}
    found: dict[str, dict[str, Any]] = {}
    for key, value in pairs(given).items():
        takers = [name for name in formats if key in known_options[name]]
        if not takers:
            raise OptionError(
                f"--option {key}: {', '.join(formats)} has no such option.", "See `robustq methods exporter`."
            )
        for name in takers:
            found.setdefault(name, {})[key] = value
    return found


def attack_specs(text: str) -> tuple[Spec, ...]:
    """`pgd,fgsm:eps=0.1,norm=l2` -> specs; a comma starts a new attack unless an option follows it."""
    parts: list[str] = []
    for piece in (piece.strip() for piece in text.split(",")):
        if parts and "=" in piece and ":" not in piece:
            parts[-1] += f"{',' if ':' in parts[-1] else ':'}{piece}"
        elif piece:
            parts.append(piece)
    if parts == ["none"]:
        return ()
    if not parts or "none" in parts:
        raise OptionError(f"--attack {text!r} names no attack.", "Write --attack pgd,fgsm, or --attack none.")
    return tuple(known(Spec.parse(part), "attack") for part in parts)


def with_flags(specs: tuple[Spec, ...], given: dict[str, Any]) -> tuple[Spec, ...]:
    """Each flag goes to the attacks that have such an option; one that none has is an error."""
    for name in given:
        if specs and not any(name in option_names(spec.name) for spec in specs):
            asked = ", ".join(spec.name for spec in specs)
            raise OptionError(f"--{name}: {asked} has no such option.", "See `robustq methods attack`.")
    return tuple(
        Spec(spec.name, {**{k: v for k, v in given.items() if k in option_names(spec.name)}, **spec.options})
        for spec in specs
    )


def option_names(attack: str) -> list[str]:
    return [info.name for info in describe(find(attack, "attack"))]


def known(spec: Spec, *kinds: str) -> Spec:
    """The spec, if a method of these kinds has its name."""
    find(spec.name, *kinds)
    return spec


def channels(flag: str, text: str | None) -> tuple[float, ...] | None:
    """`0.5,0.4,0.3` -> one float a channel."""
    if text is None:
        return None
    values = tuple(number(part.strip(), flag) for part in text.split(",") if part.strip())
    if not values:
        raise OptionError(f"{flag} is {text!r}.", f"Write one number a channel: {flag} 0.5,0.5,0.5.")
    return values


def at_least(flag: str, value: float, low: int) -> int:
    """A whole number from `low` on."""
    if value != int(value) or value < low:
        raise OptionError(f"{flag} is {value:g}.", f"It is a whole number, at least {low}.")
    return int(value)
