"""Prune, redistribute, regrow as pure functions: conservation, hand-checked values."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustq.core.pruners import rewiring

LAYERS = st.lists(st.tuples(st.integers(0, 40), st.floats(0, 10)), min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(LAYERS, st.floats(0, 1))
def test_single_weights_are_all_given_away(layers, filling) -> None:
    room = {str(i): n for i, (n, _) in enumerate(layers)}
    shares = {str(i): s for i, (_, s) in enumerate(layers)}
    budget = int(filling * sum(room.values()))
    given_away = rewiring.allotted(shares, room, dict.fromkeys(room, 1), budget)
    assert sum(given_away.values()) == budget
    assert all(0 <= given_away[name] <= room[name] for name in room)


@settings(max_examples=40, deadline=None)
@given(LAYERS, st.lists(st.integers(1, 9), min_size=5, max_size=5), st.integers(0, 300))
def test_channels_leave_less_than_one_of_them(layers, sizes, budget) -> None:
    room = {str(i): n for i, (n, _) in enumerate(layers)}
    size = {str(i): sizes[i] for i in range(len(layers))}
    shares = {str(i): s for i, (_, s) in enumerate(layers)}
    given_away = rewiring.allotted(shares, room, size, budget)
    left = budget - sum(n * size[name] for name, n in given_away.items())
    assert left >= 0
    assert all(given_away[name] == room[name] or size[name] > left for name in room)


def test_allotted_golden() -> None:
    one = {"a": 1, "b": 1, "c": 1}
    assert rewiring.allotted({"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 9, "b": 9, "c": 9}, one, 10) == {
        "a": 5,
        "b": 3,
        "c": 2,
    }
    # a is full at 2: the other eight are shared 3 to 2 (4.8 and 3.2)
    assert rewiring.allotted({"a": 0.5, "b": 0.3, "c": 0.2}, {"a": 2, "b": 9, "c": 9}, one, 10) == {
        "a": 2,
        "b": 5,
        "c": 3,
    }


def test_shares_golden() -> None:
    active = {"a": torch.tensor([True, True, False]), "b": torch.tensor([False, True])}
    momentum = {"a": torch.tensor([1.0, 2.0, 100.0]), "b": torch.tensor([7.0, 0.5])}
    assert rewiring.shares(active, momentum) == {"a": 0.75, "b": 0.25}
    zero = {name: torch.zeros(len(m)) for name, m in momentum.items()}
    assert rewiring.shares(active, zero) == {"a": 0.5, "b": 0.5}


def test_pruned_golden() -> None:
    active = torch.tensor([True, True, True, True, False, False])
    scores = torch.tensor([0.3, 0.1, 0.2, 0.4, 9.0, 9.0])
    assert rewiring.pruned(active, scores, 0.5, 0.5, 2).nonzero().flatten().tolist() == [0, 3]
    assert rewiring.pruned(active, scores, 0.3, 0.5, 2).nonzero().flatten().tolist() == [0, 3]  # ceil(1.2)
    assert torch.equal(rewiring.pruned(active, scores, 0.0, 0.5, 2), active)
    assert int(rewiring.pruned(active, scores, 1.0, 0.5, 2).sum()) == 1


def test_an_almost_dense_layer_that_should_grow_is_spared() -> None:
    active = torch.arange(10) > 0  # sparsity 0.1
    scores = torch.arange(10.0)
    assert int(rewiring.pruned(active, scores, 0.5, 0.6, 2).sum()) == 8  # 10% of 9, rounded up
    assert int(rewiring.pruned(active, scores, 0.5, 0.4, 2).sum()) == 4


@pytest.mark.parametrize("count", [0, 1, 3])
def test_regrown_takes_the_largest_momentum_among_inactive(count: int) -> None:
    active = torch.tensor([True, False, False, True, False, False])
    momentum = torch.tensor([9.0, 0.1, 0.5, 9.0, 0.3, 0.4])
    new = rewiring.regrown(active, momentum, count) & ~active
    assert new.nonzero().flatten().tolist() == sorted([2, 5, 4][:count])
