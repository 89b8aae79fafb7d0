"""IDX files (MNIST's format: big-endian header, then bytes), and the two data sets that come in it."""

import hashlib
import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from .. import registry
from ..errors import DataError, InputFileError
from . import compressed
from .archive import missing_split, read_npz
from .arrays import Raw
from .known import CLOTHING, Known, Remote

PREFIX = {"train": "train", "test": "t10k"}
MAGIC = b"\x00\x00\x08"  # two zeros, then 8 for unsigned bytes; the number of axes follows


def parse(content: bytes, where: object) -> np.ndarray:
    """The uint8 array of an IDX file's bytes."""
    if len(content) < 4 or content[:3] != MAGIC or not 1 <= content[3] <= 4:
        raise InputFileError(f"{where}: not an IDX file of unsigned bytes (it begins with {content[:4].hex()}).")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise InputFileError(f"{where}: the IDX header is cut off.", "Fetch the file again.")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise InputFileError(
            f"{where}: the header says {shape}, {math.prod(shape)} bytes, but {len(content) - start} follow.",
            "Fetch the file again.",
        )
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def pair(folder: Path, split: str) -> tuple[Path, Path] | None:
    """The images and the labels file of a split in a folder, plain or compressed, or None."""
    prefix = PREFIX.get(split, split)
    images = compressed.find(folder, f"{prefix}-images-idx3-ubyte", f"{prefix}-images.idx3-ubyte")
    labels = compressed.find(folder, f"{prefix}-labels-idx1-ubyte", f"{prefix}-labels.idx1-ubyte")
    return (images, labels) if images and labels else None


def read_pair(images: Path, labels: Path) -> Raw:
    """One split from its two files; classes are left to be counted."""
    return Raw(parse(compressed.read_bytes(images), images), parse(compressed.read_bytes(labels), labels))


def read_folder(folder: Path, split: str) -> Raw:
    """One split of a folder of IDX files named as MNIST's are."""
    found = pair(folder, split)
    if not found:
        raise missing_split(folder, split, [name for name in PREFIX if pair(folder, name)])
    return read_pair(*found)


def read_file(path: Path, split: str) -> Raw:
    """One split from the path of its images file; the labels lie beside it under MNIST's names."""
    own = next((name for name, prefix in PREFIX.items() if path.name.startswith(f"{prefix}-images")), None)
    if own is None:
        raise InputFileError(
            f"{path}: which split this IDX file is, and where its labels are, is told by its name, which is another.",
            "Give the folder, with files named train-images-idx3-ubyte, t10k-labels-idx1-ubyte and so on.",
        )
    if own != split:
        raise missing_split(path, split, [own])
    return read_folder(path.parent, split)


@dataclass(frozen=True, kw_only=True)
class IdxKnown(Known):
    """A data set of the MNIST family."""

    archive: ClassVar[str] = ""  # an .npz that some ship it as
    labels_md5: ClassVar[dict[str, str]] = {}  # of the labels' bytes: MNIST and Fashion-MNIST share their file names

    def look(self, folder: Path, split: str) -> Raw | None:
        found = pair(folder, split)
        if found:
            raw = read_pair(*found)
        elif self.archive and (path := folder / self.archive).is_file():
            raw = read_npz(compressed.read_bytes(path), path, split)
        else:
            return None
        digest = hashlib.md5(np.ascontiguousarray(raw.labels).tobytes(), usedforsecurity=False).hexdigest()
        for other in IdxKnown.__subclasses__():
            if digest in other.labels_md5.values() and other is not type(self):
                problem = f"{registry.name_of(self)}: the files in {folder} are those of {other.__name__}."
                raise DataError(problem, "Name the right folder with --data-dir.")
        official = digest == self.labels_md5[split]
        note = f"the {split} labels in {folder} are not the official ones of this data set"
        return Raw(raw.images, raw.labels, self.classes, self.divisor, () if official else (note,))

    def remote(self, split: str) -> list[Remote]:
        names = [f"{PREFIX[split]}-images-idx3-ubyte.gz", f"{PREFIX[split]}-labels-idx1-ubyte.gz"]
        return [Remote(name, f"md5:{self.checksums[name]}") for name in names]


@dataclass(frozen=True, kw_only=True)
class FashionMnist(IdxKnown):
    """28x28 grey images of clothing in 10 classes: 60,000 for training and 10,000 for testing."""

    SOURCE = "Xiao et al. 2017, arXiv:1708.07747 (MIT)"
    eps = 0.1
    class_names = CLOTHING
    folders = ("fashion-mnist", "FashionMNIST/raw", "fashion_mnist")
    mirrors = (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
    )
    checksums: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "train-labels-idx1-ubyte.gz": "25c81989df183df01b3e8a0aad5dffbe",
        "t10k-images-idx3-ubyte.gz": "bef4ecab320f06d8554ea6380940ec79",
        "t10k-labels-idx1-ubyte.gz": "bb300cfdad3c16e7a12a480ee83cd310",
    }
    labels_md5: ClassVar[dict[str, str]] = {
        "train": "3236f6424fc25388b2834cb19942cf7e",
        "test": "8dea97a4e78c1bd1b5a6e8efbb870b6e",
    }


@dataclass(frozen=True, kw_only=True)
class Mnist(IdxKnown):
    """28x28 grey images of handwritten digits in 10 classes: 60,000 for training and 10,000 for testing."""

    SOURCE = "LeCun et al. 1998, Proc. IEEE 86(11)"
    eps = 0.3
    folders = ("mnist", "MNIST/raw")
    archive = "mnist.npz"
    mirrors = (
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    )
    checksums: ClassVar[dict[str, str]] = {
        "train-images-idx3-ubyte.gz": "f68b3c2dcbeaaa9fbdd348bbdeb94873",
        "train-labels-idx1-ubyte.gz": "d53e105ee54ea40749a09fcbcd1e9432",
        "t10k-images-idx3-ubyte.gz": "9fb629c4189551a2d022fa330f9573f3",
        "t10k-labels-idx1-ubyte.gz": "ec29112dd5afa0611ce80d1b7f02629c",
    }
    labels_md5: ClassVar[dict[str, str]] = {
        "train": "e86ee40d66677c011a9abda399ec8c4d",
        "test": "073c3904dfbd3e141ff8aa01cfde6b15",
    }
