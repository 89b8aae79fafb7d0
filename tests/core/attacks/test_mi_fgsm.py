"""MI-FGSM: the momentum by hand, the optimum of a linear model, and refusals."""

import pytest
import torch
from torch import Tensor, nn

from robustq.core import registry
from robustq.core.attacks.attack import begin
from robustq.core.attacks.mi_fgsm import MiFgsm
from robustq.core.attacks.norms import NORMS
from robustq.core.attacks.pgd import Ifgsm
from robustq.core.driver import craft, perturb
from robustq.core.errors import OptionError

KEY = (0, "test", 0)


def images(n: int, seed: int = 1) -> Tensor:
    return torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(seed))


def model(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 3))


def test_momentum_by_hand() -> None:
    attack = MiFgsm(eps=0.4, steps=4, decay=0.5)
    x = torch.full((1, 1, 1, 2), 0.5)
    state = begin(attack, x, torch.zeros(1, dtype=torch.long), KEY, torch.arange(1))
    first = attack.update(state, torch.zeros(1, 2), torch.tensor([[[[3.0, 1.0]]]]), KEY)
    assert first["velocity"].flatten().tolist() == pytest.approx([0.75, 0.25])
    assert first["x"].flatten().tolist() == pytest.approx([0.6, 0.6])
    # 0.5 * (0.75, 0.25) + (-0.2, -0.8): the first pixel still rises, against the newest gradient.
    second = attack.update(state | first, torch.zeros(1, 2), torch.tensor([[[[-1e-30, -4e-30]]]]), KEY)
    assert second["velocity"].flatten().tolist() == pytest.approx([0.175, -0.675])
    assert second["x"].flatten().tolist() == pytest.approx([0.7, 0.5])


def test_without_memory_it_is_ifgsm() -> None:
    net, x, y = model(), images(8), torch.arange(8) % 3
    plain = craft(Ifgsm(eps=0.1, step=0.01, steps=10), net, x, y, KEY, torch.arange(8))
    assert torch.equal(craft(MiFgsm(eps=0.1, decay=0.0), net, x, y, KEY, torch.arange(8)), plain)
    assert not torch.equal(craft(MiFgsm(eps=0.1), net, x, y, KEY, torch.arange(8)), plain)


def test_reaches_the_optimum_of_a_linear_model() -> None:
    net, x = nn.Sequential(nn.Flatten(), nn.Linear(16, 2)), images(6)
    found = craft(MiFgsm(eps=0.2), net, x, torch.zeros(6, dtype=torch.long), KEY, torch.arange(6))
    weight = net[1].get_parameter("weight").detach()
    assert torch.allclose(found, (x + 0.2 * (weight[1] - weight[0]).sign().view(1, 4, 4)).clamp(0, 1), atol=1e-6)


@pytest.mark.parametrize("norm", list(NORMS))
def test_stays_in_the_ball_and_depends_on_no_batch(norm: str) -> None:
    net, x, y = model(), images(20), torch.arange(20) % 3
    whole = perturb(MiFgsm(eps=0.2, norm=norm), net, x, y, micro_batch=20)
    parts = perturb(MiFgsm(eps=0.2, norm=norm), net, x, y, micro_batch=3)
    assert whole.norms.max() <= 0.2 + 1e-6
    assert torch.equal(whole.fooled, parts.fooled)
    assert torch.allclose(whole.adversarial, parts.adversarial, atol=1e-5)


def test_wrong_decay_is_refused() -> None:
    with pytest.raises(OptionError, match=r"decay is 1.5, outside \[0.0, 1.0\]"):
        registry.create("mi-fgsm", {"decay": "1.5"}, "attack")
