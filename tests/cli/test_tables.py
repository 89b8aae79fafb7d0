"""Figures as people read them."""

import pytest

from robustq.cli import tables
from robustq.cli.text import visible


@pytest.mark.parametrize(
    ("value", "text"),
    [(8 / 255, "8/255"), (0.1, "0.1"), (0.3, "0.3"), (0.2, "0.2"), (1 / 3, "85/255"), (0.123456, "0.1235"), (0, "0")],
)
def test_radius(value: float, text: str) -> None:
    assert tables.radius(value) == text


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (41_234, "41.2 kB"), (999_960, "1.0 MB"), (5 * 10**12, "5000.0 GB")],
)
def test_size(count: int, text: str) -> None:
    assert tables.size(count) == text


def test_accuracy_and_its_absence() -> None:
    assert tables.accuracy({"value": 0.512, "ci95": [0.481, 0.543], "n": 1000}) == "51.2% [48.1, 54.3]"
    assert tables.accuracy(None) == tables.percent(None) == tables.figure(None) == tables.size(None) == "-"
    assert (tables.shape([16, 3, 3]), tables.shape([])) == ("16x3x3", "scalar")


def test_control_characters_are_written_out() -> None:
    assert visible("a\x1b[2Jb\tc\nd é") == "a\\x1b[2Jb\\tc\nd é"
    assert visible("\udc80") == "\\udc80"
