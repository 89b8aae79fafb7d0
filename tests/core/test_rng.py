"""Keyed noise: reproducible, independent of batching, and as random as it must be."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustq.core import rng

INDEX = torch.arange(400)


GOLDEN = [[0.9282143712043762, 0.7538893818855286], [0.32260662317276, 0.19866448640823364]]


def test_golden_values_do_not_change_between_versions() -> None:
    drawn = rng.uniform((0, "pgd", 0), torch.tensor([0, 7]), (2,))
    torch.testing.assert_close(drawn, torch.tensor(GOLDEN))


@settings(max_examples=25)
@given(st.lists(st.integers(0, 60_000), min_size=1, max_size=20), st.integers(0, 10))
def test_an_image_draws_the_same_alone_and_in_any_batch(index: list[int], seed: int) -> None:
    together = rng.uniform((seed, "attack", 1), torch.tensor(index), (3, 4, 4))
    alone = [rng.uniform((seed, "attack", 1), torch.tensor([i]), (3, 4, 4)) for i in index]
    assert torch.equal(together, torch.cat(alone))


def test_keys_and_images_have_streams_of_their_own() -> None:
    base = rng.uniform((0, "a"), INDEX, (50,))
    assert not torch.equal(base, rng.uniform((1, "a"), INDEX, (50,)))
    assert not torch.equal(base, rng.uniform((0, "b"), INDEX, (50,)))
    assert len(torch.unique(base)) > 0.99 * base.numel()  # 2^24 values: few repeats, no shared stretches


def test_uniform_is_uniform() -> None:
    u = rng.uniform((0, "test"), INDEX, (500,))
    assert float(u.min()) >= 0
    assert float(u.max()) < 1
    n = u.numel()
    assert abs(float(u.mean()) - 0.5) < 5 / math.sqrt(12 * n)
    counts = torch.histc(u, 16, 0, 1)
    chi2 = float(((counts - n / 16) ** 2 / (n / 16)).sum())
    assert chi2 < 50  # 15 degrees of freedom: p < 1e-5
    correlation = torch.corrcoef(u[:40]).fill_diagonal_(0).abs().max()
    assert float(correlation) < 0.25  # 780 pairs of 500 draws: 5.5 standard errors


def test_normal_is_normal() -> None:
    z = rng.normal((0, "test"), INDEX, (501,))  # odd: Box-Muller makes pairs
    assert z.shape == (400, 501)
    assert abs(float(z.mean())) < 5 / math.sqrt(z.numel())
    assert abs(float(z.var()) - 1) < 0.02
    assert abs(float((z.abs() < 1.959964).float().mean()) - 0.95) < 0.005
    assert torch.isfinite(z).all()


def test_permutation_and_seeds_depend_on_the_key_alone() -> None:
    first = rng.permutation((3, "order", 0), 100)
    torch.rand(5)
    assert torch.equal(first, rng.permutation((3, "order", 0), 100))
    assert sorted(first.tolist()) == list(range(100))
    assert rng.number(1, "x") != rng.number(2, "x")
    assert 0 <= rng.number(1, "x") < 2**63


def test_seeded_leaves_the_default_generator_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    with rng.seeded("inside"):
        inside = torch.rand(3)
    assert torch.equal(torch.rand(3), expected)
    with rng.seeded("inside"):
        assert torch.equal(torch.rand(3), inside)
