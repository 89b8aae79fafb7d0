"""What a training run needs before its first step, made from the recipe."""

from collections.abc import Mapping

from torch import Tensor

from . import architecture, datasets, registry, rng
from .architecture import Classifier
from .attacks.attack import Attack
from .attacks.pgd import Pgd
from .checkpoint import Checkpoint
from .datasets.dataset import Dataset
from .errors import OptionError
from .objectives.objective import Objective
from .recipe import Recipe, Spec
from .session import Session
from .threat import resolve_attack


def resolved(recipe: Recipe, start: Checkpoint | None) -> Recipe:
    """The recipe with the defaults that depend on its data and its start filled in."""
    if recipe.data.name is None:
        raise OptionError("training needs data.", "Give --data NAME or --data PATH.")
    lr = recipe.train.lr if recipe.train.lr is not None else (0.1 if start is None else 0.01)
    augment = recipe.data.augment or datasets.info(recipe.data.name).augment
    return recipe.replace("train", lr=lr).replace("data", augment=augment)


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


def objective(recipe: Recipe) -> Objective:
    """The recipe's objective; natural training where none is named."""
    spec = recipe.objective or Spec("natural")
    return registry.create(spec.name, spec.options, "objective")


def attack(recipe: Recipe, objective: Objective) -> Attack | None:
    """The inner attack: the recipe's, else PGD-7 at the data set's radius; None for natural training."""
    if not objective.ADVERSARIAL:
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
    return found
