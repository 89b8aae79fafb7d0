"""Binary-Relax: the relaxed weights, the two phases, the straight-through gradient."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustq.core.errors import OptionError
from robustq.core.packed import Quantized
from robustq.core.quantizers.binary_relax import BinaryRelax, straight_through
from robustq.core.quantizers.projection import quantize
from robustq.core.registry import create

W = torch.tensor([[0.9, -0.2, 0.05, -1.1, 0.6]])


def seen(method: BinaryRelax, weight: torch.Tensor, progress: float) -> torch.Tensor:
    session = method.attach({"w": weight}, 10)
    session.after_step({"w": weight}, progress)
    return session.view({"w": weight})["w"]


@pytest.mark.parametrize(
    ("relax", "expected"),
    [
        (1.0, [0.8833333, -0.1, 0.025, -0.9833333, 0.7333333]),
        (4.0, [0.8733333, -0.04, 0.01, -0.9133333, 0.8133333]),
    ],
)
def test_relaxed_weights_golden(relax: float, expected: list[float]) -> None:
    method = BinaryRelax(bits=2, group="layer", relax_start=relax, relax_end=relax)
    # The scale is stored as float16, whose rounding is 2^-11.
    torch.testing.assert_close(seen(method, W, 0.0)[0], torch.tensor(expected), rtol=5e-4, atol=5e-5)


def test_lambda_grows_geometrically_to_the_switch() -> None:
    method = BinaryRelax(switch=0.6, relax_start=1.0, relax_end=300.0)
    assert method.relaxation(0.0) == 1.0
    assert method.relaxation(0.3) == pytest.approx(300.0**0.5)
    assert method.relaxation(0.6 - 1e-9) == pytest.approx(300.0, rel=1e-6)
    assert method.relaxation(0.6) is None
    assert BinaryRelax(switch=0.0).relaxation(0.0) is None  # BinaryConnect


@given(st.integers(0, 2**31), st.floats(0.01, 0.59), st.sampled_from([1, 2, 4]))
def test_distance_to_the_set_shrinks_by_one_plus_lambda(seed: int, progress: float, bits: int) -> None:
    weight = torch.randn(3, 20, generator=torch.Generator().manual_seed(seed))
    method = BinaryRelax(bits=bits)
    exact = quantize(weight, bits, "channel").dense()
    relax = method.relaxation(progress)
    assert relax is not None
    moved = (seen(method, weight, progress) - exact).norm()
    assert float(moved) == pytest.approx(float((weight - exact).norm()) / (1 + relax), rel=1e-3, abs=1e-6)


def test_the_prox_is_optimal() -> None:
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(1, 12, generator=generator)
    method = BinaryRelax(group="layer", relax_start=3.0, relax_end=3.0)
    u = seen(method, weight, 0.0)

    def objective(at: torch.Tensor) -> float:
        distance = (at - quantize(at, 2, "layer").dense()).norm()
        return float(0.5 * (at - weight).norm() ** 2 + 1.5 * distance**2)

    best = objective(u)
    for _ in range(1000):
        assert best <= objective(u + 0.05 * torch.randn(1, 12, generator=generator)) + 1e-4


@pytest.mark.parametrize("bits", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("group", ["layer", "channel", "7"])
def test_phase_two_shows_exactly_what_is_exported(bits: int, group: str) -> None:
    weight = torch.randn(4, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    session = BinaryRelax(bits=bits, group=group).attach({"w": weight}, 10)
    assert not session.exact
    session.after_step({"w": weight}, 0.7)
    assert session.exact
    packed = session.encode({"w": weight})["w"]
    assert isinstance(packed, Quantized)
    assert torch.equal(session.view({"w": weight})["w"], packed.dense())
    assert len(packed.codes.unique()) <= 2 * packed.levels + 1


def test_gradient_goes_straight_to_the_latent_weight() -> None:
    latent = torch.randn(2, 3, requires_grad=True)
    seen_weight = torch.tensor([[1.0, 0.0, -1.0], [0.3, 0.3, 0.3]])
    out = straight_through(latent, seen_weight)
    assert torch.equal(out, seen_weight)
    (out * torch.arange(6.0).view(2, 3)).sum().backward()
    assert latent.grad is not None
    assert torch.equal(latent.grad, torch.arange(6.0).view(2, 3))


def test_only_owned_weights_change() -> None:
    weights = {"w": torch.randn(2, 5), "other": torch.randn(4)}
    session = BinaryRelax().attach({"w": weights["w"]}, 10)
    view = session.view(weights)
    assert view["other"] is weights["other"]
    assert not torch.equal(view["w"], weights["w"])


def test_progress_survives_a_restart() -> None:
    first = BinaryRelax().attach({"w": W}, 10)
    first.after_step({"w": W}, 0.31)
    second = BinaryRelax().attach({"w": W}, 10)
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.view({"w": W})["w"], second.view({"w": W})["w"])
    assert first.metrics() == second.metrics() != {}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": "5"}, r"bits is 5.\nIt can be one of: 1, 2, 3, 4, 8"),
        ({"switch": "1.5"}, r"switch is 1.5, outside \[0, 1\]"),
        ({"bitz": "2"}, r"has no option 'bitz'"),
        ({"group": "row"}, "group is 'row'"),
        ({"alphabet": "powers"}, "for 3 and 4 bits, not 2.\nGive bits=3"),
        ({"relax_start": "often"}, "'often' is not a number"),
    ],
)
def test_refusals(options: dict[str, str], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        create("binary-relax", options, "quantizer")
