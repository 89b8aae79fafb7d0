"""A folder of class folders of PNG or JPEG images, for one split or with a folder for each split above them.

Classes are numbered in the order of their names. Images are taken from the classes in turn (the first of each, then the
second of each), so that the first N images are balanced.
"""

import warnings
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, InputFileError
from .archive import missing_split
from .arrays import Raw

_SUFFIXES = (".png", ".jpg", ".jpeg")
_SPLITS = ("train", "test", "val", "valid", "validation")
_GREY, _COLOUR = ("1", "L", "LA"), ("RGB", "RGBA", "P", "PA", "CMYK", "YCbCr")  # transparency is dropped


def read(root: Path, split: str) -> Raw:
    """One split: all images grey (n, h, w), or all as RGB (n, 3, h, w) where any has colour; uint8."""
    present = {name: root / name for name in _SPLITS if _classes(root / name)}
    if present and split not in present:
        raise missing_split(root, split, present)
    top = present.get(split, root)
    names = sorted({name for base in (present.values() or [root]) for name in _classes(base)})
    if not names:
        raise InputFileError(
            f"{root}: no data of a known kind is in this folder.",
            "Known are class folders of PNG or JPEG images, IDX files and CIFAR batches.",
        )
    files = _in_turn([_images(top / name) for name in names])
    arrays = [_decode(path) for _, path in files]
    if any(a.ndim == 3 for a in arrays):
        arrays = [a if a.ndim == 3 else np.repeat(a[..., None], 3, axis=2) for a in arrays]
    for (_, path), array in zip(files, arrays, strict=True):
        if array.shape != arrays[0].shape:
            raise DataError(
                f"{path}: this image is {array.shape[1]}x{array.shape[0]}, {files[0][1]} is "
                f"{arrays[0].shape[1]}x{arrays[0].shape[0]}.",
                "All images must have one size; resize them first.",
            )
    images = np.stack(arrays)
    images = images.transpose(0, 3, 1, 2) if images.ndim == 4 else images
    return Raw(
        images, np.array([label for label, _ in files], np.int64), len(names), layout="NCHW", class_names=tuple(names)
    )


def _classes(folder: Path) -> list[str]:
    """The sub-folders that hold images."""
    if not folder.is_dir():
        return []
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and _images(entry))


def _images(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES)


def _in_turn(classes: list[list[Path]]) -> list[tuple[int, Path]]:
    rounds = zip_longest(*classes)
    return [(label, path) for paths in rounds for label, path in enumerate(paths) if path is not None]


def _decode(path: Path) -> np.ndarray:
    """An image file -> (h, w) or (h, w, 3) uint8."""
    pillow = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(path) as image:
                if image.mode not in _GREY + _COLOUR:
                    raise DataError(
                        f"{path}: images of mode {image.mode!r} are not read.", "Store them with 8 bits a channel."
                    )
                return np.asarray(image.convert("L" if image.mode in _GREY else "RGB"))
    except (OSError, SyntaxError, ValueError, pillow.DecompressionBombWarning, pillow.DecompressionBombError) as error:
        raise InputFileError(f"{path}: the image cannot be read ({error}).") from None


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError:
        raise DataError("Reading image files needs Pillow, which is not installed.", "pip install pillow") from None
    return Image
