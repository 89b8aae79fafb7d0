"""Models that answer with probabilities: recognised, and attacked as well as by their logits."""

import pytest
import torch
from torch import Tensor, nn

from robustq.core import registry
from robustq.core.driver import perturb
from robustq.core.probabilities import are_probabilities, logarithms


def network(scale: float, probabilities: bool) -> nn.Module:
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(96, 4)).eval()
    body[3].get_parameter("weight").data.mul_(scale)
    return nn.Sequential(*body, nn.Softmax(1)) if probabilities else body


def images(n: int = 60) -> Tensor:
    return torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(1))


def test_what_counts_as_probabilities() -> None:
    logits = torch.randn(9, 5)
    assert are_probabilities(logits.softmax(1))
    assert not are_probabilities(logits)
    assert not are_probabilities(logits.sigmoid())
    assert not are_probabilities(logits.log_softmax(1))


def test_their_logarithms_have_the_same_softmax() -> None:
    net = network(1.0, probabilities=True)
    assert torch.allclose(logarithms(net)(images()).softmax(1), net(images()), atol=1e-6)
    certain = logarithms(lambda x: torch.tensor([[1.0, 0.0]]))(images(1))
    assert certain.isfinite().all()


@pytest.mark.parametrize("name", ["pgd", "apgd-ce", "apgd-t", "fab-t", "square"])
def test_attacks_fare_as_with_logits(name: str) -> None:
    plain, answers, x = network(8.0, probabilities=False), network(8.0, probabilities=True), images()
    with torch.no_grad():
        y = plain(x).argmax(1)
    short = {"square": {"queries": 40}, "fab-t": {"steps": 10}}.get(name, {"steps": 10})
    attack = registry.create(name, {"eps": 0.03} | short, "attack")
    by_logits, by_answers = (perturb(attack, net, x, y).fooled for net in (plain, answers))
    assert 3 < by_logits.sum() < 57
    assert int((by_logits != by_answers).sum()) <= 1
