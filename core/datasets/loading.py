"""`load` and `info`: a data set by registered name or by path."""

from dataclasses import dataclass, replace
from pathlib import Path

from .. import registry
from ..errors import InputFileError, OptionError, UnknownNameError
from .arrays import Raw, to_dataset
from .dataset import Dataset
from .path import read_path


@dataclass(frozen=True)
class DatasetInfo:
    """What is usual for a data set.

    eps      L-inf radius in [0, 1] pixel units; None where there is no usual one, so that the user must give it
    augment  augmentation in training, a kind that `augment.augment` knows
    classes  number of classes; None for a path, where only reading it tells
    """

    eps: float | None
    augment: str
    classes: int | None


def load(
    name_or_path: str | Path,
    split: str = "test",
    *,
    directory: str | Path | None = None,
    data_range: float | None = None,
    limit: int | None = None,
) -> Dataset:
    """One split of a data set, kept as stored.

    name_or_path  a registered name (`robustq methods dataset`), else a path: .npz, .safetensors, a folder of class
                  folders, IDX files, CIFAR python or binary batches, the last two also compressed with gzip or xz.
                  A name wins over a path: write ./mnist for a folder of that name
    directory     folder searched first for a named data set
    data_range    what stored values are divided by, instead of 255 for uint8 and 1 for floats
    limit         only the first images

    Raises UnknownNameError, InputFileError (missing or damaged file), DataError (range, labels, missing split),
    UnsafeFileError (a pickle that would run code).
    """
    if limit is not None and limit < 1:
        raise OptionError(f"--limit is {limit}.", "It is a number of images, at least 1.")
    name = str(name_or_path)
    try:
        raw = _read(name_or_path, split, directory)
    except OSError as error:  # a folder that may not be listed, a name that is too long
        raise InputFileError(f"{error.filename or name}: cannot be read ({error.strerror or error}).") from None
    return to_dataset(raw, name, split, data_range).first(limit)


def _read(name_or_path: str | Path, split: str, directory: str | Path | None) -> Raw:
    name = str(name_or_path)
    if name in registry.TABLE["dataset"] and isinstance(name_or_path, str):
        folder = None if directory is None else Path(directory)
        if folder is not None and not folder.is_dir():
            raise InputFileError(f"{folder}: there is no such folder.", "--data-dir is the folder that holds the data.")
        known = registry.find(name, "dataset")
        return replace(known().read(split, folder), class_names=known.class_names)
    return read_path(_existing(name), split)


def info(name_or_path: str | Path) -> DatasetInfo:
    """The usual radius, augmentation and number of classes of a named data set; nothing is known of a path."""
    name = str(name_or_path)
    if name in registry.TABLE["dataset"] and isinstance(name_or_path, str):
        known = registry.find(name, "dataset")
        return DatasetInfo(known.eps, known.augment, known.classes)
    _existing(name)
    return DatasetInfo(None, "none", None)


def _existing(name: str) -> Path:
    path = Path(name)
    try:
        if path.exists():
            return path
    except OSError as error:
        raise InputFileError(f"{name}: cannot be read ({error.strerror}).") from None
    if path.suffix or len(path.parts) > 1:
        raise InputFileError(f"{name}: there is no such file or folder.")
    hint = registry.suggest(name, registry.names("dataset"))
    raise UnknownNameError(f"There is no data set named {name!r}, nor a file or folder.", hint)
