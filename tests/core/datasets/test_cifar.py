import gzip
import io
import lzma
import os
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from robustq.core.datasets import load
from robustq.core.datasets.cifar import parse
from robustq.core.errors import DataError, InputFileError, UnsafeFileError

PIXELS = np.arange(2 * 3072, dtype=np.uint32).reshape(2, 3072).astype(np.uint8)
PIXELS[1] += 7


def batch(protocol: Any = 2, **changes: Any) -> bytes:
    entry = {"data": PIXELS, "labels": [6, 9], "batch_label": "testing batch 1 of 1", "filenames": ["a.png", "b.png"]}
    entry.update(changes)
    return pickle.dumps({k: v for k, v in entry.items() if v is not None}, protocol)


def binary(labels: list[int], header: int = 1) -> bytes:
    rows = zip(labels, PIXELS, strict=True)
    return b"".join(bytes([3] * (header - 1) + [label]) + pixels.tobytes() for label, pixels in rows)


def python_two() -> bytes:
    """A batch as Python 2 wrote the official ones: byte strings by the old opcodes, NumPy's old module name."""
    pixels = PIXELS[:1].tobytes()
    return b"".join(
        [
            b"\x80\x02}(U\x04data",
            b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R",
            b"(K\x01K\x01M\x00\x0c\x86cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb",
            b"\x89T" + len(pixels).to_bytes(4, "little") + pixels + b"tb",
            b"U\x06labels](K\x05eu.",
        ]
    )


def test_python_two_batch() -> None:
    raw = parse(python_two(), "x")
    assert np.array_equal(raw.images, PIXELS[:1].reshape(1, 3, 32, 32))
    assert raw.labels.tolist() == [5]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_binary_pickle_protocol(protocol: int) -> None:
    raw = parse(batch(protocol), "x")
    assert np.array_equal(raw.images, PIXELS.reshape(2, 3, 32, 32))
    assert (raw.labels.tolist(), raw.classes) == ([6, 9], 10)


def test_fine_labels_are_the_classes_of_cifar_100() -> None:
    raw = parse(batch(labels=None, fine_labels=[99, 3], coarse_labels=[19, 0]), "x")
    assert (raw.labels.tolist(), raw.classes) == ([99, 3], 100)


@pytest.mark.parametrize("protocol", [2, 5])
def test_either_order_of_the_axes(protocol: int) -> None:
    raw = parse(batch(protocol, data=np.asfortranarray(PIXELS)), "x")
    assert np.array_equal(raw.images, PIXELS.reshape(2, 3, 32, 32))


def test_byte_keys_and_array_labels() -> None:
    raw = parse(pickle.dumps({b"data": PIXELS, b"labels": np.array([1, 2])}, 4), "x")
    assert raw.labels.tolist() == [1, 2]


@pytest.mark.parametrize(("header", "labels", "classes"), [(1, [6, 9], 10), (2, [99, 3], 100)])
def test_binary_batches(header: int, labels: list[int], classes: int) -> None:
    raw = parse(binary(labels, header), "x")
    assert np.array_equal(raw.images, PIXELS.reshape(2, 3, 32, 32))
    assert (raw.labels.tolist(), raw.classes) == (labels, classes)


@pytest.mark.parametrize("content", [b"", b"abc", b"\0" * 3072])
def test_other_bytes_are_no_batch(content: bytes) -> None:
    with pytest.raises(InputFileError, match="neither a pickled nor a binary"):
        parse(content, "x")


class Hostile:
    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("place", ["data", "labels", "extra"])
def test_a_hostile_pickle_is_refused_and_runs_nothing(tmp_path: Path, place: str) -> None:
    target = tmp_path / "made"
    content = batch(**{place: Hostile(os.mkdir, str(target))})
    pickle.loads(content)
    assert target.exists()  # the pickle does what it is meant to where it is loaded carelessly
    target.rmdir()
    (tmp_path / "test_batch").write_bytes(content)
    with pytest.raises(UnsafeFileError, match=r"asks for (posix|nt)\.mkdir") as caught:
        load(tmp_path / "test_batch")
    assert caught.value.exit_code == 4
    assert not target.exists()


