"""Reports: intervals, statuses, and JSON that every parser reads."""

import json

import pytest

from robustq.core.errors import Exit, UnsafeFileError
from robustq.core.report import SCHEMA, Proportion, Report


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe 1998, table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval_golden(hits: int, n: int, low: float, high: float) -> None:
    assert Proportion(hits, n).ci95 == pytest.approx((low, high), abs=5e-5)


def test_interval_of_nothing_is_everything() -> None:
    assert Proportion(0, 0).ci95 == (0.0, 1.0)
    assert Proportion(10, 10).ci95[1] == pytest.approx(1.0)


def test_accuracy_entry() -> None:
    assert Proportion(512, 1000).to_dict() == {"value": 0.512, "ci95": [0.481033, 0.542876], "n": 1000}


def test_top_level_keys() -> None:
    document = json.loads(Report("bench", content={"models": []}).to_json())
    expected = ["schema", "command", "status", "exit_code", "recipe", "environment", "warnings", "error", "models"]
    assert list(document) == expected
    assert document["schema"] == SCHEMA
    assert document["exit_code"] == 0


def test_failure_and_gate() -> None:
    report = Report("compress")
    report.fail(UnsafeFileError("evil.pt would run posix.system.", "Use --trust-pickle."))
    assert (report.status, report.exit_code) == ("error", Exit.UNSAFE)
    assert report.error == {
        "type": "UnsafeFileError",
        "problem": "evil.pt would run posix.system.",
        "remedy": "Use --trust-pickle.",
    }
    gated = Report("bench")
    gated.miss("--min-acc 0.9: 0.85")
    assert gated.to_dict()["gates_missed"] == ["--min-acc 0.9: 0.85"]
    assert gated.exit_code == 1


def test_json_has_no_nan_and_warnings_stand_once() -> None:
    report = Report("bench", content={"loss": float("nan"), "list": [float("inf"), 1.0]})
    report.warn("same")
    report.warn("same")
    document = json.loads(report.to_json())
    assert document["loss"] is None
    assert document["list"] == [None, 1.0]
    assert document["warnings"] == ["same"]
