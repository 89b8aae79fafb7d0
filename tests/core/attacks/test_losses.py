"""Losses: values by hand, the temperature, saturated logits that are rescaled by themselves, and refusals."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from robustq.core import registry
from robustq.core.attacks.apgd import Apgd, ApgdCe
from robustq.core.attacks.attack import Attack
from robustq.core.attacks.fgsm import Fgsm
from robustq.core.attacks.losses import LOSSES, increased, increased_towards, tempered
from robustq.core.attacks.mi_fgsm import MiFgsm
from robustq.core.attacks.pgd import Ifgsm, Pgd
from robustq.core.datasets.dataset import Dataset
from robustq.core.driver import perturb
from robustq.core.errors import OptionError
from robustq.core.evaluation import survey

LOGITS, Y = torch.tensor([[4.0, 1.0, 3.0, -2.0]]), torch.tensor([0])
AIM = torch.tensor([1])


def test_values_by_hand() -> None:
    state = {"y": Y}
    assert increased("margin", state, LOGITS).item() == pytest.approx(-1.0)
    assert increased("dlr", state, LOGITS).item() == pytest.approx(-1 / 3)
    assert increased("ce", state, LOGITS).item() == pytest.approx(F.cross_entropy(LOGITS, Y).item())
    assert increased_towards(AIM, "margin", state, LOGITS).item() == pytest.approx(-3.0)
    assert increased_towards(AIM, "dlr", state, LOGITS).item() == pytest.approx(-3 / (4 + 0.5))
    assert increased_towards(AIM, "ce", state, LOGITS).item() == pytest.approx(-F.cross_entropy(LOGITS, AIM).item())


def test_temperature_divides_logits_in_the_cross_entropy_only() -> None:
    state = {"y": Y}
    assert increased("ce", state, LOGITS, 2.0).item() == pytest.approx(F.cross_entropy(LOGITS / 2, Y).item())
    assert increased("margin", state, LOGITS, 2.0).item() == pytest.approx(-1.0)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_at_its_own_temperature_the_scale_of_an_image_is_gone(scale: float) -> None:
    state = {"y": Y, "clean_logits": scale * LOGITS}
    found = tempered(state, scale * LOGITS, "auto")
    assert float(found.amax() - found.mean()) == pytest.approx(10.0, rel=1e-5)


class Scaled(nn.Module):
    """A network whose logits are multiplied, far enough to leave the cross entropy without a gradient."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4))
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.net(x)


def images(n: int = 60) -> Tensor:
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def answers(net: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return net(x).argmax(1)


@pytest.mark.parametrize(
    "attack", [Pgd(eps=0.03, steps=10), Ifgsm(eps=0.03, steps=10), MiFgsm(eps=0.03), ApgdCe(eps=0.03, steps=10)]
)
def test_saturated_logits_are_rescaled_by_themselves(attack: Attack) -> None:
    plain, large, x = Scaled(10.0), Scaled(1e6), images()
    y = answers(plain, x)
    honest, found = perturb(attack, plain, x, y), perturb(attack, large, x, y)
    assert (honest.rescaled, found.rescaled) == (False, True)
    assert found.zero_gradient > 10
    assert 5 < honest.fooled.sum() < 55
    assert abs(int(found.fooled.sum()) - int(honest.fooled.sum())) <= 2


@pytest.mark.parametrize("attack", [Pgd(eps=0.03, loss="margin", steps=10), Apgd(eps=0.03, loss="dlr", steps=10)])
def test_losses_without_saturation_are_left_as_they_are(attack: Attack) -> None:
    x = images()
    y = answers(Scaled(1.0), x)
    small, large = (perturb(attack, Scaled(scale), x, y) for scale in (1.0, 1024.0))
    assert not large.rescaled
    assert torch.equal(small.fooled, large.fooled)


def test_what_was_rescaled_is_said() -> None:
    x = images(40)
    net = Scaled(1e6)
    found = survey(Pgd(eps=0.03, steps=5), net, Dataset("test", "test", x, answers(net, x), 4, divisor=1.0))
    assert found.rescaled
    assert "temperature=auto" in found.warnings[0]


def test_a_model_without_any_gradient_is_not_said_to_be_rescaled() -> None:
    x, y = images(4), torch.zeros(4, dtype=torch.long)
    found = perturb(Fgsm(eps=0.1), lambda x: torch.tensor([[1.0, 0.0]]).repeat(len(x), 1), x, y)
    assert not found.rescaled
    assert found.zero_gradient == 4


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_every_loss_breaks_a_small_network(loss: str, norm: str) -> None:
    net, x = Scaled(1.0), images()
    eps = {"linf": 0.1, "l2": 0.5, "l1": 2.5}[norm]
    for attack in (Pgd(eps=eps, norm=norm, loss=loss, steps=20), Apgd(eps=eps, norm=norm, loss=loss, steps=20)):
        assert perturb(attack, net, x, answers(net, x)).fooled.float().mean() > 0.7


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        ("pgd", {"temperature": 0}, "temperature is 0.0[\\s\\S]*above 0, or auto"),
        ("apgd-ce", {"temperature": "warm"}, "temperature is 'warm'"),
        ("apgd", {"loss": "mse"}, "loss is 'mse'"),
    ],
)
def test_wrong_options_are_named(name: str, options: dict[str, object], found: str) -> None:
    with pytest.raises(OptionError, match=found):
        registry.create(name, {"eps": 0.1} | options, "attack")


def test_temperatures_come_from_text() -> None:
    assert registry.create("pgd", {"eps": 0.1, "temperature": "auto"}, "attack").temperature == "auto"
    assert registry.create("pgd", {"eps": 0.1, "temperature": "1/4"}, "attack").temperature == 0.25
