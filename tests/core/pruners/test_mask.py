"""Masks: exact counts, stable ties, scopes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustq.core.pruners import mask


@given(st.lists(st.integers(0, 5), min_size=1, max_size=30), st.data())
@settings(max_examples=60, deadline=None)
def test_top_keeps_exactly_the_largest_and_the_earlier_of_equals(values, data):
    keep = data.draw(st.integers(0, len(values)))
    found = mask.top(torch.tensor(values), keep).tolist()
    expected = sorted(range(len(values)), key=lambda i: (-values[i], i))[:keep]
    assert [i for i, kept in enumerate(found) if kept] == sorted(expected)


@pytest.mark.parametrize(("n", "sparsity", "count"), [(10, 0.5, 5), (5, 0.5, 3), (3, 0.1, 0), (7, 1.0, 7), (8, 0.9, 7)])
def test_pruned_count(n, sparsity, count):
    assert mask.pruned_count(n, sparsity) == count


def test_by_weight_golden():
    weights = {"a": torch.tensor([[1.0, -4.0], [2.0, 0.5]]), "b": torch.tensor([[3.0, -0.1]])}
    found = mask.by_weight(weights, 0.5, "global")
    assert found["a"].tolist() == [[False, True], [True, False]]
    assert found["b"].tolist() == [[True, False]]
    found = mask.by_weight(weights, 0.5, "layer")
    assert found["a"].tolist() == [[False, True], [True, False]]
    assert found["b"].tolist() == [[True, False]]
    assert mask.by_weight(weights, 0.67, "global")["b"].tolist() == [[True, False]]
    assert mask.by_weight(weights, 0.67, "global")["a"].tolist() == [[False, True], [False, False]]


def test_ties_are_cut_in_the_order_of_the_tensors():
    weights = {"a": torch.ones(2, 2), "b": torch.ones(1, 4)}
    found = mask.by_weight(weights, 0.625, "global")
    assert found["a"].tolist() == [[True, True], [True, False]]
    assert not found["b"].any()


def test_by_channel_golden():
    weights = {"a": torch.tensor([[1.0, 1.0], [5.0, 0.0], [2.0, 2.0]]), "b": torch.tensor([[0.1], [0.2]])}
    found = mask.by_channel(weights, 0.5, "layer")
    assert found["a"].tolist() == [[False, False], [True, True], [False, False]]
    assert found["b"].tolist() == [[False], [True]]
    found = mask.by_channel(weights, 0.4, "global")  # 2 of 5: 0.1 and 1; 0.2 is the last of its layer
    assert found["a"].tolist() == [[False, False], [True, True], [True, True]]
    assert found["b"].tolist() == [[False], [True]]


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_every_layer_keeps_a_channel(scope):
    weights = {"a": torch.randn(4, 3, 2, 2), "b": torch.randn(3, 5) * 1e-6, "c": torch.zeros(2, 2)}
    found = mask.by_channel(weights, 0.99, scope)
    assert [int(m.flatten(1).any(1).sum()) for m in found.values()] == [1, 1, 1]
    assert all(found[name].shape == w.shape for name, w in weights.items())
