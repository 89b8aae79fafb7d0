"""From a checkpoint to a network: built-in classes found from the state dict itself, others by `--arch`."""

import importlib
import importlib.util
import inspect
import math
from ast import literal_eval
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from . import registry
from .errors import ArchitectureError, OptionError, RobustqError, UnsafeFileError
from .inserted import restore
from .recipe import Spec
from .shrinking.narrow import narrow

if TYPE_CHECKING:
    from .checkpoint import Checkpoint


class Classifier(nn.Module):
    """A network with its normalisation inside: x (n, c, h, w) in [0, 1] -> logits (n, classes)."""

    mean: Tensor
    std: Tensor

    def __init__(self, net: nn.Module, mean: Sequence[float] | None = None, std: Sequence[float] | None = None) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", _per_channel(mean, 0.0), persistent=False)
        self.register_buffer("std", _per_channel(std, 1.0), persistent=False)

    @property
    def normalization(self) -> dict[str, list[float]]:
        """{"mean", "std"} as they are recorded in files: as many digits as float32 has."""
        pairs = (("mean", self.mean), ("std", self.std))
        return {name: [float(f"{v:.7g}") for v in values.flatten().tolist()] for name, values in pairs}

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - self.mean) / self.std)


def create(arch: str, args: Mapping[str, Any] | None = None) -> nn.Module:
    """A network with fresh weights from NAME, file.py:factory or pkg.mod:factory and its arguments."""
    if ":" not in arch:
        return registry.create(arch, args or {}, "model").build()
    factory = _factory(arch)
    values = {key: _literal(value) for key, value in (args or {}).items()}
    try:
        inspect.signature(factory).bind(**values)
    except TypeError as error:
        raise ArchitectureError(f"--arch {arch}: {error}.", "Check the --arch-arg names.") from None
    try:
        net = factory(**values)
    except Exception as error:
        raise ArchitectureError(f"--arch {arch}: the factory failed: {type(error).__name__}: {error}") from error
    if not isinstance(net, nn.Module):
        raise ArchitectureError(f"--arch {arch} returned {type(net).__name__}, not a torch.nn.Module.")
    return net


def identify(shapes: Mapping[str, tuple[int, ...]]) -> Spec | None:
    """The built-in architecture whose state dict has exactly these keys and shapes, or None."""
    for name in registry.names("model"):
        args = registry.find(name, "model").match(shapes)
        if args is None:
            continue
        try:
            with torch.device("meta"):
                built = create(name, args).state_dict()
        except RobustqError:
            continue
        if not _differences(_without_counters(built), _without_counters(shapes)):
            return Spec(name, args)
    return None


