"""The non-expansive regulariser: its zeros, its gradient."""

import pytest
import torch

from robustq.core import registry
from robustq.core.errors import OptionError
from robustq.core.structures.non_expansive import NonExpansive, excess


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_zero_exactly_for_orthonormal_matrices(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    tall = torch.linalg.qr(torch.randn(max(shape), min(shape)))[0]
    w = tall if shape[0] >= shape[1] else tall.T
    assert float(excess(w)) == pytest.approx(0, abs=1e-10)
    assert float(excess(1.1 * w)) == pytest.approx(min(shape) * 0.21**2, rel=1e-4)


def test_gradient_golden() -> None:
    w = torch.randn(5, 2, 1, 1).requires_grad_()
    penalty = NonExpansive(beta=0.3).attach({"w": w}, 10).penalty({"w": w})
    assert isinstance(penalty, torch.Tensor)
    penalty.backward()
    m = w.detach().flatten(1)
    torch.testing.assert_close(w.grad, (2 * 0.3 * m @ (m.T @ m - torch.eye(2))).view(5, 2, 1, 1))


def test_nothing_else_is_touched() -> None:
    w = torch.randn(2, 3)
    session = NonExpansive().attach({"w": w}, 10)
    assert session.view({"w": w})["w"] is w
    assert session.encode({"w": w}) == {}
    assert NonExpansive().attach({}, 10).penalty({"w": w}) == 0


def test_refusals() -> None:
    with pytest.raises(OptionError, match=r"beta is -1.0, outside"):
        registry.create("non-expansive", {"beta": "-1"}, "structure")
