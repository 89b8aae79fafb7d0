"""Options of methods: conversion from text, ranges, messages."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustq.core.errors import OptionError
from robustq.core.option import Method, build, convert, describe, number, option


@dataclass(frozen=True, kw_only=True)
class Sample(Method):
    """A method with an option of every type."""

    eps: float = option(0.5, "radius", unit="input units", low=0, high=1)
    steps: int = option(4, "steps", low=1)
    norm: str = option("linf", "norm", choices=("linf", "l2"))
    random: bool = option(True, "random start")
    names: tuple[str, ...] = option(("a",), "names")
    step: float | None = option(None, "step length")


@dataclass(frozen=True, kw_only=True)
class Needy(Method):
    """A method that cannot do without a value."""

    bits: int = option(help="bits")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"eps": "8/255"}, Sample(eps=8 / 255)),
        ({"eps": "0.5 / 255"}, Sample(eps=0.5 / 255)),
        ({"eps": 1}, Sample(eps=1.0)),
        ({"steps": "7"}, Sample(steps=7)),
        ({"steps": "1e2"}, Sample(steps=100)),
        ({"random": "no"}, Sample(random=False)),
        ({"names": "a, b"}, Sample(names=("a", "b"))),
        ({"step": "0.1"}, Sample(step=0.1)),
        ({"step": "none"}, Sample(step=None)),
    ],
)
def test_text_becomes_the_annotated_type(given: dict[str, object], expected: Sample) -> None:
    assert build(Sample, given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"eps": "abc"}, "Sample: eps: 'abc' is not a number"),
        ({"eps": "1/0"}, "not a number"),
        ({"eps": "nan"}, "not a finite number"),
        ({"eps": "inf"}, "not a finite number"),
        ({"eps": 2}, r"eps is 2.0, outside \[0, 1\]"),
        ({"steps": "2.5"}, "not a whole number"),
        ({"steps": 0}, r"steps is 0, outside \[1, inf\]"),
        ({"norm": "l7"}, "It can be one of: linf, l2"),
        ({"random": "maybe"}, "neither true nor false"),
        ({"epz": 1}, "Sample has no option 'epz'.\nIts options are: eps"),
    ],
)
def test_refusals(given: dict[str, object], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        build(Sample, given)


def test_ranges_hold_for_direct_construction_too() -> None:
    with pytest.raises(OptionError, match="eps is -1"):
        Sample(eps=-1)
    with pytest.raises(OptionError, match="eps is nan"):
        Sample(eps=float("nan"))


def test_a_missing_value_is_named() -> None:
    with pytest.raises(OptionError, match="Needy needs a value for bits"):
        build(Needy, {})


@given(st.fractions(min_value=0, max_value=1, max_denominator=1000))
def test_fractions_are_exact(value: object) -> None:
    assert number(str(value), "eps") == float(value)  # type: ignore[arg-type]


def test_options_give_the_same_method_back() -> None:
    sample = Sample(eps=0.25, names=("x", "y"), step=0.5)
    assert build(Sample, sample.options()) == sample


def test_describe_lists_everything_in_order() -> None:
    infos = describe(Sample)
    assert [info.name for info in infos] == ["eps", "steps", "norm", "random", "names", "step"]
    assert infos[0].unit == "input units"
    assert infos[2].choices == ("linf", "l2")
    assert infos[5].type == "float | None"


def test_tuple_of_numbers_accepts_one_number() -> None:
    assert convert(tuple[float, ...], 0.5, "mean") == (0.5,)
