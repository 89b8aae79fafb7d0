"""From the arrays of a file to a `Dataset`: layout, range and labels are recognised and checked here, for every format.

Layouts: (n, h, w) is grey. Of four axes the second or the last is the channel axis: the one of length 1 or 3, else the
one of length 4, else the one that leaves height and width equal. Where that fits both, as in (n, 3, 32, 3), NCHW is
taken and a note says so.
"""

from dataclasses import dataclass

import numpy as np
import torch

from ..errors import DataError, OptionError
from .dataset import Dataset

_DARK = 64  # a uint8 data set that never reaches this value is hardly one of 0..255


@dataclass(frozen=True)
class Raw:
    """What a loader read, unchecked.

    images (n, h, w), (n, c, h, w) or (n, h, w, c) of any dtype; labels (n,) or (n, 1)
    layout "NCHW" where the format fixes it, "" where it has to be recognised
    class_names one a class where they are known
    classes None means the highest label + 1; divisor None means 255 for uint8 and 1 for floats
    """

    images: np.ndarray
    labels: np.ndarray
    classes: int | None = None
    divisor: float | None = None
    notes: tuple[str, ...] = ()
    layout: str = ""
    class_names: tuple[str, ...] = ()


def to_dataset(raw: Raw, name: str, split: str, data_range: float | None = None) -> Dataset:
    """Check what was read and make it a Dataset; DataError names `name` and the value found."""
    images, ambiguous = channels_first(raw.images, name, raw.layout)
    images, divisor, dark = _scaled(images, raw.divisor, data_range, name)
    labels, classes = _labels(raw.labels, len(images), raw.classes, name)
    notes = tuple(f"{name}: {note}" for note in (*raw.notes, ambiguous, dark) if note)
    names = raw.class_names if len(raw.class_names) == classes else ()
    return Dataset(name, split, torch.from_numpy(images), torch.from_numpy(labels), classes, divisor, notes, names)


def channels_first(images: np.ndarray, name: str, layout: str = "") -> tuple[np.ndarray, str]:
    """(n, h, w), NCHW or NHWC -> (n, c, h, w), and a note where the layout is ambiguous."""
    if images.ndim not in (3, 4) or 0 in images.shape:
        raise DataError(
            f"{name}: images have shape {tuple(images.shape)}.",
            "Images must be (n, h, w), (n, channels, h, w) or (n, h, w, channels), with at least one image.",
        )
    if images.ndim == 3:
        return images[:, None], ""
    _, a, b, c = images.shape
    rules = ((a in (1, 3), c in (1, 3)), (a == 4, c == 4), (b == c, a == b))
    first, last = (True, False) if layout == "NCHW" else next((rule for rule in rules if any(rule)), (False, False))
    if not first and not last:
        raise DataError(
            f"{name}: no axis of images of shape {tuple(images.shape)} can be the channels.",
            "Store them as (n, channels, h, w) with 1, 3 or 4 channels.",
        )
    note = f"images of shape {tuple(images.shape)} were read as (n, channels, h, w)" if first and last else ""
    return (images if first else images.transpose(0, 3, 1, 2)), note


def _scaled(
    images: np.ndarray, declared: float | None, given: float | None, name: str
) -> tuple[np.ndarray, float, str]:
    """The images as contiguous uint8 or float32, what they are divided by, and a note where that looks wrong."""
    kind = images.dtype
    if given is not None and not (np.isfinite(given) and given > 0):
        raise OptionError(f"--data-range is {given!r}.", "It is the largest value a pixel can have, for example 255.")
    if kind.kind not in "buif":
        raise DataError(f"{name}: images have dtype {kind}.", "Store them as uint8 or float32.")
    divisor = given or declared or {"b": 1.0, "f": 1.0}.get(kind.kind, 255.0 if kind == np.uint8 else None)
    if divisor is None:
        raise DataError(
            f"{name}: images are {kind}, whose range is not known.",
            "Give the largest value a pixel can have: --data-range 255, for example.",
        )
    stored = np.uint8 if kind in (np.uint8, np.bool_) else np.float32
    images = np.require(images, stored, ["C", "W"])  # torch wants memory that may be written to
    low, high = float(images.min()), float(images.max())
    if np.isnan(low) or np.isnan(high):
        raise DataError(f"{name}: images hold NaN.", "Every pixel must be a finite number.")
    if low < 0 or high > divisor:
        raise DataError(
            f"{name}: pixel values lie in [{low:g}, {high:g}], outside [0, {divisor:g}].",
            "Give the largest value a pixel can have with --data-range; normalised images must be stored unnormalised.",
        )
    dark = given is None and declared is None and kind == np.uint8 and high < _DARK
    note = f"the largest pixel is {high:g}, but uint8 is divided by 255; if that is not its range, give --data-range"
    return images, float(divisor), note if dark else ""


def _labels(labels: np.ndarray, images: int, classes: int | None, name: str) -> tuple[np.ndarray, int]:
    """labels -> (n,) int64 in [0, classes), and the number of classes."""
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "ui":
        raise DataError(
            f"{name}: labels have shape {tuple(labels.shape)} and dtype {labels.dtype}.",
            "Labels are one whole number for each image, counted from 0.",
        )
    if len(labels) != images:
        raise DataError(f"{name}: there are {images} images but {len(labels)} labels.")
    labels = labels.astype(np.int64)
    low, high = int(labels.min()), int(labels.max())
    limit = high + 1 if classes is None else classes
    if low < 0 or high >= limit:
        raise DataError(
            f"{name}: labels lie in [{low}, {high}].",
            "Labels are counted from 0." if low < 0 else f"There are {limit} classes, so the highest is {limit - 1}.",
        )
    return labels, limit
