"""DeepFool: exact on linear models, its step by hand, that it ends at the first success, and refusals."""

import pytest
import torch
from torch import Tensor, nn

from robustq.core import registry
from robustq.core.attacks.attack import begin
from robustq.core.attacks.deepfool import DeepFool
from robustq.core.driver import perturb
from robustq.core.errors import OptionError

SHAPE = (2, 3, 3)
KEY = (0, "test", 0)


def linear(classes: int) -> nn.Sequential:
    """All logits are 0 for the grey image."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(18, classes))
    weight = torch.randn(classes, 18, generator=torch.Generator().manual_seed(0))
    net[1].get_parameter("weight").data.copy_(weight)
    net[1].get_parameter("bias").data.copy_(-0.5 * weight.sum(1))
    return net


def images(n: int, low: float = 0.4, high: float = 0.6) -> Tensor:
    return low + (high - low) * torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))


def answers(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).argmax(1)


@pytest.mark.parametrize(("norm", "dual"), [("linf", 1.0), ("l2", 2.0)])
@pytest.mark.parametrize("classes", [2, 4])
def test_one_step_is_exact_on_linear_models(norm: str, dual: float, classes: int) -> None:
    net, x = linear(classes), images(40)
    with torch.no_grad():
        logits = net(x)
    y = logits.argmax(1)
    weight = net[1].get_parameter("weight").detach()
    width = torch.linalg.vector_norm(weight[y][:, None] - weight, ord=dual, dim=2)
    lead = logits.gather(1, y[:, None]) - logits
    distance = (lead / width.clamp_min(1e-9)).scatter(1, y[:, None], float("inf")).amin(1)
    eps = float(distance.median())
    found = perturb(DeepFool(eps=eps, norm=norm, overshoot=0.0), net, x, y)
    assert found.minimal_norms is not None
    assert torch.allclose(found.minimal_norms, distance + 1e-4, atol=1e-5)
    assert found.backwards == 40 * classes  # each other class once, and the point beyond the boundary
    longer = perturb(DeepFool(eps=eps, norm=norm, overshoot=0.5), net, x, y)
    assert longer.minimal_norms is not None
    assert torch.allclose(longer.minimal_norms, 1.5 * (distance + 1e-4), atol=1e-5)
    assert torch.equal(found.fooled, distance + 1e-4 <= eps)


def test_the_nearest_boundary_is_crossed_not_the_likeliest_class() -> None:
    # Class 1 is behind by 1 with slope 1, class 2 by 2 with slope 4: 2 is nearer.
    x, y, attack = torch.full((1, 1, 1, 1), 0.5), torch.zeros(1, dtype=torch.long), DeepFool(eps=1.0, overshoot=0.0)
    state = begin(attack, x, y, KEY, torch.arange(1), torch.tensor([[3.0, 2.0, 1.0]]))
    attack = DeepFool(eps=1.0, overshoot=0.0, targets=2)
    for value, slope in ((-1.0, 1.0), (-2.0, 4.0)):
        assert torch.equal(state["x"], x)
        given = state | {"value": torch.tensor([value])}
        state = given | attack.update(given, torch.zeros(1, 3), torch.full_like(x, slope), KEY)
    assert state["x"].item() == pytest.approx(1.0)  # 0.5 + 2 / 4 + 1e-4, which the box ends
    assert state["way"].item() == pytest.approx(0.5001)
    assert state["rank"].tolist() == [0]


def curved() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 6, 2), nn.Tanh(), nn.Flatten(), nn.Linear(24, 4))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_batches_order_and_dropping_change_nothing(norm: str) -> None:
    net, x = curved(), images(30, 0.0, 1.0)
    y, attack, order = answers(net, x), DeepFool(eps=0.1, norm=norm), torch.randperm(30)
    whole = perturb(attack, net, x, y, drop=False, micro_batch=30)
    mixed = perturb(attack, net, x[order], y[order], index=order, micro_batch=4)
    assert whole.minimal_norms is not None
    assert mixed.minimal_norms is not None
    assert torch.allclose(mixed.minimal_norms, whole.minimal_norms[order], atol=1e-5)
    assert whole.minimal_norms.isfinite().all()
    assert answers(net, whole.adversarial).ne(y).all()
    assert 0 <= whole.adversarial.min() <= whole.adversarial.max() <= 1


def test_a_model_without_a_gradient_leaves_images_alone() -> None:
    found = perturb(DeepFool(eps=0.1), lambda x: torch.tensor([[1.0, 0.0]]).repeat(len(x), 1), images(3),
                    torch.zeros(3, dtype=torch.long))  # fmt: skip
    assert found.robust.all()
    assert found.zero_gradient == 3


@pytest.mark.parametrize(
    ("options", "found"),
    [({"norm": "l1"}, "norm is 'l1'[\\s\\S]*linf, l2"), ({"steps": 0}, "steps is 0"), ({"targets": 0}, "targets is 0")],
)
def test_wrong_options_are_named(options: dict[str, object], found: str) -> None:
    with pytest.raises(OptionError, match=found):
        registry.create("deepfool", {"eps": 0.1} | options, "attack")
