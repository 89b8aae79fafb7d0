"""What a training run needs before its first step, made from the recipe."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from . import architecture, datasets, execution, inserted, registry, rng
from .architecture import Classifier
from .attacks.attack import Attack
from .attacks.pgd import Pgd
from .averaging import Average
from .checkpoint import Checkpoint
from .datasets.dataset import Dataset
from .errors import OptionError
from .inference import Net
from .noise import noises
from .objectives.distilled import Distilled
from .objectives.objective import Objective
from .recipe import Recipe, Spec
from .schedule import learning_rate
from .session import Session
from .threat import resolve_attack


def resolved(recipe: Recipe, start: Checkpoint | None) -> Recipe:
    """The recipe with the defaults that depend on its data and its start filled in."""
    if recipe.data.name is None:
        raise OptionError("training needs data.", "Give --data NAME or --data PATH.")
    lr = recipe.train.lr if recipe.train.lr is not None else (0.1 if start is None else 0.01)
    augment = recipe.data.augment or datasets.info(recipe.data.name).augment
    return recipe.replace("train", lr=lr).replace("data", augment=augment)


def device(recipe: Recipe) -> torch.device:
    """Where the run trains; OptionError where it is not there, or does not compute as the recipe says."""
    found = execution.device(recipe.run)
    if recipe.train.precision == "bf16":
        try:
            torch.autocast(found.type, torch.bfloat16)
        except RuntimeError as error:
            reason = str(error).splitlines()[0]
            raise OptionError(
                f"train.precision is bf16, which {found} cannot be used in: {reason}", "Leave it at float32."
            ) from None
    return found


def data(recipe: Recipe) -> tuple[Dataset, Dataset]:
    """(training part, validation part): disjoint, drawn from the first `limit` images of the training split."""
    assert recipe.data.name is not None  # `resolved` saw to it
    whole = datasets.load(
        recipe.data.name,
        "train",
        directory=recipe.data.dir,
        data_range=recipe.data.range,
        limit=recipe.data.limit,
    )
    held_out = min(recipe.train.validation, len(whole) // 5)
    if held_out < 1:
        raise OptionError(f"{len(whole)} training images leave none for validation.", "Raise --limit.")
    order = rng.permutation((recipe.run.seed, "validation"), len(whole))
    return whole.select(order[held_out:].sort().values), whole.select(order[:held_out].sort().values)


def arch(recipe: Recipe, start: Checkpoint | None) -> Spec:
    """The architecture: the recipe's, else the one the checkpoint records or shows."""
    if start is not None:
        return architecture.resolve(start, recipe.model.arch, recipe.model.args)
    if recipe.model.arch is None:
        raise OptionError("training from scratch needs an architecture.", "Give --arch NAME, or --init MODEL to go on.")
    return Spec(recipe.model.arch, recipe.model.args)


def model(recipe: Recipe, start: Checkpoint | None, arch: Spec) -> Classifier:
    """The network, with the checkpoint's weights or fresh ones (drawn from torch's default generator)."""
    if start is None:
        return Classifier(architecture.create(arch.name, arch.options), recipe.model.mean, recipe.model.std)
    return architecture.build(start, arch=arch.name, args=arch.options, mean=recipe.model.mean, std=recipe.model.std)


def objective(recipe: Recipe, start: Checkpoint | None) -> Objective:
    """The recipe's objective, natural training where none is named; with distillation where that has a weight."""
    spec = recipe.objective or Spec("natural")
    found: Objective = registry.create(spec.name, spec.options, "objective")
    if not recipe.distill.weight:
        return found
    if start is None:
        raise OptionError("distillation needs a parent to learn from.", "Give --init MODEL, or leave distill.weight 0.")
    return Distilled(inner=found, given=recipe.distill)


def attack(recipe: Recipe, objective: Objective) -> Attack | None:
    """The inner attack: the recipe's, else PGD-7 at the data set's radius; None for natural training."""
    if not objective.adversarial:
        return None
    if len(recipe.attack) > 1:
        raise OptionError(f"the recipe names {len(recipe.attack)} attacks.", "Training uses one.")
    spec = recipe.attack[0] if recipe.attack else Spec("pgd", {"steps": 7})
    return resolve_attack(spec, recipe.data.name)