def build(
    checkpoint: "Checkpoint",
    *,
    arch: str | None = None,
    args: Mapping[str, Any] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Classifier:
    """The checkpoint's network with its weights, in eval mode, normalisation inside.

    The class is `arch`, else the built-in one that the file records or its weights fit. Normalisation recorded in the
    file is applied; other values than the recorded ones raise OptionError.
    """
    weights = checkpoint.dense()
    spec = resolve(checkpoint, arch, args)
    net = create(spec.name, spec.options)
    if checkpoint.meta.get("shrunk") is not None:
        try:
            narrow(net, {name: tuple(value.shape) for name, value in weights.items()}, checkpoint.meta["shrunk"])
        except ArchitectureError as error:
            raise ArchitectureError(f"{checkpoint.source.path}: {error.problem}", error.remedy) from None
    restore(net, checkpoint.meta.get("inserted") or (), weights)
    _load(net, weights, f"{checkpoint.source.path}: --arch {spec.name}")
    mean, std = normalization(checkpoint, mean, std)
    return Classifier(net.float(), mean, std).eval()


def resolve(checkpoint: "Checkpoint", arch: str | None = None, args: Mapping[str, Any] | None = None) -> Spec:
    """Which architecture `build` would use; ArchitectureError where none is known.

    A file may name a built-in class and no other: a factory of its choice would be code of its choice, run on loading.
    So `arch` and `args` have to repeat a recorded factory, else UnsafeFileError.
    """
    if arch is not None:
        return Spec(arch, dict(args or {}))
    recorded = _recorded(checkpoint)
    if recorded is not None and ":" in recorded.name:
        raise UnsafeFileError(
            f"{checkpoint.source.path}: its class is {recorded.name!r}, code from outside robustq, which a file may"
            " name but not run.",
            f"If you know and trust that code, name it yourself: {_flags(recorded)}.",
        )
    if recorded is not None:
        return Spec(recorded.name, {**recorded.options, **(args or {})})
    found = identify({name: tuple(t.shape) for name, t in checkpoint.dense().items()})
    if found is None:
        raise ArchitectureError(
            f"{checkpoint.source.path}: this is a bare state dict, and none of the built-in networks"
            f" ({', '.join(registry.names('model'))}) has its keys and shapes.",
            "Name its class: --arch file.py:factory or --arch pkg.mod:factory. Without the class, `robustq compress`"
            " (data-free), `inspect` and `export --to safetensors,state-dict` work.",
        )
    return Spec(found.name, {**found.options, **(args or {})})


def _recorded(checkpoint: "Checkpoint") -> Spec | None:
    """The class that the file's header names."""
    recorded = checkpoint.meta.get("arch")
    return None if recorded is None else Spec(recorded["name"], dict(recorded.get("args", {})))


def _flags(spec: Spec) -> str:
    return " ".join([f"--arch {spec.name}", *(f"--arch-arg {key}={value}" for key, value in spec.options.items())])


def normalization(
    checkpoint: "Checkpoint", mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float] | None, Sequence[float] | None]:
    """The mean and std to use: the recorded ones, or the given ones where none are recorded."""
    recorded = checkpoint.meta.get("normalization")
    if recorded is None:
        return mean, std
    for flag, given, known in (("--mean", mean, recorded["mean"]), ("--std", std, recorded["std"])):
        if given is not None and not _same(given, known):
            raise OptionError(
                f"{checkpoint.source.path}: {flag} is {list(given)}, but the file records {list(known)}.",
                f"Leave {flag} out: the recorded normalisation is applied by itself.",
            )
    return recorded["mean"], recorded["std"]


def _same(given: Sequence[float], known: Sequence[float]) -> bool:
    """Equal as far as float32, in which they are used, can tell."""
    return len(given) == len(known) and all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(given, known, strict=True))


def _without_counters(entries: Mapping[str, Any]) -> dict[str, tuple[int, ...]]:
    """Shapes by name, less batch counters: they do not change what a network computes, and older files lack them."""
    shapes = {name: tuple(getattr(entry, "shape", entry)) for name, entry in entries.items()}
    return {name: shape for name, shape in shapes.items() if not name.endswith("num_batches_tracked")}


def _per_channel(values: Sequence[float] | None, default: float) -> Tensor:
    return torch.tensor([default] if values is None else list(values), dtype=torch.float32).view(1, -1, 1, 1)


def _factory(arch: str) -> Callable[..., Any]:
    place, _, name = arch.rpartition(":")
    try:
        module = _module_from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ImportError as error:
        raise ArchitectureError(f"--arch {arch}: {place} cannot be imported: {error}.") from None
    factory = getattr(module, name, None)
    if not callable(factory):
        there = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        raise ArchitectureError(f"--arch {arch}: {place} has no callable {name!r}.", registry.suggest(name, there))
    return factory


def _module_from_file(path: Path) -> Any:
    if not path.is_file():
        raise ArchitectureError(f"--arch: there is no file {path}.", "Write --arch path/to/file.py:factory.")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise ArchitectureError(f"--arch: {path} is not a Python file.")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ArchitectureError(f"--arch: {path} does not run: {type(error).__name__}: {error}.") from error
    return module


def _literal(value: Any) -> Any:
    """Text of a Python literal -> its value, other text as it is."""
    try:
        return literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value


def _load(net: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    differences = _differences(_without_counters(net.state_dict()), _without_counters(weights))
    if differences:
        more = f" and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise ArchitectureError(
            f"{where} does not fit the weights: {'; '.join(differences[:5])}{more}.",
            "Check --arch and --arch-arg.",
        )
    net.load_state_dict(weights, strict=False)  # batch counters may be missing


def _differences(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]]) -> list[str]:
    missing = [f"{name} is missing" for name in expected if name not in found]
    extra = [f"{name} is not in the class" for name in found if name not in expected]
    wrong = [
        f"{name} is {list(found[name])}, the class has {list(shape)}"
        for name, shape in expected.items()
        if name in found and found[name] != shape
    ]
    return wrong + missing + extra
