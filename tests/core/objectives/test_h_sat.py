"""H-SAT: the eigenvalue on known spectra, the ladder of strengths."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from robustq.core import registry
from robustq.core.architecture import Classifier
from robustq.core.attacks.pgd import Pgd
from robustq.core.errors import OptionError
from robustq.core.objectives.h_sat import HSat, top_eigenvalue
from robustq.core.objectives.pgd_at import PgdAt
from robustq.core.view import View

X = torch.rand(12, 1, 6, 6, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 3
INDEX = torch.arange(12)
ATTACK = Pgd(eps=0.1, steps=2, step=0.05)
KEY = (0, "train", 0)


@pytest.mark.parametrize("spectrum", [[5.0, 1.0, 0.5], [-7.0, 3.0, 1.0], [0.0, 0.0, 0.0]])
def test_the_eigenvalue_of_a_quadratic(spectrum: list[float]) -> None:
    q, _ = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0)))
    hessian = q @ torch.diag(torch.tensor(spectrum)) @ q.T
    a, b = torch.randn(2, requires_grad=True), torch.randn(1, requires_grad=True)
    w = torch.cat([a, b])
    assert top_eigenvalue(0.5 * w @ hessian @ w, [a, b], 30, (0,)) == pytest.approx(spectrum[0], abs=1e-4)


def test_a_loss_linear_in_the_weights_has_no_curvature() -> None:
    w = torch.randn(3, requires_grad=True)
    assert top_eigenvalue(w.sum(), [w], 5, (0,)) == 0


@pytest.fixture
def model() -> Classifier:
    torch.manual_seed(0)
    return Classifier(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 3))).train()


def view_of(model: Classifier, progress: float = 0.5) -> View:
    return View(model, (), dict(model.net.named_parameters()), progress=progress)


def test_the_eigenvalue_of_a_network_is_that_of_its_whole_hessian(model: Classifier) -> None:
    weights = dict(model.net.named_parameters())
    sizes = [w.numel() for w in weights.values()]

    def loss(flat: torch.Tensor) -> torch.Tensor:
        parts = {n: p.view_as(w) for (n, w), p in zip(weights.items(), flat.split(sizes), strict=True)}
        shown = {f"net.{n}": w for n, w in parts.items()}
        return F.cross_entropy(torch.func.functional_call(model, shown, (X,)), Y)

    flat = torch.cat([w.detach().flatten() for w in weights.values()])
    whole = torch.autograd.functional.hessian(loss, flat)
    assert isinstance(whole, torch.Tensor)
    eigenvalues = torch.linalg.eigvalsh(whole)
    expected = float(eigenvalues[eigenvalues.abs().argmax()])
    found = HSat(iterations=60).curvature(view_of(model), X, Y, KEY)
    assert found == pytest.approx(expected, rel=1e-2)


def test_without_a_bound_in_reach_it_is_pgd_training(model: Classifier) -> None:
    loose, tight = HSat(bound_start=1e9, bound_end=1e9), HSat(bound_start=1e-9, bound_end=1e-9)
    plain, _ = PgdAt().loss(view_of(model), X, Y, ATTACK, KEY, INDEX)
    found, logs = loose.loss(view_of(model), X, Y, ATTACK, KEY, INDEX)
    torch.testing.assert_close(found, plain)
    assert logs["strength"] == 1
    found, logs = tight.loss(view_of(model), X, Y, ATTACK, KEY, INDEX)
    torch.testing.assert_close(found, F.cross_entropy(model(X), Y))
    assert logs["strength"] == 0


def test_the_strength_is_the_largest_that_is_allowed(model: Classifier, monkeypatch: pytest.MonkeyPatch) -> None:
    method = HSat(bound_start=2.0, bound_end=8.0)
    assert method.bound(0.5) == pytest.approx(4)
    size = X.abs().amax()
    delta = torch.full_like(X, 8.0)
    # A curvature of 1 at the clean images that grows by 1 for every 1 that they are moved by.
    monkeypatch.setattr(HSat, "curvature", lambda self, net, x, y, key: -float(1 + (x - X).mean()))
    assert size <= 1
    assert [method.strength(view_of(model, p), X, Y, delta, KEY) for p in (0.0, 0.5, 1.0)] == [0.0, 0.25, 0.75]


@pytest.mark.parametrize("options", [{"bound_start": "0"}, {"bound_start": "3", "bound_end": "2"}, {"iterations": "0"}])
def test_refusals(options: dict[str, str]) -> None:
    with pytest.raises(OptionError):
        registry.create("h-sat", options, "objective")
