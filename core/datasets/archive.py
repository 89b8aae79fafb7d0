"""Arrays by name: `.npz` and `.safetensors`.

Names are x and y, or images and labels, alone or with the split before or after: x_train, y_train, train_images,
test_labels. A lone pair is one split and serves as the split that is asked for; it cannot be both training and test
data of one run without the two having the same `Dataset.sha256`.
"""

import io
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import safetensors.torch

from ..errors import DataError, InputFileError, UnsafeFileError
from .arrays import Raw

_NAME = re.compile(r"(?:([a-z0-9]+)_)?(x|images|y|labels)(?:_([a-z0-9]+))?")
_DAMAGED = (ValueError, OSError, EOFError, KeyError, MemoryError, NotImplementedError, zlib.error, zipfile.BadZipFile)


def read_npz(content: bytes, path: Path, split: str) -> Raw:
    """One split of an .npz file's bytes; pickled arrays in it are refused (UnsafeFileError)."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as stored:
            return _pick(stored.files, stored.__getitem__, split, path)
    except _DAMAGED as error:
        if "allow_pickle" in str(error):
            problem = f"{path}: it holds pickled Python objects, which can run code."
            raise UnsafeFileError(problem, "Store plain arrays of numbers.") from None
        raise InputFileError(f"{path}: the .npz file is damaged ({error}).", "Fetch or write it again.") from None


def read_safetensors(content: bytes, path: Path, split: str) -> Raw:
    """One split of a .safetensors file's bytes."""
    try:
        tensors = safetensors.torch.load(content)
    except (safetensors.SafetensorError, MemoryError) as error:
        problem = f"{path}: the .safetensors file is damaged ({error})."
        raise InputFileError(problem, "Fetch or write it again.") from None

    def array(key: str) -> np.ndarray:
        tensor = tensors[key]
        return (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # NumPy knows no bfloat16

    return _pick(tensors, array, split, path)


def missing_split(where: object, split: str, present: Iterable[str]) -> DataError:
    """The error for a split that a file or folder does not have."""
    found = sorted(present)
    return DataError(
        f"{where}: it has no {split!r} split; it has {', '.join(found) or 'none'}.",
        f"Choose one with --split {found[0]}, or give another file." if found else "Give another file.",
    )


def _pick(names: Iterable[str], array: Callable[[str], np.ndarray], split: str, path: Path) -> Raw:
    images, labels = _by_split(names)
    if not images:
        raise DataError(
            f"{path}: it holds {_few(names)}, but no images under a name that is known.",
            "Name the arrays x and y, or x_train, y_train, x_test and y_test.",
        )
    chosen = split if split in images else ""
    if chosen not in images:
        raise missing_split(path, split, images)
    if chosen not in labels:
        raise DataError(
            f"{path}: {images[chosen]!r} has no labels beside it.",
            f"Store them as {re.sub('images', 'labels', re.sub('x', 'y', images[chosen], count=1))!r}.",
        )
    found = {place: array(key) for place, key in labels.items()}
    # Counted over all splits, so that training and test data agree on the number of classes.
    whole = all(a.dtype.kind in "ui" and a.size for a in found.values())
    classes = max(int(a.max()) for a in found.values()) + 1 if whole else None
    return Raw(array(images[chosen]), found[chosen], classes)


def _few(names: Iterable[str]) -> str:
    ordered = sorted(names)
    return ", ".join(ordered[:5]) + (f" and {len(ordered) - 5} more" if len(ordered) > 5 else "") or "nothing"


def _by_split(names: Iterable[str]) -> tuple[dict[str, str], dict[str, str]]:
    """Key names -> ({split: key of the images}, {split: key of the labels}); the split of a lone pair is ""."""
    images: dict[str, str] = {}
    labels: dict[str, str] = {}
    for name in names:
        match = _NAME.fullmatch(name.lower())
        if match and not (match[1] and match[3]):
            table = images if match[2] in ("x", "images") else labels
            table.setdefault(match[1] or match[3] or "", name)
    return images, labels
