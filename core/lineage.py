"""The float parents of the models that are compared: named by the user, among the models, or beside a child's file."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from . import architecture
from .attacks.replay import Parent
from .checkpoint import Checkpoint, sha256
from .datasets.dataset import Dataset
from .errors import ArchitectureError, RobustqError, UnsafeFileError
from .fit import check_shape
from .recipe import Recipe
from .runnable import Runnable, load_any


def recorded(checkpoints: Mapping[str, Checkpoint]) -> dict[str, str]:
    """Model -> its float parent, where the file records it and it is among the models."""
    by_hash = {checkpoint.source.sha256: name for name, checkpoint in checkpoints.items()}
    known = {name: (c.meta.get("parent") or {}).get("sha256") for name, c in checkpoints.items()}
    return {name: by_hash[parent] for name, parent in known.items() if parent and parent in by_hash}


def informed(parent: Checkpoint, child: Checkpoint) -> Checkpoint:
    """The parent, with its child's normalisation where it records none: a bare state dict has none.

    Without it the parent would be measured on other inputs.
    """
    known = child.meta.get("normalization")
    if not known or parent.meta.get("normalization"):
        return parent
    return replace(parent, meta={**parent.meta, "normalization": known})


def beside(checkpoint: Checkpoint) -> Path | None:
    """The recorded parent's file in the folder of the child's, if it is that very file."""
    parent = checkpoint.meta.get("parent") or {}
    if not parent.get("name"):
        return None
    path = Path(checkpoint.source.path).parent / parent["name"]
    return path if path.is_file() and sha256(path) == parent["sha256"] else None


@dataclass
class Lineage:
    """Finds and builds the parent of each model, each parent once, so that what is crafted on it is shared.

    given      the file of --parent, for all models; arch: its class (--parent-arch), else its own or the models'
    notes      parents that were found by themselves and could not be built, and why
    """

    checkpoints: Mapping[str, Checkpoint]
    recipe: Recipe
    data: Dataset
    given: str | Path | None = None
    arch: str | None = None
    trust_pickle: bool = False
    trust_program: bool = False
    notes: list[str] = field(default_factory=list)
    _built: dict[str, Parent] = field(default_factory=dict)

    def of(self, name: str) -> Parent | None:
        """The parent of a model, if one is known. Raises what loading and building raise for the one that was given."""
        child = self.checkpoints[name]
        if self.given is not None:
            found = self._read(self.given)
            same = found.source.sha256 == child.source.sha256 and self.arch is None
            return None if same else self._parent(found, child)
        among = recorded(self.checkpoints).get(name)
        try:
            if among is not None:
                return self._parent(self.checkpoints[among], child)
            path = beside(child)
            return None if path is None else self._parent(self._read(path), child)
        except RobustqError as error:
            self.notes.append(f"{name}: its float parent cannot be used for replay: {error.problem}")
            return None

    def _read(self, path: str | Path) -> Checkpoint:
        return load_any(path, trust_pickle=self.trust_pickle, trust_program=self.trust_program)

    def _parent(self, found: Checkpoint, child: Checkpoint) -> Parent:
        key = found.source.sha256
        if key not in self._built:
            model = self._build(found, child).to(self.recipe.run.device)
            check_shape(model, self.data, found.source.path)
            self._built[key] = Parent(model, len(self.data), key)
        return self._built[key]

    def _build(self, found: Checkpoint, child: Checkpoint) -> architecture.Classifier:
        """A parent that records no normalisation or class has that of its child."""
        part, found = self.recipe.model, informed(found, child)
        if isinstance(found, Runnable):
            return network(found, part.mean, part.std)
        if self.arch is not None:
            return architecture.build(found, arch=self.arch, mean=part.mean, std=part.std)
        try:
            architecture.resolve(found)
        except (ArchitectureError, UnsafeFileError) as error:  # no class, or one that only the user may name
            if part.arch is None:
                remedy = "Name its class: --parent-arch file.py:factory or --parent-arch pkg.mod:factory."
                raise type(error)(error.problem, remedy) from None
            return architecture.build(found, arch=part.arch, args=part.args, mean=part.mean, std=part.std)
        return architecture.build(found, mean=part.mean, std=part.std)


def network(found: Runnable, mean: tuple[float, ...] | None, std: tuple[float, ...] | None) -> architecture.Classifier:
    """A file that is run as it is, as a classifier of images in [0, 1]."""
    net: nn.Module = found.net
    return architecture.Classifier(net, mean, std).eval()
