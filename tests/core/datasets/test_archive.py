import lzma
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from safetensors.torch import save_file as save_tensors

from robustq.core.datasets import load
from robustq.core.errors import DataError, InputFileError, UnsafeFileError

Arrays = dict[str, np.ndarray]


def npz(path: Path, arrays: Arrays) -> Path:
    np.savez(path.with_suffix(".npz"), allow_pickle=True, **arrays)
    return path.with_suffix(".npz")


def safetensors(path: Path, arrays: Arrays) -> Path:
    save_file(arrays, path)
    return path


def some(n: int, first: int = 0) -> np.ndarray:
    return np.arange(first, first + n * 35, dtype=np.uint8).reshape(n, 5, 7) + 100


@pytest.fixture(params=[npz, safetensors], ids=["npz", "safetensors"])
def write(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[Arrays], Path]:
    return lambda arrays: request.param(tmp_path / "data", arrays)


@pytest.mark.parametrize(
    "names",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
        ("images_train", "labels_train", "images_test", "labels_test"),
        ("X_train", "Y_train", "X_test", "Y_test"),
    ],
)
def test_each_split_by_its_names(write: Callable[[Arrays], Path], names: tuple[str, ...]) -> None:
    path = write(dict(zip(names, (some(3), np.array([0, 1, 4]), some(2, 9), np.array([1, 0])), strict=True)))
    train, test = load(path, "train"), load(path)
    assert train.labels.tolist() == [0, 1, 4]
    assert torch.equal(test.images[:, 0], torch.from_numpy(some(2, 9)))
    assert train.classes == test.classes == 5  # counted over both splits


@pytest.mark.parametrize("names", [("x", "y"), ("images", "labels")])
def test_a_lone_pair_serves_as_the_split_that_is_asked_for(
    write: Callable[[Arrays], Path], names: tuple[str, str]
) -> None:
    path = write({names[0]: some(2), names[1]: np.array([0, 1])})
    test, train = load(path), load(path, "train")
    assert (test.split, train.split) == ("test", "train")
    assert test.sha256 == train.sha256  # which is how a run can tell that they are the same images


def test_a_missing_split_names_the_file_and_what_there_is(write: Callable[[Arrays], Path]) -> None:
    path = write({"x_train": some(2), "y_train": np.array([0, 1]), "x_val": some(2), "y_val": np.array([0, 1])})
    with pytest.raises(DataError, match="no 'test' split; it has train, val") as caught:
        load(path)
    assert str(path) in caught.value.problem
    assert "--split train" in caught.value.remedy


def test_missing_labels_name_the_key_that_is_wanted(write: Callable[[Arrays], Path]) -> None:
    with pytest.raises(DataError, match="'y_test'"):
        load(write({"x_test": some(2)}))
    with pytest.raises(DataError, match="'train_labels'"):
        load(write({"train_images": some(2), "y": np.array([0, 1])}), "train")


def test_other_names_are_listed(write: Callable[[Arrays], Path]) -> None:
    with pytest.raises(DataError, match="pixels, targets"):
        load(write({"pixels": some(2), "targets": np.array([0, 1])}))


def test_floats_out_of_range_name_file_and_option(write: Callable[[Arrays], Path]) -> None:
    path = write({"x": some(2).astype(np.float32), "y": np.array([0, 1])})
    with pytest.raises(DataError, match="--data-range") as caught:
        load(path)
    assert str(path) in caught.value.problem
    assert load(path, data_range=255).batch(torch.tensor([0]))[0].max() <= 1


def test_compressed_once_more(write: Callable[[Arrays], Path]) -> None:
    path = write({"x": some(2), "y": np.array([0, 1])})
    path.write_bytes(lzma.compress(path.read_bytes()))
    assert load(path).labels.tolist() == [0, 1]


def test_bfloat16_tensors_are_read(tmp_path: Path) -> None:
    x = torch.full((2, 3, 8, 8), 0.5, dtype=torch.bfloat16)
    save_tensors({"x": x, "y": torch.tensor([0, 1])}, tmp_path / "data")
    assert load(tmp_path / "data").images.unique().tolist() == [0.5]


@pytest.mark.parametrize("key", ["x", "y"])
def test_pickled_arrays_are_refused_as_unsafe(tmp_path: Path, key: str) -> None:
    arrays = {"x": some(2), "y": np.array([0, 1])} | {key: np.array([object(), 1], object)}
    with pytest.raises(UnsafeFileError, match="run code") as caught:
        load(npz(tmp_path / "data", arrays))
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_damaged(write: Callable[[Arrays], Path], keep: float) -> None:
    path = write({"x": some(9), "y": np.arange(9)})
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(InputFileError, match=str(path)):
        load(path)


def test_a_changed_byte_is_noticed_by_the_checksum(tmp_path: Path) -> None:
    path = npz(tmp_path / "data", {"x": some(9), "y": np.arange(9)})
    content = bytearray(path.read_bytes())
    place = content.find(some(9).tobytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputFileError, match="damaged"):
        load(path)
