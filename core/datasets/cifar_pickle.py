"""CIFAR's pickled batches, read without letting the pickle call anything.

Every name a pickle may look up is answered with a stand-in that only records what it is given; the array is then made
from the recorded type, shape and bytes. A batch needs four names; any other is refused before it is looked up.
"""

import io
import math
import pickle
import re
from typing import Any

import numpy as np

from ..errors import InputFileError, UnsafeFileError
from .arrays import Raw

_LABELS = {"labels": 10, "fine_labels": 100}


def read(content: bytes, where: object) -> Raw:
    """The bytes of a pickled batch -> images (n, 3, 32, 32), labels (n,) and 10 or 100 classes."""
    entry = _loaded(content, where)
    table = {_text(key): value for key, value in entry.items()} if isinstance(entry, dict) else {}
    key = next((name for name in _LABELS if name in table), None)
    if key is None or "data" not in table:
        found = ", ".join(sorted(str(name) for name in table)) or type(entry).__name__
        raise InputFileError(f"{where}: not a CIFAR batch: it holds {found}.", "A batch has 'data' and 'labels'.")
    data, labels = _array(table["data"], where), _array(table[key], where)
    if data.dtype != np.uint8 or data.ndim != 2 or data.shape[1] != 3072:
        raise InputFileError(f"{where}: 'data' is {data.dtype} {data.shape}, not uint8 (n, 3072).")
    return Raw(data.reshape(-1, 3, 32, 32), labels, _LABELS[key], layout="NCHW")


def _loaded(content: bytes, where: object) -> Any:
    try:
        return _Reader(content, where).load()
    except UnsafeFileError:
        raise
    except Exception as error:  # a damaged pickle can raise anything: it is a program
        raise InputFileError(f"{where}: the pickle is damaged ({error}).", "Fetch it again.") from None


class _Reader(pickle.Unpickler):
    def __init__(self, content: bytes, where: object) -> None:
        super().__init__(io.BytesIO(content), encoding="latin1")
        self.where = where
        self.names = _stand_ins()

    def find_class(self, module: str, name: str) -> Any:
        place = f"{module.replace('numpy._core', 'numpy.core')}.{name}"
        if place not in self.names:
            raise UnsafeFileError(
                f"{self.where}: the pickle asks for {module}.{name}, which could run code; it was refused.",
                "A CIFAR batch holds only numbers, text and one array. Get the file from its authors.",
            )
        return self.names[place]


def _stand_ins() -> dict[str, Any]:
    """Name in the pickle -> what answers it. Made anew for each file, which could set attributes on them."""

    class Dtype:
        def __init__(self, name: Any, *_: Any) -> None:
            self.name = name

        def __setstate__(self, state: Any) -> None: ...

    class Array:
        state: Any = None  # name of the type, shape, bytes, order of the axes

        def __init__(self, *_: Any) -> None: ...

        def __setstate__(self, state: Any) -> None:
            _, shape, dtype, fortran, content = state
            content = content.encode("latin1") if isinstance(content, str) else content  # Python 2 knew no bytes
            self.state = (dtype.name, shape, content, "F" if fortran else "C")

    class FromBuffer(Array):
        def __init__(self, content: Any, dtype: Any, shape: Any, order: Any) -> None:
            self.state = (dtype.name, shape, bytes(content), "F" if order == "F" else "C")

    def encode(text: Any, _: Any = "latin1") -> bytes:
        return text.encode("latin1")

    return {
        "numpy.core.multiarray._reconstruct": Array,
        "numpy.core.numeric._frombuffer": FromBuffer,
        "numpy.ndarray": "numpy.ndarray",
        "numpy.dtype": Dtype,
        "_codecs.encode": encode,
    }


def _array(value: Any, where: object) -> np.ndarray:
    """A recorded array, or a list of whole numbers, as an array."""
    if isinstance(value, list) and all(type(item) is int and abs(item) < 2**31 for item in value):
        return np.array(value, np.int64)
    dtype, shape, content, order = getattr(value, "state", None) or ("", (), b"", "C")
    known = re.fullmatch(r"[iu][1248]", _text(dtype)) is not None
    whole = isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)
    if not known or not whole or not isinstance(content, bytes):
        raise InputFileError(f"{where}: it does not hold an array of whole numbers where one should be.")
    kind = np.dtype(_text(dtype))
    if len(content) != math.prod(shape) * kind.itemsize:
        raise InputFileError(f"{where}: an array of shape {shape} has {len(content)} bytes.", "Fetch it again.")
    return np.frombuffer(content, kind).reshape(shape, order=order)


def _text(value: Any) -> str:
    return value.decode("latin1") if isinstance(value, bytes) else str(value)
