"""PNG files, decoded by an independent library."""

import io

import numpy as np
import pytest
import torch

from robustq.core import png

image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")


def decoded(content: bytes) -> np.ndarray:
    with image.open(io.BytesIO(content)) as opened:
        opened.load()
        return np.asarray(opened)


@pytest.mark.parametrize(("c", "mean"), [(1, True), (2, True), (3, False), (4, False), (5, True)])
def test_pixels_come_back(c: int, mean: bool) -> None:
    x = torch.rand(c, 5, 7, generator=torch.Generator().manual_seed(c))
    found = decoded(png.encode(x))
    expected = x.mean(0, keepdim=True) if mean else x[:3]
    whole = expected.mul(255).round().to(torch.uint8).permute(1, 2, 0).squeeze(-1).numpy()
    assert np.array_equal(found, whole)


def test_extremes_are_kept_and_excess_is_cut() -> None:
    assert decoded(png.encode(torch.tensor([[[0.0, 1.0, 2.0, -1.0]]]))).tolist() == [[0, 255, 255, 0]]
