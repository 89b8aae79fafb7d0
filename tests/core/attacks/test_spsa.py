"""SPSA: its estimate against the true gradient, that no gradient is asked for, the ball, counts and refusals."""

import pytest
import torch
from torch import Tensor, nn

from robustq.core import registry
from robustq.core.attacks.attack import begin
from robustq.core.attacks.norms import NORMS
from robustq.core.attacks.spsa import Spsa
from robustq.core.driver import craft, perturb
from robustq.core.errors import OptionError

KEY = (0, "test", 0)


class Blind(nn.Module):
    """A linear classifier that refuses to be differentiated."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(classes, 16, generator=torch.Generator().manual_seed(0)))

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert not x.requires_grad
        return (x - 0.5).flatten(1) @ self.weight.T


def images(n: int, low: float = 0.4, high: float = 0.6) -> Tensor:
    return low + (high - low) * torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(1))


def test_the_mean_of_its_differences_is_the_gradient_of_a_linear_margin() -> None:
    net, attack, x = Blind(), Spsa(eps=0.3, samples=1000), images(1)
    y = torch.zeros(1, dtype=torch.long)
    state = begin(attack, x, y, KEY, torch.arange(1))
    with torch.no_grad():
        for _ in range(1000):
            logits = net(state["x"])
            given = state | {"value": attack.objective(state, logits)}
            state = given | attack.update(given, logits, torch.zeros(1, 0), KEY) | {"taken": state["taken"] + 1}
    slope = (net.weight[1] - net.weight[0]).detach()
    # Of 500 pairs each entry's mean errs by |slope| / sqrt(500).
    assert torch.allclose(state["slope"].flatten() / 500, slope, atol=4 * float(slope.norm()) / 500**0.5)


def test_reaches_the_optimum_of_a_linear_model_without_a_gradient() -> None:
    net, x = Blind(), images(30)
    with torch.no_grad():
        logits = net(x)
    y = logits.argmax(1)
    slope = (net.weight[0] - net.weight[1]).detach()
    distance = (logits[:, 0] - logits[:, 1]).abs() / slope.abs().sum()
    eps = float(distance.median())
    found = perturb(Spsa(eps=eps, samples=64, steps=30), net, x, y, randomized=False)
    assert not (found.fooled & (distance > eps + 1e-5)).any()
    assert found.fooled[distance < 0.95 * eps].all()
    assert 10 < found.fooled.sum() < 20
    assert (found.backwards, found.zero_gradient) == (0, 0)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_what_it_hands_in_lies_in_ball_and_box(norm: str) -> None:
    net, x, y = Blind(), images(5, 0.0, 1.0), torch.arange(5) % 2
    attack = Spsa(eps=0.2, norm=norm, samples=6, steps=4, lr=0.1)
    found = perturb(attack, net, x, y, randomized=False, predictions=y)
    assert (NORMS[norm].size(found.adversarial - x) <= 0.2 + 1e-6).all()
    assert 0 <= found.adversarial.min() <= found.adversarial.max() <= 1


def test_only_the_point_itself_counts_and_passes_are_counted() -> None:
    x, y = torch.full((2, 1, 1, 1), 0.5), torch.zeros(2, dtype=torch.long)

    def net(x: Tensor) -> Tensor:  # any deviation from the image is misclassified
        moved = ((x - 0.5).abs().flatten(1).amax(1) > 0).float()
        return torch.stack([2 - 4 * moved, 4 * moved], 1)

    found = perturb(Spsa(eps=0.0, samples=4, steps=3), net, x, y, randomized=False)
    assert found.robust.all()
    assert found.forwards == 2 * (1 + 3 * 5 + 1)  # clean answers, three updates of four points and their own, the last


def test_batches_and_order_change_nothing() -> None:
    x, y, attack = images(20), torch.arange(20) % 3, Spsa(eps=0.02, samples=8, steps=4)
    whole = perturb(attack, Blind(3), x, y, drop=False, micro_batch=20, randomized=False)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(3))
    mixed = perturb(attack, Blind(3), x[order], y[order], index=order, micro_batch=4, randomized=False)
    assert torch.equal(mixed.fooled, whole.fooled[order])
    assert torch.allclose(mixed.adversarial, whole.adversarial[order], atol=1e-6)


def test_draws_change_with_seed_and_step() -> None:
    net, x, y, attack = Blind(), images(4), torch.zeros(4, dtype=torch.long), Spsa(eps=0.1, samples=2, steps=3)
    with torch.no_grad():
        one, same, other = (craft(attack, net, x, y, (s, "spsa", 0), torch.arange(4)) for s in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("options", "found"),
    [({"samples": 1}, "samples is 1"), ({"norm": "l1"}, "norm is 'l1'"), ({"delta": 0}, "delta is 0")],
)
def test_wrong_options_are_named(options: dict[str, object], found: str) -> None:
    with pytest.raises(OptionError, match=found):
        registry.create("spsa", {"eps": 0.1} | options, "attack")
