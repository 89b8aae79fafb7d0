"""Random noise: how often it hits, that it asks for no gradient, and that batches change nothing."""

import pytest
import torch
from torch import Tensor

from robustq.core import registry
from robustq.core.attacks.noise import Noise
from robustq.core.attacks.norms import NORMS
from robustq.core.driver import perturb
from robustq.core.errors import OptionError


def first_pixel(x: Tensor) -> Tensor:
    """Class 1 where the first pixel is below 0.35; whoever asks for a gradient gets an error."""
    assert not x.requires_grad
    pixel = x[:, 0, 0, 0]
    return torch.stack([pixel - 0.35, 0.35 - pixel], 1)


def test_one_point_in_four_hits() -> None:
    # The pixel is uniform in [0.3, 0.5], below 0.35 in a quarter of the points: two points leave 9/16.
    x, y = torch.full((2000, 1, 1, 2), 0.4), torch.zeros(2000, dtype=torch.long)
    found = perturb(Noise(eps=0.1, points=2), first_pixel, x, y)
    assert float(found.robust.float().mean()) == pytest.approx(9 / 16, abs=0.04)
    assert found.backwards == 0
    assert found.zero_gradient == 0
    assert perturb(Noise(eps=0.1), first_pixel, x, y).fooled.all()


@pytest.mark.parametrize("norm", list(NORMS))
def test_batches_and_order_change_nothing(norm: str) -> None:
    x, y, attack = (
        torch.full((40, 1, 2, 2), 0.4),
        torch.zeros(40, dtype=torch.long),
        Noise(eps=0.1, norm=norm, points=3),
    )
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    whole = perturb(attack, first_pixel, x, y, drop=False, micro_batch=40)
    mixed = perturb(attack, first_pixel, x, y, index=order, micro_batch=3)
    assert torch.equal(mixed.adversarial, whole.adversarial[order])
    assert 0 < mixed.fooled.sum() < 40
    assert mixed.norms.max() <= 0.1 + 1e-6


def test_one_point_is_refused() -> None:
    with pytest.raises(OptionError, match="points is 1"):
        registry.create("noise", {"points": 1}, "attack")
