"""TRADES, MART, fast, free, mixed and curriculum training: hand-checked values, limits, refusals."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from robustq.core import registry
from robustq.core.architecture import Classifier
from robustq.core.attacks.fgsm import Fgsm
from robustq.core.attacks.pgd import Pgd
from robustq.core.errors import OptionError
from robustq.core.objectives.fast import Fast
from robustq.core.objectives.mart import boosted
from robustq.core.objectives.mat import Mat, weakened
from robustq.core.objectives.p_sat import PSat, difficulty
from robustq.core.objectives.trades import divergence, nudged
from robustq.core.view import View

X = torch.rand(16, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(16) % 3
INDEX = torch.arange(16)
ATTACK = Pgd(eps=0.1, steps=3, step=0.05)
KEY = (0, "train", 0)


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 8), nn.ReLU(), nn.Linear(8, 3)))


def view_of(model: Classifier, progress: float = 0.0, memory: dict[str, torch.Tensor] | None = None) -> View:
    return View(model, (), dict(model.net.named_parameters()), progress=progress, memory=memory)


def loss(model: Classifier, name: str, attack: Pgd | Fgsm = ATTACK, progress: float = 0.0, **options) -> torch.Tensor:
    objective = registry.create(name, options, "objective")
    return objective.loss(view_of(model, progress), X, Y, attack, KEY, INDEX)[0]


def test_divergence_golden() -> None:
    p, q = torch.tensor([[0.5, 0.5], [0.9, 0.1]]), torch.tensor([[0.25, 0.75], [0.9, 0.1]])
    expected = [0.5 * math.log(2) + 0.5 * math.log(2 / 3), 0.0]
    torch.testing.assert_close(divergence(p.log(), q.log()), torch.tensor(expected))


def test_trades_golden(model: Classifier) -> None:
    target = model(X).detach()
    seen = view_of(model).attacked(
        ATTACK,
        X,
        Y,
        KEY,
        INDEX,
        lambda logits, _: F.kl_div(logits.log_softmax(1), target.softmax(1), reduction="none").sum(1),
        start=nudged(X, 0.001, KEY, INDEX),
    )
    assert float((seen - X).abs().max()) <= 0.1 + 1e-6
    apart = F.kl_div(model(seen).log_softmax(1), model(X).softmax(1), reduction="batchmean")
    torch.testing.assert_close(loss(model, "trades", beta=4), F.cross_entropy(model(X), Y) + 4 * apart)
    assert apart.item() > 4 * divergence(model(X), model(nudged(X, 0.05, KEY, INDEX))).mean().item()


def test_trades_sends_a_gradient_through_both_predictions() -> None:
    clean, attacked = torch.randn(4, 3, requires_grad=True), torch.randn(4, 3, requires_grad=True)
    divergence(clean, attacked).sum().backward()
    for logits in (clean, attacked):
        assert logits.grad is not None
        assert logits.grad.abs().sum() > 0


def test_boosted_cross_entropy_golden() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    expected = -(math.log(0.7) + math.log(0.3)) / 2 - (math.log(0.8001) + math.log(0.4001)) / 2
    torch.testing.assert_close(boosted(p.log(), torch.tensor([0, 1])), torch.tensor(expected))


def test_mart_without_a_radius_is_its_cross_entropy(model: Classifier) -> None:
    torch.testing.assert_close(loss(model, "mart", Pgd(eps=0.0, steps=2)), boosted(model(X), Y))


def test_mart_weighs_images_by_their_doubt(model: Classifier) -> None:
    x_hat = view_of(model).attacked(ATTACK, X, Y, KEY, INDEX, start=nudged(X, 0.001, KEY, INDEX))
    own = model(X).softmax(1)[torch.arange(16), Y]
    apart = F.kl_div(model(x_hat).log_softmax(1), model(X).softmax(1), reduction="none").sum(1)
    expected = boosted(model(x_hat), Y) + 5 * (apart * (1 - own)).sum() / 16
    torch.testing.assert_close(loss(model, "mart"), expected, rtol=1e-5, atol=1e-6)


def test_fast_is_one_long_step_from_a_random_point() -> None:
    torch.manual_seed(0)
    linear = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(36, 2)))
    x, y = 0.3 + 0.4 * X, Y % 2
    weight = linear.net.get_parameter("1.weight")
    ascent = (weight[1 - y] - weight[y]).sign().view_as(x)
    start = Pgd(eps=0.1).start(x, y, KEY, INDEX)["x"] - x
    expected = x + (start + 0.125 * ascent).clamp(-0.1, 0.1)
    found = Fast().loss(view_of(linear), x, y, Fgsm(eps=0.1), KEY, INDEX)[0]
    torch.testing.assert_close(found, F.cross_entropy(linear(expected), y))


@pytest.mark.parametrize(("curve", "epochs"), [([0.3, 0.4, 0.25], []), ([0.5, 0.45, 0.1, 0.2], [3]), ([0.4], [])])
def test_fast_tells_of_a_collapse(curve: list[float], epochs: list[int]) -> None:
    history = [{"epoch": i + 1, "robust": {"value": value}} for i, value in enumerate(curve)]
    said = Fast().remarks(history)
    assert [f"in epoch {epoch}:" in text for epoch, text in zip(epochs, said, strict=True)] == [True] * len(epochs)
    assert all("objective.rate=0.625" in text for text in said)


def test_free_moves_weights_and_images_in_one_pass(model: Classifier) -> None:
    objective = registry.create("free", {"batch_replays": 3}, "objective")
    assert objective.replays == 3
    memory: dict[str, torch.Tensor] = {}
    delta = torch.zeros_like(X)
    for _ in range(3):
        x = (X + delta).clamp(0, 1).requires_grad_()
        (grad,) = torch.autograd.grad(F.cross_entropy(model(x), Y), x)
        value, _ = objective.loss(view_of(model, memory=memory), X, Y, ATTACK, KEY, INDEX)
        torch.testing.assert_close(value, F.cross_entropy(model(X + delta if delta.any() else X), Y), atol=0.05, rtol=1)
        value.backward()
        delta = (delta + 0.1 * grad.sign()).clamp(-0.1, 0.1)
        assert torch.equal(memory["delta"], delta)
    assert model.net.get_parameter("1.weight").grad is not None


def test_free_keeps_the_perturbation_of_rows_a_short_batch_lacks(model: Classifier) -> None:
    objective = registry.create("free", {}, "objective")
    memory = {"delta": torch.full_like(X, 0.01)}
    view = view_of(model, memory=memory)
    objective.loss(view, X[:5], Y[:5], ATTACK, KEY, INDEX[:5])[0].backward()
    assert torch.equal(memory["delta"][5:], torch.full_like(X[5:], 0.01))
    assert not torch.equal(memory["delta"][:5], torch.full_like(X[:5], 0.01))


def test_mat_at_full_strength_is_pgd_training(model: Classifier) -> None:
    assert torch.equal(loss(model, "mat", strengths="1"), loss(model, "pgd-at"))
    assert torch.equal(loss(model, "mat", strengths="0"), loss(model, "natural"))
    assert torch.equal(loss(model, "mat", strengths="0,1", weights="0,2"), loss(model, "pgd-at"))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 1000))
def test_mat_keeps_every_image_in_its_own_ball(seed: int) -> None:
    method = Mat(strengths=(0.0, 0.5, 1.0))
    chosen = method.draw((seed,), INDEX)
    assert torch.equal(chosen[3:7], method.draw((seed,), INDEX[3:7]))
    torch.manual_seed(seed)
    seen: list[torch.Tensor] = []
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    net.register_forward_pre_hook(lambda module, args: seen.append(args[0].detach()))
    method.loss(view_of(Classifier(net)), X, Y, ATTACK, (seed,), INDEX)
    size = (seen[-1] - X).abs().flatten(1).amax(1)
    assert (size <= torch.tensor([0.0, 0.05, 0.1])[chosen] + 1e-6).all()
    assert (size[chosen == 2] > 0.05).all()


def test_mat_draws_by_weight() -> None:
    drawn = Mat(strengths=(0.0, 1.0), weights=(1.0, 3.0)).draw((0,), torch.arange(4000))
    assert float((drawn == 1).float().mean()) == pytest.approx(0.75, abs=0.03)


def test_a_weakened_attack_shrinks_its_step() -> None:
    found = weakened(ATTACK, 0.5)
    assert found == Pgd(eps=0.05, steps=3, step=0.025)
    assert weakened(ATTACK, 1) is ATTACK
    assert weakened(Fgsm(eps=0.2), 0.25).radius == pytest.approx(0.05)


def test_difficulty_golden() -> None:
    p = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6]])
    torch.testing.assert_close(difficulty(p.log(), torch.tensor([0, 1])), torch.tensor([-0.5, 0.3]))


def test_the_gap_grows_between_rise_and_top() -> None:
    method = PSat(gap_start=0.0, gap_end=0.4, rise=0.3, top=0.7)
    assert [method.gap(p) for p in (0.0, 0.3, 0.5, 0.7, 1.0)] == pytest.approx([0.0, 0.0, 0.2, 0.4, 0.4])
    assert PSat(rise=0.5, top=0.5).gap(0.49) == 0.0


def test_p_sat_limits(model: Classifier) -> None:
    always: Any = {"gap_start": 1, "gap_end": 1}
    assert torch.equal(loss(model, "p-sat", **always), loss(model, "pgd-at"))
    start = Pgd(eps=0.1).start(X, Y, KEY, INDEX)["x"]
    never: Any = {"gap_start": -1, "gap_end": -1}
    torch.testing.assert_close(loss(model, "p-sat", **never), F.cross_entropy(model(start), Y))


def test_p_sat_stops_each_image_at_its_first_hard_point(model: Classifier) -> None:
    attack = Pgd(eps=0.3, steps=6, step=0.1)
    points = [Pgd(eps=0.3).start(X, Y, KEY, INDEX)["x"]]
    for steps in range(1, 7):
        points.append(view_of(model).attacked(Pgd(eps=0.3, steps=steps, step=0.1), X, Y, KEY, INDEX))
    gap = 0.05
    held = torch.stack([difficulty(model(x), Y) > gap for x in points[:-1]])
    first = torch.where(held.any(0), held.int().argmax(0), 6)
    assert len(first.unique()) > 2
    expected = torch.stack(points)[first, torch.arange(16)]
    found = loss(model, "p-sat", attack, gap_start=gap, gap_end=gap)
    torch.testing.assert_close(found, F.cross_entropy(model(expected), Y))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("trades", {"beta": "-1"}, r"beta is -1.0, outside"),
        ("mart", {"gamma": "1"}, "has no option 'gamma'"),
        ("fast", {"rate": "-0.1"}, "rate is -0.1, outside"),
        ("free", {"batch_replays": "0"}, "batch_replays is 0, outside"),
        ("mat", {"strengths": "0,2"}, r"shares of the radius in \[0, 1\]"),
        ("mat", {"weights": "1,2"}, "for 5 strengths"),
        ("mat", {"strengths": "0,1", "weights": "0,0"}, "not all of them 0"),
        ("p-sat", {"rise": "0.8", "top": "0.2"}, "Give rise <= top"),
    ],
)
def test_refusals(name: str, options: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        registry.create(name, options, "objective")
