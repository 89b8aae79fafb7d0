"""A Recipe describes a whole run: from a TOML file, `--set section.key=value`, or flags (the later wins).

    [model]                      [train]               [[compress]]
    arch = "resnet"              epochs = 10           name = "binary-relax"
    args = { depth = 8 }         lr = 0.1              bits = 2
    [data]                       [objective]           [attack]
    name = "fashion-mnist"       name = "trade-off"    name = "pgd"
                                 beta = 8              eps = "0.1"

The resolved recipe is stored in the report and in the compressed file, so any result can be run again.
"""

import dataclasses
import sys
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from .errors import InputFileError, OptionError
from .option import Method, convert, option
from .registry import suggest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]


@dataclass(frozen=True)
class Spec:
    """A method by name, with the options that were given."""

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> "Spec":
        """`NAME[:key=value,...]` as `--compress` and `--arch-arg` take it."""
        name, _, rest = text.partition(":")
        return cls(name.strip(), pairs(rest.split(",") if rest else []))

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, **self.options}


@dataclass(frozen=True, kw_only=True)
class Part(Method):
    """A section of a recipe: errors call its entries as a recipe does."""

    SECTION: ClassVar[str]

    @classmethod
    def _place(cls, option: str) -> str:
        return f"{cls.SECTION}.{option}"


@dataclass(frozen=True, kw_only=True)
class ModelPart(Part):
    """Which network, how it is built, and the normalisation inside it."""

    SECTION = "model"
    init: str | None = option(None, "checkpoint to start from")
    arch: str | None = option(None, "architecture: NAME, file.py:factory or pkg.mod:factory")
    args: dict[str, Any] = field(default_factory=dict, metadata={"help": "arguments of the architecture"})
    mean: tuple[float, ...] | None = option(None, "mean of the normalisation, one a channel", unit="input units")
    std: tuple[float, ...] | None = option(None, "standard deviation, one a channel", unit="input units")


@dataclass(frozen=True, kw_only=True)
class DataPart(Part):
    """Which images."""

    SECTION = "data"
    name: str | None = option(None, "a data set's name or a path")
    split: str | None = option(None, "train or test")
    dir: str | None = option(None, "folder searched first for a named data set")
    range: float | None = option(None, "what stored values are divided by, to lie in [0, 1]", low=1e-12)
    limit: int | None = option(None, "only the first images", low=1)
    augment: str | None = option(
        None, "training augmentation; per data set when not given", choices=(None, "none", "flip", "crop", "crop+flip")
    )


@dataclass(frozen=True, kw_only=True)
class TrainPart(Part):
    """The training loop's own settings."""

    SECTION = "train"
    epochs: int = option(10, "passes over the training images", low=1)
    batch_size: int = option(128, "images a step", low=1)
    lr: float | None = option(None, "learning rate; 0.1 from scratch, 0.01 from a checkpoint", low=0)
    schedule: str = option("cosine", "how the rate falls", choices=("cosine", "step", "constant"))
    warmup: float = option(0.0, "share of the run in which the rate rises linearly from 0", low=0, high=0.5)
    drops: tuple[float, ...] = option((0.5, 0.75), "schedule step: progress at which the rate falls tenfold")
    momentum: float = option(0.9, "of SGD", low=0, high=1)
    nesterov: bool = option(True, "Nesterov's momentum")
    weight_decay: float = option(5e-4, "of SGD, on the latent weights", low=0)
    validation: int = option(2000, "images held out for choosing the checkpoint (at most a fifth)", low=1)
    validation_attack_limit: int = option(1000, "of these, how many are attacked after each epoch", low=1)
    bn_images: int = option(
        2048, "training images over which batch norm is re-estimated for exported weights; 0: never", low=0
    )
    precision: str = option(
        "float32",
        "what the network computes in while it trains, attacks included; weights, losses, validation and all that is"
        " exported are float32 either way",
        choices=("float32", "bf16"),
    )


@dataclass(frozen=True, kw_only=True)
class AveragePart(Part):
    """Weights averaged over training steps, exported in place of the last ones."""

    SECTION = "average"
    kind: str = option("none", "ema decays, swa is the plain mean from `start` on", choices=("none", "ema", "swa"))
    decay: float = option(0.999, "of ema, a step; lower in the first steps", low=0, high=1)
    start: float = option(0.75, "training progress from which swa takes the mean", low=0, high=1)
    cycle: int = option(1, "every how many steps swa takes the weights", unit="steps", low=1)


@dataclass(frozen=True, kw_only=True)
class DistillPart(Part):
    """The network that training starts from as a second teacher beside the labels."""

    SECTION = "distill"
    weight: float = option(0.0, "share of the parent's opinion in the loss; 0: none", low=0, high=1)
    temperature: float = option(1.0, "what logits are divided by before they are compared", low=1e-6)
    parent_sees: str = option("clean", "the clean images, or the same as the network", choices=("clean", "same"))


