"""CIFAR batches, python or binary, and the two data sets that come in them."""

import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from ..errors import InputFileError
from . import cifar_pickle, compressed
from .archive import missing_split
from .arrays import Raw
from .known import Known, Remote

_PIXELS = 3 * 32 * 32
Batches = dict[str, tuple[str, ...]]  # split -> names of its batches
TEN: Batches = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
HUNDRED: Batches = {"train": ("train",), "test": ("test",)}


def parse(content: bytes, where: object) -> Raw:
    """One batch -> images (n, 3, 32, 32) uint8 and (fine) labels; the red, green and blue planes lie one by one."""
    if content[:1] == b"\x80":
        return cifar_pickle.read(content, where)
    for header, classes in ((1, 10), (2, 100)):  # CIFAR-100 writes the coarse label before the fine one
        if content and len(content) % (header + _PIXELS) == 0:
            rows = np.frombuffer(content, np.uint8).reshape(-1, header + _PIXELS)
            return Raw(rows[:, header:].reshape(-1, 3, 32, 32), rows[:, header - 1], classes, layout="NCHW")
    raise InputFileError(
        f"{where}: neither a pickled nor a binary CIFAR batch ({len(content)} bytes).",
        "A binary batch is a multiple of 3073 bytes (CIFAR-10) or 3074 (CIFAR-100).",
    )


def read_folder(folder: Path, split: str, kinds: tuple[Batches, ...] = (TEN, HUNDRED)) -> Raw | None:
    """One split of a folder of batches; None where there are no batches, DataError where the split is missing."""
    for batches in kinds:
        found = {name: _find(folder, name) for names in batches.values() for name in names}
        present = [split for split, names in batches.items() if all(found[name] for name in names)]
        if not any(found.values()):
            continue
        if split not in present:
            missing = [name for name in batches.get(split, ()) if not found[name]]
            raise missing_split(f"{folder} (no {', '.join(missing)})" if missing else folder, split, present)
        return _join([(compressed.read_bytes(p), p) for name in batches[split] if (p := found[name])])
    return None


def read_file(content: bytes, path: Path, split: str) -> Raw:
    """A single batch; where its name is an official one, it says which split this is."""
    stem = path.name.split(".")[0]
    own = next((s for batches in (TEN, HUNDRED) for s, names in batches.items() if stem in names), split)
    if own != split:
        raise missing_split(path, split, [own])
    return parse(content, path)


def read_tar(path: Path, split: str, batches: Batches) -> Raw:
    """One split straight from the official .tar.gz, of which nothing is unpacked to disk."""
    content: dict[str, bytes] = {}
    try:
        with tarfile.open(path) as archive:
            for member in archive:
                name = Path(member.name).name
                stream = archive.extractfile(member) if name in batches.get(split, ()) else None
                if stream is not None:
                    content[name] = stream.read()
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise InputFileError(f"{path}: the archive is damaged ({error}).", "Fetch it again.") from None
    missing = [name for name in batches.get(split, (split,)) if name not in content]
    if missing:
        raise InputFileError(f"{path}: the archive has no {', '.join(missing)}.", "Fetch it again.")
    return _join([(content[name], f"{path}: {name}") for name in batches[split]])


def _find(folder: Path, name: str) -> Path | None:
    return compressed.find(folder, name, f"{name}.bin")


def _join(batches: list[tuple[bytes, object]]) -> Raw:
    parts = [parse(content, where) for content, where in batches]
    images = np.concatenate([part.images for part in parts])
    return Raw(images, np.concatenate([part.labels for part in parts]), parts[0].classes, layout="NCHW")


@dataclass(frozen=True, kw_only=True)
class CifarKnown(Known):
    """A data set of the CIFAR family: a folder of batches or the official archive."""

    batches: ClassVar[Batches] = TEN
    eps = 8 / 255
    augment = "crop+flip"
    mirrors = ("https://www.cs.toronto.edu/~kriz/",)

    def look(self, folder: Path, split: str) -> Raw | None:
        for file in self.checksums:
            if (folder / file).is_file():
                return self._checked(read_tar(folder / file, split, self.batches), folder)
        if all(_find(folder, name) for name in self.batches[split]):
            raw = read_folder(folder, split, (self.batches,))
            return None if raw is None else self._checked(raw, folder)
        return None

    def remote(self, split: str) -> list[Remote]:
        return [Remote(file, f"md5:{md5}") for file, md5 in self.checksums.items()]

    def wanted(self, split: str) -> str:
        return f"{', '.join(self.batches[split])} or {' or '.join(self.checksums)}"

    def _checked(self, raw: Raw, folder: Path) -> Raw:
        if raw.classes != self.classes:
            raise InputFileError(f"{folder}: these batches have {raw.classes} classes, not {self.classes}.")
        return raw


@dataclass(frozen=True, kw_only=True)
class Cifar10(CifarKnown):
    """32x32 colour images in 10 classes: 50,000 for training and 10,000 for testing."""

    SOURCE = "Krizhevsky 2009, Learning multiple layers of features from tiny images"
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    folders = ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar10", "cifar-10")
    checksums: ClassVar[dict[str, str]] = {"cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a"}


@dataclass(frozen=True, kw_only=True)
class Cifar100(CifarKnown):
    """32x32 colour images in 100 (fine) classes: 50,000 for training and 10,000 for testing."""

    SOURCE = "Krizhevsky 2009, Learning multiple layers of features from tiny images"
    batches: ClassVar[Batches] = HUNDRED
    classes = 100
    folders = ("cifar-100-python", "cifar-100-binary", "cifar100", "cifar-100")
    checksums: ClassVar[dict[str, str]] = {"cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85"}
