"""Axes hold their values, and their ticks are round and apart."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustq.cli.page import scale

VALUES = st.floats(-1e9, 1e9, allow_nan=False).map(lambda v: round(v, 6))


@given(VALUES, VALUES)
def test_a_linear_axis_holds_its_values(a: float, b: float) -> None:
    low, high = sorted((a, b))
    axis = scale.linear(low, high, 0, 100)
    rounding = 1e-8 * max(abs(low), abs(high), 1.0)
    assert axis.low <= low + rounding
    assert axis.high >= high - rounding
    assert 2 <= len(axis.ticks) <= 12
    assert all(axis(p) < axis(q) for p, q in pairwise(axis.ticks))


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_no_finite_values_break_an_axis(a: float, b: float) -> None:
    axis = scale.linear(min(a, b), max(a, b), 0, 100)
    assert all(0 <= axis(value) <= 100 for value in (a, b, *axis.ticks))


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(0, 1, (0, 0.2, 0.4, 0.6, 0.8, 1.0)), (0, 2.3, (0, 0.5, 1, 1.5, 2, 2.5)), (97, 99, (97, 97.5, 98, 98.5, 99))],
)
def test_round_steps(low: float, high: float, ticks: tuple[float, ...]) -> None:
    assert scale.linear(low, high, 0, 1).ticks == ticks


@given(st.integers(1, 10**12), st.integers(1, 10**12))
def test_a_logarithmic_axis_holds_its_values(a: int, b: int) -> None:
    low, high = sorted((a, b))
    axis = scale.logarithmic(low, high, 10, 410)
    assert 10 < axis(low) <= axis(high) < 410
    assert 1 <= len(axis.ticks) <= 6
    assert all(axis.low <= tick <= axis.high for tick in axis.ticks)


def test_logarithms_are_evenly_spaced() -> None:
    axis = scale.logarithmic(1000, 100_000, 0, 1)
    assert axis(10_000) - axis(1000) == pytest.approx(axis(100_000) - axis(10_000))
    assert axis(10_000) == pytest.approx(0.5)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=20))
def test_ticks_at_the_values_are_apart(values: list[float]) -> None:
    axis = scale.exact(values, 0, 300, room=30)
    places = [axis(tick) for tick in axis.ticks]
    apart = max(values) - min(values) > max(1e-9 * max(values), 1e-18)
    assert all(b - a >= 30 - 1e-6 for a, b in pairwise(places)) or not apart
    assert set(axis.ticks) <= set(values) or not apart