@dataclass(frozen=True, kw_only=True)
class RunPart(Part):
    """Where and how a run is executed."""

    SECTION = "run"
    seed: int = option(0, "seed of every draw")
    device: str = option("cpu", "torch device")
    threads: int | None = option(None, "CPU threads; torch's choice when not given", low=1)
    batch_size: int | None = option(None, "images evaluated at a time; one that fits when not given", low=1)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A resolved description of one run."""

    model: ModelPart = field(default_factory=ModelPart)
    data: DataPart = field(default_factory=DataPart)
    train: TrainPart = field(default_factory=TrainPart)
    run: RunPart = field(default_factory=RunPart)
    average: AveragePart = field(default_factory=AveragePart)
    distill: DistillPart = field(default_factory=DistillPart)
    objective: Spec | None = None
    attack: tuple[Spec, ...] = ()
    compress: tuple[Spec, ...] = ()
    keep_fp: tuple[str, ...] = ("first", "last")

    @classmethod
    def read(cls, path: str | Path) -> "Recipe":
        """A recipe from a TOML file."""
        try:
            with open(path, "rb") as file:
                return cls.from_dict(tomllib.load(file), str(path))
        except OSError as error:
            raise InputFileError(f"{path}: the recipe cannot be read ({error.strerror}).") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise InputFileError(f"{path}: not a TOML file: {error}.") from None

    @classmethod
    def from_dict(cls, given: Mapping[str, Any], where: str = "recipe") -> "Recipe":
        """A recipe from nested plain values, as TOML and reports hold them."""
        hints = typing.get_type_hints(cls)
        values: dict[str, Any] = {}
        for section, content in given.items():
            if section not in hints:
                raise OptionError(f"{where}: there is no section [{section}].", suggest(section, list(hints)))
            values[section] = _section(hints[section], content, f"{where}: {section}")
        return cls(**values)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; `from_dict` gives the same recipe back. What recorded recipes may lack is left out where
        it changes nothing."""
        whole = self._whole()
        for name in [name for name in _OPTIONAL if getattr(self, name) == _OPTIONAL[name]()]:
            del whole[name]
        if whole["train"]["precision"] == TrainPart.precision:
            del whole["train"]["precision"]
        return whole

    def _whole(self) -> dict[str, Any]:
        return {f.name: _plain(getattr(self, f.name)) for f in dataclasses.fields(self)}

    def with_values(self, assignments: Iterable[str]) -> "Recipe":
        """A copy with `section.key=value` assignments made; lists take an index: `compress.0.bits=2`."""
        content = self._whole()
        for text in assignments:
            place, equals, value = text.partition("=")
            if not equals or "." not in place:
                raise OptionError(f"--set {text}: not an assignment.", "Write --set section.key=value.")
            _assign(content, place.split("."), value, f"--set {text}")
        return Recipe.from_dict({k: v for k, v in content.items() if v is not None}, "--set")

    def portable(self) -> "Recipe":
        """A copy without what only holds on this machine: the data folder, the parent's folder, the thread count."""
        init = self.model.init and Path(self.model.init).name
        return dataclasses.replace(
            self,
            model=dataclasses.replace(self.model, init=init),
            data=dataclasses.replace(self.data, dir=None),
            run=dataclasses.replace(self.run, threads=None),
        )

    def replace(self, section: str, **changes: Any) -> "Recipe":
        """A copy with the given entries of one section changed; None leaves an entry as it is."""
        given = {k: v for k, v in changes.items() if v is not None}
        return dataclasses.replace(self, **{section: dataclasses.replace(getattr(self, section), **given)})


_OPTIONAL = {"average": AveragePart, "distill": DistillPart}  # sections that recorded recipes may lack


def pairs(assignments: Iterable[str]) -> dict[str, Any]:
    """["k=v", ...] -> {"k": "v"}; values stay text until a method's field says what they are."""
    result: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key.strip():
            raise OptionError(f"{text!r} is not an assignment.", "Write key=value.")
        result[key.strip().replace("-", "_")] = value.strip()
    return result


def _section(hint: Any, content: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint) and hint is not Spec:
        return _part(hint, content, where)
    if hint == tuple[str, ...]:
        return convert(hint, content, where)
    if typing.get_origin(hint) is tuple:
        return tuple(_spec(item, where) for item in (content if isinstance(content, list) else [content]))
    return None if content is None else _spec(content, where)


def _part(cls: Any, content: Any, where: str) -> Any:
    if not isinstance(content, Mapping):
        raise OptionError(f"{where} is {content!r}, not a table of entries.")
    hints = typing.get_type_hints(cls)
    known = [f.name for f in dataclasses.fields(cls)]
    values: dict[str, Any] = {}
    for key, value in content.items():
        if key not in known:
            raise OptionError(f"{where} has no entry {key!r}.", suggest(key, known))
        values[key] = dict(value) if isinstance(value, Mapping) else convert(hints[key], value, f"{where}.{key}")
    try:
        return cls(**values)
    except OptionError as error:
        raise OptionError(f"{where.removesuffix(cls.SECTION)}{error.problem}", error.remedy) from None


def _spec(content: Any, where: str) -> Spec:
    if isinstance(content, str):
        return Spec.parse(content)
    if not isinstance(content, Mapping) or not isinstance(content.get("name"), str):
        raise OptionError(f"{where} needs a name.", 'Write name = "..." in it; `robustq methods` lists the names.')
    return Spec(content["name"], {k: v for k, v in content.items() if k != "name"})


def _assign(content: Any, path: list[str], value: str, where: str) -> None:
    for step in path[:-1]:
        known = content
        content = content[_index(content, step, where)] if isinstance(content, list) else content.get(step)
        if content is None:
            hint = suggest(step, list(known)) if known else ""
            raise OptionError(f"{where}: there is no {step!r} to set an entry of.", hint)
    if isinstance(content, list):  # a key of all methods of the list
        if not content:
            raise OptionError(f"{where}: no method is named whose entry this could be.")
        for item in content:
            item[path[-1]] = value
    else:
        content[path[-1]] = value


def _index(content: list[Any], step: str, where: str) -> int:
    if not step.isdigit() or int(step) >= len(content):
        raise OptionError(f"{where}: {step!r} is not a place in a list of {len(content)}.")
    return int(step)


def _plain(value: Any) -> Any:
    if isinstance(value, Spec):
        return value.to_dict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return dict(value) if isinstance(value, Mapping) else value
