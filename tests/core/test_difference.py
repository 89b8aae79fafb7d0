"""Two benchmarks: what changed, what cannot be compared, what is no report at all."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustq.core import difference, reading
from robustq.core.errors import InputFileError, OptionError
from robustq.core.gates import Gates
from robustq.core.report import Proportion, Report

Change = Callable[[dict[str, Any]], None]


def entry(name: str, clean: int, worst: int, size: int = 1000, sha: str = "") -> dict[str, Any]:
    share = {key: Proportion(hits, 100).to_dict() for key, hits in (("clean", clean), ("worst", worst))}
    return {
        "name": name, "clean": share["clean"], "attacks": {"pgd": share["worst"]}, "worst_case": share["worst"],
        "bytes": size, "bits_per_weight": 2.0, "sparsity": 0.5, "channel_sparsity": 0.0, "latency_ms": 0.1,
        "latency": {"1": 0.1}, "randomized": False, "details": {}, "warnings": [], "complete": True,
        "sha256": sha or name, "parent": None,
    }  # fmt: skip


def saved(*models: dict[str, Any], path: str = "a.json", change: Change | None = None) -> reading.Saved:
    report = Report("benchmark", {"run": {"seed": 0}})
    threat = {"name": "Pgd", "norm": "linf", "radius": 0.1, "options": {"steps": 40}}
    data = {"name": "d", "split": "test", "n": 100, "sha256": "0"}
    report.content = {"data": data, "threat": {"pgd": threat}, "baseline": None, "models": list(models)}
    document = json.loads(report.to_json())
    if change:
        change(document)
    return reading.Saved(path, "", document)


def compared(before: reading.Saved, after: reading.Saved, different: bool = False, **gates: Any) -> Report:
    report = Report("benchmark")
    return difference.compare(before, after, gates=Gates(**gates), allow_different=different, report=report)


def test_changes_and_their_intervals() -> None:
    """Newcombe 1998, table II, method 10: 56/70 against 48/80 is 0.2000 [0.0524, 0.3339]."""
    a, b = Proportion(48, 80), Proportion(56, 70)
    found = difference.change(a.to_dict(), b.to_dict())
    assert found["change"] == pytest.approx(0.2, abs=1e-6)
    assert found["ci95"] == pytest.approx([0.0524, 0.3339], abs=1e-4)
    assert found["clear"]
    assert not difference.change(a.to_dict(), a.to_dict())["clear"]


@given(st.integers(1, 50), st.data())
def test_a_change_turned_round_is_its_mirror_image(n: int, data: st.DataObject) -> None:
    a, b = (Proportion(data.draw(st.integers(0, n)), n).to_dict() for _ in range(2))
    one, other = difference.change(a, b), difference.change(b, a)
    assert one["change"] == -other["change"]
    assert one["ci95"] == pytest.approx([-end for end in reversed(other["ci95"])], abs=2e-6)
    assert one["clear"] == other["clear"]
    assert one["ci95"][0] <= one["change"] <= one["ci95"][1]


def test_models_are_matched_by_name_then_by_file() -> None:
    before = saved(entry("float", 90, 70), entry("small", 85, 60, sha="s"), entry("gone", 80, 50))
    after = saved(entry("float", 90, 71), entry("renamed", 85, 60, sha="s"), entry("new", 1, 1))
    report = compared(before, after)
    comparison = report.content["comparison"]
    assert [(m["before_name"], m["name"]) for m in comparison["models"]] == [("float", "float"), ("small", "renamed")]
    assert (comparison["added"], comparison["removed"]) == (["new"], ["gone"])
    assert comparison["models"][0]["clean"]["change"] == 0
    assert comparison["models"][0]["worst_case"]["change"] == pytest.approx(0.01)
    assert report.exit_code == 0


def test_gates() -> None:
    before, after = saved(entry("m", 90, 70)), saved(entry("m", 88, 60, size=2000), path="b.json")
    assert compared(before, after, max_drop=0.1).exit_code == 0
    missed = compared(before, after, max_drop=0.05, max_bytes=1500, min_acc=0.5)
    assert missed.exit_code == 1
    assert len(missed.content["gates_missed"]) == 2
    assert "m in a.json" in str(missed.content["gates_missed"])
    gone = compared(before, saved(entry("other", 90, 70)), max_drop=0.05)
    assert "no longer measured" in gone.content["gates_missed"][0]
    half = saved({**entry("m", 90, 70), "complete": False})
    assert "not measured to the end" in compared(before, half, max_drop=0.05).content["gates_missed"][0]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("data", "n"), 99, "data n is 99, was 100"),
        (("data", "sha256"), "1", "data sha256"),
        (("threat", "pgd", "radius"), 0.2, "pgd: radius is 0.2, was 0.1"),
        (("threat", "pgd", "options", "steps"), 7, "pgd: steps is 7, was 40"),
        (("threat", "square"), {"name": "Square", "norm": "linf", "radius": 0.1, "options": {}}, "square was run in"),
    ],
)
def test_other_data_or_attacks_are_refused_unless_allowed(path: tuple[str, ...], value: Any, words: str) -> None:
    def change(document: dict[str, Any]) -> None:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = value

    before, after = saved(entry("m", 90, 70)), saved(entry("m", 90, 70), change=change)
    with pytest.raises(OptionError, match=words):
        compared(before, after)
    with pytest.raises(OptionError, match="--max-drop cannot judge"):
        compared(before, after, different=True, max_drop=0.1)
    report = compared(before, after, different=True)
    assert any(words in warning for warning in report.warnings)
    assert report.content["comparison"]["models"][0]["worst_case"] is None


def test_only_finished_benchmarks_are_compared() -> None:
    def interrupted(document: dict[str, Any]) -> None:
        document["status"] = "interrupted"

    good = saved(entry("m", 90, 70))
    with pytest.raises(OptionError, match="interrupted"):
        compared(good, saved(entry("m", 90, 70), change=interrupted))
    with pytest.raises(OptionError, match="packed layers"):
        compared(good, saved(change=lambda document: document.update(kernels=[])))
    with pytest.raises(OptionError, match="two models of one name"):
        compared(saved(entry("m", 90, 70), entry("m", 90, 70)), good)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "no complete JSON"),
        (b'{"schema": "robustq.report/1"', "no complete JSON"),
        (b"\xff\xfe\x00", "not text"),
        (b"[]", "its schema is 'a list'"),
        (b'{"schema": "other/2"}', "its schema is 'other/2'"),
        (b'{"schema": "robustq.report/1"}', "there is no 'command'"),
        (b'{"schema": NaN}', "NaN"),
        (b'{"schema": 1e999}', "out of range"),
        (b'{"schema": ' + b"9" * 5000 + b"}", "out of range"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_report(data: bytes, words: str) -> None:
    with pytest.raises(InputFileError, match=words):
        reading.read(io.BytesIO(data))


def test_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in (tmp_path, tmp_path / "absent", f"{tmp_path}/a\0b"):
        with pytest.raises(InputFileError, match="cannot be read"):
            reading.read(place)
    monkeypatch.setattr(reading, "LIMIT", 10)
    with pytest.raises(InputFileError, match="too large"):
        reading.read(io.BytesIO(b" " * 11))


def test_a_report_comes_back(tmp_path: Path) -> None:
    document = saved(entry("m", 90, 70)).document
    (tmp_path / "r.json").write_text(json.dumps(document))
    assert reading.read(tmp_path / "r.json").document == document
