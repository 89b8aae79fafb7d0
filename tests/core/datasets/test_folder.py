import sys
from pathlib import Path

import numpy as np
import pytest

from robustq.core.datasets import load
from robustq.core.errors import DataError, InputFileError

Image = pytest.importorskip("PIL.Image", reason="image files are read with Pillow, which is not a requirement")


def picture(path: Path, value: int | tuple[int, ...], mode: str = "L", size: tuple[int, int] = (6, 4)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value).save(path)


def test_classes_by_name_and_images_in_turn(tmp_path: Path) -> None:
    for name, values in {"cat": (10, 20, 30), "ant": (200,), "bee": (100, 110)}.items():
        for i, value in enumerate(values):
            picture(tmp_path / name / f"{i}.png", value)
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "empty").mkdir()
    data = load(tmp_path)
    assert data.labels.tolist() == [0, 1, 2, 1, 2, 2]
    assert data.images[:, 0, 0, 0].tolist() == [200, 100, 10, 110, 20, 30]
    assert (data.shape, data.classes) == ((1, 4, 6), 3)  # Pillow's size is width, height
    assert load(tmp_path, limit=3).labels.tolist() == [0, 1, 2]


def test_splits_share_their_class_numbers(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "a" / "1.png", 100)
    picture(tmp_path / "train" / "b" / "1.png", 100)
    picture(tmp_path / "test" / "b" / "1.jpg", 100)
    test = load(tmp_path)
    assert (test.labels.tolist(), test.classes) == ([1], 2)
    with pytest.raises(DataError, match="no 'val' split; it has test, train"):
        load(tmp_path, "val")


def test_colour_planes_in_order(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png", (250, 150, 50), "RGB")
    picture(tmp_path / "a" / "2.png", (1, 2, 3, 0), "RGBA")
    picture(tmp_path / "a" / "3.png", 77)
    assert load(tmp_path).images[:, :, 0, 0].tolist() == [[250, 150, 50], [1, 2, 3], [77, 77, 77]]


def test_sizes_must_agree(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png", 9)
    picture(tmp_path / "a" / "2.png", 9, size=(4, 6))
    with pytest.raises(DataError, match=r"2\.png: this image is 4x6, .*1\.png is 6x4"):
        load(tmp_path)


def test_sixteen_bits_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "a" / "1.png")
    with pytest.raises(DataError, match="8 bits a channel"):
        load(tmp_path)


@pytest.mark.parametrize("keep", [0, 40, 2000])
def test_damaged_images_are_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a" / "1.png"
    path.parent.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputFileError, match=r"1\.png: the image cannot be read"):
        load(tmp_path)


def test_a_huge_image_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a" / "1.png", 9, size=(64, 64))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 3000)
    with pytest.raises(InputFileError, match="cannot be read"):
        load(tmp_path)


def test_without_pillow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a" / "1.png", 9)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(DataError, match="pip install pillow"):
        load(tmp_path)


def test_a_folder_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match="no data of a known kind"):
        load(tmp_path)