@pytest.mark.parametrize(
    "name", ["numpy\nfromfile", "numpy.core.multiarray\nscalar", "builtins\ngetattr", "os\nsystem"]
)
def test_any_other_name_is_refused(name: str) -> None:
    with pytest.raises(UnsafeFileError, match=name.replace("\n", r"\.")):
        parse(b"\x80\x02c" + name.encode() + b"\n.", "x")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (batch()[:-400], "damaged"),
        (b"\x80\x02.", "damaged"),
        (pickle.dumps([1, 2], 2), "it holds list"),
        (batch(labels=None), "it holds batch_label, data, filenames"),
        (batch(data=PIXELS[:, :3000]), r"uint8 \(2, 3000\)"),
        (batch(data=PIXELS.astype(np.int32)), r"int32 \(2, 3072\)"),
        (batch(data="text"), "array of whole numbers"),
        (batch(labels=[1, "2"]), "array of whole numbers"),
        (batch(labels=np.array([0.5, 1.0])), "array of whole numbers"),
        (batch(labels=[1, 2**70]), "damaged|whole numbers"),
        (python_two().replace(b"M\x00\x0c", b"M\x00\x0d"), r"\(1, 3328\) has 3072 bytes"),
    ],
)
def test_damaged_pickles(content: bytes, message: str) -> None:
    with pytest.raises(InputFileError, match=message):
        parse(content, "x")


def test_attributes_set_by_a_file_do_not_outlive_it() -> None:
    # BUILD with a pair sets attributes: here on the stand-in of numpy.dtype itself.
    parse_refused = b"\x80\x02cnumpy\ndtype\nN}U\x04nameU\x01xs\x86b."
    with pytest.raises(InputFileError):
        parse(parse_refused, "x")
    assert len(parse(batch(), "x").images) == 2


@pytest.mark.parametrize(("pack", "end"), [(bytes, ""), (gzip.compress, ".gz"), (lzma.compress, ".xz")])
def test_training_batches_are_joined_in_order(tmp_path: Path, pack: Callable[[bytes], bytes], end: str) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for i in range(1, 6):
        (folder / f"data_batch_{i}{end}").write_bytes(pack(batch(labels=[i, 9 - i])))
    for data in (load("cifar10", "train", directory=tmp_path), load(folder, "train")):
        assert data.labels.tolist() == [1, 8, 2, 7, 3, 6, 4, 5, 5, 4]
        assert (data.shape, data.classes) == ((3, 32, 32), 10)
    with pytest.raises(DataError, match=r"no test_batch\): it has no 'test' split; it has train"):
        load(folder)
    (folder / f"data_batch_3{end}").unlink()
    with pytest.raises(DataError, match=r"no data_batch_3\): it has no 'train' split; it has none"):
        load(folder, "train")


def test_a_batch_by_path_is_of_the_split_its_name_says(tmp_path: Path) -> None:
    (tmp_path / "data_batch_2.xz").write_bytes(lzma.compress(batch()))
    assert len(load(tmp_path / "data_batch_2.xz", "train")) == 2
    with pytest.raises(DataError, match="no 'test' split; it has train"):
        load(tmp_path / "data_batch_2.xz")


def test_binary_folders(tmp_path: Path) -> None:
    (tmp_path / "ten").mkdir()
    (tmp_path / "ten" / "test_batch.bin").write_bytes(binary([6, 9]))
    (tmp_path / "hundred").mkdir()
    (tmp_path / "hundred" / "test.bin").write_bytes(binary([42, 9], header=2))
    assert load("cifar10", directory=tmp_path / "ten").labels.tolist() == [6, 9]
    assert load("cifar100", directory=tmp_path / "hundred").labels.tolist() == [42, 9]
    assert load(tmp_path / "hundred").classes == 100


def test_labels_beyond_the_classes(tmp_path: Path) -> None:
    (tmp_path / "test_batch.bin").write_bytes(binary([6, 10]))
    with pytest.raises(DataError, match="the highest is 9"):
        load("cifar10", directory=tmp_path)


def archive(path: Path, **members: bytes) -> None:
    with tarfile.open(path, "w:gz") as file:
        for name, content in members.items():
            member = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))


def test_the_official_archive_is_read_without_unpacking(tmp_path: Path) -> None:
    path = tmp_path / "cifar-10-python.tar.gz"
    archive(path, readme=b"hello", test_batch=batch())
    assert load("cifar10", directory=tmp_path).labels.tolist() == [6, 9]
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    with pytest.raises(InputFileError, match="no data_batch_1, data_batch_2"):
        load("cifar10", "train", directory=tmp_path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputFileError, match="damaged"):
        load("cifar10", directory=tmp_path)
