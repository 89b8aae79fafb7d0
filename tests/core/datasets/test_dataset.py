import dataclasses

import torch

from robustq.core.datasets import Dataset

DATA = Dataset(
    "x",
    "test",
    torch.arange(48, dtype=torch.uint8).view(4, 1, 3, 4) * 5,
    torch.tensor([0, 2, 1, 2]),
    3,
)


def test_batches_are_scaled_and_the_store_is_not() -> None:
    x, y = DATA.batch(torch.tensor([2, 0]))
    assert torch.equal(x, DATA.images[[2, 0]].float() / 255)
    assert y.tolist() == [1, 0]
    assert DATA.images.dtype == torch.uint8
    floats = dataclasses.replace(DATA, images=DATA.images / 255, divisor=2.0)
    before = floats.images.clone()
    floats.batch(torch.arange(4))
    assert torch.equal(floats.images, before)


def test_parts() -> None:
    assert len(DATA) == 4
    assert DATA.shape == (1, 3, 4)
    assert DATA.first(None) is DATA
    assert DATA.first(3).labels.tolist() == [0, 2, 1]
    assert DATA.select(torch.tensor([3, 1])).labels.tolist() == [2, 2]
    assert DATA.first(2).classes == 3


def test_the_hash_tells_data_apart() -> None:
    same = dataclasses.replace(DATA, name="y", split="train", notes=("a",))
    others = [
        dataclasses.replace(DATA, divisor=240.0),
        dataclasses.replace(DATA, labels=DATA.labels.flip(0)),
        dataclasses.replace(DATA, images=DATA.images.view(4, 1, 4, 3)),
        DATA.first(3),
    ]
    assert same.sha256 == DATA.sha256
    assert len({DATA.sha256, *(other.sha256 for other in others)}) == 5
