"""C&W: optima of linear models, the bisection of the weight by hand, the box, and refusals."""

import math

import pytest
import torch
from torch import Tensor, nn

from robustq.core import registry
from robustq.core.attacks.adam import adam
from robustq.core.attacks.attack import begin
from robustq.core.attacks.cw import Cw, CwLinf
from robustq.core.attacks.pgd import Pgd
from robustq.core.attacks.projected import target
from robustq.core.driver import craft, perturb
from robustq.core.errors import OptionError
from robustq.core.stepping import advance, gradient

SHAPE = (1, 4, 4)
KEY = (0, "test", 0)


def linear(classes: int = 3) -> nn.Sequential:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, classes))
    weight = torch.randn(classes, 16, generator=torch.Generator().manual_seed(0))
    net[1].get_parameter("weight").data.copy_(weight)
    net[1].get_parameter("bias").data.copy_(-0.5 * weight.sum(1))
    return net


def images(n: int, low: float = 0.2, high: float = 0.8) -> Tensor:
    return low + (high - low) * torch.rand(n, *SHAPE, generator=torch.Generator().manual_seed(1))


def test_finds_the_smallest_perturbation_of_a_linear_model() -> None:
    net, x = linear(), images(30)
    with torch.no_grad():
        logits = net(x)
    y = logits.argmax(1)
    weight = net[1].get_parameter("weight").detach()
    width = torch.linalg.vector_norm(weight[y][:, None] - weight, dim=2)
    lead = logits.gather(1, y[:, None]) - logits
    distance = (lead / width.clamp_min(1e-9)).scatter(1, y[:, None], float("inf")).amin(1)
    far = distance > 0.2  # nearer than that one step of 0.01 overshoots
    found = perturb(Cw(eps=0.3, steps=200, rounds=7, weight=0.01), net, x[far], y[far])
    assert found.minimal_norms is not None
    assert far.sum() > 6
    assert (found.minimal_norms >= distance[far] - 1e-5).all()
    assert (found.minimal_norms <= 1.01 * distance[far]).all()
    assert not (found.fooled & (distance[far] > 0.3)).any()
    assert 0 <= found.adversarial.min() <= found.adversarial.max() <= 1


def test_the_weight_grows_tenfold_then_is_bisected() -> None:
    attack = Cw(eps=0.5, steps=1, rounds=5, weight=0.1)
    x, y = images(1), torch.zeros(1, dtype=torch.long)
    state, weights = begin(attack, x, y, KEY, torch.arange(1)), list[float]()
    # Rounds of one step: the first two fail (the label leads), the third hits, the fourth fails.
    for lead in (-1.0, -1.0, 1.0, -1.0):
        logits = torch.tensor([[0.0, lead]])
        given = state | {"value": attack.objective(state, logits)}
        state = given | attack.update(given, logits, torch.zeros_like(x), KEY)
        weights.append(state["weight"].item())
    assert weights == pytest.approx([1.0, 10.0, 5.5, 7.75])
    assert state["round"].tolist() == [4]
    assert torch.allclose(state["x"], x, atol=1e-5)  # each round starts from the image
    assert state["norm"].item() < 1e-4  # the image itself counted as a hit


def test_a_round_without_progress_ends_early() -> None:
    net, x = linear(), images(6)
    with torch.no_grad():
        y = net(x).argmax(1)
    plain, early = (perturb(Cw(eps=0.3, steps=100, rounds=3, early=e), net, x, y) for e in (False, True))
    assert plain.forwards > 6 * 300
    assert early.forwards < plain.forwards


def test_pixels_at_the_edge_of_the_box_can_move() -> None:
    net, x = linear(2), torch.zeros(1, *SHAPE)
    with torch.no_grad():
        y = net(x).argmax(1)
    found = perturb(Cw(eps=9.0, steps=800, rounds=1, weight=10.0, early=False), net, x, y)
    assert found.fooled.all()


def test_confidence_is_the_lead_that_is_asked_for() -> None:
    net, x = linear(2), images(4)
    with torch.no_grad():
        y = net(x).argmax(1)
    attack = Cw(eps=9.0, steps=100, rounds=5, confidence=2.0)
    state = begin(attack, x, y, KEY, torch.arange(4))
    assert torch.equal(attack.objective(state, torch.tensor([[1.0, 4.0]] * 4)).eq(0), y.eq(0))
    sure, plain = (perturb(a, net, x, y).minimal_norms for a in (attack, Cw(eps=9.0, steps=100, rounds=5)))
    assert sure is not None
    assert plain is not None
    assert (sure > 0).all()
    assert (plain <= sure + 1e-6).all()


def test_targeted_goes_to_one_class() -> None:
    net, x, y = linear(4), images(12), torch.arange(12) % 4
    attack = Cw(eps=9.0, steps=100, rounds=3, targeted=True, weight=1.0)
    state = begin(attack, x, y, KEY, torch.arange(12))
    for _ in range(attack.iterations):
        logits, grad, value = gradient(attack, net, state)
        state = advance(attack, state, logits, grad, value, KEY)
    assert state["norm"].isfinite().all()
    with torch.no_grad():
        found = net(attack.final(state, False))
    assert torch.equal(found.argmax(1), target(state, found))


def test_linf_is_projected_ascent_on_the_margin() -> None:
    net, x, y = linear(), images(10), torch.arange(10) % 3
    plain = craft(Pgd(eps=0.1, loss="margin", steps=100), net, x, y, KEY, torch.arange(10))
    assert torch.equal(craft(CwLinf(eps=0.1), net, x, y, KEY, torch.arange(10)), plain)
    named, member = perturb(Cw(eps=0.1, norm="linf"), net, x, y), perturb(CwLinf(eps=0.1), net, x, y)
    assert torch.equal(named.adversarial, member.adversarial)


def test_adam_by_hand() -> None:
    zero = torch.zeros(1, 1, 1, 2)
    one, first, second = adam(torch.tensor([3.0, -1e-3]).view(1, 1, 1, 2), zero, zero, torch.tensor([0]))
    assert one.flatten().tolist() == pytest.approx([1.0, -1.0], abs=1e-4)  # the first step is the sign
    # Moments 0.9 * 0.1 * 3 - 0.1 * 1 and 0.999 * 0.001 * 9 + 0.001 * 1, over 1 - 0.9^2 and 1 - 0.999^2.
    two, _, _ = adam(torch.tensor([-1.0, -1e-3]).view(1, 1, 1, 2), first, second, torch.tensor([1]))
    expected = (0.17 / 0.19) / math.sqrt((0.999 * 9e-3 + 1e-3) / (1 - 0.999**2))
    assert two.flatten().tolist() == pytest.approx([expected, -1.0], abs=1e-4)


def test_weights_are_bounded() -> None:
    attack = Cw(eps=0.5, steps=1, rounds=30, weight=1.0)
    found = perturb(
        attack,
        linear(2),
        torch.full((1, *SHAPE), 0.5),
        torch.zeros(1, dtype=torch.long),
        predictions=torch.zeros(1, dtype=torch.long),
    )
    assert math.isfinite(float(found.norms[0]))


@pytest.mark.parametrize(
    ("options", "found"),
    [({"norm": "l1"}, "norm is 'l1'"), ({"rounds": 0}, "rounds is 0"), ({"confidence": -1}, "confidence is -1")],
)
def test_wrong_options_are_named(options: dict[str, object], found: str) -> None:
    with pytest.raises(OptionError, match=found):
        registry.create("cw", {"eps": 0.1} | options, "attack")
