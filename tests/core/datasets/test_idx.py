import gzip
import lzma
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from robustq.core.datasets import load
from robustq.core.datasets.idx import FashionMnist, parse
from robustq.core.errors import DataError, InputFileError


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder: Path, prefix: str, images: np.ndarray, labels: np.ndarray, pack: Callable = bytes, end: str = ""):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}-images-idx3-ubyte{end}").write_bytes(pack(idx(images)))
    (folder / f"{prefix}-labels-idx1-ubyte{end}").write_bytes(pack(idx(labels)))


IMAGES = np.arange(3 * 28 * 28, dtype=np.uint8).reshape(3, 28, 28)
LABELS = np.array([9, 0, 4], np.uint8)


def test_golden_bytes() -> None:
    content = bytes.fromhex("000008020000000200000003010203040506")
    assert parse(content, "x").tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\0\0\x0d\x01\0\0\0\x01aaaa", "not an IDX file"),  # floats
        (b"\0\0\x08\x09", "not an IDX file"),
        (b"\0\0\x08\x03\0\0\0\x02", "header is cut off"),
        (b"\0\0\x08\x01\0\0\0\x04abc", "4 bytes, but 3 follow"),
        (b"\0\0\x08\x01\0\0\0\x02abc", "2 bytes, but 3 follow"),
        (b"\0\0\x08\x03" + b"\xff" * 12 + b"abc", "but 3 follow"),
    ],
)
def test_damaged_bytes(content: bytes, message: str) -> None:
    with pytest.raises(InputFileError, match=message):
        parse(content, "x")


@pytest.mark.parametrize(("pack", "end"), [(bytes, ""), (gzip.compress, ".gz"), (lzma.compress, ".xz")])
@pytest.mark.parametrize("by", ["folder", "file", "name"])
def test_plain_and_compressed(tmp_path: Path, pack: Callable, end: str, by: str) -> None:
    folder = tmp_path / ("fashion-mnist" if by == "name" else "any")
    write(folder, "t10k", IMAGES, LABELS, pack, end)
    place = {"folder": folder, "file": folder / f"t10k-images-idx3-ubyte{end}", "name": "fashion-mnist"}[by]
    data = load(place, directory=tmp_path if by == "name" else None)
    assert np.array_equal(data.images[:, 0].numpy(), IMAGES)
    assert data.labels.tolist() == LABELS.tolist()
    assert data.classes == 10


def test_compression_is_told_by_the_bytes(tmp_path: Path) -> None:
    write(tmp_path, "t10k", IMAGES, LABELS, lzma.compress, ".gz")
    assert len(load(tmp_path)) == 3


def test_a_missing_split_names_the_folder(tmp_path: Path) -> None:
    write(tmp_path, "train", IMAGES, LABELS)
    with pytest.raises(DataError, match="no 'test' split; it has train") as caught:
        load(tmp_path)
    assert str(tmp_path) in caught.value.problem


def test_a_training_file_does_not_pass_for_test_data(tmp_path: Path) -> None:
    write(tmp_path, "train", IMAGES, LABELS)
    write(tmp_path, "t10k", IMAGES[:2], LABELS[:2])
    path = tmp_path / "train-images-idx3-ubyte"
    assert len(load(path, "train")) == 3
    with pytest.raises(DataError, match="no 'test' split"):
        load(path)


def test_a_file_without_an_official_name(tmp_path: Path) -> None:
    (tmp_path / "pictures").write_bytes(idx(IMAGES))
    with pytest.raises(InputFileError, match="told by its name"):
        load(tmp_path / "pictures")


@pytest.mark.parametrize(("pack", "end"), [(gzip.compress, ".gz"), (lzma.compress, ".xz")])
def test_a_truncated_compressed_file(tmp_path: Path, pack: Callable, end: str) -> None:
    write(tmp_path, "t10k", IMAGES, LABELS, lambda content: pack(content)[:-7], end)
    with pytest.raises(InputFileError, match="damaged"):
        load(tmp_path)


def test_more_images_than_labels(tmp_path: Path) -> None:
    write(tmp_path, "t10k", IMAGES, LABELS[:2])
    with pytest.raises(DataError, match="3 images but 2 labels"):
        load(tmp_path)


def test_unofficial_labels_are_noted(tmp_path: Path) -> None:
    write(tmp_path, "t10k", IMAGES, LABELS)
    (note,) = load("mnist", directory=tmp_path).notes
    assert "not the official ones" in note


def test_fashion_does_not_pass_for_digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "t10k", IMAGES, LABELS)
    import hashlib

    digest = hashlib.md5(LABELS.tobytes(), usedforsecurity=False).hexdigest()
    monkeypatch.setattr(FashionMnist, "labels_md5", {"train": "", "test": digest})
    assert load("fashion-mnist", directory=tmp_path).notes == ()
    with pytest.raises(DataError, match="those of FashionMnist"):
        load("mnist", directory=tmp_path)


def test_mnist_as_one_npz_file(tmp_path: Path) -> None:
    (tmp_path / "mnist").mkdir()
    np.savez(tmp_path / "mnist" / "mnist.npz", x_test=IMAGES, y_test=LABELS, x_train=IMAGES, y_train=LABELS)
    assert load("mnist", directory=tmp_path).labels.tolist() == LABELS.tolist()
