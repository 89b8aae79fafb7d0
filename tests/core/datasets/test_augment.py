import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustq.core.datasets.augment import KINDS, augment, padding
from robustq.core.errors import OptionError


def images(n: int, c: int = 3, h: int = 32, w: int = 32) -> torch.Tensor:
    return torch.arange(1, n * c * h * w + 1, dtype=torch.float32).view(n, c, h, w)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (1, 8, 8), (2, 9, 13)])
def test_an_image_has_its_draw_in_every_batch(kind: str, shape: tuple[int, int, int]) -> None:
    x, index = images(20, *shape), torch.arange(100, 120)
    whole = augment(x, kind, (0, "train", 3), index)
    assert whole.shape == x.shape
    some = torch.tensor([7, 0, 19])
    assert torch.equal(augment(x[some], kind, (0, "train", 3), index[some]), whole[some])


@given(seed=st.integers(0, 1000), kind=st.sampled_from(KINDS[1:]))
def test_every_result_is_a_window_of_the_padded_image(seed: int, kind: str) -> None:
    x = images(1, 2, 5, 5)
    result = augment(x, kind, (seed,), torch.tensor([seed]))[0]
    padded = torch.nn.functional.pad(x[0], (1, 1, 1, 1))
    places = [(i, j) for i in range(3) for j in range(3)] if "crop" in kind else [(1, 1)]
    windows = [padded[:, i : i + 5, j : j + 5] for i, j in places]
    if "flip" in kind:
        windows += [window.flip(2) for window in windows]
    assert any(torch.equal(result, window) for window in windows)


def test_flips_and_crops_are_uniform() -> None:
    n, index = 20_000, torch.arange(20_000)
    x = torch.zeros(n, 1, 5, 5)
    x[:, 0, 2, 2] = 1
    shifted = augment(x, "crop", (1,), index).mean(0)[0]
    assert torch.allclose(shifted[1:4, 1:4], torch.full((3, 3), 1 / 9), atol=0.01)
    assert shifted[1:4, 1:4].sum() == pytest.approx(1)
    x[:] = torch.tensor([1.0, 0, 0, 0, 0])
    flipped = augment(x, "flip", (1,), index)[:, 0, 0, 4]
    assert flipped.mean().item() == pytest.approx(0.5, abs=0.02)


def test_epochs_differ() -> None:
    x, index = images(8), torch.arange(8)
    first, second = (augment(x, "crop+flip", (0, "train", epoch), index) for epoch in (0, 1))
    assert not torch.equal(first, second)


def test_bytes_stay_bytes_and_the_input_is_left_alone() -> None:
    x = torch.randint(1, 255, (6, 1, 28, 28), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    assert augment(x, "crop+flip", (0,), torch.arange(6)).dtype == torch.uint8
    assert torch.equal(x, before)


@pytest.mark.parametrize(("side", "expected"), [(8, 1), (16, 2), (28, 2), (32, 4), (64, 8)])
def test_padding(side: int, expected: int) -> None:
    assert padding(side) == expected


def test_an_unknown_kind_lists_those_there_are() -> None:
    with pytest.raises(OptionError, match=r"crop\+flip"):
        augment(images(1), "mirror", (0,), torch.arange(1))
