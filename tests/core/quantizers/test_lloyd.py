"""Lloyd's codebooks: golden vectors worked by hand, the error that never rises, the best of all codebooks."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustq.core.quantizers.lloyd import clustered, lloyd, nearest

numbers = st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=40).map(torch.tensor)


def error(values: torch.Tensor, book: torch.Tensor) -> float:
    return float((values.double() - nearest(values, book).double()).square().sum())


def test_golden() -> None:
    # Six different numbers, two entries: the starts are the second and the fifth of them, 2 and 11. Nearest to 2 are
    # 1, 2, 3 and to 11 are 10, 11, 18 (the border is 6.5): means 2 and 13. The border is then 7.5: nothing moves.
    values = torch.tensor([18.0, 1.0, 11.0, 3.0, 2.0, 10.0])
    assert lloyd(values, 2, rounds=0).tolist() == [2, 11]
    assert lloyd(values, 2).tolist() == [2, 13]
    assert nearest(values, lloyd(values, 2)).tolist() == [13, 2, 13, 2, 2, 13]


def test_a_round_at_a_time_golden() -> None:
    # The starts are 1 and 5 (of 0, 1, 4, 5 shares give places 1 and 3); the border 3 parts {0, 1, 1} from {4, 5}.
    values = torch.tensor([0.0, 1.0, 1.0, 4.0, 5.0])
    assert lloyd(values, 2, rounds=1).tolist() == pytest.approx([2 / 3, 4.5])


def test_as_many_entries_as_numbers_are_exact() -> None:
    values = torch.tensor([0.5, -2.0, 0.5, 3.0])
    assert lloyd(values, 3).tolist() == [-2, 0.5, 3]
    assert torch.equal(clustered(values, 4), values)


def test_of_two_equally_near_the_lower_is_taken() -> None:
    assert nearest(torch.tensor([1.0]), torch.tensor([0.0, 2.0])).tolist() == [0]


@settings(max_examples=60, deadline=None)
@given(numbers, st.integers(1, 5))
def test_no_round_raises_the_error(values: torch.Tensor, levels: int) -> None:
    errors = [error(values, lloyd(values, levels, rounds)) for rounds in range(8)]
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(errors))


@settings(max_examples=60, deadline=None)
@given(numbers, st.integers(1, 3))
def test_entries_end_as_means_of_what_is_nearest(values: torch.Tensor, levels: int) -> None:
    book = lloyd(values, levels, rounds=200)
    assert len(book) <= levels
    assert torch.equal(book, book.sort().values)
    seen = nearest(values, book)
    for entry in book:
        mine = values[seen == entry].double()
        assert len(mine) == 0 or float(mine.mean()) == pytest.approx(float(entry), abs=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from([0.0, 0.0, 0.25, -1.5, 0.3, 2.0, 2.25, -0.125]), min_size=1, max_size=30))
def test_clustered_keeps_zeros_and_no_more_values_than_it_may(values: list[float]) -> None:
    weight = torch.tensor(values)
    found = clustered(weight, 2)
    assert torch.equal((found == 0)[weight == 0], torch.ones(int((weight == 0).sum()), dtype=torch.bool))
    assert len(found[found != 0].unique()) <= 2
    assert torch.equal(found, found.half().float())
    assert torch.equal(clustered(found, 2), found)
