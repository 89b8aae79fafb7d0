import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustq.core.datasets.arrays import Raw, channels_first, to_dataset
from robustq.core.errors import DataError, OptionError


def grey(n: int = 4, dtype: type = np.uint8, value: float = 200) -> np.ndarray:
    return np.full((n, 5, 6), value, dtype)


def labels(n: int = 4) -> np.ndarray:
    return np.arange(n) % 2


@given(n=st.integers(1, 3), c=st.sampled_from([1, 3, 4]), h=st.integers(5, 9), w=st.integers(5, 9))
def test_both_channel_orders_give_the_same_images(n: int, c: int, h: int, w: int) -> None:
    images = np.arange(n * c * h * w).reshape(n, c, h, w)
    for stored in (images, images.transpose(0, 2, 3, 1)):
        found, note = channels_first(stored, "x")
        assert np.array_equal(found, images)
        assert note == ""


@pytest.mark.parametrize(
    ("stored", "read", "noted"),
    [
        ((2, 5, 6), (2, 1, 5, 6), False),
        ((2, 8, 8), (2, 1, 8, 8), False),
        ((2, 3, 3), (2, 1, 3, 3), False),  # three axes are always grey
        ((2, 3, 32, 3), (2, 3, 32, 3), True),  # ambiguous: channels first, with a note
        ((2, 1, 28, 1), (2, 1, 28, 1), True),
        ((2, 4, 6, 3), (2, 3, 4, 6), False),  # 1 or 3 channels before 4
        ((2, 4, 6, 5), (2, 4, 6, 5), False),
        ((2, 16, 8, 8), (2, 16, 8, 8), False),  # many channels: height and width are equal
        ((2, 8, 8, 16), (2, 16, 8, 8), False),
        ((2, 8, 8, 8), (2, 8, 8, 8), True),
    ],
)
def test_layouts(stored: tuple[int, ...], read: tuple[int, ...], noted: bool) -> None:
    found, note = channels_first(np.zeros(stored), "x")
    assert found.shape == read
    assert bool(note) == noted


@pytest.mark.parametrize("shape", [(4, 784), (4,), (0, 5, 5), (2, 5, 6, 7), (2, 3, 4, 5, 5)])
def test_shapes_that_are_no_images_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"\(" + ", ".join(map(str, shape))):
        channels_first(np.zeros(shape), "x")


def test_bytes_stay_bytes_and_are_divided_by_255() -> None:
    data = to_dataset(Raw(grey(), labels()), "x", "test")
    assert data.images.dtype == torch.uint8
    x, y = data.batch(torch.tensor([3, 0]))
    assert x.dtype == torch.float32
    assert torch.equal(x, torch.full((2, 1, 5, 6), 200) / 255)
    assert y.tolist() == [1, 0]
    assert (data.classes, data.divisor, data.notes) == (2, 255, ())


@pytest.mark.parametrize(("dtype", "value"), [(np.float64, 0.5), (np.float32, 1.0), (np.float16, 0.0), (np.bool_, 1)])
def test_floats_and_masks_are_used_as_they_are(dtype: type, value: float) -> None:
    data = to_dataset(Raw(grey(dtype=dtype, value=value), labels()), "x", "test")
    assert data.batch(torch.tensor([0]))[0].unique().tolist() == [value]


@pytest.mark.parametrize("dtype", [np.uint8, np.int64, np.uint16, np.float32])
def test_a_given_range_wins(dtype: type) -> None:
    data = to_dataset(Raw(grey(dtype=dtype, value=8), labels(), divisor=255), "x", "test", 16)
    assert data.batch(torch.tensor([0]))[0].unique().tolist() == [0.5]
    assert data.notes == ()


def test_bytes_that_never_get_bright_are_noted() -> None:
    (note,) = to_dataset(Raw(grey(value=16), labels()), "x", "test").notes
    assert "16" in note
    assert "--data-range" in note
    assert to_dataset(Raw(grey(value=16), labels(), divisor=16), "x", "test").notes == ()


@pytest.mark.parametrize("value", [-0.01, 1.01, 255.0, np.inf, -np.inf])
def test_floats_outside_the_unit_range_name_the_option(value: float) -> None:
    images = grey(dtype=np.float32, value=0.5)
    images[2, 3, 1] = value
    with pytest.raises(DataError, match="--data-range") as caught:
        to_dataset(Raw(images, labels()), "x", "test")
    assert f"{value:g}" in caught.value.problem
    assert caught.value.exit_code == 2


def test_nan_is_refused() -> None:
    images = grey(dtype=np.float32, value=0.5)
    images[2, 3, 1] = np.nan
    with pytest.raises(DataError, match="NaN"):
        to_dataset(Raw(images, labels()), "x", "test")


def test_values_above_the_given_range_are_refused() -> None:
    with pytest.raises(DataError, match=r"\[200, 200\], outside \[0, 16\]"):
        to_dataset(Raw(grey(), labels()), "x", "test", 16)


@pytest.mark.parametrize("data_range", [0.0, -1.0, float("nan"), float("inf")])
def test_a_range_that_is_no_range_is_refused(data_range: float) -> None:
    with pytest.raises(OptionError, match="--data-range"):
        to_dataset(Raw(grey(), labels()), "x", "test", data_range)


@pytest.mark.parametrize("dtype", [np.int64, np.uint16, np.int8])
def test_whole_numbers_of_unknown_range_need_one(dtype: type) -> None:
    with pytest.raises(DataError, match="--data-range 255"):
        to_dataset(Raw(grey(dtype=dtype, value=8), labels()), "x", "test")


@pytest.mark.parametrize("dtype", ["U3", "complex64"])
def test_other_types_are_refused(dtype: str) -> None:
    with pytest.raises(DataError, match="dtype"):
        to_dataset(Raw(np.zeros((2, 3, 3), dtype), labels(2)), "x", "test")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (np.array([0, 1, -1, 2]), r"\[-1, 2\]"),
        (np.array([0, 1, 2]), "4 images but 3 labels"),
        (np.array([0.0, 1.0, 2.0, 3.0]), "float64"),
        (np.eye(4, dtype=np.int64), r"\(4, 4\)"),
        (np.array([0, 1, 2, 3]), "the highest is 2"),
    ],
)
def test_wrong_labels(found: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        to_dataset(Raw(grey(), found, classes=3), "x", "test")


def test_a_column_of_labels_is_accepted() -> None:
    data = to_dataset(Raw(grey(), labels()[:, None].astype(np.uint8)), "x", "test")
    assert data.labels.tolist() == [0, 1, 0, 1]
    assert data.labels.dtype == torch.int64
