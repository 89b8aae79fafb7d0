"""Projections: golden vectors, brute force over all codes, and the algebra of a Euclidean projection on a cone."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from robustq.core.quantizers import projection

GOLDEN = torch.tensor([[0.9, -0.2, 0.05, -1.1, 0.6]])
PROJECTIONS = {
    "binary": projection.binary,
    "ternary": projection.ternary,
    "exact-3": lambda w: projection.uniform(w, 3, "exact"),
    "exact-7": lambda w: projection.uniform(w, 7, "exact"),
    "lloyd-7": lambda w: projection.uniform(w, 7, "lloyd"),
    "powers": lambda w: projection.powers_of_two(w, 3),
}


def vectors(low: int = 1, high: int = 40):
    """Rows of moderate float32 values, zeros among them."""
    number = st.floats(-4, 4, width=32).map(lambda v: 0.0 if abs(v) < 1e-3 else v)
    return st.lists(number, min_size=low, max_size=high).map(lambda v: torch.tensor([v]))


def error(w: Tensor, projected: tuple[Tensor, Tensor]) -> float:
    codes, scale = projected
    return float((w.double() - codes.double() * scale.double()).square().sum())


def best_error(w: Tensor, alphabet: list[int]) -> float:
    """The smallest squared error over all code vectors, each with its best scale >= 0."""
    codes = torch.tensor(list(itertools.product(alphabet, repeat=w.shape[1])), dtype=torch.float64)
    codes = codes[codes.abs().sum(1) > 0]
    inner = (codes @ w.double().flatten()).clamp(min=0)
    return float(w.double().square().sum() - (inner.square() / codes.square().sum(1)).max())


@pytest.mark.parametrize(
    ("project", "codes", "scale", "squared"),
    [
        (projection.ternary, [1, 0, 0, -1, 1], 0.8666666667, 0.1691666667),
        (projection.binary, [1, -1, 1, -1, 1], 0.57, 0.798),
        (projection.twn, [1, 0, 0, -1, 1], 0.8666666667, 0.1691666667),
        (projection.released, [1, 0, 0, -1, 1], 0.52, 0.5297),
        (lambda w: projection.uniform(w, 7, "lloyd"), [6, -1, 0, -7, 4], 0.1539215686, 0.0059313725),
    ],
)
def test_golden(project, codes, scale, squared):
    found = project(GOLDEN)
    assert found[0].tolist() == [codes]
    assert found[0].dtype == torch.int8
    assert float(found[1]) == pytest.approx(scale, rel=1e-6)
    assert error(GOLDEN, found) == pytest.approx(squared, rel=1e-5)


@pytest.mark.parametrize(
    ("w", "kept", "scale", "squared"), [([1, 1, 0.4, -0.1], 2, 1, 0.17), ([3, -1, 1, 0.2, -0.1, 0], 1, 3, 2.05)]
)
def test_golden_ternary(w, kept, scale, squared):
    row = torch.tensor([w], dtype=torch.float32)
    codes, found = projection.ternary(row)
    assert int(codes.abs().sum()) == kept
    assert float(found) == pytest.approx(scale)
    assert error(row, (codes, found)) == pytest.approx(squared, rel=1e-5)


def test_golden_released4():
    # max 1.5, so the step is 0.1: 0.1 -> 0, 0.25 -> ceil(0.75) = 1, 0.3 -> ceil(1) = 1, 0.9 -> ceil(4) = 4, 1.5 -> 7
    codes, scale = projection.released4(torch.tensor([[0.1, 0.25, -0.3000001, 0.9, -1.5, 0.0]]))
    assert codes.tolist()[0][:2] == [0, 1]
    assert codes.tolist()[0][4:] == [-7, 0]
    assert float(scale) == pytest.approx(
        float((codes.abs() * torch.tensor([[0.1, 0.25, 0.3, 0.9, 1.5, 0]])).sum() / codes.square().sum()), rel=1e-5
    )


@given(vectors(1, 6))
@settings(max_examples=60, deadline=None)
def test_ternary_is_optimal(w):
    assert error(w, projection.ternary(w)) == pytest.approx(best_error(w, [-1, 0, 1]), abs=1e-5)


@given(vectors(1, 4))
@settings(max_examples=60, deadline=None)
def test_exact_uniform_is_optimal(w):
    assert error(w, projection.uniform(w, 3, "exact")) == pytest.approx(best_error(w, list(range(-3, 4))), abs=1e-5)


@given(vectors(1, 5))
@settings(max_examples=30, deadline=None)
def test_binary_is_optimal(w):
    assert error(w, projection.binary(w)) == pytest.approx(best_error(w, [-1, 1]), abs=1e-5)


@given(vectors())
@settings(max_examples=60, deadline=None)
def test_ternary_identities(w):
    codes, scale = projection.ternary(w)
    kept = int(codes.abs().sum())
    assert error(w, (codes, scale)) == pytest.approx(
        float(w.double().square().sum()) - kept * float(scale) ** 2, abs=1e-4
    )
    clear = (w.abs() - scale / 2).abs() > 1e-5
    assert torch.equal((codes != 0)[clear], (w.abs() >= scale / 2)[clear]) or float(scale) == 0


@pytest.mark.parametrize("name", PROJECTIONS)
def test_algebra(name):
    project = PROJECTIONS[name]
    w = torch.randn(6, 37, generator=torch.Generator().manual_seed(1))
    codes, scale = project(w)
    again, same = project(codes * scale)
    assert torch.equal(again * same, codes * scale) or torch.allclose(again * same, codes * scale, rtol=1e-6)
    bigger, larger = project(4 * w)  # a power of two, so that rounding is the same
    assert torch.equal(bigger, codes)
    assert torch.allclose(larger, 4 * scale, rtol=1e-6)
    assert torch.equal(project(-w)[0], -codes)
    assert (scale >= 0).all()
    assert torch.equal(project(w[2:3])[0], codes[2:3])  # rows do not see one another


@pytest.mark.parametrize("name", PROJECTIONS)
def test_zero_row_and_huge_row(name):
    codes, scale = PROJECTIONS[name](torch.tensor([[0.0, 0.0, 0.0], [1e30, -1e30, 0.0], [1e-30, 0.0, 2e-30]]))
    assert float(scale[0]) == 0
    assert torch.isfinite(scale).all()
    assert (scale[1:] > 0).all()
    assert codes[0].tolist() == ([1, 1, 1] if name == "binary" else [0, 0, 0])


@given(vectors(2, 60), st.sampled_from([3, 7, 127]))
@settings(max_examples=40, deadline=None)
def test_exact_beats_lloyd_beats_its_start(w, levels):
    lloyd = error(w, projection.uniform(w, levels, "lloyd"))
    assert error(w, projection.uniform(w, levels, "exact")) <= lloyd + 1e-6
    step = float(w.abs().max()) / levels
    plain = w.abs() / step if step else w.abs()
    assert lloyd <= float((w.abs() - (plain + 0.5).floor() * step).square().sum()) + 1e-6


def test_warm_start_goes_on_where_it_was():
    w = torch.randn(8, 2000, generator=torch.Generator().manual_seed(3))
    first = projection.uniform(w, 7, "lloyd")
    assert error(w, projection.uniform(w, 7, start=first[1])) <= error(w, first) * (1 + 1e-6)
    short = torch.randn(5, 60, generator=torch.Generator().manual_seed(3))
    codes, scale = projection.uniform(short, 7, "lloyd")  # at rest well before 50 rounds
    warm, same = projection.uniform(short, 7, start=scale)
    assert torch.equal(warm, codes)
    assert torch.equal(same, scale)


def test_start_of_zero_is_no_start():
    w = torch.randn(8, 2000, generator=torch.Generator().manual_seed(3))
    assert torch.equal(projection.uniform(w, 7, start=torch.zeros(8, 1))[0], projection.uniform(w, 7, "lloyd")[0])


def test_gaussian_reference_values():
    w = torch.randn(1, 400_000, generator=torch.Generator().manual_seed(0))
    codes, scale = projection.ternary(w)
    assert float(scale) == pytest.approx(1.224, abs=0.01)
    assert float(codes.abs().float().mean()) == pytest.approx(0.5405, abs=0.01)
    assert error(w, (codes, scale)) / w.numel() == pytest.approx(0.190, abs=0.002)


def test_powers_of_two_alphabet():
    codes, _ = projection.powers_of_two(torch.randn(4, 300, generator=torch.Generator().manual_seed(0)), 4)
    assert set(codes.abs().flatten().tolist()) == {0, 1, 2, 4, 8}
    exact, scale = projection.powers_of_two(torch.tensor([[0.5, -1.0, 2.0, 0.0, 4.0]]), 4)
    assert (exact * scale).tolist() == [[0.5, -1.0, 2.0, 0.0, 4.0]]


@pytest.mark.parametrize("lam", [0.5, 1.0, 4.0, 300.0])
def test_relaxed_weight_is_the_prox_of_the_distance(lam):
    """Objective 1/2 ||u - w||^2 + lam/2 dist(u, Q)^2 is least at (w + lam P(w)) / (1 + lam)."""
    w = torch.randn(1, 12, generator=torch.Generator().manual_seed(5))

    def distance(u: Tensor) -> Tensor:
        codes, scale = projection.ternary(u)
        return (u - codes * scale).square().sum(1)

    def objective(u: Tensor) -> Tensor:
        return (u - w).square().sum(1) / 2 + lam / 2 * distance(u)

    codes, scale = projection.ternary(w)
    relaxed = (w + lam * codes * scale) / (1 + lam)
    noise = torch.randn(1000, 12, generator=torch.Generator().manual_seed(6))
    tried = relaxed + noise * torch.logspace(-3, 0, 1000)[:, None]
    assert (objective(tried) >= objective(relaxed) - 1e-6).all()
    assert float(distance(relaxed).sqrt()) == pytest.approx(float(distance(w).sqrt()) / (1 + lam), rel=1e-3)


@pytest.mark.parametrize(
    ("lam", "expected"),
    [
        (1, [0.8833333, -0.1, 0.025, -0.9833333, 0.7333333]),
        (4, [0.8733333, -0.04, 0.01, -0.9133333, 0.8133333]),
    ],
)
def test_golden_relaxed(lam, expected):
    codes, scale = projection.ternary(GOLDEN)
    assert ((GOLDEN + lam * codes * scale) / (1 + lam)).flatten().tolist() == pytest.approx(expected, abs=1e-6)
