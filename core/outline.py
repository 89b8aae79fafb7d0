"""The tensors a pickle describes, read with inert stand-ins: nothing in it is imported and nothing is run.

For files that must not be loaded (pickled modules, TorchScript, hostile pickles), so that they can still be described.
"""

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from .errors import InputFileError

MAX_DEPTH = 64
MAX_TENSORS = 100_000
_TRANSPARENT = ("_parameters", "_buffers", "_modules")  # of nn.Module: they add nothing to a tensor's name


@dataclass(frozen=True)
class Shape:
    """A tensor that was described but not read."""

    shape: tuple[int, ...]
    dtype: str


class _Inert(dict[Any, Any]):
    """Stands for every class and function: it can be called, filled and given a state, and does nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "_Inert":
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()
        for number, argument in enumerate(args):
            self[number] = argument  # what it was made from may hold tensors

    def __hash__(self) -> int:  # type: ignore[override]
        return id(self)

    def __call__(self, *args: Any, **kwargs: Any) -> "_Inert":
        return _Inert(*args)

    def __setstate__(self, state: Any) -> None:
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, Mapping):
                self.update(part)

    def append(self, item: Any) -> None:
        self[len(self)] = item

    def extend(self, items: Any) -> None:
        for item in items:
            self.append(item)

    add = append


class _Reader(pickle._Unpickler):  # the one in Python: the one in C allocates as much memory as a pickle asks for
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch._utils" and name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3"):
            return _rebuild
        if module == "torch._utils" and name in ("_rebuild_parameter", "_rebuild_parameter_with_state"):
            return _first
        if module.startswith("torch") and name.endswith("Storage"):
            return name.removesuffix("Storage").lower()
        return dict if (module, name) == ("collections", "OrderedDict") else _Inert

    def persistent_load(self, pid: Any) -> Any:
        kind, what = [*pid, None, None][:2] if isinstance(pid, (tuple, list)) else (None, None)
        return str(what) if kind == "storage" else what  # the other kind there is: a class, and its source


_DTYPES = {"float": "float32", "double": "float64", "half": "float16", "long": "int64", "int": "int32"}
_DTYPES |= {"short": "int16", "char": "int8", "byte": "uint8"}


def _rebuild(storage: Any = None, offset: Any = 0, size: Any = (), *rest: Any) -> Any:
    sizes = tuple(size) if isinstance(size, (tuple, list)) else ()
    if not isinstance(storage, str) or not all(isinstance(axis, int) for axis in sizes):
        return None
    return Shape(sizes, _DTYPES.get(storage, storage))


def _first(data: Any = None, *rest: Any) -> Any:
    return data


def read(stream: BinaryIO, skip: int = 0) -> dict[str, Shape]:
    """{name: Shape} of the tensors in the next pickle of the stream, after `skip` others. Raises InputFileError."""
    try:
        for _ in range(skip):
            _Reader(stream).load()
        found = _Reader(stream).load()
    except Exception as error:  # hostile input makes an unpickler raise anything
        raise InputFileError(f"the pickle cannot be read: {error or type(error).__name__}.") from None
    return dict(_walk(found, "", set(), 0))


def _walk(found: Any, name: str, seen: set[int], depth: int) -> Iterator[tuple[str, Shape]]:
    if isinstance(found, Shape):
        yield name or "(the tensor)", found
        return
    if not isinstance(found, (Mapping, list, tuple)) or id(found) in seen or depth > MAX_DEPTH:
        return
    if len(seen) > MAX_TENSORS:
        return
    seen.add(id(found))
    for key, value in found.items() if isinstance(found, Mapping) else enumerate(found):
        parts = [name] if key in _TRANSPARENT else [name, str(key)]
        yield from _walk(value, ".".join(part for part in parts if part), seen, depth + 1)
