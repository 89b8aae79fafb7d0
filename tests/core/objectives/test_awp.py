"""Adversarial weight perturbation: the move, and that nothing of it stays."""

import copy

import pytest
import torch
from torch import nn

from robustq.core import registry
from robustq.core.architecture import Classifier
from robustq.core.attacks.pgd import Pgd
from robustq.core.errors import OptionError, UnknownNameError
from robustq.core.objectives.awp import Awp
from robustq.core.objectives.pgd_at import PgdAt
from robustq.core.quantizers.binary_relax import BinaryRelax
from robustq.core.view import View

X = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3
INDEX = torch.arange(12)
ATTACK = Pgd(eps=0.1, steps=2, step=0.05)
KEY = (0, "train", 0)


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 3))
    return Classifier(net).train()


def view_of(model: Classifier, progress: float = 0.5) -> View:
    return View(model, (), dict(model.net.named_parameters()), progress=progress)


def test_no_move_is_the_wrapped_objective(model: Classifier) -> None:
    for inner in ("pgd-at", "trades:beta=2;nudge=0.01", "natural", "mat"):
        plain = Awp(inner=inner).wrapped().loss(view_of(copy.deepcopy(model)), X, Y, ATTACK, KEY, INDEX)[0]
        found = Awp(inner=inner, gamma=0.0).loss(view_of(copy.deepcopy(model)), X, Y, ATTACK, KEY, INDEX)[0]
        torch.testing.assert_close(found, plain)


def test_golden(model: Classifier) -> None:
    model.eval()  # batch statistics would differ between the passes compared here
    x_hat = view_of(model).attacked(ATTACK, X, Y, KEY, INDEX)
    weights = dict(model.net.named_parameters())
    grads = torch.autograd.grad(nn.functional.cross_entropy(model(x_hat), Y), list(weights.values()))
    moved = {n: w.detach().clone() for n, w in weights.items()}
    for (name, w), g in zip(weights.items(), grads, strict=True):
        if w.dim() > 1:
            moved[name] += 0.02 * g * w.detach().norm() / g.norm()
    found, _ = Awp(gamma=0.02).loss(view_of(model), X, Y, ATTACK, KEY, INDEX)
    at_x = torch.func.functional_call(model, {f"net.{n}": w for n, w in moved.items()}, (x_hat,))
    torch.testing.assert_close(found, nn.functional.cross_entropy(at_x, Y))
    assert found.item() > nn.functional.cross_entropy(model(x_hat), Y).item()


def test_the_move_has_its_length() -> None:
    w, grad = torch.randn(5, 7), torch.randn(5, 7)
    move = Awp(gamma=0.03).move(w, grad)
    assert float(move.norm()) == pytest.approx(0.03 * float(w.norm()), rel=1e-5)
    assert not Awp().move(w, torch.zeros(5, 7)).any()


def test_weights_are_bit_identical_and_statistics_move_once(model: Classifier) -> None:
    before = {name: w.detach().clone() for name, w in model.net.named_parameters()}
    count = model.net.get_buffer("1.num_batches_tracked")
    Awp(gamma=0.5).loss(view_of(model), X, Y, ATTACK, KEY, INDEX)[0].backward()
    assert all(torch.equal(w, before[name]) for name, w in model.net.named_parameters())
    assert int(count) == 1
    assert all(w.grad is not None and w.grad.any() for n, w in model.net.named_parameters() if n != "0.bias")


def test_the_gradient_passes_through_sessions(model: Classifier) -> None:
    latent = dict(model.net.named_parameters())
    session = BinaryRelax().attach({"4.weight": latent["4.weight"]}, 10)
    view = View(model, [session], latent, progress=0.5)
    Awp(gamma=0.02).loss(view, X, Y, ATTACK, KEY, INDEX)[0].backward()
    assert latent["4.weight"].grad is not None
    assert latent["4.weight"].grad.any()


def test_before_the_warm_up_ends_nothing_is_moved(model: Classifier) -> None:
    method = Awp(gamma=0.1, warmup=0.4)
    plain = PgdAt().loss(view_of(copy.deepcopy(model)), X, Y, ATTACK, KEY, INDEX)[0]
    early = method.loss(view_of(copy.deepcopy(model), 0.3), X, Y, ATTACK, KEY, INDEX)[0]
    torch.testing.assert_close(early, plain)
    assert method.loss(view_of(model, 0.4), X, Y, ATTACK, KEY, INDEX)[0].item() > plain.item()


def test_free_training_inside_moves_its_images_once(model: Classifier) -> None:
    view = view_of(model)
    Awp(inner="free", gamma=0.01).loss(view, X, Y, ATTACK, KEY, INDEX)[0].backward()
    assert torch.equal(view.memory["delta"].abs().unique(), torch.tensor([0.1]))
    assert Awp(inner="free:batch_replays=3").replays == 3


def test_refusals() -> None:
    with pytest.raises(OptionError, match="inner is 'awp'"):
        registry.create("awp", {"inner": "awp"}, "objective")
    with pytest.raises(UnknownNameError, match="Did you mean 'trades'"):
        registry.create("awp", {"inner": "trade"}, "objective")
    with pytest.raises(OptionError, match="beta is -1"):
        registry.create("awp", {"inner": "trades:beta=-1"}, "objective")