def validation_attack(attack: Attack) -> Attack:
    """PGD at the radius that is trained for: ten steps of a quarter of it."""
    return Pgd(eps=attack.radius, steps=10, step=attack.radius / 4)


def sessions(recipe: Recipe, owned: Mapping[str, Tensor], total_steps: int) -> list[Session]:
    """One session for each compressor of the recipe, in its order; OptionError where one would undo an earlier one."""
    found = []
    pruned = False
    for spec in recipe.compress:
        compressor = registry.create(spec.name, spec.options, *registry.COMPRESSORS)
        if pruned and compressor.options().get("bits") == 1:
            raise OptionError(
                f"{spec.name} with bits=1 after pruning would fill the zeros: binary weights are -1 or +1 times "
                "a scale.",
                "Use bits=2 (ternary), or do not prune.",
            )
        pruned = pruned or spec.name in registry.TABLE["pruner"]
        found.append(compressor.attach(owned, total_steps))
    _check_alone(recipe, found)
    return found


def _check_alone(recipe: Recipe, sessions: Sequence[Session]) -> None:
    """OptionError where something else lays hands on weights that one session needs for itself."""
    names = [spec.name for spec in recipe.compress]
    for name in (name for name, session in zip(names, sessions, strict=True) if session.alone):
        others = [other for other, s in zip(names, sessions, strict=True) if other != name and s.changes_weights]
        if others or names.count(name) > 1:
            raise OptionError(
                f"{name} and {others[0] if others else name} cannot be combined: {name} trains factors of the weights,"
                " which the other would change.",
                "Give one of them.",
            )
        if recipe.average.kind != "none":
            raise OptionError(
                f"{name} trains factors of the weights, and the product of averages is no average of products.",
                "Leave out --average (average.kind=none).",
            )


def plain_parameters(model: Classifier) -> dict[str, Tensor]:
    """The parameters of the network's own class, without those of layers that were put into it."""
    foreign = {f"{part}.{name}" for part, m in inserted.parts(model.net).items() for name, _ in m.named_parameters()}
    return {name: w for name, w in model.net.named_parameters() if name not in foreign}


def optimizer(recipe: Recipe, model: Classifier, sessions: Sequence[Session], images: Tensor) -> torch.optim.SGD:
    """SGD on the network's own parameters and on what sessions bring; they put their layers into the network first.

    images (n, c, h, w) in [0, 1]: some to try it with.

    Layers that an earlier run put there stand still, unless a session goes on with them.
    """
    settings = recipe.train
    own = list(plain_parameters(model).values())
    for session in sessions:
        session.install(model.net, (images - model.mean) / model.std)
    optimizer = torch.optim.SGD(
        own,
        lr=learning_rate(settings, 0.0),
        momentum=settings.momentum,
        nesterov=settings.nesterov and settings.momentum > 0,
        weight_decay=settings.weight_decay,
    )
    for session in sessions:
        session.join(optimizer)
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for parameter in model.net.parameters():
        if id(parameter) not in trained:
            parameter.requires_grad_(False)
    return optimizer


def average(recipe: Recipe, model: Classifier) -> Average:
    """The average of weights that the recipe asks for; OptionError where batch norm would not belong to it."""
    norms = any(isinstance(m, torch.nn.modules.batchnorm._BatchNorm) for m in model.modules())
    if recipe.average.kind != "none" and norms and not recipe.train.bn_images:
        raise OptionError(
            "averaged weights need batch-norm statistics of their own, but train.bn_images is 0.",
            "Leave it at its default, or set average.kind=none.",
        )
    return Average(recipe.average)


def teacher(recipe: Recipe, start: Checkpoint | None, device: torch.device) -> Net | None:
    """The network that training starts from, without noise and gradients, where it is to be learnt from."""
    if not recipe.distill.weight or start is None:
        return None
    part = recipe.model
    parent = architecture.build(start, arch=part.arch, args=part.args, mean=part.mean, std=part.std)
    parent.requires_grad_(False)
    for layer in noises(parent):
        layer.silent = True
    return parent.to(device)
