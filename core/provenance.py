"""The `meta` of a robustq file: what each entry must look like, checked once on reading."""

from collections.abc import Callable, Mapping
from typing import Any

from .errors import InputFileError


def check(meta: Mapping[str, Any]) -> None:
    """Raise InputFileError where a known entry is not of its form; all are optional, unknown ones are ignored."""
    for key, (fits, form) in _FORMS.items():
        if meta.get(key) is not None and not fits(meta[key]):
            raise InputFileError(
                f"the header's {key!r} is {str(meta[key])[:80]!r}, not {form}.",
                "The file is damaged, or its writer was: compress the model again.",
            )


def _arch(value: Any) -> bool:
    return isinstance(value, dict) and _text(value.get("name")) and isinstance(value.get("args", {}), dict)


def _normalization(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    mean, std = _numbers(value.get("mean")), _numbers(value.get("std"))
    return bool(mean and std) and len({1, len(mean), len(std)}) <= 2 and min(std) > 0


def _data(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    shape = value.get("shape")
    whole = isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)
    return (value.get("name") is None or _text(value["name"])) and (shape is None or whole)


def _parent(value: Any) -> bool:
    """The name is looked for beside the file: it must not lead to another folder."""
    if not isinstance(value, dict) or not isinstance(value.get("sha256"), str):
        return False
    name = value.get("name")
    return isinstance(name, str) and name not in (".", "..") and not set(name) & {"/", "\\", "\0"}


def _methods(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(method, dict) and _text(method.get("name")) for method in value)


def _names(value: Any) -> bool:
    return isinstance(value, list) and all(_text(name) for name in value)


def _inserted(value: Any) -> bool:
    """Layers that were put into the network, see `inserted`: whatever builds them relies on these entries."""
    return isinstance(value, list) and all(
        isinstance(entry, dict)
        and _names(entry.get("at"))
        and entry.get("kind") in _INSERTED
        and all(fits(entry.get(key)) for key, fits in _INSERTED[entry["kind"]].items())
        for entry in value
    )


def _shrunk(value: Any) -> bool:
    """What cuts a network to the shapes in the file, see `shrinking.narrow`."""
    pads = value.get("pads", {}) if isinstance(value, dict) else None
    return isinstance(pads, dict) and all(
        isinstance(widths, list) and len(widths) == 2 and all(type(width) is int and width >= 0 for width in widths)
        for widths in pads.values()
    )


def _text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def _numbers(value: Any) -> list[float]:
    """The value if it is a list of finite numbers, else an empty list."""
    plain = isinstance(value, list) and all(type(v) in (int, float) and abs(v) < 1e30 for v in value)
    return value if plain else []


def _one_of(*words: str) -> Callable[[Any], bool]:
    return lambda value: value in words


_NOISE = {"level": _one_of("layer", "channel", "element")}
_SIGNAL = {**_NOISE, "over": _one_of("sample", "batch")}
_RELU = {"bits": lambda v: type(v) is int and 1 <= v <= 8, "coarse": _one_of("mean", "ae", "min", "pact")}
_INSERTED: dict[str, dict[str, Callable[[Any], bool]]] = {
    "weight-noise": _NOISE,
    "input-noise": _SIGNAL,
    "output-noise": _SIGNAL,
    "quantized-relu": _RELU,
}
_FORMS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "arch": (_arch, '{"name", "args"}'),
    "normalization": (_normalization, '{"mean", "std"} with a number for each channel, each std above 0'),
    "data": (_data, '{"name", "shape"}'),
    "parent": (_parent, '{"name", "sha256"} with the plain name of a file'),
    "methods": (_methods, 'a list of {"name", ...}'),
    "keep_fp": (_names, "a list of names"),
    "inserted": (_inserted, 'a list of {"kind", ..., "at"} of known kinds of layers'),
    "shrunk": (_shrunk, '{"pads"}, two numbers of channels for each shortcut'),
    "recipe": (lambda value: isinstance(value, dict), "a table"),
}
