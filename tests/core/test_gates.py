"""Gates: bounds, drops against a baseline, and text that is no gate."""

from typing import Any

import pytest

from robustq.core.errors import OptionError
from robustq.core.gates import Gates


def entry(name: str, clean: float, worst: float | None, size: int = 100) -> dict[str, Any]:
    return {
        "name": name,
        "clean": {"value": clean},
        "worst_case": None if worst is None else {"value": worst},
        "bytes": size,
    }


def test_met_gates_miss_nothing() -> None:
    gates = Gates(min_acc=0.8, min_robust_acc=0.5, max_drop=0.1, max_bytes=100)
    parent, small = entry("float", 0.85, 0.6), entry("small", 0.8, 0.5)
    assert gates.missed([parent, small], {"small": parent}) == []


@pytest.mark.parametrize(
    ("gates", "message"),
    [
        (Gates(min_acc=0.81), "small: clean accuracy 0.8000 is below --min-acc 0.81"),
        (Gates(min_robust_acc=0.51), "small: worst-case accuracy 0.5000 is below --min-robust-acc 0.51"),
        (Gates(max_bytes=99), "small: 100 bytes are more than --max-bytes 99"),
        (Gates(max_drop=0.09), "small: worst-case accuracy is 0.1000 below float, more than --max-drop 0.09"),
    ],
)
def test_each_gate_says_what_it_found(gates: Gates, message: str) -> None:
    parent, small = entry("float", 0.85, 0.6, 1), entry("small", 0.8, 0.5)
    assert gates.missed([parent, small], {"small": parent}) == [message]


def test_a_float_parent_may_be_large() -> None:
    models = [entry("float", 0.9, 0.6, 1000), entry("other", 0.9, 0.6, 1000), entry("small", 0.9, 0.6)]
    assert Gates(max_bytes=100).missed(models, parents={"float"}) == ["other: 1000 bytes are more than --max-bytes 100"]


def test_each_model_has_its_own_baseline() -> None:
    one, two, small = entry("one", 0.9, None), entry("two", 0.7, None), entry("small", 0.7, None)
    assert Gates(max_drop=0.1).missed([one, two, small], {"two": one, "small": two}) == [
        "two: clean accuracy is 0.2000 below one, more than --max-drop 0.1"
    ]


def test_without_attacks_only_clean_accuracy_counts() -> None:
    first = entry("a", 0.8, None)
    assert Gates(max_drop=0.1, min_robust_acc=0.9).missed([first, entry("b", 0.75, None)], {"b": first}) == []


def test_gates_are_parsed_from_text() -> None:
    parsed = Gates.parse("85/100", None, "0.02", "85000")
    assert parsed == Gates(min_acc=0.85, max_drop=0.02, max_bytes=85000)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("50", None, None, None), r"--min-acc is 50, outside \[0, 1\].\nAccuracies are fractions: --min-acc 0.5"),
        ((None, "half", None, None), "--min-robust-acc: 'half' is not a number"),
        ((None, None, "-0.1", None), "--max-drop is -0.1, outside"),
        ((None, None, None, "1.5"), "--max-bytes is 1.5, not a number of bytes"),
    ],
)
def test_what_is_no_gate(given: tuple[str | None, ...], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        Gates.parse(*given)
