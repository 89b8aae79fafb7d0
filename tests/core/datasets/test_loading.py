import io
import os
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import torch

from robustq.core import registry
from robustq.core.datasets import DatasetInfo, info, load
from robustq.core.datasets.augment import KINDS
from robustq.core.errors import DataError, InputFileError, OptionError, UnknownNameError

DATA = files("robustq.core") / "data"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mnist", DatasetInfo(0.3, "none", 10)),
        ("fashion-mnist", DatasetInfo(0.1, "none", 10)),
        ("fashion-mini", DatasetInfo(0.1, "none", 10)),
        ("cifar10", DatasetInfo(8 / 255, "crop+flip", 10)),
        ("cifar100", DatasetInfo(8 / 255, "crop+flip", 100)),
        ("digits", DatasetInfo(None, "none", 10)),
    ],
)
def test_usual_values(name: str, expected: DatasetInfo) -> None:
    assert info(name) == expected


def test_nothing_is_usual_for_a_path(tmp_path: Path) -> None:
    assert info(tmp_path) == DatasetInfo(None, "none", None)


@pytest.mark.parametrize("name", registry.names("dataset"))
def test_every_registered_data_set_can_be_listed(name: str) -> None:
    known = registry.find(name, "dataset")
    assert registry.name_of(known()) == name
    assert known.SOURCE
    assert known.augment in KINDS
    assert len((known.__doc__ or "").splitlines()) == 1


def test_the_bundled_sample_of_fashion_mnist() -> None:
    test, train = load("fashion-mini"), load("fashion-mini", "train")
    assert (len(test), test.shape, test.images.dtype) == (1000, (1, 28, 28), torch.uint8)
    assert test.labels.bincount().tolist() == [100] * 10
    assert train.labels.bincount().tolist() == [50] * 10
    assert test.labels[:8].tolist() == [9, 2, 1, 1, 6, 1, 4, 6]  # the official file begins so
    assert test.sha256 == "18e3fe667bf9c3c3e82f6d8f9d81111788aad93b930d51e92bbda32c23d1e363"


def test_the_bundled_digits() -> None:
    test, train = load("digits"), load("digits", "train")
    assert (len(train), len(test)) == (1397, 400)
    assert test.batch(torch.arange(400))[0].max() == 1
    assert train.labels[:10].tolist() == list(range(10))


def test_bundled_files_are_small_and_have_their_notices() -> None:
    assert len((DATA / "fashion_mini.npz").read_bytes()) < 1_000_000
    assert len((DATA / "digits.npz").read_bytes()) < 60_000
    notice = (DATA / "FASHION-MNIST-LICENSE.txt").read_text()
    assert "MIT License" in notice
    assert "Copyright (c) 2017 Zalando SE" in notice
    assert "creativecommons.org/licenses/by/4.0" in (DATA / "DIGITS-LICENSE.txt").read_text()


def test_limit_takes_the_first_images() -> None:
    whole, part = load("digits"), load("digits", limit=7)
    assert torch.equal(part.images, whole.images[:7])
    assert part.classes == 10
    assert len(load("digits", limit=10**6)) == 400


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_must_leave_something(limit: int) -> None:
    with pytest.raises(OptionError, match=f"--limit is {limit}"):
        load("digits", limit=limit)


def test_a_missing_split_of_a_named_set() -> None:
    with pytest.raises(DataError, match="digits: it has no 'val' split; it has test, train"):
        load("digits", "val")


@pytest.mark.parametrize("ask", [load, info])
def test_unknown_names_and_files(ask, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'cifar10'"):
        ask("cifar-10")
    with pytest.raises(InputFileError, match="no such file"):
        ask(tmp_path / "nothing.npz")
    with pytest.raises(InputFileError, match="no such file"):
        ask("nothing.npz")


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="--data-dir"):
        load("mnist", directory=tmp_path / "none")


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n" + b"\0" * 90])
def test_files_of_another_kind(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "data.npz").write_bytes(content)
    with pytest.raises(InputFileError, match=f"{len(content)} bytes"):
        load(tmp_path / "data.npz")


def test_a_pipe_is_read_like_a_file() -> None:
    content = io.BytesIO()
    np.savez(content, x=np.full((2, 4, 4), 99, np.uint8), y=np.array([0, 1]))
    end, start = os.pipe()
    with os.fdopen(end), os.fdopen(start, "wb") as pipe:
        pipe.write(content.getvalue())
        pipe.close()
        assert len(load(f"/dev/fd/{end}")) == 2


def test_what_the_system_refuses_is_an_error_of_ours(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="cannot be read"):
        load(tmp_path / ("a" * 300))
    with pytest.raises(InputFileError, match="cannot be read"):
        load("mnist", directory=tmp_path / ("a" * 300))


def test_the_kind_is_told_by_the_bytes(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.full((2, 4, 4), 99, np.uint8), y=np.array([0, 1]))
    renamed = (tmp_path / "x.npz").rename(tmp_path / "x.safetensors")
    assert len(load(str(renamed))) == 2
